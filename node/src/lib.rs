//! The node daemon: keeps true what must go on while a mesos-agent restarts, is upgraded or is down.
//!
//! ```text
//! overlay        the overlays' data path between hosts
//! cluster_state  what the managers published, as this node knows it
//! subsystem      what a part of the daemon is: desired state, compared with what is there
//! ```
//!
//! Invariants: only what carries the daemon's own mark is changed or removed. A manager that is
//! silent or away changes nothing. A subsystem that fails does not stop the others. A restart or a
//! kill of the daemon at any moment interrupts no traffic.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cluster_state;
pub mod overlay;
pub mod subsystem;
