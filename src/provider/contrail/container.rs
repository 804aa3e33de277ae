//! The state of one container of Contrail, from its start to its detach.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, Shared};

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
    state: Mutex<ContainerState>,
    /// Serializes changes of the container's links and registrations.
    pub(super) lock: tokio::sync::Mutex<()>,
}

impl ContrailContainer {
    pub(super) fn starting(intents: Vec<Intent<ContrailIntent>>, start: StartFuture) -> Self {
        Self {
            intents,
            start: Some(start),
            state: Mutex::new(ContainerState::Starting),
            lock: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn adopted(intents: Vec<Intent<ContrailIntent>>) -> Self {
        Self {
            intents,
            start: None,
            state: Mutex::new(ContainerState::Attached),
            lock: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> ContainerState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state from `from` to `to`; returns false if it is not `from`.
    pub(super) fn transition(&self, from: ContainerState, to: ContainerState) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = *state == from;
        if matches {
            *state = to;
        }
        matches
    }

    pub(super) fn set_detaching(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = ContainerState::Detaching;
    }
}
