//! The built-in provider: one Linux bridge per network.
//!
//! - A container's veth pair is created in one request, its inner end inside the namespace.
//! - The bridge is created for the first container and removed with the last, and so is the
//!   nftables table. An existing bridge is used as it is, and never changed or removed; an
//!   existing interface with the bridge's name that is no bridge is an error.
//! - Everything that this program creates names its instance in an alias or a comment, so several
//!   instances on one host do not touch each other's objects.
//! - Required kernel settings (forwarding, `route_localnet` of the bridge) are written where they
//!   differ. Forwarding is never turned off again: others may depend on it by then.
//!
//! An attach or detach that has begun runs to its end even if its future is dropped; a detach
//! waits for the attach that it undoes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::UnboundedSender;

use self::driver::BridgeDriver;
use self::watch::HostWatch;
use super::inspection::container_side;
use super::ipam::{self, FamilyUsage, Holder, NetworkLease};
use super::ownership::refuse_existing_link;
use super::stray::{HeldIntents, ProviderStray, SweepScope};
use super::{
    Attachment, BoxError, Intent, LostInterface, NetworkRequest, Provider, ProviderError,
    ProviderErrors, Statistics, blocking, counters, failed, in_place, refused,
};
use crate::config::{BridgeNetwork, OverlayPart};
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;
use crate::net::nft::groups::{GroupTables, TABLE};
use crate::node_state::NodeStateFile;
use contrail_mesos_api::cluster::{Admission, Membership};
use contrail_mesos_api::container::{ContainerId, Mac};

pub use conflicts::{Conflict, ConflictSeverity, conflicts};
pub use host_side::{HostRepair, RepairOutcome};
pub(super) use strays::BridgeStray;
pub use strays::MissingLease;

mod comparison;
mod conflicts;
mod desired;
mod driver;
mod flows;
mod host;
mod host_side;
mod registry;
mod repair;
mod repair_log;
#[cfg(test)]
mod root_tests;
mod strays;
mod watch;

/// The bridge provider's part of an intent. Part of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BridgeIntent {
    /// The bridge's interface name.
    pub bridge: String,
    /// The host end of the veth pair.
    pub host_interface: String,
    /// The bridge's own addresses, of every family that the network has.
    #[serde(default)]
    pub bridge_addresses: Vec<IpNet>,
    /// Whether packets that leave the network's subnet get the host's address.
    #[serde(default)]
    pub masquerade: bool,
    /// Whether a frame may leave through the bridge port on which it came in.
    #[serde(default)]
    pub hairpin: bool,
    /// Destinations that the container reaches through the gateway.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// The overlay that the network is part of, if its provider is `overlay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayPart>,
    /// The container's groups, if the network isolates groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ContainerPolicy>,
}

/// Which traffic to a container on a network that isolates groups is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPolicy {
    /// Its groups at the launch.
    #[serde(flatten)]
    pub membership: Membership,
    /// What else reaches it.
    pub admission: Admission,
}

/// The provider `bridge`, for the network namespace in which it was created.
#[derive(Debug)]
pub struct BridgeProvider {
    driver: Arc<BridgeDriver>,
    _watch: HostWatch,
}

