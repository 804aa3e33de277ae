//! What Marathon says there is, in the fields that networks are about. Many of these are kept at a
//! time, so they are small: texts that many share are kept once.

use std::net::IpAddr;

use arcstr::ArcStr;
use jiff::Timestamp;
use serde::Serialize;

use super::id::RunSpecId;
use crate::task_state::TaskState;

/// Everything at one time.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The apps, with their tasks.
    pub apps: Vec<App>,
    /// The pods, with their instances.
    pub pods: Vec<Pod>,
    /// What could not be read. It is there, and must not be taken for gone.
    pub skipped: Vec<Skipped>,
    /// Whether the event stream is attached. If not, what changes is only seen in the next listing.
    pub followed: bool,
}

impl Listing {
    /// Whether everything that is there is in it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.skipped.is_empty()
    }
}

/// An element of a list that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What it is: an app, a task, ….
    pub kind: &'static str,
    /// Its id, or that of what it is in, as far as it can be read.
    pub id: Option<Box<str>>,
    /// What is wrong with it.
    pub problem: Box<str>,
}

/// Labels: keys and values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// An app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub id: RunSpecId,
    /// How many instances it should have.
    pub instances: u32,
    /// Its labels.
    pub labels: Labels,
    /// Its networks.
    pub networks: Box<[Network]>,
    /// Its tasks, in the order of their ids.
    pub tasks: Vec<Task>,
}

/// A network that an app or pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// How.
    pub mode: Mode,
    /// Its name, where it has one.
    pub name: Option<ArcStr>,
    /// Its labels.
    pub labels: Labels,
}

/// How an app or pod is on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The agent's own network.
    Host,
    /// A network of its own.
    Container,
    /// Marathon's bridge network.
    Bridge,
    /// One that a newer version knows.
    Unrecognised,
}

/// A task of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: Box<str>,
    /// How it is.
    pub state: TaskState,
    /// The id of its agent, once it has one.
    pub agent: Option<ArcStr>,
    /// The name of its agent, once it has one.
    pub host: Option<ArcStr>,
    /// Its addresses on all networks, in the order of Mesos.
    pub addresses: Box<[IpAddr]>,
    /// When it was launched.
    pub staged: Option<Timestamp>,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// The version of the app that it is of.
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
    /// How it is.
    pub state: PodState,
    /// The id of its agent, once it has one.
    pub agent: Option<ArcStr>,
    /// The name of its agent, once it has one.
    pub host: Option<ArcStr>,
    /// Its addresses, by network.
    pub networks: Box<[PodNetwork]>,
    /// Its containers.
    pub containers: Box<[PodContainer]>,
    /// Since when it has been so.
    pub since: Option<Timestamp>,
}

/// How an instance of a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodState {
    /// Nothing is launched yet, or Mesos has only just been asked to.
    Pending,
    /// It is starting.
    Staging,
    /// It runs.
    Stable,
    /// It runs, but not well, or its agent does not answer.
    Degraded,
    /// It has ended, **or is being ended**: only that it is listed no more says that it is gone.
    Terminal,
    /// A word from a newer version, or none.
    Unrecognised,
}

/// The addresses of a pod's instance on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// The network's name; none on the host's.
    pub name: Option<ArcStr>,
    /// The addresses.
    pub addresses: Box<[IpAddr]>,
}

/// A container of a pod's instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodContainer {
    /// Its name in the pod.
    pub name: ArcStr,
    /// Its task in Mesos, once there is one.
    pub task: Option<Box<str>>,
    /// How it is.
    pub state: TaskState,
}
