//! Network providers: each network of the configuration has one.
//!
//! A provider knows interfaces, addresses and its own back end; it knows nothing of Mesos' task
//! life cycle. The isolator and the command line call it in this order:
//!
//! 1. `validate` and `check_unused`: refuse what is not possible, before anything is changed.
//! 2. `reserve`: chooses names, and addresses where the provider assigns them. The returned
//!    [`Intent`] names everything that is about to be created; the caller makes it durable before
//!    going on.
//! 3. `start`: begins what is slow, while the container is being forked.
//! 4. `attach_all`: attaches all networks of a container that this provider serves.
//! 5. `detach_all`: undoes it from the intents alone. Idempotent; it collects every error.
//!
//! After a restart the caller passes each intent that it has on disk to `adopt`, then calls
//! `sweep`.

pub mod bridge;
pub mod cni;
mod container_side;
pub mod contrail;
mod counters;
mod error;
pub(crate) mod inspection;
pub mod ipam;
pub mod none;
pub mod overlay;
mod ownership;
mod registry;
pub mod stray;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

use crate::config::{Dns, Network};
use crate::proto::mesos::NetworkInfo;
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::container::{ContainerId, Mac};

pub(crate) use error::BoxError;
pub(crate) use error::failed;
use error::refused;
pub use error::{ProviderError, ProviderErrors};
pub use ownership::instance_tag;
pub(crate) use ownership::is_label_of;
pub use registry::{PendingTeardown, Providers};

/// A request for one network of one container, validated as far as possible without a provider.
#[derive(Clone, Debug)]
pub struct NetworkRequest {
    /// The container.
    pub container: ContainerId,
    /// The interface inside the container: `eth0`, `eth1`, … in the order of the networks.
    pub interface: String,
    /// The network's current configuration.
    pub network: Network,
    /// The addresses that the framework requests; never empty.
    pub addresses: Vec<AddressRequest>,
    /// The host's ports that are mapped to the container.
    pub ports: Vec<PortMapping>,
    /// The groups that the framework names, on networks of the providers `bridge` and `overlay`.
    pub membership: Membership,
    /// The labels of the `NetworkInfo`; the last one of a key wins.
    pub labels: BTreeMap<String, String>,
    /// The framework's message, for CNI plugins, which receive all of it.
    pub info: NetworkInfo,
}

/// One address that a framework requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRequest {
    /// One address of every family that the network has.
    Any,
    /// Any IPv4 address.
    V4,
    /// Any IPv6 address.
    V6,
    /// Exactly this address.
    Static(IpAddr),
}

/// The transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that is mapped to a port of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port of the host, 1 to 65535.
    pub host_port: u16,
    /// Port of the container, 1 to 65535.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Everything that an attach is about to create, so that a detach can undo it from here alone.
///
/// Part of the checkpoint: the serialized fields may be added to, never renamed. `P` is what only
/// the provider needs to know; providers use their own type, everyone else [`ProviderIntent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent<P = ProviderIntent> {
    /// The container.
    pub container: ContainerId,
    /// The network's name.
    pub network: String,
    /// The interface inside the container.
    pub interface: String,
    /// The addresses with their prefix, in the order in which they are reported.
    pub addresses: Vec<IpNet>,
    /// Next hops, one per family at most.
    pub gateways: Vec<IpAddr>,
    /// The interface's MAC address.
    pub mac: Mac,
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// Port mappings.
    pub ports: Vec<PortMapping>,
    /// Resolver configuration for the containers of the network.
    pub dns: Dns,
    /// What only the provider needs to know.
    pub provider: P,
}

impl<P> Intent<P> {
    /// The same intent with `provider` as the provider's part.
    fn with_provider<Q>(&self, provider: Q) -> Intent<Q> {
        Intent {
            container: self.container.clone(),
            network: self.network.clone(),
            interface: self.interface.clone(),
            addresses: self.addresses.clone(),
            gateways: self.gateways.clone(),
            mac: self.mac,
            mtu: self.mtu,
            ports: self.ports.clone(),
            dns: self.dns.clone(),
            provider,
        }
    }
}

/// The part of an [`Intent`] that only its provider reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum ProviderIntent {
    /// The built-in bridge.
    Bridge(bridge::BridgeIntent),
    /// Contrail's vRouter.
    Contrail(contrail::ContrailIntent),
    /// CNI plugins.
    Cni(cni::CniIntent),
    /// No network.
    None(none::NoneIntent),
}

/// The longest id that a manager accepts as an annotation.
const MAX_ANNOTATION_BYTES: usize = 1024;

impl Intent {
    /// Notes the framework and executor for which a container is launched, for providers that tell
    /// others.
    pub fn set_executor(&mut self, framework: &str, executor: &str) {
        if let ProviderIntent::Contrail(intent) = &mut self.provider {
            intent.annotations = [("framework-id", framework), ("executor", executor)]
                .into_iter()
                .filter(|(_, id)| (1..=MAX_ANNOTATION_BYTES).contains(&id.len()))
                .map(|(key, id)| (key.to_owned(), id.to_owned()))
                .collect();
        }
    }
}

