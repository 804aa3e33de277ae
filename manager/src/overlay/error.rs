//! Why a node is not given what it asks for.

use std::net::IpAddr;

use ipnet::IpNet;

use contrail_mesos_api::text::Quoted;

use super::store::StoreError;

/// Why a node is not registered or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocatorError {
    /// The name cannot be that of a node.
    #[error(
        "{} is not the name of a node: use 1 to 253 letters, digits, dots, underscores and hyphens",
        Quoted(.0.as_bytes())
    )]
    InvalidName(String),
    /// The address cannot be that of a host.
    #[error("{0} is not the address of a host")]
    InvalidAddress(IpAddr),
    /// Another node has the address.
    #[error(
        "the node {node} has the address {address}: if that node is gone, release it; if not, give one of \
         both another address"
    )]
    AddressTaken {
        /// The underlay address.
        address: IpAddr,
        /// The node that has it.
        node: String,
    },
    /// There is no address for another tunnel endpoint.
    #[error(
        "all {room} addresses of {subnet} for tunnel endpoints are given: release nodes that are gone, or \
         make {key} larger"
    )]
    EndpointsExhausted {
        /// The subnet of the endpoints.
        subnet: IpNet,
        /// How many nodes it has room for.
        room: u64,
        /// The key of the subnet in the file of the overlays.
        key: &'static str,
    },
    /// The store does not answer, or refuses.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The allocator has ended, with the term of this manager.
    #[error("the allocator of this term has ended; try again")]
    Stopped,
}

impl AllocatorError {
    /// Whether the same request may succeed later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Stopped)
    }
}
