//! Services: what this host and its containers address to a virtual IP reaches a backend.
//!
//! ```text
//! desired   what the data path must be: a pure function of the cluster's state and of this host
//! host      what it depends on of this host
//! stale     which tracked flows must begin again
//! ```
//! The table is that of [`contrail_mesos::net::nft::services`]. Each range of addresses of services has a
//! route of the table `local`, so that the host's own clients need no other route and have the address of
//! the host, and so that DNS queries and echo requests are answered.
//!
//! Invariants: without the managers' complete list of services nothing is withdrawn. What has not changed
//! costs nothing: neither requests to the kernel nor a new computation. What is remembered of the table
//! and of this host is forgotten when anybody else changes it, and at least every 20 seconds. The
//! connections of backends that are still there go on, whatever changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contrail_mesos::net::conntrack;
use contrail_mesos::net::local_routes::{self, LocalRoute};
use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::nft::services::{Frontend, Scope, ServiceTable, TABLE};
use contrail_mesos::net::nft::watch::TableEvents;
use contrail_mesos::net::service_watch::ServiceEvents;
use contrail_mesos_api::cluster::{Revision, ServiceSettings};
use contrail_mesos_api::text::with_causes;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use tokio::sync::watch;

use self::desired::DesiredServices;
use self::host::Host;
use self::stale::StaleFlows;
use crate::cluster_state::{ClusterState, Services};
use crate::overlay::ROUTE_PROTOCOL;
use crate::subsystem::{BoxError, Change, Mode, Outcome, Subsystem};

pub(crate) mod desired;
mod host;
#[cfg(test)]
mod root_tests;
mod stale;

/// How long the table and this host are taken for what they were, without a notification. Less than the
/// interval of full comparisons, so that each of these lists them.
const LISTING_INTERVAL: Duration = Duration::from_secs(20);
/// How full the kernel's table of flows may be, in percent.
const MAX_CONNTRACK_PERCENT: u64 = 90;

/// What other parts of the daemon see of the data path of services.
#[derive(Clone, Debug)]
pub struct ServicesView {
    /// What the kernel has. Nothing before the first comparison.
    pub applied: watch::Receiver<Arc<AppliedServices>>,
}

/// The services whose data path is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedServices {
    /// The revision of the cluster's state that they come from; none before the first comparison.
    pub revision: Option<Revision>,
    /// The services as the kernel has them.
    pub services: Services,
}

/// What the API shows of the data path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Whether there is a data path.
    pub is_active: bool,
    /// The services, as the kernel has them.
    pub services: Services,
    /// How many backends get new connections from this host, summed up over all addresses.
    pub backends: usize,
    /// The addresses of this host.
    pub addresses: BTreeSet<IpAddr>,
    /// How many tracked flows had to begin again, because their backend or service was gone.
    pub forgotten_flows: u64,
}

/// Why the subsystem cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServicesSetupError {
    /// The kernel refuses a socket.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel refuses to wait for several sockets.
    #[error("cannot wait for notifications: {0}")]
    Wait(#[from] Errno),
}

/// The subsystem `services`.
#[derive(Debug)]
pub struct ServicesSubsystem {
    table: ServiceTable,
    table_events: TableEvents,
    host_events: ServiceEvents,
    /// Readable when one of the notifications' descriptors is.
    epoll: Epoll,
    /// This host, if nothing has changed since it was read.
    host: Option<Host>,
    /// Whether the routes are as they must be.
    has_routes: bool,
    /// When the table and this host were listed last.
    listed: Option<Instant>,
    desired: DesiredServices,
    /// The services that may differ from those of the table; none for all.
    changed: Option<BTreeSet<Frontend>>,
    /// The flows to look at; none for all.
    flows: Option<StaleFlows>,
    /// Whether the last comparison withdrew what the managers do not have.
    was_complete: bool,
    applied: watch::Sender<Arc<AppliedServices>>,
    status: watch::Sender<Arc<ServiceStatus>>,
}

