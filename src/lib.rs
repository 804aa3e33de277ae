//! Container networking for Apache Mesos: what runs on an agent.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod address_history;
pub mod agent_containers;
pub mod cni_plugin;
pub mod config;
pub mod connectivity;
pub mod doctor;
pub mod dump;
pub mod endpoints;
pub mod isolator;
pub mod leased_addresses;
pub mod membership;
#[allow(unsafe_code, reason = "the only module that calls C++")]
mod module;
pub mod module_info;
pub mod net;
pub mod network_request;
pub mod node_dns;
pub mod node_state;
pub mod preflight;
pub mod proto;
pub mod provider;
pub mod trace;
pub mod vrouter;

// Of the build script, for its tests.
#[cfg(test)]
#[path = "../cpp-shim/headers.rs"]
mod mesos_headers;
