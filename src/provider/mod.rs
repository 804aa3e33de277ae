//! What makes a network: the providers, one per network, chosen by configuration.
//!
//! A provider knows interfaces, addresses and its own back end; it knows nothing of Mesos'
//! life cycle. The isolator and the command line drive it in this order:
//!
//! 1. `validate` — refuse what cannot be, before anything is touched.
//! 2. `reserve` — choose names, and addresses where it is us who choose them. The [`Intent`] that
//!    comes back names everything that is about to be made; the caller makes it durable before
//!    going on.
//! 3. `start` — begin what is slow, while the container is being forked.
//! 4. `attach_all` — make it: all of a container's networks of this provider at once.
//! 5. `detach_all` — undo it from the intents alone. Idempotent, and it collects every error.
//!
//! After a restart the caller hands each intent that it found to `adopt`, then calls `sweep`.

pub mod bridge;
pub mod cni;
pub mod contrail;
mod counters;
mod inside;
pub mod ipam;
mod mark;
mod registry;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{Dns, Network};
use crate::proto::mesos::NetworkInfo;
use contrail_mesos_api::container::{ContainerId, Mac};

pub use registry::Providers;

/// One network of one container, checked as far as it can be without asking a provider.
#[derive(Clone, Debug)]
pub struct NetworkRequest {
    /// The container.
    pub container: ContainerId,
    /// The interface inside the container: `eth0`, `eth1`, … in the order of the networks.
    pub interface: String,
    /// The network as the configuration has it now.
    pub network: Network,
    /// The addresses that the framework asks for; never empty.
    pub addresses: Vec<AddressRequest>,
    /// The host's ports that lead to the container.
    pub ports: Vec<PortMapping>,
    /// The labels of the `NetworkInfo`, last one of a key wins.
    pub labels: BTreeMap<String, String>,
    /// What the framework wrote, for plugins that are told all of it.
    pub info: NetworkInfo,
}

/// One address that a framework asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRequest {
    /// Whatever the network gives: one address of every family that it has.
    Any,
    /// Any IPv4 address.
    V4,
    /// Any IPv6 address.
    V6,
    /// This very address.
    Static(IpAddr),
}

/// A transport protocol of a port mapping.
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

/// A port of the host that leads to a port of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port of the host, 1 to 65535.
    pub host_port: u16,
    /// Port of the container, 1 to 65535.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Everything that an attach is about to make, so that a detach can undo it from here alone.
/// Part of the checkpoint: fields may be added, never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
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
    /// The interface's Ethernet address.
    pub mac: Mac,
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// Port mappings.
    pub ports: Vec<PortMapping>,
    /// Resolver configuration that the network gives to its containers.
    pub dns: Dns,
    /// What only the provider needs to know.
    pub provider: ProviderIntent,
}

/// The part of an [`Intent`] that only its provider reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum ProviderIntent {
    /// The embedded bridge.
    Bridge(bridge::BridgeIntent),
    /// Contrail's vRouter.
    Contrail(contrail::ContrailIntent),
    /// CNI plugins.
    Cni(cni::CniIntent),
}

/// What an attach made, beyond what its intent said already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The addresses with their prefix, in the order in which they are reported.
    pub addresses: Vec<IpNet>,
    /// Next hops, one per family at most.
    pub gateways: Vec<IpAddr>,
    /// The interface's Ethernet address.
    pub mac: Mac,
    /// Resolver configuration that the network gave.
    pub dns: Dns,
}

/// Counters of one interface, as the container sees them: received is into the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// An interface that went away without a detach.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The container that lost it.
    pub container: ContainerId,
    /// What is gone, for the operator.
    pub message: String,
}

/// Why a provider refused or failed: what, where, and what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The request cannot be granted on this network; repeating it will not help.
    #[error("network {network:?}: {message}")]
    Refused {
        /// The network's name.
        network: String,
        /// What is wrong with the request, and what would be right.
        message: String,
    },
    /// The network has no address left.
    #[error(
        "network {network:?}: no {family} address left in {range}; free containers of this network or give it a larger subnet"
    )]
    Exhausted {
        /// The network's name.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The subnet or range that is used up.
        range: String,
    },
    /// The kernel or the file system refused an operation.
    #[error("network {network:?}: cannot {action}: {source}")]
    Failed {
        /// The network's name.
        network: String,
        /// What was tried, with the names of the things it was tried on.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs file and netlink work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Result<T, BoxError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error.into()))
}

fn failed(network: &str, action: impl Into<String>, source: impl Into<BoxError>) -> ProviderError {
    ProviderError::Failed {
        network: network.to_owned(),
        action: action.into(),
        source: source.into(),
    }
}

fn refused(network: &str, message: impl Into<String>) -> ProviderError {
    ProviderError::Refused {
        network: network.to_owned(),
        message: message.into(),
    }
}

/// A kind of network. See the module's documentation for the order of the calls.
///
/// # Guarantees that every provider gives
/// - `attach_all` undoes what it made when it fails, or leaves it to the `detach_all` that follows.
/// - `detach_all` succeeds when there is nothing left to undo, whoever undid it.
/// - No call blocks the thread that it is polled on for longer than a lock is held; none starts a
///   child process (the `cni` provider is the exception by nature).
#[async_trait]
pub trait Provider: Send + Sync {
    /// Refuses what cannot be, touching nothing. Every reason at once.
    fn validate(&self, request: &NetworkRequest) -> Result<(), Vec<ProviderError>>;

    /// Every change that reserve and attach would make, in order, in words. Makes none.
    async fn plan(&self, request: &NetworkRequest) -> Result<Vec<String>, Vec<ProviderError>>;

    /// Chooses names and addresses and reserves them for this container.
    async fn reserve(&self, request: &NetworkRequest) -> Result<Intent, ProviderError>;

    /// Gives back what `reserve` took, where `start` and `attach_all` were never called.
    async fn release(&self, intent: &Intent) -> Result<(), Vec<ProviderError>> {
        self.detach_all(&[intent]).await
    }

    /// Begins in the background what `attach_all` would else have to wait for. `intents` are all
    /// of one container's, and durable.
    fn start(&self, intents: &[&Intent]) {
        let _ = intents;
    }

    /// Makes what the intents of one container say, in the network namespace `namespace`, and
    /// brings its loopback up. What comes back is in their order.
    async fn attach_all(
        &self,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, Vec<ProviderError>>;

    /// Undoes an attach of one container, complete or not; the addresses are free again only when
    /// the interface is gone.
    async fn detach_all(&self, intents: &[&Intent]) -> Result<(), Vec<ProviderError>>;

    /// Takes over a container that was attached before a restart: repairs what the host side
    /// lacks. An error means that the container's network is lost.
    async fn adopt(&self, intent: &Intent) -> Result<(), ProviderError>;

    /// Removes whatever is ours by name and belongs neither to an intent of `known` nor to a
    /// container of `damaged`, whose intent cannot be read.
    async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>>;

    /// The interface's counters.
    async fn statistics(&self, intent: &Intent) -> Result<Statistics, ProviderError>;
}
