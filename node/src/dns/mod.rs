//! DNS for the containers of this host and for the host itself.
//!
//! ```text
//! names      the names that are ours, in all their forms
//! zones      what these names have
//! answer     the responses for our names
//! message    queries and responses on the wire
//! access     who may ask
//! server     a message, and what becomes of it
//! sockets    UDP and TCP
//! forward    queries for other names: upstreams, exchange, cache
//! metrics    what is counted
//! ```
//! The subsystem `dns` opens and closes the sockets, and writes where it listens to the file that the
//! library reads at a launch. Queries are answered on threads of their own, so whatever else the daemon does
//! delays none.
//!
//! Invariants: a service is answered while it is in the cluster's state and its data path is in place. What
//! is below our own domains is never forwarded. A socket stays open while its address stays. A stop of
//! the daemon leaves the file: the next one listens at the same addresses.

mod access;
mod answer;
mod cache;
mod exchange;
mod forward;
mod message;
mod metrics;
mod names;
#[cfg(test)]
mod root_tests;
mod server;
mod sockets;
mod upstreams;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use contrail_mesos::config::{Config, DNS_PORT, DnsServer};
use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::{links, local_routes};
use contrail_mesos::node_dns::NodeDns;
use contrail_mesos_api::text::with_causes;
use hickory_proto::rr::Name;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use self::access::Access;
use self::forward::ForwardLimits;
pub use self::metrics::DnsMetrics;
use self::names::OwnName;
use self::server::Server;
use self::sockets::{Connections, Sockets};
use self::upstreams::Upstreams;
pub(crate) use self::zones::ShownRecord;
use self::zones::{Derived, NameContent};
use crate::cluster_state::{ClusterState, Services, TaskNames};
use crate::overlay::ROUTE_PROTOCOL;
use crate::services::{AppliedServices, ServicesView};
use crate::subsystem::{BoxError, Change, ClusterUse, Mode, Outcome, Subsystem};
use crate::watch::States;

/// The threads that answer queries.
const THREADS: usize = 2;
/// How long a stop waits for them.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the host's name servers are read.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// How long changes are collected before what follows from them is put together.
const DERIVE_DELAY: Duration = Duration::from_millis(500);
/// The most connections, and the most questions and queries that wait for other servers, if the limit
/// of open files allows them.
const MAX_CONNECTIONS: usize = 10_000;
const MAX_QUESTIONS: usize = 1024;
const MAX_QUERIES: usize = 4096;

/// What other parts of the daemon see of the server.
#[derive(Clone, Debug)]
pub struct DnsView {
    server: Arc<Server>,
    wake: Arc<Wake>,
}

/// Makes a comparison due when the data path has changed, while the host lacks an address.
#[derive(Debug)]
struct Wake {
    /// None if the kernel refuses it: then the next full comparison finds the address.
    event: Option<EventFd>,
    is_waited: AtomicBool,
}

impl Wake {
    fn new() -> Self {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Self {
            event: EventFd::from_flags(flags).ok(),
            is_waited: AtomicBool::new(false),
        }
    }

    fn data_path_changed(&self) {
        if let Some(event) = &self.event
            && self.is_waited.swap(false, Ordering::SeqCst)
        {
            // It cannot fail: the counter is far from its limit.
            let _ = event.write(1);
        }
    }
}

/// An address of a name, in the form of Mesos-DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostEntry {
    /// The name.
    pub host: String,
    /// Its address.
    pub ip: String,
}

/// A port of a service, in the form of Mesos-DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServiceEntry {
    /// The name that was asked for.
    pub service: String,
    /// The name of the target.
    pub host: String,
    /// Its address.
    pub ip: String,
    /// The port.
    pub port: String,
}

impl DnsView {
    /// What the server counts.
    #[must_use]
    pub fn metrics(&self) -> &DnsMetrics {
        self.server.metrics()
    }

