//! Everything that runs on the real Mesos 1.11.0: the testbed, and the long tests that `soak` runs.
//!
//! - [`testbed`] starts simulated hosts, Mesos, managers and what they depend on.
//! - [`burst`] launches bursts of tasks on an agent that is killed at random moments.
//! - [`changed_host`] changes the host's side of containers while they launch and talk.
//! - [`load_balancer`] puts a real `HAProxy` in front of tasks, by the rules of marathon-lb.
//! - [`star`] is the probe of the Star demonstration: who reaches whom.
//! - [`chaos`] kills, pauses and disconnects every part of a cluster at random moments.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod burst;
pub mod changed_host;
pub mod chaos;
pub mod load_balancer;
pub mod star;
pub mod testbed;