impl ServicesSubsystem {
    /// The subsystem in the calling thread's network namespace. Changes nothing.
    pub fn new() -> Result<Self, ServicesSetupError> {
        let table = ServiceTable::open()?;
        let table_events = TableEvents::subscribe(TABLE, table.port())?;
        let host_events = ServiceEvents::subscribe(ROUTE_PROTOCOL)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for descriptor in [table_events.descriptor(), host_events.descriptor()] {
            epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self {
            table,
            table_events,
            host_events,
            epoll,
            host: None,
            has_routes: false,
            listed: None,
            desired: DesiredServices::default(),
            changed: None,
            flows: None,
            was_complete: false,
            applied: watch::Sender::default(),
            status: watch::Sender::default(),
        })
    }

    /// Reads the notifications. Returns whether they make a comparison due.
    fn receive_events(&mut self) -> bool {
        let warn = |error: NetlinkError| {
            log::warn!("services: cannot read notifications of the kernel: {error}");
            true
        };
        let has_table_changed = self.table_events.receive().unwrap_or_else(warn);
        if has_table_changed {
            self.table.forget();
        }
        let has_host_changed = self.host_events.receive().unwrap_or_else(warn);
        if has_host_changed {
            self.host = None;
            self.has_routes = false;
        }
        has_table_changed || has_host_changed
    }

    fn forget_if_old(&mut self) {
        let now = Instant::now();
        let is_old = |listed| now.duration_since(listed) > LISTING_INTERVAL;
        if self.listed.is_none_or(is_old) {
            self.table.forget();
            self.host = None;
            self.has_routes = false;
            self.listed = Some(now);
        }
    }

    /// Removes the data path.
    fn withdraw(&mut self, mode: Mode) -> Result<Outcome, BoxError> {
        let mut outcome = Outcome::default();
        if mode == Mode::Apply {
            self.publish(&Services::default(), None);
            self.status.send_if_modified(|present| {
                let was_active = present.is_active;
                *present = Arc::new(ServiceStatus {
                    forgotten_flows: present.forgotten_flows,
                    ..ServiceStatus::default()
                });
                was_active
            });
        }
        let loopback = Host::read()?.loopback;
        self.compare_routes(&[], loopback, mode, &mut outcome)?;
        let changes = match mode {
            Mode::Apply => {
                self.desired = DesiredServices::default();
                (self.changed, self.flows) = (None, None);
                let scope = Scope::All { removes: true };
                self.table.apply(None, scope)?
            }
            Mode::DryRun => self.table.plan(None)?,
        };
        outcome.changes.extend(changes.into_iter().map(Change));
        Ok(outcome)
    }

    fn compare(
        &mut self,
        cluster: &ClusterState,
        settings: &ServiceSettings,
        mode: Mode,
    ) -> Result<Outcome, BoxError> {
        let host = match self.host.take() {
            Some(host) => host,
            None => Host::read()?,
        };
        if let Some(problem) = overlap(settings, &host, cluster) {
            self.host = Some(host);
            let mut outcome = self.withdraw(mode)?;
            outcome.problems.push(problem);
            return Ok(outcome);
        }
        let changes = self.desired.update(&cluster.services, settings, &host);
        if let Some(changed) = &mut self.changed {
            changed.extend(changes.frontends);
        }
        if let Some(flows) = &mut self.flows {
            flows.frontends.extend(changes.flows);
        }
        let node = cluster.own_node().map(|node| node.address);
        let ranges = settings.ranges.iter();
        let ranges = ranges.filter(|range| range.addr().is_ipv4() || host.has_ipv6);
        let ranges = ranges.map(|range| LocalRoute {
            subnet: range.trunc(),
            source: host.source(*range, node),
        });
        let routes: Vec<LocalRoute> = ranges.collect();
        let result = match mode {
            Mode::Apply => self.apply(cluster, &host, &routes),
            Mode::DryRun => self.plan(&host, &routes),
        };
        self.host = Some(host);
        let mut outcome = result?;
        outcome.problems.extend(self.desired.problems().cloned());
        Ok(outcome)
    }