    /// How many answers of other servers are kept.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.server.forwarder().cached()
    }

    /// All records of services and tasks, as JSON. Takes time if there are many.
    pub(crate) fn records(&self) -> Vec<ShownRecord> {
        self.server.zones().records()
    }

    /// The addresses of one of our names.
    #[must_use]
    pub fn host(&self, name: &str) -> Vec<HostEntry> {
        let Some((_, NameContent::Addresses(addresses))) = self.find(name) else {
            return vec![];
        };
        let entry = |address: IpAddr| HostEntry {
            host: name.to_owned(),
            ip: address.to_string(),
        };
        addresses.into_iter().map(entry).collect()
    }

    /// The ports of one of our names such as `_tcp.web.marathon.l4lb.thisdcos.directory`.
    #[must_use]
    pub fn service(&self, name: &str) -> Vec<ServiceEntry> {
        let Some((asked, NameContent::Targets(targets))) = self.find(name) else {
            return vec![];
        };
        let own = OwnName::find(&asked);
        let mut entries = vec![];
        for target in targets {
            let host = own
                .as_ref()
                .and_then(|own| own.sibling(&asked, &target.name));
            let Some(host) = host else {
                continue;
            };
            entries.extend(target.addresses.iter().map(|address| ServiceEntry {
                service: name.to_owned(),
                host: host.to_ascii(),
                ip: address.to_string(),
                port: target.port.to_string(),
            }));
        }
        entries
    }

    fn find(&self, name: &str) -> Option<(Name, NameContent)> {
        let mut asked = Name::from_ascii(name).ok()?;
        asked.set_fqdn(true);
        let own = OwnName::find(&asked)?;
        let found = self.server.zones().find(&own);
        Some((asked, found))
    }

    /// Answers what the states and the data path have, until nobody publishes states any more.
    pub async fn follow(self, mut states: States, services: Option<ServicesView>) {
        let (_unchanging, unchanged) = watch::channel(Arc::new(AppliedServices::default()));
        let is_known = services.is_some();
        let mut applied = services.map_or(unchanged, |view| view.applied);
        let derive = self.clone().derive(states.clone());
        let publish = async {
            loop {
                let state = states.borrow_and_update().clone();
                let now = applied.borrow_and_update().clone();
                self.server.publish(state, is_known.then_some(now));
                self.wake.data_path_changed();
                tokio::select! {
                    changed = states.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    // An error means that the data path is not kept any more; what it has, stays.
                    Ok(()) = applied.changed() => {}
                }
            }
        };
        tokio::select! {
            () = derive => {}
            () = publish => {}
        }
    }

    /// Puts together what follows from the states, whenever services or names have changed.
    async fn derive(self, mut states: States) {
        let mut last = (Services::default(), TaskNames::default());
        loop {
            let state = states.borrow_and_update().clone();
            if let Some(state) = state
                && !(state.services.is_shared_with(&last.0)
                    && state.task_names.is_shared_with(&last.1))
            {
                last = (state.services.clone(), state.task_names.clone());
                let (services, names) = last.clone();
                drop(state);
                let derived =
                    tokio::task::spawn_blocking(move || Arc::new(Derived::new(&services, &names)));
                // An error means a panic, which was printed.
                if let Ok(derived) = derived.await {
                    self.server.change_zones(|zones| zones.derived = derived);
                }
            }
            sleep(DERIVE_DELAY).await;
            if states.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The subsystem `dns`.
#[derive(Debug)]
pub struct DnsSubsystem {
    config: DnsServer,
    state_dir: PathBuf,
    server: Arc<Server>,
    connections: Arc<Connections>,
    upstreams: Arc<Upstreams>,
    /// The threads; none before something is to be served.
    runtime: Option<Runtime>,
    open: BTreeMap<SocketAddr, AbortHandle>,
    wake: Arc<Wake>,
}

impl DnsSubsystem {
    /// The server of a host with this configuration. Opens nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let dns = &config.node.dns;
        Self::with_upstreams(config, Arc::new(Upstreams::new(dns)))
    }

    fn with_upstreams(config: &Config, upstreams: Arc<Upstreams>) -> Self {
        let dns = config.node.dns.clone();
        let metrics = Arc::new(DnsMetrics::default());
        let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let limits = ForwardLimits {
            // Each may need a socket for several servers.
            questions: MAX_QUESTIONS.min(open_files / 8),
            queries: MAX_QUERIES,
        };
        let connections = MAX_CONNECTIONS.min(open_files / 4);
        Self {
            connections: Connections::new(connections, metrics.connections_closed.clone()),
            server: Arc::new(Server::new(
                Access::new(dns.allow.clone()),
                Arc::clone(&upstreams),
                metrics,
                limits,
            )),
            config: dns,
            state_dir: config.state_dir.clone(),
            upstreams,
            runtime: None,
            open: BTreeMap::new(),
            wake: Arc::new(Wake::new()),
        }
    }

    /// The addresses at which it must listen.
    fn desired(&self, cluster: Option<&ClusterState>) -> BTreeSet<SocketAddr> {
        let settings = cluster.and_then(|cluster| cluster.service_settings.as_ref());
        if !self.config.enabled.unwrap_or(settings.is_some()) {
            return BTreeSet::new();
        }
        let published = settings.into_iter().flat_map(|settings| &settings.dns);
        // A host without IPv6 answers by IPv4 only.
        let published = published.filter(|address| address.is_ipv4() || links::has_ipv6());
        let published = published.map(|address| SocketAddr::new(*address, DNS_PORT));
        published
            .chain(self.config.listen.iter().copied())
            .collect()
    }

    /// The threads that serve.
    fn runtime(&mut self) -> io::Result<&Runtime> {
        if self.runtime.is_none() {
            let runtime = Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("cm-dns")
                .enable_all()
                .build()?;
            let upstreams = Arc::clone(&self.upstreams);
            upstreams.reload();
            runtime.spawn(async move {
                loop {
                    sleep(RELOAD_INTERVAL).await;
                    let upstreams = Arc::clone(&upstreams);
                    // An error means a panic, which was printed.
                    let _ = tokio::task::spawn_blocking(move || upstreams.reload()).await;
                }
            });
            self.runtime = Some(runtime);
        }
        self.runtime
            .as_ref()
            .ok_or_else(|| io::Error::other("there are no threads"))
    }

    fn open(&mut self, address: SocketAddr) -> Result<(), String> {
        let sockets = Sockets::open(address).map_err(|error| {
            let advice = if error.kind() == io::ErrorKind::AddrInUse {
                sockets::describe_busy(address)
            } else {
                error.to_string()
            };
            format!("cannot answer DNS queries at {address}: {advice}")
        })?;
        let (server, connections) = (Arc::clone(&self.server), Arc::clone(&self.connections));
        let runtime = self
            .runtime()
            .map_err(|error| format!("cannot start the threads of the DNS server: {error}"))?;
        let task = runtime.spawn(async move { sockets.serve(server, connections).await });
        self.open.insert(address, task.abort_handle());
        Ok(())
    }

    /// Opens and closes sockets, and writes the file.
    fn compare(&mut self, cluster: Option<&ClusterState>) -> Result<Outcome, BoxError> {
        if self.config.enabled.is_none()
            && !self.open.is_empty()
            && cluster.is_some_and(|cluster| {
                cluster.service_settings.is_none() && !cluster.has_complete_services
            })
        {
            // Managers of a version without services say nothing of them: the data path stays, too.
            return Ok(Outcome::default());
        }
        let desired = self.desired(cluster);
        let mut outcome = Outcome::default();
        self.open.retain(|address, task| {
            let stays = desired.contains(address) && !task.is_finished();
            if !stays {
                task.abort();
                let change = format!("answer no more DNS queries at {address}");
                outcome.changes.push(Change(change));
            }
            stays
        });
        for address in &desired {
            if self.open.contains_key(address) {
                continue;
            }
            match self.open(*address) {
                Ok(()) => {
                    let change = format!("answer DNS queries at {address}");
                    outcome.changes.push(Change(change));
                }
                Err(problem) => outcome.problems.push(problem),
            }
        }
        self.upstreams.set_own(self.open.keys().copied().collect());
        let addresses = match self.nameservers(cluster) {
            Ok(addresses) => addresses,
            Err(error) => {
                outcome.problems.push(format!(
                    "{}; containers are launched with the name servers of an earlier comparison",
                    with_causes(&error)
                ));
                return Ok(outcome);
            }
        };
        let written = if desired.is_empty() {
            NodeDns::remove(&self.state_dir)
        } else {
            NodeDns::new(addresses).write(&self.state_dir)
        };
        written.map_err(|error| {
            let path = NodeDns::path(&self.state_dir);
            format!(
                "cannot write {}: {error}; containers are launched with the name servers that it has",
                path.display()
            )
        })?;
        Ok(outcome)
    }

    /// The addresses that containers get as their name servers: those of the services, or else those of
    /// the configuration that containers reach. The sockets are open at addresses that the host does not
    /// have yet; what it does not have is no name server.
    fn nameservers(&self, cluster: Option<&ClusterState>) -> Result<Vec<IpAddr>, NetlinkError> {
        let settings = cluster.and_then(|cluster| cluster.service_settings.as_ref());
        let published = settings.into_iter().flat_map(|settings| &settings.dns);
        let is_open =
            |address: &IpAddr| self.open.contains_key(&SocketAddr::new(*address, DNS_PORT));
        let mut published: Vec<_> = published.copied().filter(is_open).collect();
        if !published.is_empty() {
            // Before the routes are read, so that none is missed.
            self.wake.is_waited.store(true, Ordering::SeqCst);
            let mut socket = NetlinkSocket::strict_route()?;
            let routes = local_routes::of_protocol(&mut socket, ROUTE_PROTOCOL)?;
            let count = published.len();
            published.retain(|address| routes.iter().any(|route| route.subnet.contains(address)));
            let lacks_some = published.len() < count;
            self.wake.is_waited.store(lacks_some, Ordering::SeqCst);
            return Ok(published);
        }
        let is_reached = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        let listen = self.config.listen.iter();
        let listen = listen.filter(|address| address.port() == DNS_PORT);
        Ok(listen
            .map(SocketAddr::ip)
            .filter(|address| is_open(address) && is_reached(address))
            .collect())
    }
}

impl Subsystem for DnsSubsystem {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn cluster_use(&self) -> ClusterUse {
        ClusterUse::Optional
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        match mode {
            Mode::Apply => self.compare(Some(cluster)),
            // The sockets are those of the running daemon.
            Mode::DryRun => Ok(Outcome::default()),
        }
    }

    fn reconcile_alone(&mut self, mode: Mode) -> Result<Outcome, BoxError> {
        // Whether the managers publish services is not known: what an earlier daemon wrote, stays.
        if mode == Mode::DryRun || self.config.enabled.is_none() {
            return Ok(Outcome::default());
        }
        self.compare(None)
    }

    fn dns(&self) -> Option<DnsView> {
        Some(DnsView {
            server: Arc::clone(&self.server),
            wake: Arc::clone(&self.wake),
        })
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        self.wake.event.as_ref().map(EventFd::as_fd)
    }

    fn receive(&mut self) -> bool {
        let event = self.wake.event.as_ref();
        event.is_some_and(|event| event.read().is_ok())
    }
}

impl Drop for DnsSubsystem {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}
