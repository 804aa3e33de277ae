//! The events of the master.

use std::time::Duration;

use arcstr::ArcStr;

use super::model::{Agent, Framework, State, Status, Task, TaskKey};

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A task was launched.
    TaskAdded(Box<Task>),
    /// A task has changed; what is none or empty here is as it was.
    TaskUpdated {
        /// Which.
        key: TaskKey,
        /// Its agent.
        agent: Option<ArcStr>,
        /// Its executor, where that is not the task's own.
        executor: Option<Box<str>>,
        /// What is known of it now.
        status: Box<Status>,
    },
    /// An agent has registered, for the first time or again.
    AgentAdded(Box<Agent>),
    /// An agent is gone: it ended in order, was given up, or does not answer any more. Its tasks
    /// may still run.
    AgentRemoved(ArcStr),
    /// A framework has registered, or is connected again, or no more.
    FrameworkChanged(Framework),
    /// A framework is gone, and so are its tasks.
    FrameworkRemoved(ArcStr),
}

/// An event of the stream.
#[derive(Debug)]
pub(super) enum Event {
    /// The first: everything, and how often there will be a heartbeat.
    Subscribed(Box<State>, Option<Duration>),
    /// Something has changed.
    Changed(Change),
    /// A heartbeat, or an event that is not known.
    Nothing,
}