    fn plan(&mut self, host: &Host, routes: &[LocalRoute]) -> Result<Outcome, BoxError> {
        let mut outcome = Outcome::default();
        let changes = self.table.plan(Some(self.desired.policy()))?;
        outcome.changes.extend(changes.into_iter().map(Change));
        self.compare_routes(routes, host.loopback, Mode::DryRun, &mut outcome)?;
        Ok(outcome)
    }

    fn apply(
        &mut self,
        cluster: &ClusterState,
        host: &Host,
        routes: &[LocalRoute],
    ) -> Result<Outcome, BoxError> {
        let mut outcome = Outcome::default();
        let is_complete = cluster.has_complete_services;
        if is_complete && !self.was_complete {
            // It may have services that are known to nobody.
            self.table.forget();
            (self.changed, self.flows) = (None, None);
        }
        if is_complete {
            // Names of services that go are not answered any more before they are refused.
            self.retract(&cluster.services);
        }
        let scope = match &self.changed {
            _ if !is_complete => Scope::All { removes: false },
            None => Scope::All { removes: true },
            Some(changed) => Scope::Changed(changed),
        };
        let changes = self.table.apply(Some(self.desired.policy()), scope)?;
        outcome.changes.extend(changes.into_iter().map(Change));
        self.changed = Some(BTreeSet::new());
        self.was_complete = is_complete;
        self.compare_routes(routes, host.loopback, Mode::Apply, &mut outcome)?;
        let forgotten = self.forget_flows(is_complete, &mut outcome);
        check_conntrack(&mut outcome);
        let services = self.desired.complete();
        self.publish(&services, Some(cluster.revision));
        let backends = self.desired.backend_count();
        self.status.send_if_modified(|present| {
            let status = ServiceStatus {
                is_active: true,
                services,
                backends,
                addresses: host.addresses.clone(),
                forgotten_flows: present.forgotten_flows.saturating_add(forgotten),
            };
            let is_new = **present != status;
            *present = Arc::new(status);
            is_new
        });
        Ok(outcome)
    }

    /// Takes back the services that the managers do not have any more.
    fn retract(&self, services: &Services) {
        let applied = self.applied.borrow().clone();
        let mut present = applied.services.keys();
        if present.all(|key| services.contains_key(key)) {
            return;
        }
        let left = applied
            .services
            .iter()
            .filter(|(key, _)| services.contains_key(key))
            .map(|(key, service)| (key.clone(), service.clone()))
            .collect();
        self.publish(&left, applied.revision);
    }

    fn publish(&self, services: &Services, revision: Option<Revision>) {
        self.applied.send_if_modified(|present| {
            let applied = AppliedServices {
                revision,
                services: services.clone(),
            };
            let is_new = **present != applied;
            *present = Arc::new(applied);
            is_new
        });
    }

