//! From a run spec and an offer to the operation for Mesos: pure.
//!
//! Messages are JSON of the v1 scheduler API, with the fields that Marathon 1.8 to 1.11 sets;
//! fields that Marathon leaves unset are absent.

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

/// The parameters of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The instance.
    pub instance: &'a InstanceId,
    /// The number of launches of the instance, including this one.
    pub incarnation: u32,
    /// The version of the run spec.
    pub version: Timestamp,
    /// The hostname in the offer.
    pub hostname: &'a str,
    /// `--mesos_bridge_name`.
    pub bridge: &'a str,
    /// The replacements of images.
    pub images: &'a Images,
}

/// An operation on an offer, and the tasks that it launches.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// `Offer.Operation`.
    pub operation: Value,
    /// The tasks: one for an app, one per container for a pod.
    pub tasks: Vec<LaunchedTask>,
}

/// A task to be launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchedTask {
    /// Its id.
    pub id: String,
    /// The name of the pod's container.
    pub container: Option<String>,
    /// Its host ports, in the order of its mappings, definitions or endpoints.
    pub host_ports: Vec<Option<u16>>,
}

/// Takes what one instance needs from the offer, or nothing if it does not fit.
#[must_use]
pub fn place(run_spec: &RunSpec, launch: &Launch<'_>, offer: &mut Offer) -> Option<Placement> {
    let roles = run_spec.accepted_resource_roles();
    let wanted = run_spec.host_ports();
    match run_spec {
        RunSpec::App(app) => app::place(app, launch, &roles, &wanted, offer),
        RunSpec::Pod(pod) => pod::place(pod, launch, &roles, &wanted, offer),
    }
}
