//! Container networking for Apache Mesos.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod config;
pub mod container;
#[cfg(feature = "contrail")]
pub mod http;
pub mod isolator;
pub mod labels;
#[cfg(feature = "manager")]
pub mod manager;
#[cfg(feature = "module")]
#[allow(unsafe_code, reason = "the border to C++ is here and nowhere else")]
mod module;
pub mod plumbing;
#[cfg(feature = "contrail")]
pub mod ports;
pub mod proto;
pub mod provider;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "contrail")]
pub mod vnc;
#[cfg(feature = "contrail")]
pub mod vrouter;
