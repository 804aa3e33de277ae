//! From a run spec and an offer to what Mesos is asked to launch: pure.
//!
//! Messages are JSON of the v1 scheduler API, built field by field as Marathon 1.8 to 1.11 fills
//! them; a field that Marathon leaves unset is absent here.

mod app;
mod discovery;
mod environment;
pub mod image;
mod network;
pub mod offer;
mod pod;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::id::InstanceId;
use super::model::run_spec::RunSpec;
use crate::harness::clock::Timestamp;
use image::Images;
use offer::Offer;

/// The circumstances of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Which instance.
    pub instance: &'a InstanceId,
    /// How many times it has been launched, with this one.
    pub incarnation: u32,
    /// The version of the run spec.
    pub version: Timestamp,
    /// The host that the offer is from.
    pub hostname: &'a str,
    /// `--mesos_bridge_name`.
    pub bridge: &'a str,
    /// What stands in for images.
    pub images: &'a Images,
}

/// An operation on an offer, and the tasks that it launches.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// `Offer.Operation`.
    pub operation: Value,
    /// The tasks; one for an app, one a container for a pod.
    pub tasks: Vec<Launched>,
}

/// A task that is about to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Its id.
    pub id: String,
    /// The pod's container that it is.
    pub container: Option<String>,
    /// Its ports on the host, in the order of its mappings, definitions or endpoints.
    pub host_ports: Vec<Option<u16>>,
}

/// Takes what one instance needs from the offer; nothing is taken if it does not fit.
#[must_use]
pub fn place(run_spec: &RunSpec, launch: &Launch<'_>, offer: &mut Offer) -> Option<Placement> {
    let roles = run_spec.accepted_resource_roles();
    let wanted = run_spec.host_ports();
    match run_spec {
        RunSpec::App(app) => app::place(app, launch, &roles, &wanted, offer),
        RunSpec::Pod(pod) => pod::place(pod, launch, &roles, &wanted, offer),
    }
}
