//! Watches the sources and applies their updates to the stores.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::stats::SourceIndex;
use super::{Key, Reconciler};
use crate::config::Follow;
use crate::marathon::{self, MarathonClient, RunSpecId};
use crate::mesos_master::{self, MasterClient};
use crate::stores::contrail::ContrailView;
use crate::stores::listing::FullListing;
use crate::stores::mesos::{self, MesosView};
use contrail_mesos_api::http::{CallError, TlsError};

/// How long Marathon's events are collected, so that an app with many changed tasks is read once.
const COALESCE_DELAY: Duration = Duration::from_secs(1);
/// The delay before a failed read of an app or pod is retried.
const REREAD_DELAY: Duration = Duration::from_secs(5);
/// The least time between two resyncs.
const MIN_RESYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The apps and pods that Marathon's events name, and the time of the first such event. `None`
/// stands for an event that does not say which.
type TouchedSpecs = HashMap<Option<RunSpecId>, Instant>;

/// Limits a range of retry delays, so that a source that was lost is read at least as often as one
/// that responds.
fn limit_delays((min, max): (Duration, Duration), resync: Duration) -> (Duration, Duration) {
    (min.min(resync), max.min(resync))
}

/// The clients of the sources.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    mesos: MasterClient,
    marathon: Option<MarathonClient>,
}

impl Sources {
    /// Reads certificate files: blocks on the file system.
    pub(crate) fn new(follow: &Follow) -> Result<Self, TlsError> {
        let marathon = follow.marathon.clone().map(MarathonClient::new);
        Ok(Self {
            mesos: MasterClient::new(follow.mesos.clone())?,
            marathon: marathon.transpose()?,
        })
    }

    /// The client of Mesos.
    pub(crate) fn mesos_client(&self) -> MasterClient {
        self.mesos.clone()
    }
}

