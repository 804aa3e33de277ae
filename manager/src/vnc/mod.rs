//! The client of the VNC API, by which Contrail is configured.
//!
//! [`VncClient`] creates, reads, lists, changes and deletes typed objects. What it promises:
//!
//! - **Nothing is done twice.** Every object is created with a uuid that we choose, so that a
//!   create whose answer was lost can be asked again. What cannot is asked once.
//! - **One server at a time.** Of several servers one is used until it fails. The Python client
//!   takes turns, and reads its own writes through the cache of a server that may not know of
//!   them yet.
//! - **Refusals are told apart by meaning** ([`VncErrorKind`]), not by status code.
//! - **Links are never followed**: they name the server as it sees itself.
//! - **Passwords and tokens are in no message and no `Debug` output.**

mod auth;
mod calls;
mod client;
mod compare;
mod create;
mod error;
mod list;
mod loadbalancer;
mod name;
mod object;
mod objects;
mod policy;
mod tally;

pub use auth::{Auth, Keystone, KeystoneVersion};
pub use calls::{Patch, PropertyUpdate, ReadOptions};
pub use client::{VncClient, VncOptions};
use contrail_mesos_api::http::InvalidAddress;
pub use create::{Ensured, Found};
pub use error::{Referrer, VncError, VncErrorKind};
pub use list::{Detail, Query};
pub use loadbalancer::{
    HealthmonitorProperties, ListenerProperties, Loadbalancer, LoadbalancerHealthmonitor,
    LoadbalancerListener, LoadbalancerMember, LoadbalancerPool, LoadbalancerProperties,
    MemberProperties, PoolProperties,
};
pub use name::{FqName, NotAName};
pub use object::{Address, Common, IdPerms, KeyValues, NoAttribute, Object, Ref};
pub use objects::{
    AllocationPool, Domain, FloatingIp, FloatingIpPool, GlobalVrouterConfig, InstanceIp,
    InterfaceProperties, IpamSubnet, IpamSubnets, MacAddresses, NetworkIpam, NetworkIpamSubnets,
    PolicyAttachment, PortMap, PortMappings, PortTranslationPool, PortTranslationPools, Prefix,
    Project, Sequence, VirtualMachine, VirtualMachineInterface, VirtualNetwork,
    VirtualNetworkProperties, VirtualRouter,
};
pub use policy::{
    Actions, NetworkPolicy, PolicyAddress, PolicyEntries, PolicyRule, PortRange, SecurityGroup,
};
pub use tally::{Outcome, Trouble};

/// The port of an API server whose address has none.
pub const DEFAULT_PORT: u16 = 8082;

/// Parses the address of an API server: `host` or `host:port`, with or without a scheme.
pub fn server_address(text: &str) -> Result<contrail_mesos_api::http::Address, InvalidAddress> {
    contrail_mesos_api::http::Address::parse_root(text, DEFAULT_PORT)
}

#[cfg(test)]
mod tests;