/// The result of an attach: what its intent could not know yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The addresses with their prefix, in the order in which they are reported.
    pub addresses: Vec<IpNet>,
    /// Next hops, one per family at most.
    pub gateways: Vec<IpAddr>,
    /// The interface's MAC address.
    pub mac: Mac,
    /// The network's resolver configuration.
    pub dns: Dns,
}

/// Counters of one interface from the container's view: received is into the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receive.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped on send.
    pub tx_dropped: u64,
}

/// An interface that was deleted without a detach.
#[derive(Clone, Debug)]
pub struct LostInterface {
    /// The container.
    pub container: ContainerId,
    /// A description for the operator.
    pub message: String,
}

/// Runs `work`, which blocks on the kernel or a file system, on a thread where that is allowed.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<JoinError> + Send + 'static,
{
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error.into()))
}

/// Runs `work`, which blocks for less time than its way to another thread would take. It runs here,
/// and the runtime moves its other tasks to another thread meanwhile.
pub(crate) async fn in_place<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return Ok(tokio::task::block_in_place(work));
    }
    spawn_blocking(work).await
}

/// A kind of network. See the module's documentation for the order of the calls.
///
/// # Guarantees that every provider gives
/// - A failed `attach_all` undoes what it made, or leaves that to the `detach_all` that follows.
/// - `detach_all` succeeds if nothing is left to undo, also if others removed it.
/// - An undo removes only what this instance created for this container: a name that derives from
///   the container's id does not say who created the object.
/// - No call blocks the thread that it is polled on for longer than a lock is held; none starts a
///   child process (except the provider `cni`, whose plugins are programs).
#[async_trait]
pub trait Provider: Send + Sync {
    /// The provider's part of a network's configuration.
    type Network;
    /// The provider's part of an intent.
    type Intent: Sync;

    /// Refuses what is not possible, with every reason. Changes nothing.
    fn validate(
        &self,
        request: &NetworkRequest,
        network: &Self::Network,
    ) -> Result<(), ProviderErrors>;

    /// Describes every change that `reserve` and `attach_all` would make, in order. Changes
    /// nothing.
    async fn plan(
        &self,
        request: &NetworkRequest,
        network: &Self::Network,
    ) -> Result<Vec<String>, ProviderErrors>;

    /// Refuses a container that is attached already, by whichever instance on this host: its names
    /// derive from its id, so an attach would meet what it has, and the undo would remove that.
    /// Changes nothing; may block for a few calls of the kernel.
    fn check_unused(&self, request: &NetworkRequest) -> Result<(), ProviderError> {
        let _ = request;
        Ok(())
    }

    /// Chooses names and addresses and reserves them for this container.
    async fn reserve(
        &self,
        request: &NetworkRequest,
        network: &Self::Network,
    ) -> Result<Intent<Self::Intent>, ProviderError>;

    /// Releases what `reserve` reserved, if `start` and `attach_all` were never called. Touches
    /// nothing else.
    async fn release(&self, intent: &Intent<Self::Intent>) -> Result<(), ProviderErrors>;

    /// Begins in the background what `attach_all` would otherwise wait for. `intents` are all of
    /// one container and durable.
    fn start(&self, intents: &[Intent<Self::Intent>]) {
        let _ = intents;
    }

    /// Creates what the intents of one container say, in the network namespace `namespace`, and
    /// sets its loopback interface up. The attachments are in the order of the intents.
    async fn attach_all(
        &self,
        intents: &[Intent<Self::Intent>],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderErrors>;

    /// Undoes an attach of one container, complete or not. Addresses are free again only when the
    /// interface is gone.
    async fn detach_all(&self, intents: &[Intent<Self::Intent>]) -> Result<(), ProviderErrors>;

    /// Removes everything that this instance created for a container whose intents cannot be read.
    /// Succeeds if there is nothing.
    async fn remove_container(&self, container: &ContainerId) -> Result<(), ProviderErrors> {
        let _ = container;
        Ok(())
    }

    /// Takes over a container that was attached before a restart, and repairs its host side. An
    /// error means that the container's network is lost.
    async fn adopt(&self, intent: &Intent<Self::Intent>) -> Result<(), ProviderError>;

    /// Removes everything that this instance created and that belongs neither to an intent of
    /// `known` nor to a container of `damaged`, whose intent cannot be read.
    async fn sweep(
        &self,
        known: &[Intent<Self::Intent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors>;

    /// The interface's counters.
    async fn statistics(&self, intent: &Intent<Self::Intent>) -> Result<Statistics, ProviderError>;

    /// What is wrong with an attached interface, a sentence each; nothing if it works as attached.
    /// `attachment` is the result of its attach, if that is known. Looks into the container, too, if its
    /// network namespace is given. Changes nothing.
    async fn inspect(
        &self,
        intent: &Intent<Self::Intent>,
        attachment: Option<&Attachment>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Vec<String>;
}
