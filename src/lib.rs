//! Container networking for Apache Mesos.
#![cfg_attr(not(feature = "module"), forbid(unsafe_code))]
#![deny(missing_docs)]

pub mod config;
pub mod container;
pub mod http;
pub mod labels;
pub mod plumbing;
pub mod proto;
pub mod provider;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "vnc")]
pub mod vnc;
pub mod vrouter;
