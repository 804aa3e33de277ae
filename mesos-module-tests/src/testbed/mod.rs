//! Simulated hosts that run the real Mesos 1.11.0, and everything that a test needs around it.
//!
//! A [`Host`] has its own namespaces. A [`Cluster`] on it is a real master and a real agent; tasks
//! are launched through [`framework::Framework`]. A [`multi_node::MultiNodeCluster`] has a master and
//! agents on hosts of their own. Mesos is installed by `mesos/install.sh`.
//!
//! Invariants:
//! - Nothing is created in the machine's own network or mount namespace.
//! - A host removes everything that it created, even if the test is killed: the host's first
//!   process cleans up when its standard input closes.
//! - Only processes in a host's own process namespace or cgroups are ever killed.

pub mod agent;
pub mod cgroups;
pub mod chromium;
mod cluster;
pub mod contrail;
pub mod docker;
pub mod executor;
pub mod framework;
mod host;
pub mod image;
pub mod init;
mod install;
pub mod leftovers;
pub mod manager;
pub mod marathon;
pub mod multi_node;
pub mod overlay;
pub mod prometheus;
pub mod random;
mod scheduler;
pub mod service;
pub mod services;
mod wait;
pub mod zookeeper;

pub use cluster::{Cluster, ClusterBuilder};
pub use host::{Host, WeakHost};
pub use install::{Install, agent_library, master_library, module, program};
pub use scheduler::Scheduler;
pub use wait::until;
