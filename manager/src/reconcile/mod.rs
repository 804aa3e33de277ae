//! Keeps what is in the VNC API as it is to be.
//!
//! ```text
//! follow     Mesos, Marathon and the VNC API into the stores; what changes is put on the queue
//! queue      each container once; what fails again after a pause, with jitter
//! effort     what has been done, counted
//! outlook    what would be written, and when
//! here       what is on the queue is decided anew, on what is known at that moment, and written
//! ```
//!
//! Every event only says where to look, and every so often everything is looked at. Who may not
//! write looks on, and so is at once in the picture when it may.

mod effort;
mod follow;
mod outlook;
mod queue;
pub(crate) mod survey;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::Instant;
use uuid::Uuid;

use super::config::{Config, Default as Defaults, Follow};
use super::containers::Containers;
use super::desired::{self, Difference, Fate, Keep, Known, Policy};
use super::error::ManagerError;
use super::history::{Action, Actor};
use super::stores::Stores;
use super::stores::contrail::{Machine, Orphan};
use crate::vnc::VncClient;
use effort::Counters;
pub(crate) use follow::Sources;
pub use outlook::{Outlook, When};
use queue::Queue;
pub(super) use queue::Waiting;
use survey::Surveys;
use tally::Tally;

pub use effort::Effort;

/// How many containers are looked at before others may go on.
const TURN: usize = 1000;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Machine(Uuid),
    Orphan(Orphan),
}

/// Compares and corrects.
#[derive(Debug)]
pub struct Reconciler {
    stores: Stores,
    containers: Arc<Containers>,
    client: VncClient,
    defaults: Defaults,
    settings: watch::Sender<Settings>,
    /// What is followed in place of what [`Reconciler::run`] was given.
    sources: watch::Sender<Option<Sources>>,
    workers: usize,
    queue: Queue<Key>,
    tally: Tally,
    surveys: Surveys,
    follows_marathon: bool,
    /// Everything is to be looked at.
    all: Notify,
    may_write: watch::Receiver<bool>,
    counters: Counters,
}

/// How what is in the VNC API is kept true, as far as it can change.
#[derive(Clone, Debug)]
struct Settings {
    policy: Policy,
    resync: Duration,
    page: u32,
}

impl Settings {
    fn of(follow: &Follow) -> Self {
        Self {
            policy: follow.policy.clone(),
            resync: follow.resync,
            page: follow.page_size,
        }
    }
}

/// What a container, or something that belongs to nothing, would be changed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its uuid: that of its virtual-machine.
    pub uuid: Uuid,
    /// What would be written.
    pub differences: Vec<Difference>,
    /// What is wrong with its labels, which are passed over.
    pub problems: Vec<String>,
}

