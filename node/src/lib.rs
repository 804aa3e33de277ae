//! The node daemon: keeps true what must go on while a mesos-agent restarts, is upgraded or is down.
//!
//! ```text
//! cluster_state    what the managers published, as this node knows it
//! watch, replica   follow the watch of the managers
//! stored_state     what a restart without managers knows
//! report           reports the state of this node to the managers
//! subsystem        what a part of the daemon is: desired state, compared with what is there
//! engine, schedule run the subsystems
//! host_side        the subsystem that repairs what containers need of the host
//! local_state      the subsystem that writes what the library needs at a launch
//! blocks           which blocks of overlays this host uses, wants and gives back
//! namespace_lock   one daemon per network namespace
//! overlay          the subsystem that keeps the overlays' data path between hosts
//! groups           the subsystem that keeps who reaches the containers of this host
//! services         the subsystem that keeps the data path of services
//! dns              the subsystem that answers DNS queries
//! endpoint_report  reports this host's containers on overlays to the managers
//! docker           the subsystems that give Docker its half of the overlays
//! uplink           this host's address in the underlay
//! cni_files        the subsystem that writes CNI configurations for network/cni
//! masquerade       the subsystem that lets containers on their bridges leave the overlays
//! api              health, metrics and state
//! service_manager  notifies systemd
//! daemon           everything that runs
//! agent_module     all of it in a mesos-agent, for the modules named as those of DC/OS
//! module           the entry points of these modules: the only unsafe code
//! ```
//!
//! Invariants: only what carries the daemon's own mark is changed or removed. A manager that is
//! silent or away changes nothing. A subsystem that fails does not stop the others. A restart or a
//! kill of the daemon at any moment interrupts no traffic.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod agent_module;
pub mod api;
pub mod blocks;
pub mod cluster_state;
pub mod cni_files;
pub mod daemon;
pub mod dns;
pub mod docker;
pub mod endpoint_report;
pub mod engine;
pub mod groups;
pub mod host_side;
pub mod local_state;
pub mod masquerade;
#[allow(unsafe_code, reason = "the only module that C++ calls")]
mod module;
pub mod namespace_lock;
pub mod overlay;
mod replica;
pub mod report;
mod schedule;
pub mod service_manager;
pub mod services;
pub mod stored_state;
pub mod subsystem;
#[cfg(test)]
mod testing;
pub mod uplink;
pub mod watch;
