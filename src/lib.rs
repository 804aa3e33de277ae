//! Container networking for Apache Mesos.
#![deny(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "cni-plugin")]
pub mod cni_plugin;
#[cfg(feature = "follow")]
pub mod condition;
pub mod config;
pub mod container;
pub mod http;
#[cfg(feature = "follow")]
pub mod intern;
pub mod isolator;
pub mod labels;
#[cfg(feature = "manager")]
pub mod manager;
#[cfg(feature = "follow")]
pub mod marathon;
#[cfg(feature = "follow")]
pub mod master;
#[cfg(feature = "module")]
#[allow(unsafe_code, reason = "the border to C++ is here and nowhere else")]
mod module;
pub mod plumbing;
pub mod ports;
pub mod proto;
pub mod provider;
#[cfg(any(feature = "follow", feature = "sim"))]
pub mod recordio;
#[cfg(feature = "sim")]
pub mod sim;
pub mod vnc;
pub mod vrouter;
