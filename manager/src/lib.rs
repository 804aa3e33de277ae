//! The manager: owns the objects of containers in the VNC API, and answers the agents.
//!
//! ```text
//! api, legacy   what agents and CNI plugins ask, over HTTP; access says who may
//! containers    the one writer of containers' objects: put, get, delete, list
//! plan          a request and the names that it resolves to → the objects wanted: pure
//! labels        what a framework wrote → typed: pure, every error at once
//! names         names → uuids, networks and their subnets, for a short while
//! stores        what Marathon, Mesos and the VNC API say, and whether it is to be believed
//! desired       what is to become of each container: a pure function of the stores
//! reconcile     follows the sources, and keeps what is in the VNC API as it is to be
//! provision     what has to be there before the first container
//! election      who leads, by the word of ZooKeeper; fence: nobody else writes
//! lead          what the leader does before it takes requests
//! history       what happened to each container
//! dry_run       what would be written, for people
//! reload        a new configuration while the manager runs
//! admin         status page, JSON, health, metrics and log level, for operators
//! ```
//!
//! Invariants: what is made says whose it is, and nothing else is ever deleted. All names of a
//! container's objects derive from its id, so that whoever comes after a crash finds them. The
//! reference from the virtual-router comes last: a container that has it is complete.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod access;
mod admin;
mod api;
mod config;
mod containers;
mod desired;
mod dry_run;
mod election;
mod error;
mod fence;
mod history;
mod intern;
mod labels;
mod lead;
mod legacy;
mod listener;
mod locks;
pub mod logging;
pub mod marathon;
pub mod mesos_master;
mod names;
mod plan;
mod provision;
mod reconcile;
mod reload;
mod server;
mod standby;
mod stores;
pub mod task_state;
pub mod vnc;

pub use config::{
    Access, Config, Create, DEFAULT_PATH, Default as Defaults, Follow, Provision, Tls,
};
pub use containers::Containers;
pub use desired::{Difference, Policy, Reason};
pub use dry_run::{DryRun, DryRunError, dry_run};
pub use election::ZooKeeper;
pub use error::ManagerError;
pub use fence::{Fence, Leadership};
pub use reconcile::{Effort, Outlook, Planned, Reconciler, When};
pub use server::{Manager, StartError};

#[cfg(test)]
mod tests;
