//! What a manager with a table `[vnc]` has.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config::Config;
use super::containers::Containers;
use super::fence::Fence;
use super::lead::Readiness;
use super::reconcile::{Reconciler, Sources};
use crate::vnc::{VncClient, VncOptions};
use contrail_mesos_api::http::TlsError;

/// Everything that manages the objects of containers in Contrail. Clones share it.
#[derive(Clone, Debug)]
pub struct Contrail {
    /// The client of the VNC API.
    pub client: VncClient,
    /// The writer of containers.
    pub containers: Arc<Containers>,
    /// The reconciler; none without a table `[mesos]`.
    pub reconciler: Option<Arc<Reconciler>>,
}

impl Contrail {
    /// Starts what works in the background. It makes no request until the manager leads.
    pub(super) fn start(
        options: &VncOptions,
        config: &Config,
        fence: &Fence,
        ready: &watch::Receiver<Readiness>,
        background: &mut JoinSet<()>,
    ) -> Result<Self, TlsError> {
        let client = VncClient::new(options.clone())?;
        let containers = Containers::fenced(client.clone(), config, fence.clone());
        let reconciler = reconcile(background, &containers, &client, config, ready)?;
        let rolling_back = containers.clone();
        background.spawn(async move { rolling_back.run_rollbacks().await });
        let probed = client.clone();
        background.spawn(async move { probed.run_probes().await });
        Ok(Self {
            client,
            containers,
            reconciler,
        })
    }
}

/// Starts the reconciler if there is a table `[mesos]`.
fn reconcile(
    background: &mut JoinSet<()>,
    containers: &Arc<Containers>,
    client: &VncClient,
    config: &Config,
    ready: &watch::Receiver<Readiness>,
) -> Result<Option<Arc<Reconciler>>, TlsError> {
    let Some(follow) = &config.follow else {
        return Ok(None);
    };
    let sources = Sources::new(follow)?;
    let (may_write, writes) = watch::channel(false);
    let reconciler = Reconciler::new(containers.clone(), client.clone(), config, follow, writes);
    let running = reconciler.clone();
    let mut readiness = ready.clone();
    background.spawn(async move {
        // A standby does not follow the sources; a new leader lists everything before it writes.
        let is_ready = |ready: &Readiness| ready.unready.is_none();
        if readiness.wait_for(is_ready).await.is_err() {
            return;
        }
        let allow = async {
            loop {
                may_write.send_replace(readiness.borrow_and_update().unready.is_none());
                if readiness.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(running.run(sources), allow);
    });
    Ok(Some(reconciler))
}
