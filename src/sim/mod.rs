//! What `contrail-mesos-sim` is made of: stand-ins for the services around the real Mesos, each of
//! which says in its module what it leaves out, and the framework through which they launch on it.
//!
//! Invariant: nothing here is linked into the module library.

pub mod fault_text;
pub mod framework;
pub mod marathon;
pub mod master;
pub mod vnc;
pub mod vrouter;
