//! What a manager that starts now would write: sources and VNC API are read once, and nothing is
//! written.
//!
//! Invariant: whatever is made here stands behind a fence that nobody can open, listens nowhere,
//! and does not stand for election; so it may run beside a manager that leads.

use serde::Serialize;
use tokio::sync::watch;

use super::config::Config;
use super::containers::Containers;
use super::fence::fence;
use super::provision;
use super::reconcile::{Outlook, Reconciler, When};
use super::stores::read::Reading;
use crate::marathon::{self, MarathonClient};
use crate::mesos_master::{self, MasterClient};
use crate::vnc::{VncClient, VncError};
use contrail_mesos_api::http::{CallError, TlsError};

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// A certificate or key is no use.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The VNC API did not answer.
    #[error("{0}")]
    Vnc(#[from] VncError),
    /// Mesos or Marathon did not.
    #[error("{0}")]
    Source(#[from] CallError),
}

/// What would be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// What has to be there before the first container, and is not.
    pub provision: Vec<String>,
    /// What of containers is not as it is to be.
    pub containers: Vec<Outlook>,
    /// Whether containers were looked at: not without `[mesos]`.
    pub followed: bool,
}

impl DryRun {
    /// Whether anything would be written, now or when its time has come.
    #[must_use]
    pub fn differs(&self) -> bool {
        let waits = |one: &Outlook| !matches!(one.when, When::InDoubt { .. });
        let mut written = self.containers.iter().filter(|one| waits(one));
        !self.provision.is_empty() || written.any(|one| !one.differences.is_empty())
    }

    /// How many containers and leftovers would be changed now, later, and are in doubt.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for one in &self.containers {
            match one.when {
                When::Now if one.differences.is_empty() => {}
                When::Now => counts[0] += 1,
                When::Later { .. } => counts[1] += 1,
                When::InDoubt { .. } => counts[2] += 1,
            }
        }
        counts
    }
}

/// Reads everything once, and says what would be written.
pub async fn dry_run(config: &Config) -> Result<DryRun, DryRunError> {
    let client = VncClient::new(config.vnc.clone())?;
    let provision = provision::missing(&client, config).await?;
    let Some(follow) = &config.follow else {
        return Ok(DryRun {
            provision,
            containers: vec![],
            followed: false,
        });
    };
    let (_, closed) = fence("this is a dry run");
    let containers = Containers::fenced(client.clone(), config, closed);
    let (_, may_write) = watch::channel(false);
    let reconciler = Reconciler::new(containers, client.clone(), config, follow, may_write);
    // First what there is: what is made meanwhile is then in nobody's way.
    let mut reading = Reading::new(&config.defaults, follow.page_size);
    reading.go_on(&client).await?;
    reconciler.take_contrail(reading);
    if let Some(options) = &follow.marathon {
        let listing = MarathonClient::new(options.clone())?.list().await?;
        reconciler.take_marathon(marathon::Update::Snapshot(Box::new(listing)));
    }
    let state = MasterClient::new(follow.mesos.clone())?.state().await?;
    reconciler.take_mesos(mesos_master::Update::Snapshot(Box::new(state)));
    Ok(DryRun {
        provision,
        containers: reconciler.outlook(),
        followed: true,
    })
}
