//! Simulated services around a real Mesos: a VNC API server, a vRouter agent, Marathon, and a Mesos
//! master of a large cluster. Each module lists what it leaves out.
//!
//! Invariant: no released program links this crate.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod harness;
pub mod marathon;
pub mod mesos_master;
pub mod vnc;
pub mod vrouter;

pub use harness::{Effect, Fault, RequestRecord};
