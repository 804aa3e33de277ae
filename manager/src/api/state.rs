//! What the handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::Authenticator;
use crate::error::ManagerError;
use crate::fence::Leadership;
use crate::lead::Readiness;
use crate::log_gate::LogGate;

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct ApiState {
    pub authenticator: Arc<Authenticator>,
    pub ready: watch::Receiver<Readiness>,
    pub leadership: watch::Receiver<Leadership>,
    /// The requests that are being handled.
    pub tasks: TaskTracker,
    /// The time limit of a request's body.
    pub body_timeout: Duration,
    /// Keeps refused tokens from flooding the log.
    pub refusals: LogGate,
    /// Ends watches when the manager stops.
    pub stop: CancellationToken,
}

impl ApiState {
    /// Fails until this manager is prepared to lead.
    pub(super) fn check_ready(&self) -> Result<(), ManagerError> {
        match &self.ready.borrow().unready {
            None => Ok(()),
            Some(reason) => Err(ManagerError::NotReady(reason.clone())),
        }
    }

    /// Runs work to its end even if the client disconnects, so that no container is left half
    /// created.
    pub(super) async fn run_to_completion<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ManagerError>> + Send + 'static,
    ) -> Result<T, ManagerError> {
        let done = self.tasks.spawn(work).await;
        done.unwrap_or_else(|error| Err(internal_error(&error)))
    }

    /// Runs work that blocks on a thread for it.
    pub(super) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ManagerError> + Send + 'static,
    ) -> Result<T, ManagerError> {
        let done = self.tasks.spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(internal_error(&error)))
    }
}

fn internal_error(error: &JoinError) -> ManagerError {
    log::error!(error:%; "internal error in a request");
    let message = "internal error in the manager; see its log".to_owned();
    ManagerError::InvalidResponse(message)
}
