//! Client of the VNC API, Contrail's configuration API.
//!
//! [`VncClient`] creates, reads, lists, updates and deletes typed objects. Invariants:
//!
//! - **Retries are idempotent.** The client chooses the uuid of every new object, so a create
//!   whose response was lost can be retried. A call that cannot be repeated is sent once.
//! - **One server at a time.** The client uses one server until it fails. The Python client
//!   rotates over the servers, and so may read from a server whose cache does not have its own
//!   writes yet.
//! - **Errors are classified by meaning** ([`VncErrorKind`]), not by status code.
//! - **Links are never followed**: they contain the server's own view of its address.
//! - **No message and no `Debug` output contains a password or token.**

mod auth;
mod calls;
mod client;
mod compare;
mod create;
mod dns;
mod error;
mod list;
mod loadbalancer;
mod metrics;
mod name;
mod object;
mod objects;
mod policy;

pub use auth::{Auth, Keystone, KeystoneVersion};
pub use calls::{Patch, PropertyUpdate, ReadOptions};
pub use client::{VncClient, VncOptions};
use contrail_mesos_api::http::InvalidAddress;
pub use create::{Ensured, ExistingObject};
pub use dns::{DnsRecordData, VirtualDns, VirtualDnsData, VirtualDnsRecord};
pub use error::{Referrer, VncError, VncErrorKind};
pub use list::{Detail, Query};
pub use loadbalancer::{
    HealthmonitorProperties, ListenerProperties, Loadbalancer, LoadbalancerHealthmonitor,
    LoadbalancerListener, LoadbalancerMember, LoadbalancerPool, LoadbalancerProperties,
    MemberProperties, PoolProperties,
};
pub use metrics::{Outage, RequestOutcome};
pub use name::{FqName, InvalidFqName};
pub use object::{Address, Common, IdPerms, KeyValues, NoAttribute, Object, Ref};
pub use objects::{
    AllocationPool, Domain, FloatingIp, FloatingIpPool, GlobalVrouterConfig, InstanceIp,
    InterfaceProperties, IpamSubnet, IpamSubnets, LinklocalService, LinklocalServices,
    MacAddresses, NetworkIpam, NetworkIpamSubnets, PolicyAttachment, PortMap, PortMappings,
    PortTranslationPool, PortTranslationPools, Prefix, Project, Sequence, VirtualMachine,
    VirtualMachineInterface, VirtualNetwork, VirtualNetworkProperties, VirtualRouter,
};
pub use policy::{
    Actions, NetworkPolicy, PolicyAddress, PolicyEntries, PolicyRule, PortRange, SecurityGroup,
};

/// The port of an API server, unless its address names one.
pub const DEFAULT_PORT: u16 = 8082;

/// Parses the address of an API server: `host` or `host:port`, with or without a scheme.
pub fn server_address(text: &str) -> Result<contrail_mesos_api::http::Address, InvalidAddress> {
    contrail_mesos_api::http::Address::parse_root(text, DEFAULT_PORT)
}

#[cfg(test)]
mod tests;