impl Reconciler {
    /// A reconciler that knows nothing yet. It writes only while `may_write` says so.
    #[must_use]
    pub fn new(
        containers: Arc<Containers>,
        client: VncClient,
        config: &Config,
        follow: &Follow,
        may_write: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            stores: Stores::default(),
            containers,
            client,
            defaults: config.defaults.clone(),
            settings: watch::Sender::new(Settings::of(follow)),
            sources: watch::Sender::new(None),
            workers: follow.concurrency,
            queue: Queue::new(),
            tally: Tally::default(),
            surveys: Surveys::default(),
            follows_marathon: follow.marathon.is_some(),
            all: Notify::new(),
            may_write,
            counters: Counters::default(),
        })
    }

    /// How many containers wait to be looked at, or are being corrected.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What has been done so far.
    #[must_use]
    pub fn effort(&self) -> Effort {
        self.counters.effort(self.stores.copied())
    }

    /// Looks at everything, and works on it until nothing is due any more.
    #[cfg(test)]
    pub(crate) async fn settle(&self) {
        self.look_at_all().await;
        while let Some(key) = self.queue.try_next() {
            self.handle(key).await;
        }
    }

    /// What the sources say.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    /// Takes over new settings, and follows these from now on.
    pub(crate) fn reload(&self, follow: &Follow, sources: Sources) {
        self.settings.send_replace(Settings::of(follow));
        self.sources.send_replace(Some(sources));
        self.all.notify_one();
    }

    fn known<R>(&self, look: impl FnOnce(&Known<'_>) -> R) -> R {
        let policy = self.settings().policy;
        self.stores.mesos.read(|mesos| {
            self.stores.marathon.read(|marathon| {
                self.stores.contrail.read(|contrail| {
                    look(&Known {
                        mesos,
                        marathon,
                        contrail,
                        defaults: &self.defaults,
                        policy: &policy,
                        now: Instant::now(),
                    })
                })
            })
        })
    }

    /// What was done.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Everything that would be written on what is known now.
    #[must_use]
    pub fn differences(&self) -> Vec<Planned> {
        let mesos = self.stores.mesos.snapshot();
        let marathon = self.stores.marathon.snapshot();
        let contrail = self.stores.contrail.snapshot();
        let policy = self.settings().policy;
        let known = Known {
            mesos: &mesos,
            marathon: &marathon,
            contrail: &contrail,
            defaults: &self.defaults,
            policy: &policy,
            now: Instant::now(),
        };
        let machines = contrail.machines.iter().filter_map(|(uuid, machine)| {
            let fate = desired::fate(&known, *uuid, machine, self.containers.put_at(*uuid));
            let (differences, problems) = match fate {
                Fate::Keep(keep) => (desired::differences(&keep, machine), keep.problems),
                Fate::Remove(reason) => (vec![Difference::Remove(reason)], vec![]),
                Fate::Unknown(_) => return None,
            };
            (!differences.is_empty()).then_some(Planned {
                uuid: *uuid,
                differences,
                problems,
            })
        });
        let orphans = desired::orphans(&known).into_iter().map(|orphan| Planned {
            uuid: orphan.uuid(),
            differences: vec![Difference::Orphan(orphan.to_string())],
            problems: vec![],
        });
        machines.chain(orphans).collect()
    }

    /// Puts everything that is not as it is to be on the queue. Events are taken in meanwhile: what
    /// they change is looked at on their word.
    async fn look_at_all(&self) {
        let began = Instant::now();
        let lists = self.counters.begin();
        let machines: Vec<Uuid> = self
            .stores
            .contrail
            .read(|contrail| contrail.machines.keys().copied().collect());
        for turn in machines.chunks(TURN) {
            self.known(|known| {
                let wrong = turn.iter().filter(|uuid| self.is_wrong(known, **uuid));
                wrong.for_each(|uuid| self.queue.push(Key::Machine(*uuid)));
            });
            self.counters.decided(turn.len());
            yield_now().await;
        }
        for orphan in self.known(desired::orphans) {
            self.queue.push(Key::Orphan(orphan));
        }
        self.counters.looked(lists);
        self.tally.comparison.observe(began.elapsed().as_secs_f64());
    }

    /// Whether something of a container would be written.
    fn is_wrong(&self, known: &Known<'_>, uuid: Uuid) -> bool {
        let Some(machine) = known.contrail.machines.get(&uuid) else {
            return false;
        };
        match desired::fate(known, uuid, machine, self.containers.put_at(uuid)) {
            Fate::Keep(keep) => !desired::differences(&keep, machine).is_empty(),
            Fate::Remove(_) => true,
            Fate::Unknown(_) => false,
        }
    }

    /// Works on the queue, one thing after another.
    pub(crate) async fn work(&self) {
        let mut may_write = self.may_write.clone();
        loop {
            if may_write.wait_for(|may| *may).await.is_err() {
                return;
            }
            let key = self.queue.next().await;
            // Much may have happened while nothing was to do.
            if *self.may_write.borrow() {
                self.handle(key).await;
            } else {
                self.queue.done(key, None);
            }
        }
    }

    async fn handle(&self, key: Key) {
        let began = Instant::now();
        let since = self.queue.since(key).unwrap_or(began);
        let (machine, kind) = match key {
            Key::Machine(uuid) => (uuid, "container"),
            Key::Orphan(orphan) => (orphan.uuid(), "orphan"),
        };
        let names = || {
            self.stores.contrail.read(|view| {
                let machine = view.machines.get(&machine)?;
                Some((machine.names.clone(), machine.agent.clone()))
            })
        };
        let before = names();
        let handled = match key {
            Key::Machine(uuid) => self.machine(uuid).await,
            Key::Orphan(orphan) => self.orphan(orphan).await,
        };
        let failed = handled.as_ref().err().map(ToString::to_string);
        let pause = self.queue.done(key, failed.as_deref());
        let elapsed = began.elapsed();
        // Named as it is now, or as it was before it was removed.
        let (names, agent) = names().or(before).unwrap_or_default();
        let app = names.application.as_deref().unwrap_or("");
        let task = names.task.as_deref().unwrap_or("");
        match &handled {
            Ok(None) => {
                self.tally.outcome("unchanged");
                log::debug!(machine:%, app, task, agent:%, elapsed:?; "{kind}: nothing to do");
            }
            Ok(Some((outcome, what))) => {
                self.tally.outcome(outcome.name(key));
                self.tally.lag.observe(since.elapsed().as_secs_f64());
                log::info!(machine:%, app, task, agent:%, elapsed:?; "{kind}: {what}");
                self.note(machine, key, elapsed, outcome.action(), what);
            }
            Err(error) => {
                self.tally.outcome("failed");
                log::warn!(machine:%, app, task, agent:%, elapsed:?, again_in:? = pause, error:%; "{kind}: cannot be put right");
                self.note(
                    machine,
                    key,
                    elapsed,
                    Action::Failed,
                    &format!("cannot be put right: {error}"),
                );
            }
        }
    }

    fn note(&self, machine: Uuid, key: Key, took: Duration, action: Action, details: &str) {
        if matches!(key, Key::Machine(_)) {
            let history = self.containers.history();
            history.record(machine, None, Actor::Reconciler, took, (action, details));
        }
    }

    /// Decides on a container and does it; says what was done.
    async fn machine(&self, uuid: Uuid) -> Result<Option<Done>, ManagerError> {
        let cached = |known: &Known<'_>| known.contrail.machines.contains_key(&uuid);
        if !self.known(cached) {
            // An agent has asked for it since everything was read.
            if self.containers.put_at(uuid).is_none() {
                return Ok(None);
            }
            let Some(machine) = self.containers.look(uuid, Instant::now()).await? else {
                return Ok(None);
            };
            self.cache(uuid, Some(machine)).await;
        }
        match self.decide(uuid) {
            None => Ok(None),
            Some((_, Fate::Unknown(doubt))) => {
                log::debug!(machine:% = uuid, doubt:?; "container: in doubt, nothing is done");
                Ok(None)
            }
            Some((machine, Fate::Keep(keep))) => self.keep(uuid, &machine, &keep).await,
            Some((_, Fate::Remove(reason))) => {
                let still = || matches!(self.decide(uuid), Some((_, Fate::Remove(_))));
                let removed = self
                    .containers
                    .fence()
                    .hold(self.containers.remove_if(uuid, still))
                    .await?;
                if still() {
                    self.cache(uuid, None).await;
                }
                Ok(removed.then(|| (Outcome::Removed, format!("removed, because {reason}"))))
            }
        }
    }

    async fn keep(
        &self,
        uuid: Uuid,
        machine: &Machine,
        keep: &Keep,
    ) -> Result<Option<Done>, ManagerError> {
        let differences = desired::differences(keep, machine);
        if !keep.problems.is_empty() {
            let problems = keep.problems.join("; ");
            let names = &keep.names;
            let app = names.application.as_deref().unwrap_or("");
            let task = names.task.as_deref().unwrap_or("");
            log::warn!(machine:% = uuid, app, task, agent:% = machine.agent, problems; "container: labels that make no sense are passed over");
        }
        if differences.is_empty() {
            return Ok(None);
        }
        let now = self
            .containers
            .fence()
            .hold(self.containers.keep(uuid, keep, machine.seen))
            .await;
        match now {
            Ok(now) => self.cache(uuid, now).await,
            Err(error) => {
                if error.is_missing() {
                    self.containers.forget_names();
                }
                return Err(error);
            }
        }
        let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
        Ok(Some((Outcome::Kept, differences.join(", "))))
    }

    async fn orphan(&self, orphan: Orphan) -> Result<Option<Done>, ManagerError> {
        let removed = self
            .containers
            .fence()
            .hold(self.containers.remove_orphan(orphan))
            .await?;
        self.stores
            .contrail
            .change(|view| view.orphans.remove(&orphan));
        let what = || format!("removed the {orphan}, which belonged to nothing");
        Ok(removed.then(|| (Outcome::Removed, what())))
    }

    fn decide(&self, uuid: Uuid) -> Option<(Box<Machine>, Fate)> {
        let put = self.containers.put_at(uuid);
        self.counters.decided(1);
        self.known(|known| {
            let machine = known.contrail.machines.get(&uuid)?;
            Some((machine.clone(), desired::fate(known, uuid, machine, put)))
        })
    }

    async fn cache(&self, uuid: Uuid, machine: Option<Machine>) {
        let Some(mut machine) = machine else {
            self.stores
                .contrail
                .change(|view| view.machines.remove(&uuid));
            return;
        };
        machine.share(&mut self.stores.texts());
        self.stores.contrail.read(|view| {
            if let Some(before) = view.machines.get(&uuid) {
                machine.recall(before);
            }
        });
        self.containers.look_up_addresses(&mut machine).await;
        self.stores
            .contrail
            .change(|view| view.machines.insert(uuid, Box::new(machine)));
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Kept,
    Removed,
}

/// What was written, and the same for people.
type Done = (Outcome, String);

impl Outcome {
    /// As it is counted.
    fn name(self, key: Key) -> &'static str {
        match (self, key) {
            (Self::Kept, _) => "kept",
            (Self::Removed, Key::Machine(_)) => "removed",
            (Self::Removed, Key::Orphan(_)) => "orphan_removed",
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Kept => Action::Updated,
            Self::Removed => Action::Deleted,
        }
    }
}
