//! Notifications for systemd: readiness, status, and progress for the watchdog.
//!
//! Without systemd (no `NOTIFY_SOCKET`) nothing is sent.

use std::time::Duration;

use contrail_mesos_api::text::{Escaped, truncate};
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::engine::EngineStatus;
use crate::watch::{Connection, States};

/// How often the status is sent, unless the watchdog asks for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The longest status, in characters.
const MAX_STATUS_CHARS: usize = 300;

/// Notifies systemd of the state of these parts.
#[derive(Clone, Debug)]
pub struct ServiceManager {
    /// The latest state of the cluster.
    pub states: States,
    /// The subsystems.
    pub engine: watch::Receiver<EngineStatus>,
    /// The connection to the managers.
    pub connection: watch::Receiver<Connection>,
}

impl ServiceManager {
    /// Notifies until the subsystems have stopped.
    ///
    /// The daemon is ready once every subsystem has compared once, or at once if there is nothing to
    /// compare with yet: a host on which the daemon has never reached a manager starts, too.
    pub async fn run(mut self) {
        if self.states.borrow().is_some()
            && self
                .engine
                .wait_for(EngineStatus::has_attempted)
                .await
                .is_err()
        {
            return;
        }
        self.send(&[NotifyState::Ready]);
        let watchdog = sd_notify::watchdog_enabled();
        let interval = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
        loop {
            let hangs = self.engine.borrow().hanging().next().is_some();
            // A subsystem that hangs holds a thread that only a restart can free.
            if watchdog.is_some() && !hangs {
                self.send(&[NotifyState::Watchdog]);
            } else {
                self.send(&[]);
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                stopped = ended(self.engine.clone()) => return stopped,
            }
        }
    }

    fn send(&self, notifications: &[NotifyState<'_>]) {
        let status = self.status();
        let mut notifications = notifications.to_vec();
        notifications.push(NotifyState::Status(&status));
        if let Err(error) = sd_notify::notify(&notifications) {
            log::debug!(error:%; "cannot notify systemd");
        }
    }

    /// One line for `systemctl status`.
    fn status(&self) -> String {
        let engine = self.engine.borrow();
        let known = self.states.borrow().as_ref().map(|state| state.revision);
        let applied = match (known, engine.applied()) {
            (None, _) => "no state of the cluster has arrived yet".to_owned(),
            (Some(known), Some(applied)) if known == applied => {
                format!("revision {known} is applied")
            }
            (Some(known), Some(applied)) => {
                format!("revision {known} is known, {applied} is applied")
            }
            (Some(known), None) => format!("revision {known} is known, none is applied"),
        };
        let connection = match &self.connection.borrow().manager {
            Some(manager) => format!("watching {manager}"),
            None => "not watching a manager".to_owned(),
        };
        let problems = engine.subsystems.iter().map(|status| status.problems.len());
        let problems: usize = problems.sum();
        let status = format!("{applied}; {connection}; problems: {problems}");
        Escaped(&truncate(&status, MAX_STATUS_CHARS)).to_string()
    }
}

/// Notifies that the daemon stops.
pub fn notify_stopping() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Stopping]) {
        log::debug!(error:%; "cannot notify systemd");
    }
}

/// Returns when the subsystems have stopped.
async fn ended(mut engine: watch::Receiver<EngineStatus>) {
    while engine.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::SubsystemStatus;
    use crate::testing::{cluster, revision};

    #[test]
    fn status_is_one_line_with_revision_manager_and_problems() {
        let (published, states_receiver) = watch::channel(None);
        let (engine, engine_receiver) = watch::channel(EngineStatus {
            subsystems: vec![SubsystemStatus::default()],
        });
        let (connection, connection_receiver) = watch::channel(Connection::default());
        let manager = ServiceManager {
            states: states_receiver,
            engine: engine_receiver,
            connection: connection_receiver,
        };
        let contains = |parts: &[&str]| {
            let status = manager.status();
            for part in parts {
                assert!(status.contains(part), "{part:?} in {status:?}");
            }
            assert!(!status.contains('\n'), "{status:?}");
        };
        contains(&["not watching", "problems: 0"]);
        published.send_replace(Some(Arc::new(cluster("3.4"))));
        contains(&["3.4 is known, none"]);
        engine.send_modify(|engine| {
            engine.subsystems[0].applied = Some(revision("3.3"));
            engine.subsystems[0].problems = vec!["x".to_owned()];
        });
        connection.send_modify(|connection| connection.manager = Some("a\nb".to_owned()));
        contains(&["3.3 is applied", "a\\nb", "problems: 1"]);
    }
}
