//! Marathon's apps, pods, tasks and instances, with the fields that matter for networking. Caches
//! hold many of these, so they are small: common strings are interned.

use std::net::IpAddr;

use arcstr::ArcStr;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::id::RunSpecId;
use crate::task_state::TaskState;

/// All apps and pods at one time.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The apps, with their tasks.
    pub apps: Vec<App>,
    /// The pods, with their instances.
    pub pods: Vec<Pod>,
    /// Elements that could not be read. They exist, and must not be treated as deleted.
    pub skipped: Vec<Skipped>,
    /// Whether the event stream is attached. If not, changes appear only in the next listing.
    pub followed: bool,
}

impl Listing {
    /// Whether no element was skipped.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.skipped.is_empty()
    }
}

/// An element of a list that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The kind of element: an app, a task, ….
    pub kind: &'static str,
    /// Its id, or its parent's, if it can be read.
    pub id: Option<Box<str>>,
    /// Why it could not be read.
    pub problem: Box<str>,
}

/// Labels: keys and values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// An app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub id: RunSpecId,
    /// The requested number of instances.
    pub instances: u32,
    /// Its labels.
    pub labels: Labels,
    /// Its networks.
    pub networks: Box<[Network]>,
    /// Its tasks, sorted by id.
    pub tasks: Vec<Task>,
}

/// A network that an app or pod requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The network mode.
    pub mode: Mode,
    /// Its name, if any.
    pub name: Option<ArcStr>,
    /// Its labels.
    pub labels: Labels,
}

/// The network mode of an app or pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The agent's host network.
    Host,
    /// A network namespace per container.
    Container,
    /// Marathon's bridge network.
    Bridge,
    /// A mode of a newer version.
    Unrecognised,
}

/// A task of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: Box<str>,
    /// Its state.
    pub state: TaskState,
    /// Its agent's id, once placed.
    pub agent: Option<ArcStr>,
    /// Its agent's host name, once placed.
    pub host: Option<ArcStr>,
    /// Its addresses on all networks, in Mesos' order.
    pub addresses: Box<[IpAddr]>,
    /// When it was launched.
    pub staged: Option<Timestamp>,
    /// When it started to run.
    pub started: Option<Timestamp>,
    /// The app version that it was launched with.
    pub version: Option<ArcStr>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its id.
    pub id: RunSpecId,
    /// Its labels.
    pub labels: Labels,
    /// Its networks.
    pub networks: Box<[Network]>,
    /// Its instances.
    pub instances: Vec<PodInstance>,
}

/// An instance of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInstance {
    /// Its id.
    pub id: Box<str>,
    /// Its state.
    pub state: PodState,
    /// Its agent's id, once placed.
    pub agent: Option<ArcStr>,
    /// Its agent's host name, once placed.
    pub host: Option<ArcStr>,
    /// Its addresses, by network.
    pub networks: Box<[PodNetwork]>,
    /// Its containers.
    pub containers: Box<[PodContainer]>,
    /// When it entered its state.
    pub since: Option<Timestamp>,
}

/// The state of a pod instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodState {
    /// Not launched yet, or the launch was just requested.
    Pending,
    /// Starting.
    Staging,
    /// Running.
    Stable,
    /// Running but unhealthy, or its agent is unreachable.
    Degraded,
    /// Ended **or being killed**: it is gone only when it is no longer listed.
    Terminal,
    /// Missing, or a state of a newer version.
    Unrecognised,
}

/// The addresses of a pod instance on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// The network's name; `None` for the host network.
    pub name: Option<ArcStr>,
    /// The addresses.
    pub addresses: Box<[IpAddr]>,
}

/// A container of a pod instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodContainer {
    /// Its name within the pod.
    pub name: ArcStr,
    /// Its Mesos task id, once launched.
    pub task: Option<Box<str>>,
    /// Its state.
    pub state: TaskState,
}
