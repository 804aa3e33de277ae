//! Marathon's front end on a real Mesos.
pub mod id;
pub mod launch;
pub mod model;
pub mod time;
