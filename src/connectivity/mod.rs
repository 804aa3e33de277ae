//! `contrail-mesos connectivity`: attaches scratch containers to each network, by the code that the agent
//! uses, sends packets between them, the host and an address outside, and detaches them again.
//!
//! Invariants: scratch containers are an operator's attachments whose names begin with [`NAME_PREFIX`] and
//! the id of the process; whatever ends a run, [`Connectivity::remove_containers`] finds them by their
//! checkpoints, and the next run finds those of a process that is gone. The namespace outside and its
//! interface end with the process. While packets are sent, nothing of this program repairs the host.

mod junit;
mod outside;
mod packets;
mod peers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use contrail_mesos_api::container::ContainerId;
use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep};

use self::outside::{OUTSIDE_V4, OUTSIDE_V6, OutsideHost};
use self::peers::{EchoServers, EchoSockets, ProbeOutcome};
use crate::config::{Config, Network, NetworkProvider};
use crate::isolator::attacher::{Attacher, Target};
use crate::isolator::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use crate::net::netns::{self, Kind, NetnsError};
use crate::network_request;
use crate::node_dns::NodeDns;
use crate::proto::mesos::network_info::PortMapping;
use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use crate::provider::ProviderIntent;
use crate::trace::{Destination, KnownServices, Origin, Tracer};

/// How the names of scratch containers begin.
pub const NAME_PREFIX: &str = "connectivity-test-";
/// The check that comes first, and so waits for rules.
const FIRST_CHECK: &str = "tcp";
/// The port of the servers in them.
const SERVER_PORT: u16 = 8080;
/// The group of those that reach each other, and of the one that does not reach them.
const GROUP: &str = "connectivity-test";
const OTHER_GROUP: &str = "connectivity-test-other";
/// How long a probe waits for its answer.
const ANSWER_TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long rules for a new container may take: the node daemon makes them.
const RULES_TIME_LIMIT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckResult {
    /// It works.
    Ok,
    /// It does not.
    Failed,
    /// It was not possible, or has no meaning here.
    Skipped,
}

/// One check of one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectivityCheck {
    /// The network.
    pub network: String,
    /// What is checked: a stable code.
    pub check: &'static str,
    /// `ipv4` or `ipv6`.
    pub family: Option<&'static str>,
    /// What came of it.
    pub result: CheckResult,
    /// What was found.
    pub text: String,
    /// What stops the packet, as [`crate::trace`] says.
    pub cause: Option<String>,
}

/// All checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks, by network.
    pub checks: Vec<ConnectivityCheck>,
    /// Scratch containers that could not be removed, each with the reason.
    pub left: Vec<String>,
}

impl Report {
    /// Whether nothing failed, and nothing is left.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let mut checks = self.checks.iter();
        self.left.is_empty() && checks.all(|check| check.result != CheckResult::Failed)
    }
}

/// A test cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ConnectivityError {
    /// The host's network namespace cannot be opened.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Tests the networks of a configuration, on the host of the calling thread's network namespace.
pub struct Connectivity<'a> {
    config: &'a Config,
    host: OwnedFd,
    answer_time_limit: Duration,
    rules_time_limit: Duration,
}

/// A scratch container.
struct ScratchContainer {
    checkpoint: Checkpoint,
    namespace: OwnedFd,
    addresses: Vec<IpAddr>,
    _servers: EchoServers,
}

impl ScratchContainer {
    fn address(&self, is_v4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == is_v4)
    }

    fn name(&self) -> String {
        self.checkpoint.container.to_string()
    }

    fn mtu(&self) -> u32 {
        let mut networks = self.checkpoint.networks.iter();
        networks.next().map_or(0, |network| network.intent.mtu)
    }
}

/// What is attached to a network for its checks.
pub struct ScratchNetwork {
    network: String,
    first: ScratchContainer,
    second: ScratchContainer,
    /// In another group, on a network that isolates groups.
    stranger: Option<ScratchContainer>,
    /// On another overlay, if this one is isolated.
    of_other_overlay: Option<ScratchContainer>,
    /// The port of the host that is mapped to the first container.
    host_port: Option<u16>,
    isolates_groups: bool,
    outside: Result<OutsideHost, String>,
}

impl ScratchNetwork {
    fn skipped(&self, code: &'static str, is_v4: bool, text: &str) -> ConnectivityCheck {
        let family = Some(family(is_v4));
        check(
            &self.network,
            code,
            family,
            CheckResult::Skipped,
            text.to_owned(),
        )
    }
}

