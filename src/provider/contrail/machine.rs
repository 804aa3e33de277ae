//! One container of Contrail, from its start to its detach.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::super::{Intent, ProviderError, failed, refused};
use super::{Inner, own, request};
use crate::vrouter::{InterfaceConfig, Wanted};
use contrail_mesos_api::agent_api::{Ports, PortsErrorKind};

/// What is known before the container has a process.
#[derive(Debug)]
pub(super) struct Ready {
    /// What the manager made.
    pub(super) ports: Ports,
    /// What the vRouter agent has heard of it, in the order of the intents.
    pub(super) configuration: Vec<InterfaceConfig>,
}

/// Why it never will be ready.
#[derive(Debug)]
pub(super) enum NotMade {
    /// The manager refuses it.
    Refused(String),
    /// Somebody did not do his part in time.
    Failed {
        action: &'static str,
        problem: String,
    },
}

impl NotMade {
    pub(super) fn error(&self, network: &str) -> ProviderError {
        match self {
            Self::Refused(message) => refused(network, message.clone()),
            Self::Failed { action, problem } => failed(network, *action, problem.clone()),
        }
    }
}

pub(super) type Start = Shared<BoxFuture<'static, Result<Arc<Ready>, Arc<NotMade>>>>;

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Attached,
    Lost,
    Detaching,
}

/// A container.
pub(super) struct Machine {
    pub(super) intents: Vec<Intent>,
    /// `None` for one that was adopted: it was started before.
    pub(super) start: Option<Start>,
    state: Mutex<State>,
    /// Held by whoever changes links and registration: one at a time.
    pub(super) gate: tokio::sync::Mutex<()>,
}

impl Machine {
    pub(super) fn new(intents: Vec<Intent>, start: Option<Start>, state: State) -> Self {
        Self {
            intents,
            start,
            state: Mutex::new(state),
            gate: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes from one state to another; false if it was in neither.
    pub(super) fn go(&self, from: State, to: State) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = *state == from;
        if is_there {
            *state = to;
        }
        is_there
    }

    pub(super) fn detach(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Detaching;
    }
}

impl Inner {
    /// Begins with a container: its objects, and the vRouter agent's knowledge of them.
    pub(super) fn start(self: &Arc<Self>, intents: &[&Intent]) -> Option<Arc<Machine>> {
        let uuid = own(intents.first()?)?.machine;
        let intents: Vec<Intent> = intents.iter().map(|intent| (*intent).clone()).collect();
        let work = Arc::clone(self).begin(intents.clone());
        // On its way whether or not somebody waits for it already.
        let begun = tokio::spawn(work);
        let start = async move {
            let done = begun.await.unwrap_or_else(|error| {
                Err(NotMade::Failed {
                    action: "begin with the container",
                    problem: error.to_string(),
                })
            });
            done.map(Arc::new).map_err(Arc::new)
        };
        let start = start.boxed().shared();
        let machine = Arc::new(Machine::new(intents, Some(start), State::Starting));
        self.machines().insert(uuid, Arc::clone(&machine));
        Some(machine)
    }

    async fn begin(self: Arc<Self>, intents: Vec<Intent>) -> Result<Ready, NotMade> {
        let deadline = Instant::now() + self.options.deadline;
        let own: Vec<_> = intents.iter().filter_map(own).collect();
        let (Some(first), Some(question)) = (own.first(), request::ports(&self.options, &intents))
        else {
            return Err(NotMade::Refused("there is nothing to attach".to_owned()));
        };
        let machine = first.machine;
        // What is still owed from an earlier container of that id would hit this one.
        self.retry_teardown(machine)
            .await
            .map_err(|problem| NotMade::Failed {
                action: "remove what an earlier container of that id left",
                problem: problem.to_string(),
            })?;
        let made = self.manager.put(machine, &question, deadline).await;
        let ports = made.map_err(|error| match error.kind {
            PortsErrorKind::Refused { said, .. } => NotMade::Refused(said),
            PortsErrorKind::Unavailable { .. } => NotMade::Failed {
                action: "attach",
                problem: error.to_string(),
            },
        })?;
        let uuids: Vec<_> = own.iter().map(|own| own.uuid).collect();
        let configuration = self
            .vrouter
            .await_configuration(machine, Wanted::These(&uuids), deadline)
            .await
            .map_err(|error| NotMade::Failed {
                action: "attach",
                problem: error.to_string(),
            })?;
        Ok(Ready {
            ports,
            configuration,
        })
    }
}
