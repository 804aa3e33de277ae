//! `contrail-mesos trace`: where a packet between two containers, or the host, or an address, would go, and
//! what stops it.
//!
//! The module `gather` reads what there is: checkpoints, the kernel's routes, rules and sockets in each namespace,
//! and what the node daemon knows of the cluster. `decide` is a pure function of that. Nothing is sent
//! and nothing is changed.
//!
//! Invariants: a step that stops the packet has a stable code. What this host cannot know is said to be
//! unknown, never taken as good.

mod cluster;
mod decide;
mod gather;
mod host;
mod namespaces;
pub mod path;
mod policy;
mod target;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

pub(crate) use cluster::KnownServices;
pub use decide::decide;
pub use gather::{TraceError, Tracer};
pub use target::{Destination, InvalidPoint, Origin};

/// What came of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A process gets the packet.
    Reachable,
    /// The packet leaves this host, which knows nothing that stops it.
    Leaves,
    /// Something stops it.
    Blocked,
    /// What decides cannot be seen from here.
    Unknown,
}

/// What a step does with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The packet passes.
    Passes,
    /// It goes no further.
    Stops,
    /// Whether it passes is not known.
    Unknown,
}

/// One step of the packet's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where it happens.
    pub place: String,
    /// What is looked at, or what stops the packet: a stable code.
    pub code: &'static str,
    /// What it does with the packet.
    pub outcome: Outcome,
    /// What was found.
    pub text: String,
    /// What the operator can do.
    pub remedy: Option<String>,
}

/// Packets of the same two addresses that were dropped in the last minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecentDrops {
    /// Why.
    pub reason: &'static str,
    /// The number of the IP protocol.
    pub protocol: u8,
    /// The destination port.
    pub port: Option<u16>,
    /// How many.
    pub packets: u64,
}

/// The whole way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The source, as it was found.
    pub from: String,
    /// The destination, as it was found.
    pub to: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The source address of the packet, if it is known.
    pub source: Option<IpAddr>,
    /// The destination address.
    pub destination: IpAddr,
    /// The destination port.
    pub port: u16,
    /// What came of it.
    pub verdict: Verdict,
    /// The code of the first step that stops the packet, or that is not known.
    pub cause: Option<&'static str>,
    /// The steps, in the packet's order. Those after one that stops it are what else was found.
    pub steps: Vec<Step>,
    /// The packets that were dropped on this host because of groups, by reason, since the rules were made.
    pub drops: BTreeMap<&'static str, u64>,
    /// Those of these two addresses, in the last minutes.
    pub recent_drops: Vec<RecentDrops>,
}

#[cfg(test)]
mod root_tests;
