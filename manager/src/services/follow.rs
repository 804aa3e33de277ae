//! Follows Mesos for services, where nothing else does: in a manager without Contrail.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Follow;
use crate::intern::Interner;
use crate::mesos_master::{FollowOptions, Follower, MasterClient, Update};
use crate::stores::Store;
use crate::stores::mesos::{self, MesosView};

/// What is followed, and how far it is trusted.
#[derive(Clone, Debug)]
pub(super) struct MesosFollow {
    pub(super) client: MasterClient,
    pub(super) resync: Duration,
    pub(super) stabilization_window: Duration,
    pub(super) grace_period: Duration,
}

impl MesosFollow {
    pub(super) fn new(client: MasterClient, follow: &Follow) -> Self {
        Self {
            client,
            resync: follow.resync,
            stabilization_window: follow.policy.stabilization_window,
            grace_period: follow.policy.grace_period,
        }
    }
}

/// Follows Mesos, and each replacement from its beginning, until the sender ends.
pub(super) async fn follow(store: Arc<Store<MesosView>>, mut source: watch::Receiver<MesosFollow>) {
    let mut interner = Interner::default();
    loop {
        let current = source.borrow_and_update().clone();
        tokio::select! {
            () = follow_one(&store, &current, &mut interner) => {}
            changed = source.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        // The new source must become trusted by itself.
        let now = Instant::now();
        store.change(|view| view.mark_lost(now, "the configuration was reloaded"));
    }
}

async fn follow_one(store: &Store<MesosView>, source: &MesosFollow, interner: &mut Interner) {
    let options = FollowOptions::default();
    let (min, max) = options.backoff;
    let options = FollowOptions {
        resync_interval: source.resync.min(options.resync_interval),
        // A source that was lost is read at least as often as one that responds.
        backoff: (min.min(source.resync), max.min(source.resync)),
        ..options
    };
    let mut follower = Follower::start(source.client.clone(), options);
    loop {
        let update = follower.next().await;
        let now = Instant::now();
        match update {
            Update::Lost(error) => {
                let reason = error.to_string();
                store.change(|view| view.mark_lost(now, &reason));
            }
            Update::Snapshot(state) => {
                let state = mesos::intern(*state, interner);
                store.change(|view| {
                    view.apply_snapshot(state, now, source.stabilization_window);
                    if let Some(before) = now.checked_sub(source.grace_period) {
                        view.expire_terminated(before);
                    }
                });
                interner.remove_unused();
            }
            Update::Changed(change) => {
                store.change(|view| view.apply_change(change, now));
                if store.read(MesosView::has_undefined_tasks) {
                    follower.request_resync();
                }
            }
        }
    }
}
