//! Container networking for Apache Mesos.
#![deny(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "cni-plugin")]
pub mod cni_plugin;
pub mod config;
pub mod container;
pub mod http;
pub mod isolator;
pub mod labels;
#[cfg(feature = "module")]
#[allow(unsafe_code, reason = "the border to C++ is here and nowhere else")]
mod module;
pub mod plumbing;
pub mod ports;
pub mod proto;
pub mod provider;
#[cfg(feature = "sim")]
pub mod sim;
pub mod vnc;
pub mod vrouter;
