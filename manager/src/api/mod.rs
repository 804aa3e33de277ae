//! The API for agents and the one for CNI plugins of Contrail's own manager.
//!
//! ```text
//! agents     the routes for agents and nodes
//! ports      the ports of containers, for agents
//! nodes      the watch and the reports, for nodes
//! legacy     the routes for CNI plugins
//! auth       authentication of agents
//! standby    responses of a manager that does not lead
//! state      what the handlers share
//! ```

pub(crate) mod agents;
pub(crate) mod auth;
pub(crate) mod legacy;
mod nodes;
mod ports;
mod standby;
mod state;

pub(crate) use state::ApiState;
