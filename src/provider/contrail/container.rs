//! The state of one container of Contrail, from its start to its detach.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, Shared};
use tokio::sync::OwnedMutexGuard;

use super::ContrailIntent;
use crate::provider::{Intent, ProviderError, failed, refused};
use crate::vrouter::InterfaceConfig;
use contrail_mesos_api::agent_api::Ports;

/// What an attach needs to know of a container besides its process.
#[derive(Debug)]
pub(super) struct StartedPorts {
    /// The ports that the manager created.
    pub(super) ports: Ports,
    /// The vRouter agent's configuration of them, in the order of the intents.
    pub(super) configuration: Vec<InterfaceConfig>,
}

/// Why a container could not be started.
#[derive(Debug)]
pub(super) enum StartError {
    /// The manager refuses the request.
    Refused(String),
    /// A peer failed, or did not answer in time.
    Failed {
        action: &'static str,
        problem: String,
    },
}

impl StartError {
    pub(super) fn to_provider_error(&self, network: &str) -> ProviderError {
        match self {
            Self::Refused(message) => refused(network, message.clone()),
            Self::Failed { action, problem } => failed(network, *action, problem.clone()),
        }
    }
}

/// The start of a container, which attach and detach wait for.
pub(super) type StartFuture =
    Shared<BoxFuture<'static, Result<Arc<StartedPorts>, Arc<StartError>>>>;

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerState {
    Starting,
    Attached,
    /// One of its links was deleted, which was reported.
    Lost,
    Detaching,
}

/// A container that this process starts, has attached, or has adopted.
pub(super) struct ContrailContainer {
    pub(super) intents: Vec<Intent<ContrailIntent>>,
    /// `None` for an adopted container, which was started before.
    pub(super) start: Option<StartFuture>,
    lifecycle: Arc<Lifecycle>,
}

/// What a container keeps when it gets one more network.
struct Lifecycle {
    state: Mutex<ContainerState>,
    /// Serializes changes of the container's links and registrations.
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Lifecycle {
    fn new(state: ContainerState) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            lock: Arc::default(),
        })
    }
}

impl ContrailContainer {
    pub(super) fn starting(intents: Vec<Intent<ContrailIntent>>, start: StartFuture) -> Self {
        Self {
            intents,
            start: Some(start),
            lifecycle: Lifecycle::new(ContainerState::Starting),
        }
    }

    pub(super) fn adopted(intent: Intent<ContrailIntent>) -> Self {
        Self {
            intents: vec![intent],
            start: None,
            lifecycle: Lifecycle::new(ContainerState::Attached),
        }
    }

    /// The same adopted container with one more network. What still runs for the container as it was
    /// meets the same lock and state, so a detach waits for it and ends it.
    pub(super) fn with_adopted(&self, intent: &Intent<ContrailIntent>) -> Self {
        let mut intents = self.intents.clone();
        if !intents.contains(intent) {
            intents.push(intent.clone());
        }
        Self {
            intents,
            start: None,
            lifecycle: Arc::clone(&self.lifecycle),
        }
    }

    /// Waits until nothing else changes the container's links and registrations.
    pub(super) async fn lock(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lifecycle.lock).lock_owned().await
    }

    pub(super) fn state(&self) -> ContainerState {
        *self.state_guard()
    }

    fn state_guard(&self) -> MutexGuard<'_, ContainerState> {
        let state = &self.lifecycle.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state from `from` to `to`; returns false if it is not `from`.
    pub(super) fn transition(&self, from: ContainerState, to: ContainerState) -> bool {
        let mut state = self.state_guard();
        let matches = *state == from;
        if matches {
            *state = to;
        }
        matches
    }

    pub(super) fn set_detaching(&self) {
        *self.state_guard() = ContainerState::Detaching;
    }
}
