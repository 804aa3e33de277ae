//! What contrail-mesos-sim is made of: stand-ins for the services around the real Mesos, and the
//! framework through which they launch on it.
//!
//! Invariant: nothing here is linked into the module library.

pub mod framework;
pub mod recordio;
