//! Dry run: what a manager that starts now would write. The sources and the VNC API are read once,
//! and nothing is written.
//!
//! Invariant: everything here is behind a fence that never opens, listens nowhere and takes no part
//! in the election; so a dry run can run beside a leading manager.

use serde::Serialize;
use tokio::sync::watch;

use crate::config::Config;
use crate::containers::Containers;
use crate::fence::Fence;
use crate::marathon::{self, MarathonClient};
use crate::mesos_master::{self, MasterClient};
use crate::provision;
use crate::reconcile::{PlannedChange, Reconciler, Schedule};
use crate::stores::listing::FullListing;
use crate::vnc::{VncClient, VncError};
use contrail_mesos_api::http::{CallError, TlsError};

/// Why a dry run failed.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// There is no Contrail to compare with.
    #[error("the configuration has no table [vnc]: there is nothing to compare")]
    NoContrail,
    /// A certificate or key cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A call to the VNC API failed.
    #[error("{0}")]
    Vnc(#[from] VncError),
    /// A call to Mesos or Marathon failed.
    #[error("{0}")]
    Source(#[from] CallError),
}

/// What would be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// Missing objects that must exist before the first container.
    pub provision: Vec<String>,
    /// Containers and orphans that differ from their desired state.
    pub containers: Vec<PlannedChange>,
    /// Whether containers were compared: not without `[mesos]`.
    pub followed: bool,
}

impl DryRun {
    /// Whether anything would be written, now or after a waiting time.
    #[must_use]
    pub fn differs(&self) -> bool {
        !self.provision.is_empty()
            || self.containers.iter().any(|planned| {
                !matches!(planned.schedule, Schedule::Deferred { .. })
                    && !planned.differences.is_empty()
            })
    }

    /// The number of containers and orphans that would change now, later, and whose decision is
    /// deferred.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for planned in &self.containers {
            match planned.schedule {
                Schedule::Now if planned.differences.is_empty() => {}
                Schedule::Now => counts[0] += 1,
                Schedule::After { .. } => counts[1] += 1,
                Schedule::Deferred { .. } => counts[2] += 1,
            }
        }
        counts
    }
}

/// Reads everything once, and returns what would be written.
pub async fn dry_run(config: &Config) -> Result<DryRun, DryRunError> {
    let options = config.vnc.clone().ok_or(DryRunError::NoContrail)?;
    let client = VncClient::new(options)?;
    let provision = provision::missing(&client, config).await?;
    let Some(follow) = &config.follow else {
        return Ok(DryRun {
            provision,
            containers: vec![],
            followed: false,
        });
    };
    let fence = Fence::read_only("this is a dry run");
    let containers = Containers::fenced(client.clone(), config, fence);
    let (_, may_write) = watch::channel(false);
    let reconciler = Reconciler::new(containers, client.clone(), config, follow, may_write);
    // The VNC API first: a container that is created meanwhile is then missing here, not unused.
    let mut listing = FullListing::new(&config.defaults, follow.page_size);
    listing.resume(&client).await?;
    reconciler.apply_contrail_listing(listing);
    if let Some(options) = &follow.marathon {
        let listing = MarathonClient::new(options.clone())?.list().await?;
        reconciler.apply_marathon_update(marathon::Update::Snapshot(Box::new(listing)));
    }
    let state = MasterClient::new(follow.mesos.clone())?.state().await?;
    reconciler.apply_mesos_update(mesos_master::Update::Snapshot(Box::new(state)));
    Ok(DryRun {
        provision,
        containers: reconciler.planned_changes(),
        followed: true,
    })
}
