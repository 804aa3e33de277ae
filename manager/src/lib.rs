//! The manager: owns the objects of containers in the VNC API, gives nodes their overlay subnets and
//! services their addresses, and serves the requests of agents and nodes.
//!
//! ```text
//! model         the domain model that the modules share
//! listener      accepts connections and serves HTTP on them, within limits
//! api           the APIs for agents and CNI plugins, over HTTP
//! containers    the only writer of containers' objects: put, get, delete, list
//! objects       a request and its resolved names → the objects of a container: pure
//! labels        labels of a framework → the specification of a port: pure, every error at once
//! resolver      names → uuids, networks and their subnets, cached for a short time
//! stores        the state of Marathon, Mesos and the VNC API, and whether it can be trusted
//! desired       the decision on each container: a pure function of the stores
//! diff          the changes between a container and its desired state: pure
//! reconcile     watches the sources, and writes what differs
//! provision     creates the default project, its ipams and the default network
//! services      services of tasks: virtual IPs with backends, and names
//! overlay       overlay networks: their configuration, and what each node is given of them
//! election      leader election with ZooKeeper; fence: only the leader writes
//! lead          provisioning at the beginning of each term
//! history       recent history of each container
//! dry_run       what would be written
//! reload        applies a new configuration at run time
//! contrail      everything that needs the VNC API, where there is one
//! cluster       what is published to the nodes, and what they report
//! master_module the manager in a mesos-master, for the modules named as those of DC/OS
//! module        the entry points of these modules: the only unsafe code
//! admin         status page, JSON, health, metrics and log level, for operators
//! ```
//!
//! Invariants: every object says who created it, and no other is ever deleted. All names of a
//! container's objects derive from its id, so another manager finds them after a crash. The
//! reference from the virtual-router comes last: a container that has it is complete.
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod admin;
mod agent_names;
mod api;
mod cluster;
mod config;
mod containers;
mod contrail;
mod desired;
mod diff;
mod dry_run;
mod election;
mod error;
mod fence;
mod history;
mod intern;
mod labels;
mod lead;
mod listener;
mod locks;
mod log_gate;
pub mod logging;
pub mod marathon;
pub mod master_module;
pub mod mesos_master;
mod model;
#[allow(unsafe_code, reason = "the only module that C++ calls")]
mod module;
mod objects;
pub mod overlay;
mod provision;
mod reconcile;
mod reload;
mod resolver;
mod server;
mod services;
mod stores;
pub mod task_state;
pub mod vnc;

pub use config::{
    Access, Config, Connections, DEFAULT_ADMIN_PORT, DEFAULT_PATH, Follow, LinkLocalDns,
    OverlayOptions, Provision, ServicesContrailOptions, ServicesOptions, Tls, check,
};
pub use containers::Containers;
pub use contrail::Contrail;
pub use desired::DeleteReason;
pub use diff::Change;
pub use dry_run::{DryRun, DryRunError, dry_run};
pub use election::ZooKeeper;
pub use error::ManagerError;
pub use fence::{Fence, Leadership};
pub use model::{Create, Defaults, Policy};
pub use reconcile::{PlannedChange, ReconcileStats, Reconciler, Schedule};
pub use server::{Manager, StartError};

#[cfg(test)]
mod tests;