fn family(is_v4: bool) -> &'static str {
    if is_v4 { "ipv4" } else { "ipv6" }
}

/// A probe, for [`Connectivity::probe`].
struct Probe<'p> {
    check: &'static str,
    is_v4: bool,
    /// Where it runs.
    from: ProbeOrigin<'p>,
    /// Where it goes, for a trace of what fails.
    to: SocketAddr,
    /// Whether it must fail.
    is_refused: bool,
}

impl<'p> Probe<'p> {
    fn new(check: &'static str, is_v4: bool, from: ProbeOrigin<'p>, to: SocketAddr) -> Self {
        Self {
            check,
            is_v4,
            from,
            to,
            is_refused: false,
        }
    }
}

#[derive(Clone, Copy)]
enum ProbeOrigin<'p> {
    Container(&'p ScratchContainer),
    Host,
    Outside(&'p OutsideHost),
}

impl<'a> Connectivity<'a> {
    /// A test of the networks of `config`.
    pub fn new(config: &'a Config) -> Result<Self, ConnectivityError> {
        Ok(Self {
            config,
            host: netns::of_this_thread(Kind::Net)?,
            answer_time_limit: ANSWER_TIME_LIMIT,
            rules_time_limit: RULES_TIME_LIMIT,
        })
    }

    /// Tests these networks one after the other. Removes what it has attached, and what an earlier run has
    /// left; if the future is dropped, that is left to [`Self::remove_containers`].
    pub async fn run(&self, networks: &[&Network]) -> Report {
        let mut report = Report::default();
        report.left.extend(self.remove_earlier().await);
        for network in networks {
            report.checks.extend(self.network(network).await);
            report.left.extend(self.remove_containers().await);
        }
        report
    }

    async fn network(&self, network: &Network) -> Vec<ConnectivityCheck> {
        if matches!(network.provider, NetworkProvider::None) {
            let text = "containers of this network have no interface".to_owned();
            return vec![check(
                &network.name,
                "attach",
                None,
                CheckResult::Skipped,
                text,
            )];
        }
        match self.prepare(network).await {
            Ok(scratch) => {
                let text = "two containers are attached".to_owned();
                let mut checks = vec![check(&network.name, "attach", None, CheckResult::Ok, text)];
                checks.extend(self.check(&scratch).await);
                checks
            }
            Err(error) => vec![check(
                &network.name,
                "attach",
                None,
                CheckResult::Failed,
                error,
            )],
        }
    }

    /// Attaches the scratch containers of a network. The error says what failed, and its containers are left
    /// to [`Self::remove_containers`].
    pub async fn prepare(&self, network: &Network) -> Result<ScratchNetwork, String> {
        let name = &network.name;
        let host_port = match network.provider {
            NetworkProvider::Bridge(_) | NetworkProvider::Overlay(_) => free_port(),
            _ => None,
        };
        let first = self.launch(name, 1, host_port, None).await?;
        let intent = first
            .checkpoint
            .networks
            .first()
            .map(|network| &network.intent);
        let bridge = intent.and_then(|intent| match &intent.provider {
            ProviderIntent::Bridge(bridge) => Some(bridge),
            _ => None,
        });
        let isolates_groups = bridge.is_some_and(|bridge| bridge.policy.is_some());
        let overlay = bridge.and_then(|bridge| Some(bridge.overlay.as_ref()?.name.clone()));
        let second = self.launch(name, 2, None, None).await?;
        let stranger = if isolates_groups {
            Some(self.launch(name, 3, None, Some(OTHER_GROUP)).await?)
        } else {
            None
        };
        let of_other_overlay = match overlay {
            Some(overlay) if self.known().is_isolated_overlay(&overlay) => {
                self.on_other_overlay(network).await?
            }
            _ => None,
        };
        Ok(ScratchNetwork {
            network: name.clone(),
            first,
            second,
            stranger,
            of_other_overlay,
            host_port,
            isolates_groups,
            outside: OutsideHost::create(&self.host).await,
        })
    }

    fn known(&self) -> KnownServices {
        KnownServices::read(&self.config.state_dir, &self.config.node.socket)
    }

    /// A container of the next overlay of the configuration, if there is another one.
    async fn on_other_overlay(
        &self,
        network: &Network,
    ) -> Result<Option<ScratchContainer>, String> {
        let mut others = self.config.networks.iter().filter(|other| {
            other.name != network.name && matches!(other.provider, NetworkProvider::Overlay(_))
        });
        match others.next() {
            Some(other) => Ok(Some(self.launch(&other.name, 4, None, None).await?)),
            None => Ok(None),
        }
    }

    /// Attaches a container, with servers in it. The attacher ends then, so that it repairs nothing.
    async fn launch(
        &self,
        network: &str,
        number: u8,
        host_port: Option<u16>,
        group: Option<&str>,
    ) -> Result<ScratchContainer, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let name = format!("{NAME_PREFIX}{}-{number}", std::process::id());
        let container = ContainerId::chosen(&name)?;
        let info = ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: vec![NetworkInfo {
                name: Some(network.as_bytes().to_vec()),
                groups: self.groups(network, group),
                port_mappings: host_port
                    .map(|host_port| PortMapping {
                        host_port: host_port.into(),
                        container_port: SERVER_PORT.into(),
                        protocol: None,
                    })
                    .into_iter()
                    .collect(),
                ..NetworkInfo::default()
            }],
        };
        let request =
            network_request::parse(&container, &info, self.config).map_err(|error| text(&error))?;
        let namespace = netns::create().await.map_err(|error| text(&error))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
        let attacher = self.attacher()?;
        let checkpoint = attacher
            .reserve(&request, &container, Owner::Operator, None)
            .await
            .map_err(|error| text(&error))?;
        let attachments = attacher
            .attach(&checkpoint, Target::Namespace(path))
            .await
            .map_err(|error| text(&error))?;
        let nets = attachments.first().map(|one| one.addresses.as_slice());
        let addresses: Vec<IpAddr> = nets.unwrap_or_default().iter().map(IpNet::addr).collect();
        let bound = addresses.clone();
        let sockets = inside(&namespace, move || EchoSockets::open(&bound, SERVER_PORT)).await?;
        let servers = sockets
            .and_then(EchoSockets::serve)
            .map_err(|error| format!("cannot start servers in a scratch container: {error}"))?;
        Ok(ScratchContainer {
            checkpoint,
            namespace,
            addresses,
            _servers: servers,
        })
    }

    /// The groups of a scratch container, on a network that may isolate groups.
    fn groups(&self, network: &str, group: Option<&str>) -> Vec<Vec<u8>> {
        let configured = self.config.network(network);
        let isolates = configured.is_some_and(|network| match &network.provider {
            NetworkProvider::Bridge(bridge) => bridge.groups.is_some(),
            NetworkProvider::Overlay(overlay) => self.known().isolates_groups(&overlay.overlay),
            _ => false,
        });
        if isolates {
            vec![group.unwrap_or(GROUP).as_bytes().to_vec()]
        } else {
            vec![]
        }
    }

    fn attacher(&self) -> Result<Attacher, String> {
        let (lost, _) = unbounded_channel();
        Attacher::new(self.config, lost).map_err(|error| error.to_string())
    }

    /// Sends packets between what is attached.
    pub async fn check(&self, scratch: &ScratchNetwork) -> Vec<ConnectivityCheck> {
        let mut checks = vec![];
        for is_v4 in [true, false] {
            let (first, second) = (&scratch.first, &scratch.second);
            if let (Some(to), Some(from)) = (first.address(is_v4), second.address(is_v4)) {
                self.check_family(scratch, is_v4, from, to, &mut checks)
                    .await;
            }
        }
        if checks.is_empty() {
            let text = "the containers have no address of the same family".to_owned();
            checks.push(check(
                &scratch.network,
                "tcp",
                None,
                CheckResult::Skipped,
                text,
            ));
        }
        checks
    }

    async fn check_family(
        &self,
        scratch: &ScratchNetwork,
        is_v4: bool,
        from: IpAddr,
        to: IpAddr,
        checks: &mut Vec<ConnectivityCheck>,
    ) {
        let limit = self.answer_time_limit;
        let server = SocketAddr::new(to, SERVER_PORT);
        let container = ProbeOrigin::Container(&scratch.second);
        let probe = |check, from, to| Probe::new(check, is_v4, from, to);
        let tcp = probe(FIRST_CHECK, container, server);
        checks.push(
            self.probe(scratch, tcp, move || peers::tcp(server, limit))
                .await,
        );
        let ping = probe("ping", container, server);
        checks.push(
            self.probe(scratch, ping, move || peers::ping(to, limit))
                .await,
        );
        let udp = probe("udp", container, server);
        checks.push(
            self.probe(scratch, udp, move || peers::udp(server, limit))
                .await,
        );
        let bytes = scratch.first.mtu();
        let mtu = probe("mtu", container, server);
        let sent = self.probe(scratch, mtu, move || peers::mtu(from, server, bytes, limit));
        checks.push(sent.await);
        let by_host = probe("host-to-container", ProbeOrigin::Host, server);
        checks.push(
            self.probe(scratch, by_host, move || peers::tcp(server, limit))
                .await,
        );
        self.check_mapped_ports(scratch, is_v4, checks).await;
        self.check_services(scratch, is_v4, from, checks).await;
        self.check_isolation(scratch, is_v4, server, checks).await;
    }

    /// Mapped ports, from everywhere.
    async fn check_mapped_ports(
        &self,
        scratch: &ScratchNetwork,
        is_v4: bool,
        checks: &mut Vec<ConnectivityCheck>,
    ) {
        let limit = self.answer_time_limit;
        let (first, second) = (&scratch.first, &scratch.second);
        let container = ProbeOrigin::Container(second);
        match (scratch.host_port, &scratch.outside) {
            (Some(port), Ok(outside)) => {
                let address: IpAddr = if is_v4 {
                    OUTSIDE_V4[0].into()
                } else {
                    OUTSIDE_V6[0].into()
                };
                let mapped = SocketAddr::new(address, port);
                for (code, origin) in [
                    ("mapped-port-outside", ProbeOrigin::Outside(outside)),
                    ("mapped-port-host", ProbeOrigin::Host),
                    ("mapped-port-neighbour", container),
                    ("mapped-port-hairpin", ProbeOrigin::Container(first)),
                ] {
                    let one = Probe::new(code, is_v4, origin, mapped);
                    checks.push(
                        self.probe(scratch, one, move || peers::tcp(mapped, limit))
                            .await,
                    );
                }
            }
            (None, _) => {
                let text = "the network maps no ports, or the host has no free one";
                checks.push(scratch.skipped("mapped-port-outside", is_v4, text));
            }
            (_, Err(error)) => checks.push(scratch.skipped("mapped-port-outside", is_v4, error)),
        }
    }

    /// What the node daemon offers.
    async fn check_services(
        &self,
        scratch: &ScratchNetwork,
        is_v4: bool,
        from: IpAddr,
        checks: &mut Vec<ConnectivityCheck>,
    ) {
        let limit = self.answer_time_limit;
        let container = ProbeOrigin::Container(&scratch.second);
        let servers = NodeDns::read(&self.config.state_dir)
            .map_or_else(Vec::new, |dns| dns.nameservers(&[from]));
        match servers.first() {
            Some(address) => {
                let server = SocketAddr::new(*address, 53);
                let dns = Probe::new("dns", is_v4, container, server);
                checks.push(
                    self.probe(scratch, dns, move || peers::dns(server, limit))
                        .await,
                );
            }
            None => checks.push(scratch.skipped(
                "dns",
                is_v4,
                "contrail-mesos-node answers no DNS queries here",
            )),
        }
        match self.known().tcp_service(is_v4) {
            Some((name, address)) => {
                let vip = Probe::new("service", is_v4, container, address);
                let mut checked = self
                    .probe(scratch, vip, move || peers::connect(address, limit))
                    .await;
                checked.text = format!("{name}: {}", checked.text);
                checks.push(checked);
            }
            None => checks.push(scratch.skipped(
                "service",
                is_v4,
                "this host has no service with a ready backend",
            )),
        }
    }

    /// Who must not reach the container.
    async fn check_isolation(
        &self,
        scratch: &ScratchNetwork,
        is_v4: bool,
        server: SocketAddr,
        checks: &mut Vec<ConnectivityCheck>,
    ) {
        let limit = self.answer_time_limit;
        for (code, stranger, none) in [
            (
                "isolation-groups",
                &scratch.stranger,
                "the network does not isolate groups",
            ),
            (
                "isolation-overlays",
                &scratch.of_other_overlay,
                "the network is no isolated overlay, or there is no other one",
            ),
        ] {
            let Some(stranger) = stranger else {
                checks.push(scratch.skipped(code, is_v4, none));
                continue;
            };
            let refused = Probe {
                is_refused: true,
                ..Probe::new(code, is_v4, ProbeOrigin::Container(stranger), server)
            };
            checks.push(
                self.probe(scratch, refused, move || peers::tcp(server, limit))
                    .await,
            );
        }
    }

    async fn probe(
        &self,
        scratch: &ScratchNetwork,
        probe: Probe<'_>,
        work: impl Fn() -> ProbeOutcome + Clone + Send + 'static,
    ) -> ConnectivityCheck {
        let namespace = match probe.from {
            ProbeOrigin::Container(container) => &container.namespace,
            ProbeOrigin::Host => &self.host,
            ProbeOrigin::Outside(outside) => &outside.namespace,
        };
        let deadline = Instant::now() + self.rules_time_limit;
        let probed = loop {
            let probed = match inside(namespace, work.clone()).await {
                Ok(probed) => probed,
                Err(error) => Err(error),
            };
            // Once they are there, they stay.
            let waits =
                scratch.isolates_groups && probe.check == FIRST_CHECK && Instant::now() < deadline;
            if probed.is_ok() || !waits {
                break probed;
            }
            sleep(RETRY_INTERVAL).await;
        };
        let (result, text) = match (probed, probe.is_refused) {
            (Ok(text), false) => (CheckResult::Ok, text),
            (Err(text), false) => (CheckResult::Failed, text),
            (Ok(text), true) => (
                CheckResult::Failed,
                format!("reached, but must not: {text}"),
            ),
            (Err(_), true) => (CheckResult::Ok, format!("{} is not reached", probe.to)),
        };
        let mut checked = check(
            &scratch.network,
            probe.check,
            Some(family(probe.is_v4)),
            result,
            text,
        );
        if result == CheckResult::Failed && !probe.is_refused {
            checked.cause = self.cause(scratch, &probe).await;
        }
        checked
    }

    /// What stops the packets of a probe, if a trace finds it.
    async fn cause(&self, scratch: &ScratchNetwork, probe: &Probe<'_>) -> Option<String> {
        let origin = match probe.from {
            ProbeOrigin::Container(container) => Origin::Named(container.name()),
            ProbeOrigin::Host => Origin::Host,
            ProbeOrigin::Outside(_) if probe.is_v4 => Origin::Address(OUTSIDE_V4[1].into()),
            ProbeOrigin::Outside(_) => Origin::Address(OUTSIDE_V6[1].into()),
        };
        let attacher = self.attacher().ok()?;
        let transport = match probe.check {
            "udp" | "dns" => crate::net::listeners::Transport::Udp,
            _ => crate::net::listeners::Transport::Tcp,
        };
        let destination = Destination {
            end: Origin::Address(probe.to.ip()),
            port: probe.to.port(),
            transport,
        };
        let mut tracer = Tracer::new(&attacher, self.config);
        for container in [&scratch.first, &scratch.second] {
            let id = container.checkpoint.container.clone();
            tracer = tracer.with_namespace(id, container.namespace.try_clone().ok()?);
        }
        let trace = tracer.trace(&origin, &destination).await.ok()?;
        trace.cause.map(str::to_owned)
    }

    /// Detaches all scratch containers of this process. Returns what could not be removed, with the reason.
    pub async fn remove_containers(&self) -> Vec<String> {
        let own = std::process::id();
        self.remove(|process| process == own).await
    }

    /// The same for those of processes that are gone.
    async fn remove_earlier(&self) -> Vec<String> {
        let is_gone = |process| !PathBuf::from(format!("/proc/{process}")).exists();
        self.remove(is_gone).await
    }

    async fn remove(&self, is_of: impl Fn(u32) -> bool) -> Vec<String> {
        let attacher = match self.attacher() {
            Ok(attacher) => attacher,
            Err(error) => return vec![error],
        };
        let stored = match attacher.checkpoints().load_all() {
            Ok(stored) => stored,
            Err(error) => return vec![error.to_string()],
        };
        let mut left = vec![];
        for stored in stored {
            let StoredCheckpoint::Intact { checkpoint, .. } = stored else {
                continue;
            };
            let name = checkpoint.container.to_string();
            let process = name
                .strip_prefix(NAME_PREFIX)
                .and_then(|rest| rest.split_once('-')?.0.parse().ok());
            let is_scratch = checkpoint.owner == Owner::Operator && process.is_some_and(&is_of);
            if is_scratch && let Err(error) = attacher.detach(&checkpoint).await {
                left.push(format!(
                    "{name}: {error}; retry with contrail-mesos detach {name}"
                ));
            }
        }
        left
    }
}

fn check(
    network: &str,
    check: &'static str,
    family: Option<&'static str>,
    result: CheckResult,
    text: String,
) -> ConnectivityCheck {
    ConnectivityCheck {
        network: network.to_owned(),
        check,
        family,
        result,
        text,
        cause: None,
    }
}

/// A port of the host that nobody uses now.
fn free_port() -> Option<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    Some(listener.local_addr().ok()?.port())
}

/// Runs blocking work inside a namespace.
async fn inside<T: Send + 'static>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let namespace = namespace.try_clone().map_err(|error| error.to_string())?;
    netns::run_in(namespace, work)
        .await
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod root_tests;