    fn compare_routes(
        &mut self,
        desired: &[LocalRoute],
        loopback: u32,
        mode: Mode,
        outcome: &mut Outcome,
    ) -> Result<(), NetlinkError> {
        if self.has_routes && mode == Mode::Apply && !desired.is_empty() {
            return Ok(());
        }
        let mut socket = NetlinkSocket::strict_route()?;
        let present = local_routes::of_protocol(&mut socket, ROUTE_PROTOCOL)?;
        let surplus = present.iter().filter(|route| !desired.contains(route));
        let missing = desired.iter().filter(|route| !present.contains(route));
        let mut requests = Vec::new();
        for route in surplus {
            outcome
                .changes
                .push(Change(format!("remove the local route {}", route.subnet)));
            requests.push(route.delete(ROUTE_PROTOCOL, loopback));
        }
        for route in missing {
            outcome
                .changes
                .push(Change(format!("add the local route {}", route.subnet)));
            requests.push(route.add(ROUTE_PROTOCOL, loopback));
        }
        self.has_routes = true;
        if mode == Mode::DryRun {
            return Ok(());
        }
        for result in socket.execute(&requests)? {
            match result {
                // It is gone already.
                Err(error) if error.errno() == Some(Errno::ESRCH) => {}
                Err(error) => {
                    self.has_routes = false;
                    outcome.problems.push(format!(
                        "{}; the host's own clients may not reach services: see `ip route show table local`",
                        with_causes(&error)
                    ));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes the flows begin again that go where they should not. Returns how many they were.
    fn forget_flows(&mut self, is_complete: bool, outcome: &mut Outcome) -> u64 {
        let flows = self.flows.take().unwrap_or_else(|| StaleFlows {
            frontends: self.desired.all_targets(),
            ranges: if is_complete {
                self.desired.policy().ranges.iter().copied().collect()
            } else {
                vec![]
            },
        });
        if flows.is_empty() {
            self.flows = Some(flows);
            return 0;
        }
        let forgotten = NetlinkSocket::netfilter()
            .and_then(|mut socket| conntrack::forget(&mut socket, |flow| flows.has(flow)));
        match forgotten {
            Ok(count) => {
                self.flows = Some(StaleFlows::default());
                if count > 0 {
                    log::debug!("services: {count} flows to backends that are gone begin again");
                }
                u64::try_from(count).unwrap_or(u64::MAX)
            }
            Err(error) => {
                self.flows = Some(flows);
                outcome.problems.push(format!(
                    "cannot forget flows to backends that are gone: {}; their clients may get no answer until `conntrack -D` removes them",
                    with_causes(&error)
                ));
                0
            }
        }
    }
}

/// Why nothing of services may be applied: the route of a range would take packets to the host's
/// neighbours, or to other nodes, for packets to the host itself.
fn overlap(settings: &ServiceSettings, host: &Host, cluster: &ClusterState) -> Option<String> {
    let advice = "nothing of services is applied here; choose another range in the table [services] of the managers";
    settings.ranges.iter().find_map(|range| {
        let mut nets = host.nets.iter();
        if let Some(net) = nets.find(|net| range.contains(*net) || net.contains(range)) {
            let net = net.trunc();
            return Some(format!(
                "the range {range} of services overlaps {net} of this host; {advice}"
            ));
        }
        let mut nodes = cluster.nodes.values();
        let node = nodes.find(|node| range.contains(&node.address))?;
        let (name, address) = (&node.name, node.address);
        Some(format!(
            "the range {range} of services has the address {address} of the node {name}; {advice}"
        ))
    })
}

/// Reports a table of flows that is nearly full.
fn check_conntrack(outcome: &mut Outcome) {
    // What cannot be read is no problem of services.
    let Ok(table) = conntrack::table_use() else {
        return;
    };
    let percent = table.flows.saturating_mul(100) / table.limit.max(1);
    if table.limit > 0 && percent >= MAX_CONNTRACK_PERCENT {
        outcome.problems.push(format!(
            "the kernel's table of flows is at least {MAX_CONNTRACK_PERCENT} % full, so new connections will fail; raise net.netfilter.nf_conntrack_max, which is {}",
            table.limit
        ));
    }
}

impl Subsystem for ServicesSubsystem {
    fn name(&self) -> &'static str {
        "services"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        self.receive_events();
        self.forget_if_old();
        match &cluster.service_settings {
            Some(settings) => self.compare(cluster, settings, mode),
            None if cluster.has_complete_services => self.withdraw(mode),
            // The managers have not said yet that there are none.
            None => Ok(Outcome::default()),
        }
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn receive(&mut self) -> bool {
        self.receive_events()
    }

    fn services(&self) -> Option<ServicesView> {
        Some(ServicesView {
            applied: self.applied.subscribe(),
        })
    }

    fn service_status(&self) -> Option<watch::Receiver<Arc<ServiceStatus>>> {
        Some(self.status.subscribe())
    }
}