impl BridgeProvider {
    /// Creates a provider that keeps its leases below `state_dir` and reports interfaces that are
    /// deleted without a detach to `lost`. It works in the network namespace of the calling
    /// thread; all later calls must be made there, too. Changes nothing on the host.
    pub fn new(
        state_dir: &Path,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, ProviderError> {
        let fail = |error: BoxError| failed("*", "set up the bridge provider", error);
        let driver = Arc::new(BridgeDriver::new(state_dir, lost).map_err(fail)?);
        let watch = HostWatch::start(Arc::clone(&driver.host)).map_err(fail)?;
        Ok(Self {
            driver,
            _watch: watch,
        })
    }

    /// What the node daemon publishes, as this provider reads it.
    pub(super) fn node_state(&self) -> Arc<NodeStateFile> {
        Arc::clone(&self.driver.host.node_state)
    }

    /// Restores what is missing of the host side of every attached container (bridges, ports, the
    /// nftables table), and returns a description of each repair.
    pub async fn repair(&self) -> Result<Vec<String>, ProviderError> {
        let driver = Arc::clone(&self.driver);
        blocking(move || driver.repair()).await
    }

    /// The links of this instance that name containers, of every provider, each with the container's file
    /// name, of which very long ones are cut. Blocks.
    pub(super) fn container_links(&self) -> Result<Vec<(String, Link)>, ProviderError> {
        let listed = NetlinkSocket::route().and_then(|mut socket| links::all(&mut socket));
        let links = listed.map_err(|error| failed("*", "list the interfaces", error))?;
        let named = |link: Link| {
            let name = self.driver.owner.container_name(link.alias.as_deref()?)?;
            Some((name.to_owned(), link))
        };
        Ok(links.into_iter().filter_map(named).collect())
    }

    /// What this instance made and belongs to no container of the scope. Blocks.
    pub(super) fn strays(
        &self,
        scope: impl FnOnce() -> Result<SweepScope<BridgeIntent>, ProviderErrors>,
    ) -> Result<Vec<ProviderStray>, ProviderErrors> {
        let unconfirmed = self.driver.ipam.unconfirmed();
        let strays = self.driver.strays(&unconfirmed, scope)?.into_iter();
        Ok(strays
            .map(|stray| self.driver.describe_stray(stray))
            .collect())
    }

    /// Removes those of `strays` that still belong to no container of the scope. Waits a short time for
    /// containers that are being attached; others wait meanwhile.
    pub(super) async fn remove_strays(
        &self,
        strays: Vec<BridgeStray>,
        scope: impl FnOnce() -> Result<SweepScope<BridgeIntent>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        let driver = Arc::clone(&self.driver);
        blocking(move || driver.remove_strays(strays, scope)).await
    }

    /// See [`ipam::Ipam::usage`]. Blocks.
    pub(super) fn usage(
        &self,
        name: &str,
        network: &BridgeNetwork,
    ) -> Result<Vec<FamilyUsage>, ProviderError> {
        self.driver.ipam.usage(name, network)
    }

    /// The leases of an address, of any network. Blocks.
    pub(super) fn leases_of(&self, address: IpAddr) -> Result<Vec<NetworkLease>, ProviderError> {
        self.driver.ipam.leases_of(address)
    }

    /// The addresses of attached containers without their lease. Blocks.
    pub(super) fn missing_leases(&self, attached: &[Intent<BridgeIntent>]) -> Vec<MissingLease> {
        self.driver.missing_leases(attached)
    }

    /// Leases the addresses that attached containers have without a lease. `attached` reads their
    /// intents, and keeps them attached until its deadline.
    pub(super) async fn restore_leases<G: 'static>(
        &self,
        attached: impl FnOnce() -> Result<HeldIntents<G, BridgeIntent>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        let driver = Arc::clone(&self.driver);
        blocking(move || driver.restore_leases(attached)).await
    }

    /// Leases addresses that a container has without a lease. Blocks.
    pub(super) fn hold_addresses(
        &self,
        network: &str,
        container: &ContainerId,
        interface: &str,
        addresses: &[IpAddr],
    ) -> Result<(), ProviderError> {
        let holder = Holder {
            container: container.clone(),
            interface: interface.to_owned(),
        };
        self.driver
            .ipam
            .hold(network, &holder, addresses)
            .map_err(|error| failed(network, "lease the addresses of a container", error))
    }

    /// As [`Provider::attach_all`], of one network.
    async fn attach(
        &self,
        intent: &Intent<BridgeIntent>,
        namespace: BorrowedFd<'_>,
    ) -> Result<Attachment, ProviderError> {
        let network = &intent.network;
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| failed(network, "keep the container's namespace open", error))?;
        let entry = self.driver.host.registry.begin_attach(intent)?;
        let driver = Arc::clone(&self.driver);
        self.driver
            .threads
            .run(move |thread| driver.attach(thread, &entry, &namespace))
            .await
            .map_err(|error| failed(network, "attach", error))??;
        Ok(Attachment {
            addresses: intent.addresses.clone(),
            gateways: intent.gateways.clone(),
            mac: intent.mac,
            dns: intent.dns.clone(),
        })
    }

    /// As [`Provider::detach_all`], of one network.
    async fn detach(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderErrors> {
        let mut errors = ProviderErrors::new();
        let (driver, owned_intent) = (Arc::clone(&self.driver), intent.clone());
        let begun = in_place(move || driver.begin_detach(&owned_intent))
            .await
            .unwrap_or_else(|error| Err(error.into()));
        errors.extend(begun.err());
        let link = &intent.provider.host_interface;
        let owned_link = self.driver.owner.link_to_delete(link);
        if let Err(error) = self.driver.reaper.delete(owned_link).await {
            // The address stays leased: the interface may still use it.
            let action = format!("remove the interface {link}");
            errors.push(failed(&intent.network, action, error));
            return Err(errors);
        }
        let (driver, owned_intent) = (Arc::clone(&self.driver), intent.clone());
        let finished = in_place(move || driver.finish_detach(&owned_intent))
            .await
            .unwrap_or_else(|error| Err(error.into()));
        errors.extend(finished.err().into_iter().flatten());
        errors.into_result(())
    }
}

