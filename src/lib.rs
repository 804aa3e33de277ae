//! Container networking for Apache Mesos: what runs on an agent.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod cni_plugin;
pub mod config;
pub mod isolator;
#[allow(unsafe_code, reason = "the border to C++ is here and nowhere else")]
mod module;
pub mod net;
pub mod network_request;
pub mod proto;
pub mod provider;
pub mod vrouter;