impl Reconciler {
    /// Watches the sources and reconciles, as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, sources: Sources) {
        let workers = join_all((0..self.workers).map(|_| self.work()));
        tokio::join!(
            self.watch_sources(sources),
            self.watch_contrail(),
            self.resync_loop(),
            workers,
        );
    }

    /// Watches these sources until they are replaced, and then the new ones.
    async fn watch_sources(&self, mut sources: Sources) {
        let mut replacement = self.sources.subscribe();
        loop {
            if let Some(newer) = replacement.borrow_and_update().clone() {
                sources = newer;
            }
            let Sources { mesos, marathon } = sources.clone();
            let marathon = async {
                if let Some(marathon) = marathon {
                    self.watch_marathon(marathon).await;
                }
            };
            let watch = async { tokio::join!(self.watch_mesos(mesos), marathon) };
            tokio::select! {
                _ = watch => {}
                // It cannot fail: the sender is in `self`.
                _ = replacement.changed() => {}
            }
            // The new sources must become trusted by themselves.
            let reason = "the configuration was reloaded";
            let now = Instant::now();
            self.stores.mesos.change(|view| view.mark_lost(now, reason));
            self.stores
                .marathon
                .change(|view| view.mark_lost(now, reason));
        }
    }

    async fn resync_loop(&self) {
        loop {
            // An error is the end of the interval.
            let _ = timeout(self.settings().resync, self.resync_requested.notified()).await;
            self.resync().await;
            sleep(MIN_RESYNC_INTERVAL).await;
        }
    }

    async fn watch_mesos(&self, client: MasterClient) {
        let options = mesos_master::FollowOptions::default();
        let resync = self.settings().resync;
        let options = mesos_master::FollowOptions {
            resync_interval: resync.min(options.resync_interval),
            backoff: limit_delays(options.backoff, resync),
            ..options
        };
        let mut follower = mesos_master::Follower::start(client, options);
        loop {
            let update = follower.next().await;
            self.apply_mesos_update(update);
            if self.stores.mesos.read(MesosView::has_undefined_tasks) {
                follower.request_resync();
            }
        }
    }

    /// Applies an update of Mesos.
    pub(crate) fn apply_mesos_update(&self, update: mesos_master::Update) {
        let now = Instant::now();
        match update {
            mesos_master::Update::Lost(error) => {
                self.metrics.count_update("mesos", "loss");
                let reason = error.to_string();
                self.stores
                    .mesos
                    .change(|view| view.mark_lost(now, &reason));
            }
            mesos_master::Update::Snapshot(state) => {
                self.metrics.count_update("mesos", "list");
                let policy = self.settings().policy;
                let state = mesos::intern(*state, &mut self.stores.interner());
                self.stores.mesos.change(|view| {
                    view.apply_snapshot(state, now, policy.stabilization_window);
                    if let Some(before) = now.checked_sub(policy.grace_period) {
                        view.expire_terminated(before);
                    }
                });
                self.stores.interner().remove_unused();
                self.counters.count_list(SourceIndex::Mesos);
                self.resync_requested.notify_one();
            }
            mesos_master::Update::Changed(change) => {
                self.metrics.count_update("mesos", "event");
                let touched = self
                    .stores
                    .mesos
                    .change(|view| view.apply_change(change, now));
                self.enqueue_known(touched);
                self.counters.count_mesos_event();
            }
        }
    }

    /// Enqueues those that may be containers of ours: most tasks have no network.
    fn enqueue_known(&self, vms: Vec<Uuid>) {
        if vms.is_empty() {
            return;
        }
        self.stores.contrail.read(|contrail| {
            for vm in vms {
                if contrail.vms.contains_key(&vm) || self.containers.last_requested(vm).is_some() {
                    self.queue.push(Key::Container(vm));
                }
            }
        });
    }

    async fn watch_marathon(&self, client: MarathonClient) {
        let options = marathon::FollowOptions::default();
        let resync = self.settings().resync;
        let options = marathon::FollowOptions {
            resync_interval: resync.min(options.resync_interval),
            lossy_resync_interval: resync.min(options.lossy_resync_interval),
            min_list_interval: resync.min(options.min_list_interval),
            backoff: limit_delays(options.backoff, resync),
            ..options
        };
        let mut follower = marathon::Follower::start(client.clone(), options);
        let mut touched = TouchedSpecs::new();
        let mut due = Instant::now();
        loop {
            let update = tokio::select! {
                update = follower.next() => update,
                () = sleep_until(due), if !touched.is_empty() => {
                    touched = self.reread(&client, std::mem::take(&mut touched)).await;
                    due = Instant::now() + REREAD_DELAY;
                    continue;
                }
            };
            match update {
                marathon::Update::Changed(key) => {
                    self.metrics.count_update("marathon", "event");
                    if touched.is_empty() {
                        due = Instant::now() + COALESCE_DELAY;
                    }
                    touched
                        .entry(key.run_spec().cloned())
                        .or_insert_with(Instant::now);
                }
                marathon::Update::Snapshot(_) => {
                    touched.clear();
                    self.apply_marathon_update(update);
                }
                marathon::Update::Lost(_) => self.apply_marathon_update(update),
            }
        }
    }

    /// Applies a full list or a loss of Marathon.
    pub(crate) fn apply_marathon_update(&self, update: marathon::Update) {
        let now = Instant::now();
        match update {
            marathon::Update::Lost(error) => {
                self.metrics.count_update("marathon", "loss");
                let reason = error.to_string();
                self.stores
                    .marathon
                    .change(|view| view.mark_lost(now, &reason));
            }
            marathon::Update::Snapshot(listing) => {
                self.metrics.count_update("marathon", "list");
                let window = self.settings().policy.stabilization_window;
                self.stores.marathon.change(|view| {
                    view.apply_listing(*listing, now, window);
                    view.intern(&mut self.stores.interner());
                });
                self.stores.interner().remove_unused();
                self.counters.count_list(SourceIndex::Marathon);
                self.resync_requested.notify_one();
            }
            marathon::Update::Changed(_) => {}
        }
    }

    /// Reads apps and pods again, and all where it is not known which; returns those that failed.
    async fn reread(&self, client: &MarathonClient, touched: TouchedSpecs) -> TouchedSpecs {
        let mut failed = TouchedSpecs::new();
        if let Some(since) = touched.get(&None) {
            match client.list().await {
                Ok(listing) => {
                    self.apply_marathon_update(marathon::Update::Snapshot(Box::new(listing)));
                    return failed;
                }
                Err(error) => log::warn!(error:%; "cannot list Marathon's pods; retrying"),
            }
            failed.insert(None, *since);
        }
        let mut changed = HashMap::new();
        for (id, since) in touched {
            let Some(id) = id else { continue };
            match self.reread_spec(client, &id).await {
                Ok(true) => {
                    changed.insert(id, since);
                }
                Ok(false) => {}
                Err(error) => {
                    log::warn!(app:% = id, error:%; "cannot read the app or pod; retrying");
                    failed.insert(Some(id), since);
                }
            }
        }
        self.enqueue_applications(&changed);
        failed
    }

    /// Returns whether its networks changed.
    async fn reread_spec(
        &self,
        client: &MarathonClient,
        id: &RunSpecId,
    ) -> Result<bool, CallError> {
        let store = &self.stores.marathon;
        if let Some(app) = client.app(id).await? {
            return Ok(store.change(|view| view.update_app(id, Some(app))));
        }
        let pod = client.pod(id).await?;
        Ok(store.change(|view| view.update_pod(id, pod)))
    }

    /// Enqueues the containers of apps whose networks changed, with the time of the event.
    fn enqueue_applications(&self, changed: &HashMap<RunSpecId, Instant>) {
        if changed.is_empty() {
            return;
        }
        let changed: HashMap<&str, Instant> = changed
            .iter()
            .map(|(id, since)| (id.as_str(), *since))
            .collect();
        self.stores.contrail.read(|contrail| {
            for (uuid, vm) in &contrail.vms {
                let application = vm.identity.application.as_deref();
                if let Some(since) = application.and_then(|id| changed.get(id)) {
                    self.queue.push_since(Key::Container(*uuid), *since);
                }
            }
        });
    }

    async fn watch_contrail(&self) {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut changed = self.settings.subscribe();
        loop {
            let began = Instant::now();
            let mut listing = FullListing::new(&self.defaults, self.settings().page_size);
            let mut delays = backoff.delays();
            while let Err(error) = listing.resume(&self.client).await {
                self.metrics.count_update("contrail", "loss");
                log::warn!(error:%; "cannot list the VNC API; resuming later");
                let now = Instant::now();
                let reason = error.to_string();
                self.stores
                    .contrail
                    .change(|view| view.source.mark_lost(now, &reason));
                sleep(delays.next_delay()).await;
            }
            self.apply_contrail_listing(listing);
            self.metrics.count_update("contrail", "list");
            self.metrics.listing.observe(began.elapsed().as_secs_f64());
            self.refresh_networks().await;
            tokio::select! {
                // An error is the end of the interval.
                _ = timeout(self.settings().resync, changed.changed()) => {}
                () = self.client.wait_until_unavailable() => {
                    self.metrics.count_update("contrail", "loss");
                    log::warn!("the API servers do not respond; the VNC API is listed again when they do");
                    let now = Instant::now();
                    self.stores
                        .contrail
                        .change(|view| view.source.mark_lost(now, "the API servers do not respond"));
                    self.client.wait_until_available().await;
                }
            }
        }
    }

    /// Applies a complete listing of the VNC API.
    pub(crate) fn apply_contrail_listing(&self, listing: FullListing) {
        let mut changed = vec![];
        let mut is_first = false;
        self.stores.contrail.replace(|old| {
            let mut new = listing.finish(old, Instant::now());
            let mut interner = self.stores.interner();
            new.vms.values_mut().for_each(|vm| vm.intern(&mut interner));
            changed = with_other_addresses(old, &new);
            is_first = old.source.last_listed().is_none();
            new
        });
        // Services ask which addresses are on virtual networks, and wait for the first listing.
        if is_first || !changed.is_empty() {
            self.stores.mesos.change(|view| {
                for vm in changed {
                    view.touch_vm(vm);
                }
            });
        }
        self.stores.interner().remove_unused();
        self.counters.count_list(SourceIndex::Contrail);
        self.resync_requested.notify_one();
    }

    /// Reads the subnets of our containers' networks, which are shown only.
    async fn refresh_networks(&self) {
        let uuids = self
            .stores
            .contrail
            .read(|view| view.networks.values().copied().collect());
        match self.containers.read_networks(uuids).await {
            Ok(networks) => {
                let networks = networks
                    .into_iter()
                    .map(|network| (network.name.clone(), network))
                    .collect();
                self.stores.networks.replace(|_| networks);
            }
            Err(error) => {
                log::warn!(error:%; "cannot read the networks' subnets; retrying later");
            }
        }
    }
}

/// The virtual-machines whose interfaces have other addresses now, or are new or gone.
fn with_other_addresses(old: &ContrailView, new: &ContrailView) -> Vec<Uuid> {
    let addresses = |view: &ContrailView, vm: &Uuid| {
        let vm = view.vms.get(vm);
        vm.map(|vm| vm.interface_addresses())
    };
    let gone = old.vms.keys().filter(|vm| !new.vms.contains_key(*vm));
    let other = new.vms.keys();
    let other = other.filter(|vm| addresses(old, vm) != addresses(new, vm));
    gone.chain(other).copied().collect()
}
