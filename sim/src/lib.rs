//! What `contrail-mesos-sim` is made of: stand-ins for the services around the real Mesos, each of
//! which says in its module what it leaves out.
//!
//! Invariant: nothing here is linked into a program that is shipped.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod fault_text;
pub mod marathon;
pub mod mesos_master;
pub mod vnc;
pub mod vrouter;
