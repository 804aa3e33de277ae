//! The testbed: simulated hosts that run the real Mesos 1.11.0.
//!
//! A [`Host`] is a set of namespaces of its own, a [`Cluster`] on it is a real master and a real
//! agent, and what they launch is launched through `crate::framework`. See
//! `mesos/install.sh` for where Mesos comes from.
//!
//! Invariants:
//! - Nothing is made in the machine's own network or mount namespace.
//! - A host removes everything that it has made, also when the test that made it is killed: the
//!   host's first process sees its standard input close and cleans up.
//! - Only processes in a host's own process namespace or cgroups are ever ended.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod agent;
pub mod burst;
pub mod cgroups;
pub mod chaos;
pub mod chromium;
mod cluster;
pub mod contrail;
pub mod executor;
pub mod framework;
mod host;
pub mod image;
pub mod init;
mod install;
pub mod leftovers;
pub mod manager;
pub mod namespace;
pub mod random;
pub mod zookeeper;

pub use cluster::{Cluster, ClusterBuilder};
pub use host::Host;
pub use install::{Install, module, program};
