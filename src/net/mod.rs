//! The parts of the kernel's networking that containers need. Knows nothing of Mesos.
//!
//! Invariants: starts no child process; only `netns` calls setns; a socket acts on the namespace in
//! which it was opened; changes only what is ours by name.
#![forbid(unsafe_code)]

pub mod addressing;
pub mod announcement;
pub mod bridge_address;
pub mod bridge_ports;
pub mod conntrack;
pub mod docker_watch;
pub mod forwarding;
pub mod host_watch;
pub mod link_reaper;
pub mod link_watch;
pub mod links;
pub mod listeners;
pub mod local_routes;
pub mod neighbours;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod overlay_watch;
pub mod route_answer;
pub mod routes;
pub mod rules;
pub mod service_watch;
mod socket_filter;
pub mod source_routing;
pub mod sysctl;
pub mod vxlan;

#[cfg(any(test, feature = "test-util"))]
pub mod testing;
