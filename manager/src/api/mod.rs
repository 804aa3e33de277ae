//! The API for agents and the one for CNI plugins of Contrail's own manager.
//!
//! ```text
//! agents     the routes for agents and nodes
//! ports      the ports of containers, for agents
//! nodes      the watch and the reports, for nodes
//! legacy     the routes for CNI plugins
//! overlay_master  the endpoints of the master module of DC/OS
//! auth       authentication of agents
//! standby    responses of a manager that does not lead
//! state      what the handlers share
//! ```

pub(crate) mod agents;
pub(crate) mod auth;
pub(crate) mod legacy;
mod nodes;
mod overlay_master;
mod ports;
mod standby;
mod state;

pub(crate) use state::ApiState;
