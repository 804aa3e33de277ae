//! Reconciles the VNC API with the desired state.
//!
//! ```text
//! watch      applies updates of Mesos, Marathon and the VNC API to the stores, and enqueues
//! queue      each container once; retries after a growing delay with jitter
//! plan       the decision on a container, and what it would write
//! overview   the plans of all containers, with hosts and networks, to be shown
//! stats, metrics   what was done, counted
//! ```
//!
//! Events only say which container to look at; every so often a resync looks at all of them. A
//! standby keeps its caches warm so that it can write as soon as it leads.

mod metrics;
mod overview;
mod plan;
mod queue;
mod stats;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch as watch_channel};
use tokio::task::yield_now;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::{Config, Follow};
use crate::containers::Containers;
use crate::desired::{self, Decision, DesiredState, Snapshot};
use crate::diff::Change;
use crate::error::ManagerError;
use crate::history::{Action, Actor};
use crate::logging::millis;
use crate::marathon::RunSpecId;
use crate::model::{CachedVm, Defaults, Orphan, Policy};
use crate::stores::Stores;
use crate::stores::marathon::run_spec_of;
use crate::vnc::VncClient;
use metrics::ReconcileMetrics;
use overview::{ClusterOverview, DecisionRow, OverviewCache};
use plan::{Plan, plan};
pub use plan::{PlannedChange, Schedule};
pub(crate) use queue::QueueEntry;
use queue::WorkQueue;
use stats::Counters;
pub use stats::ReconcileStats;
pub(crate) use watch::Sources;

/// How many containers a resync compares before it yields to other tasks.
const BATCH_SIZE: usize = 1000;

/// What the queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A container by its virtual-machine.
    Container(Uuid),
    Orphan(Orphan),
}

/// Compares the VNC API with the desired state, and writes the differences.
#[derive(Debug)]
pub struct Reconciler {
    stores: Stores,
    containers: Arc<Containers>,
    client: VncClient,
    defaults: Defaults,
    settings: watch_channel::Sender<Settings>,
    /// Replaces the sources that [`Reconciler::run`] was given.
    sources: watch_channel::Sender<Option<Sources>>,
    workers: usize,
    queue: WorkQueue<Key>,
    metrics: ReconcileMetrics,
    overview: OverviewCache,
    follows_marathon: bool,
    resync_requested: Notify,
    may_write: watch_channel::Receiver<bool>,
    counters: Counters,
}

/// The settings that a reload can change.
#[derive(Clone, Debug)]
struct Settings {
    policy: Policy,
    resync: Duration,
    page_size: u32,
}

impl Settings {
    fn new(follow: &Follow) -> Self {
        Self {
            policy: follow.policy.clone(),
            resync: follow.resync,
            page_size: follow.page_size,
        }
    }
}

/// The next step for a container.
#[derive(Debug)]
enum ContainerWork {
    /// It is not cached, so its objects must be read first.
    NotCached,
    /// Nothing.
    Settled,
    /// What the plan says.
    Planned(Box<CachedVm>, Plan),
}

/// What was written: its kind, and a description.
type Written = (WriteKind, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteKind {
    Update,
    Delete,
}

impl WriteKind {
    /// The label in metrics.
    fn outcome(self, key: Key) -> &'static str {
        match (self, key) {
            (Self::Update, _) => "kept",
            (Self::Delete, Key::Container(_)) => "removed",
            (Self::Delete, Key::Orphan(_)) => "orphan_removed",
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Update => Action::Updated,
            Self::Delete => Action::Deleted,
        }
    }
}