/// What is missing of the node daemon's tables for a container whose network isolates groups. Changes
/// nothing.
pub(super) async fn group_findings(intent: &Intent<BridgeIntent>) -> Vec<String> {
    if intent.provider.policy.is_none() {
        return vec![];
    }
    let addresses: Vec<IpAddr> = intent.addresses.iter().map(IpNet::addr).collect();
    let missing = blocking(move || {
        let missing = GroupTables::open()?.missing(&addresses)?;
        Ok::<_, BoxError>(missing)
    });
    match missing.await {
        Ok(missing) => missing
            .iter()
            .map(|address| {
                format!(
                    "the nftables table inet {TABLE} has no rules for {address}, so nothing reaches it; \
                     is contrail-mesos-node running?"
                )
            })
            .collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// The intent of a request that was granted `addresses`.
fn intent(
    request: &NetworkRequest,
    network: &BridgeNetwork,
    addresses: Vec<IpNet>,
) -> Intent<BridgeIntent> {
    let bridge_addresses = bridge_addresses(network, &addresses);
    let addresses: Vec<IpNet> = if network.groups.is_some() {
        // Nothing is on the link but the gateway.
        addresses
            .into_iter()
            .map(|net| IpNet::from(net.addr()))
            .collect()
    } else {
        addresses
    };
    // One of each family, also of a container with addresses of several blocks.
    let gateways = [true, false].into_iter().filter_map(|is_v4| {
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == is_v4;
        let address = addresses.iter().find(of_family)?;
        let mut gateways = bridge_addresses.iter().filter(of_family);
        let own = gateways.find(|gateway| gateway.contains(&address.addr()));
        Some(
            own.or_else(|| bridge_addresses.iter().find(of_family))?
                .addr(),
        )
    });
    let gateways = gateways.collect();
    Intent {
        container: request.container.clone(),
        network: request.network.name.clone(),
        interface: request.interface.clone(),
        gateways,
        mac: mac_of(&addresses).unwrap_or_else(|| request.container.mac(&request.interface)),
        mtu: network.mtu,
        ports: request.ports.clone(),
        addresses,
        dns: request.network.dns.clone().unwrap_or_default(),
        provider: BridgeIntent {
            bridge: network.bridge.clone(),
            host_interface: request.container.host_interface(&request.interface),
            bridge_addresses,
            masquerade: network.masquerade,
            hairpin: network.hairpin,
            routes: network.routes.clone(),
            overlay: network.overlay.clone(),
            policy: network.groups.map(|admission| ContainerPolicy {
                membership: request.membership.clone(),
                admission,
            }),
        },
    }
}

/// The bridge's own addresses that a container with `addresses` needs. A block may go to another host
/// once no container has an address of it, so then they are those of the blocks that have `addresses`.
fn bridge_addresses(network: &BridgeNetwork, addresses: &[IpNet]) -> Vec<IpNet> {
    let has = |gateway: &IpNet| addresses.iter().any(|net| gateway.contains(&net.addr()));
    network
        .gateways()
        .filter(|gateway| !network.has_blocks || has(gateway))
        .collect()
}

/// The MAC address that follows from a container's address, so that whatever a neighbour on the
/// bridge, or behind it, knows of the address stays true when another container gets it: `02:42`
/// and the first IPv4 address, as Docker has it, or else `02` and a hash of the IPv6 address.
///
/// It does not depend on the host: if several hosts share a segment, an address keeps its MAC
/// address when it moves.
fn mac_of(addresses: &[IpNet]) -> Option<Mac> {
    let v4 = addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    if let Some(address) = v4 {
        let [a, b, c, d] = address.octets();
        return Some(Mac([0x02, 0x42, a, b, c, d]));
    }
    let digest = Sha256::digest(addresses.first()?.addr().to_string());
    Some(Mac([
        0x02, digest[0], digest[1], digest[2], digest[3], digest[4],
    ]))
}

#[async_trait]
impl Provider for BridgeProvider {
    type Network = BridgeNetwork;
    type Intent = BridgeIntent;

    fn validate(
        &self,
        request: &NetworkRequest,
        network: &BridgeNetwork,
    ) -> Result<(), ProviderErrors> {
        let name = &request.network.name;
        let mut errors = ipam::invalid_requests(name, network, &request.addresses);
        let is_interface_name = (1..=15).contains(&request.interface.len())
            && request
                .interface
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric());
        if !is_interface_name {
            errors.push(refused(
                name,
                format!(
                    "{:?} is not a valid interface name; it must have 1 to 15 letters and digits",
                    request.interface
                ),
            ));
        }
        errors.extend(self.driver.refused_groups(request, network));
        let mut mapped_ports = HashSet::new();
        for port in &request.ports {
            if port.host_port == 0 || port.container_port == 0 {
                errors.push(refused(
                    name,
                    "port 0 cannot be mapped; ports are 1 to 65535",
                ));
            }
            if !mapped_ports.insert((port.protocol, port.host_port)) {
                errors.push(refused(
                    name,
                    format!(
                        "port {}/{} of the host is mapped twice",
                        port.host_port, port.protocol
                    ),
                ));
            }
        }
        errors.into_result(())
    }

    async fn plan(
        &self,
        request: &NetworkRequest,
        network: &BridgeNetwork,
    ) -> Result<Vec<String>, ProviderErrors> {
        self.validate(request, network)?;
        let driver = Arc::clone(&self.driver);
        let (request, network) = (request.clone(), network.clone());
        let plan = blocking(move || {
            let addresses =
                driver
                    .ipam
                    .preview(&request.network.name, &network, &request.addresses)?;
            driver.plan(&intent(&request, &network, addresses))
        });
        Ok(plan.await?)
    }

    async fn reserve(
        &self,
        request: &NetworkRequest,
        network: &BridgeNetwork,
    ) -> Result<Intent<BridgeIntent>, ProviderError> {
        let driver = Arc::clone(&self.driver);
        let (request, network) = (request.clone(), network.clone());
        in_place(move || {
            // What the managers say may have changed since the validation.
            if let Some(refusal) = driver.refused_groups(&request, &network) {
                return Err(refusal);
            }
            let holder = Holder {
                container: request.container.clone(),
                interface: request.interface.clone(),
            };
            let addresses = driver.ipam.reserve(
                &request.network.name,
                &network,
                &holder,
                &request.addresses,
            )?;
            Ok(intent(&request, &network, addresses))
        })
        .await
        .unwrap_or_else(|error| Err(error.into()))
    }

    fn check_unused(&self, request: &NetworkRequest) -> Result<(), ProviderError> {
        let host_interface = request.container.host_interface(&request.interface);
        refuse_existing_link(request, &host_interface)
    }

    async fn release(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderErrors> {
        let (driver, intent) = (Arc::clone(&self.driver), intent.clone());
        blocking(move || driver.release(&intent)).await
    }

    async fn attach_all(
        &self,
        intents: &[Intent<BridgeIntent>],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderErrors> {
        let attaches = intents.iter().map(|intent| self.attach(intent, namespace));
        ProviderErrors::collect_results(join_all(attaches).await)
    }

    async fn detach_all(&self, intents: &[Intent<BridgeIntent>]) -> Result<(), ProviderErrors> {
        let detaches = intents.iter().map(|intent| self.detach(intent));
        ProviderErrors::collect_results(join_all(detaches).await).map(drop)
    }

    async fn remove_container(&self, container: &ContainerId) -> Result<(), ProviderErrors> {
        let (driver, container) = (Arc::clone(&self.driver), container.clone());
        blocking(move || driver.remove_container(&container)).await
    }

    async fn adopt(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderError> {
        let (driver, intent) = (Arc::clone(&self.driver), intent.clone());
        blocking(move || driver.adopt(&intent)).await
    }

    async fn sweep(
        &self,
        known: &[Intent<BridgeIntent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        let driver = Arc::clone(&self.driver);
        let (known, damaged) = (known.to_vec(), damaged.clone());
        blocking(move || driver.sweep(&known, &damaged)).await
    }

    async fn statistics(&self, intent: &Intent<BridgeIntent>) -> Result<Statistics, ProviderError> {
        counters::of_host_end(&intent.network, intent.provider.host_interface.clone()).await
    }

    async fn inspect(
        &self,
        intent: &Intent<BridgeIntent>,
        _: Option<&Attachment>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Vec<String> {
        let (driver, owned_intent) = (Arc::clone(&self.driver), intent.clone());
        let host_side = blocking(move || Ok::<_, ProviderError>(driver.inspect(&owned_intent)));
        let mut findings = match host_side.await {
            Ok(findings) => findings,
            Err(error) => vec![error.to_string()],
        };
        if let Some(namespace) = namespace {
            findings.extend(container_side(driver::expected_interface(intent), namespace).await);
        }
        findings
    }
}