impl Reconciler {
    /// A reconciler with empty stores. It writes only while `may_write` is true.
    #[must_use]
    pub fn new(
        containers: Arc<Containers>,
        client: VncClient,
        config: &Config,
        follow: &Follow,
        may_write: watch_channel::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            stores: Stores::default(),
            containers,
            client,
            defaults: config.defaults.clone(),
            settings: watch_channel::Sender::new(Settings::new(follow)),
            sources: watch_channel::Sender::new(None),
            workers: follow.concurrency,
            queue: WorkQueue::new(),
            metrics: ReconcileMetrics::default(),
            overview: OverviewCache::default(),
            follows_marathon: follow.marathon.is_some(),
            resync_requested: Notify::new(),
            may_write,
            counters: Counters::default(),
        })
    }

    /// The number of containers and orphans that are queued or being reconciled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What was done since the start.
    #[must_use]
    pub fn stats(&self) -> ReconcileStats {
        self.counters.stats(self.stores.copies())
    }

    /// The stores.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The metrics.
    pub(crate) fn metrics(&self) -> &ReconcileMetrics {
        &self.metrics
    }

    /// Whether Marathon is configured.
    pub(crate) fn follows_marathon(&self) -> bool {
        self.follows_marathon
    }

    /// The app or pod of a task or executor, if its framework is Marathon.
    pub(crate) fn app_of(&self, framework: &str, executor: &str) -> Option<RunSpecId> {
        let marathon = self.settings.borrow().policy.framework.clone();
        let is_marathon = self
            .stores
            .mesos
            .read(|view| view.framework(framework) == Some(&*marathon));
        run_spec_of(executor).filter(|_| is_marathon)
    }

    /// Whether Marathon certainly does not have that app or pod.
    pub(crate) fn is_app_gone(&self, app: &RunSpecId) -> bool {
        self.follows_marathon
            && self.stores.marathon.read(|view| {
                let exists = view.spec(app).is_some() || view.is_skipped(app.as_str());
                view.source.is_fresh() && !exists
            })
    }

    /// The first `limit` entries of the queue, how many there are, and how many of all have failed.
    pub(crate) fn queued(&self, limit: usize) -> (Vec<QueueEntry<Key>>, usize, usize) {
        self.queue.waiting(limit)
    }

    fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    /// Applies new settings, and watches these sources from now on.
    pub(crate) fn reload(&self, follow: &Follow, sources: Sources) {
        self.settings.send_replace(Settings::new(follow));
        self.sources.send_replace(Some(sources));
        self.resync_requested.notify_one();
    }

    /// Calls `read` with the current state of the stores, which writers leave alone meanwhile.
    fn with_snapshot<R>(&self, read: impl FnOnce(&Snapshot<'_>) -> R) -> R {
        let policy = &self.settings.borrow().policy;
        self.stores.mesos.read(|mesos| {
            self.stores.marathon.read(|marathon| {
                self.stores.contrail.read(|contrail| {
                    read(&Snapshot {
                        mesos,
                        marathon,
                        contrail,
                        defaults: &self.defaults,
                        policy,
                        now: Instant::now(),
                    })
                })
            })
        })
    }

    fn plan(&self, snapshot: &Snapshot<'_>, uuid: Uuid, vm: &CachedVm) -> Plan {
        plan(snapshot, uuid, vm, self.containers.last_requested(uuid))
    }

    /// Passes the plan for one container that is cached to `read`.
    fn plan_one<R>(&self, uuid: Uuid, read: impl FnOnce(&CachedVm, Plan) -> R) -> Option<R> {
        self.counters.count_decisions(1);
        self.with_snapshot(|snapshot| {
            let vm = snapshot.contrail.vms.get(&uuid)?;
            Some(read(vm, self.plan(snapshot, uuid, vm)))
        })
    }

    /// The next step for a container by its plan.
    fn work_on(&self, uuid: Uuid) -> ContainerWork {
        let work = self.plan_one(uuid, |vm, plan| {
            // Most events change nothing.
            if plan.is_settled() {
                ContainerWork::Settled
            } else {
                ContainerWork::Planned(Box::new(vm.clone()), plan)
            }
        });
        work.unwrap_or(ContainerWork::NotCached)
    }

    /// What would be written by the current state of the stores, and when; sorted by uuid.
    /// Containers in their desired state are left out.
    #[must_use]
    pub fn planned_changes(&self) -> Vec<PlannedChange> {
        let mut planned: Vec<_> = self.with_snapshot(|snapshot| {
            let containers = snapshot.contrail.vms.iter().filter_map(|(uuid, vm)| {
                let last_requested = self.containers.last_requested(*uuid);
                PlannedChange::of_container(snapshot, *uuid, vm, last_requested)
            });
            let orphans = snapshot
                .contrail
                .orphans
                .iter()
                .map(|(orphan, since)| PlannedChange::of_orphan(snapshot, *orphan, *since));
            containers.chain(orphans).collect()
        });
        planned.sort_by_key(|planned| planned.uuid);
        planned
    }

    /// Those of [`Reconciler::planned_changes`] that are due.
    #[must_use]
    pub fn due_changes(&self) -> Vec<PlannedChange> {
        let mut planned = self.planned_changes();
        planned.retain(PlannedChange::is_due);
        planned
    }

    /// The cluster at a recent moment. Takes a while on a large cluster: not for the runtime's
    /// threads.
    pub(crate) fn overview(&self) -> Arc<ClusterOverview> {
        self.overview.get_or_build(|| {
            // Snapshots rather than locks: building takes longer than writers can wait.
            let mesos = self.stores.mesos.snapshot();
            let marathon = self.stores.marathon.snapshot();
            let contrail = self.stores.contrail.snapshot();
            let snapshot = Snapshot {
                mesos: &mesos,
                marathon: &marathon,
                contrail: &contrail,
                defaults: &self.defaults,
                policy: &self.settings().policy,
                now: Instant::now(),
            };
            ClusterOverview::build(&snapshot, |uuid| self.containers.last_requested(uuid))
        })
    }

    /// The decision on one container that is cached.
    pub(crate) fn decision_of(&self, uuid: Uuid) -> Option<DecisionRow> {
        self.plan_one(uuid, |_, plan| DecisionRow::new(plan))
    }

    /// Enqueues every container that differs from its desired state. Events are applied meanwhile,
    /// and enqueue what they change.
    async fn resync(&self) {
        let began = Instant::now();
        let lists = self.counters.begin_resync();
        let uuids: Vec<Uuid> = self
            .stores
            .contrail
            .read(|contrail| contrail.vms.keys().copied().collect());
        for batch in uuids.chunks(BATCH_SIZE) {
            self.with_snapshot(|snapshot| {
                for uuid in batch {
                    let vm = snapshot.contrail.vms.get(uuid);
                    if vm.is_some_and(|vm| !self.plan(snapshot, *uuid, vm).changes.is_empty()) {
                        self.queue.push(Key::Container(*uuid));
                    }
                }
            });
            self.counters.count_decisions(batch.len());
            yield_now().await;
        }
        for orphan in self.with_snapshot(desired::due_orphans) {
            self.queue.push(Key::Orphan(orphan));
        }
        self.counters.end_resync(lists);
        self.metrics.resync.observe(began.elapsed().as_secs_f64());
    }

    /// Resyncs, and works on the queue until nothing is due.
    #[cfg(test)]
    pub(crate) async fn settle(&self) {
        self.resync().await;
        while let Some(key) = self.queue.try_next() {
            self.handle(key).await;
        }
    }

    /// Works on the queue.
    pub(crate) async fn work(&self) {
        let mut may_write = self.may_write.clone();
        loop {
            if may_write.wait_for(|may_write| *may_write).await.is_err() {
                return;
            }
            let key = self.queue.next().await;
            // It may have changed while the queue was empty.
            if *self.may_write.borrow() {
                self.handle(key).await;
            } else {
                self.queue.done(key, None);
            }
        }
    }

    async fn handle(&self, key: Key) {
        let began = Instant::now();
        let work = match key {
            Key::Container(uuid) => self.work_on(uuid),
            Key::Orphan(_) => ContainerWork::NotCached,
        };
        if matches!(work, ContainerWork::Settled) && !log::log_enabled!(log::Level::Debug) {
            self.queue.done(key, None);
            self.metrics.count_outcome("unchanged");
            return;
        }
        let since = self.queue.since(key).unwrap_or(began);
        let (uuid, kind) = match key {
            Key::Container(uuid) => (uuid, "container"),
            Key::Orphan(orphan) => (orphan.uuid(), "orphan"),
        };
        let identity = || {
            self.stores.contrail.read(|view| {
                let vm = view.vms.get(&uuid)?;
                Some((vm.identity.clone(), vm.agent.clone()))
            })
        };
        let identity_before = identity();
        let written = match key {
            Key::Container(uuid) => self.reconcile_container(uuid, work).await,
            Key::Orphan(orphan) => self.delete_orphan(orphan).await,
        };
        let error = written.as_ref().err().map(ToString::to_string);
        let retry_in = self.queue.done(key, error.as_deref());
        let elapsed = began.elapsed();
        // A container that was deleted is logged with the names that it had.
        let (names, agent) = identity().or(identity_before).unwrap_or_default();
        let app = names.application.as_deref().unwrap_or("");
        let task = names.task.as_deref().unwrap_or("");
        match &written {
            Ok(None) => {
                self.metrics.count_outcome("unchanged");
                log::debug!(machine:% = uuid, app, task, agent:%, elapsed_ms = millis(elapsed); "{kind}: nothing to do");
            }
            Ok(Some((write, description))) => {
                self.metrics.count_outcome(write.outcome(key));
                self.metrics
                    .write_lag
                    .observe(since.elapsed().as_secs_f64());
                log::info!(machine:% = uuid, app, task, agent:%, elapsed_ms = millis(elapsed); "{kind}: {description}");
                self.record(key, elapsed, write.action(), description);
            }
            Err(error) => {
                self.metrics.count_outcome("failed");
                log::warn!(machine:% = uuid, app, task, agent:%, elapsed_ms = millis(elapsed), retry_in_ms = retry_in.map(millis), error:%; "{kind}: cannot reconcile");
                let description = format!("cannot reconcile: {error}");
                self.record(key, elapsed, Action::Failed, &description);
            }
        }
    }

    fn record(&self, key: Key, elapsed: Duration, action: Action, description: &str) {
        if let Key::Container(uuid) = key {
            let outcome = (action, description);
            self.containers
                .history()
                .record(uuid, None, Actor::Reconciler, elapsed, outcome);
        }
    }

    async fn reconcile_container(
        &self,
        uuid: Uuid,
        mut work: ContainerWork,
    ) -> Result<Option<Written>, ManagerError> {
        if matches!(work, ContainerWork::NotCached) {
            // An agent may have requested it since the last full listing.
            if self.containers.last_requested(uuid).is_none() {
                return Ok(None);
            }
            let Some(vm) = self.containers.read_vm(uuid, Instant::now()).await? else {
                return Ok(None);
            };
            self.update_cache(uuid, Some(vm)).await;
            work = self.work_on(uuid);
        }
        let ContainerWork::Planned(vm, plan) = work else {
            return Ok(None);
        };
        match plan.decision {
            Decision::Keep(desired) => self.update(uuid, &vm, &desired, &plan.changes).await,
            Decision::Delete(reason) => {
                let is_still_due = || {
                    self.plan_one(uuid, |_, plan| matches!(plan.decision, Decision::Delete(_)))
                        .unwrap_or(false)
                };
                let deleted = self
                    .containers
                    .fence()
                    .run_in_term(self.containers.delete_if(uuid, is_still_due))
                    .await?;
                if is_still_due() {
                    self.update_cache(uuid, None).await;
                }
                Ok(deleted.then(|| (WriteKind::Delete, format!("deleted: {reason}"))))
            }
            Decision::Defer(reason) => {
                log::debug!(machine:% = uuid, reason = reason.code(); "container: decision deferred: {reason}");
                Ok(None)
            }
        }
    }

    async fn update(
        &self,
        uuid: Uuid,
        vm: &CachedVm,
        desired: &DesiredState,
        changes: &[Change],
    ) -> Result<Option<Written>, ManagerError> {
        if !desired.invalid_labels.is_empty() {
            let problems = desired.invalid_labels.join("; ");
            let identity = desired.names.as_ref().map(|names| &names.identity);
            let app = identity.and_then(|identity| identity.application.as_deref());
            let app = app.unwrap_or("");
            let task = identity.and_then(|identity| identity.task.as_deref());
            let task = task.unwrap_or("");
            log::warn!(machine:% = uuid, app, task, agent:% = vm.agent, problems; "container: invalid labels are ignored");
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let updated = self
            .containers
            .fence()
            .run_in_term(self.containers.update(uuid, desired, vm.first_seen))
            .await;
        match updated {
            Ok(vm) => self.update_cache(uuid, vm).await,
            Err(error) => {
                if error.is_object_gone() {
                    self.containers.clear_name_cache();
                }
                return Err(error);
            }
        }
        Ok(Some((WriteKind::Update, plan::list(changes))))
    }

    async fn delete_orphan(&self, orphan: Orphan) -> Result<Option<Written>, ManagerError> {
        let deleted = self
            .containers
            .fence()
            .run_in_term(self.containers.delete_orphan(orphan))
            .await?;
        self.stores
            .contrail
            .change(|view| view.orphans.remove(&orphan));
        let description = || format!("deleted the {orphan}: its parent is gone");
        Ok(deleted.then(|| (WriteKind::Delete, description())))
    }

    async fn update_cache(&self, uuid: Uuid, vm: Option<CachedVm>) {
        let Some(mut vm) = vm else {
            let removed = self.stores.contrail.change(|view| view.vms.remove(&uuid));
            if removed.is_some() {
                self.stores.mesos.change(|view| view.touch_vm(uuid));
            }
            return;
        };
        vm.intern(&mut self.stores.interner());
        self.stores.contrail.read(|view| {
            if let Some(older) = view.vms.get(&uuid) {
                vm.copy_addresses(older);
            }
        });
        self.containers.read_addresses(&mut vm).await;
        let addresses = vm.interface_addresses();
        let older = self
            .stores
            .contrail
            .change(|view| view.vms.insert(uuid, Box::new(vm)));
        // Services ask which addresses are on virtual networks.
        if older.is_none_or(|older| older.interface_addresses() != addresses) {
            self.stores.mesos.change(|view| view.touch_vm(uuid));
        }
    }
}
