//! Keeps what is in the VNC API as it is to be.
//!
//! ```text
//! follow     Mesos, Marathon and the VNC API into the stores; what changes is put on the queue
//! queue      each container once; what fails again after a pause, with jitter
//! outlook    what would be written, and when
//! here       what is on the queue is decided anew, on what is known at that moment, and written
//! ```
//!
//! Every event only says where to look, and every so often everything is looked at. Who may not
//! write looks on, and so is at once in the picture when it may.

mod follow;
mod outlook;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::config::{Config, Default as Defaults, Follow};
use super::containers::Containers;
use super::desired::{self, Difference, Fate, Keep, Known, Policy};
use super::error::ManagerError;
use super::stores::Stores;
use super::stores::contrail::{Machine, Orphan};
use crate::vnc::VncClient;
pub(in crate::manager) use follow::Sources;
pub use outlook::{Outlook, When};
use queue::Queue;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
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
    /// Everything is to be looked at.
    all: Notify,
    may_write: watch::Receiver<bool>,
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
            page: follow.page,
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
            all: Notify::new(),
            may_write,
        })
    }

    /// How many containers wait to be looked at, or are being corrected.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Looks at everything, and works on it until nothing is due any more.
    #[cfg(test)]
    pub(in crate::manager) async fn settle(&self) {
        self.look_at_all();
        while let Some(key) = self.queue.try_next() {
            self.handle(key).await;
        }
    }

    /// The stores, to be filled with what the test says.
    #[cfg(test)]
    pub(in crate::manager) fn stores(&self) -> &Stores {
        &self.stores
    }

    fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    /// Takes over new settings, and follows these from now on.
    pub(in crate::manager) fn reload(&self, follow: &Follow, sources: Sources) {
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

    /// Puts everything that is not as it is to be on the queue.
    fn look_at_all(&self) {
        for planned in self.differences() {
            match planned.differences.first() {
                Some(Difference::Orphan(_)) => {}
                _ => self.queue.push(Key::Machine(planned.uuid)),
            }
        }
        for orphan in self.known(desired::orphans) {
            self.queue.push(Key::Orphan(orphan));
        }
    }

    /// Works on the queue, one thing after another.
    pub(in crate::manager) async fn work(&self) {
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
                self.queue.done(key, false);
            }
        }
    }

    async fn handle(&self, key: Key) {
        let began = Instant::now();
        let handled = match key {
            Key::Machine(uuid) => self.machine(uuid).await,
            Key::Orphan(orphan) => self.orphan(orphan).await,
        };
        let pause = self.queue.done(key, handled.is_err());
        let elapsed = began.elapsed();
        let (kind, uuid) = match key {
            Key::Machine(uuid) => ("container", uuid),
            Key::Orphan(orphan) => ("leftover", orphan.uuid()),
        };
        match handled {
            Ok(None) => log::debug!(uuid:%, elapsed:?; "{kind}: nothing to do"),
            Ok(Some(what)) => log::info!(uuid:%, elapsed:?; "{kind}: {what}"),
            Err(error) => {
                log::warn!(uuid:%, elapsed:?, again_in:? = pause, error:%; "{kind}: cannot be put right");
            }
        }
    }

    /// Decides on a container and does it; says what was done.
    async fn machine(&self, uuid: Uuid) -> Result<Option<String>, ManagerError> {
        let cached = |known: &Known<'_>| known.contrail.machines.contains_key(&uuid);
        if !self.known(cached) {
            // An agent has asked for it since everything was read.
            if self.containers.put_at(uuid).is_none() {
                return Ok(None);
            }
            let Some(machine) = self.containers.look(uuid, Instant::now()).await? else {
                return Ok(None);
            };
            self.cache(uuid, Some(machine));
        }
        match self.decide(uuid) {
            None => Ok(None),
            Some((_, Fate::Unknown(doubt))) => {
                log::debug!(uuid:%, doubt:?; "container: in doubt, nothing is done");
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
                    self.cache(uuid, None);
                }
                Ok(removed.then(|| format!("removed, because {reason}")))
            }
        }
    }

    async fn keep(
        &self,
        uuid: Uuid,
        machine: &Machine,
        keep: &Keep,
    ) -> Result<Option<String>, ManagerError> {
        let differences = desired::differences(keep, machine);
        if !keep.problems.is_empty() {
            let problems = keep.problems.join("; ");
            log::warn!(uuid:%, problems; "container: labels that make no sense are passed over");
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
            Ok(now) => self.cache(uuid, now),
            Err(error) => {
                if error.is_missing() {
                    self.containers.forget_names();
                }
                return Err(error);
            }
        }
        let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
        Ok(Some(differences.join(", ")))
    }

    async fn orphan(&self, orphan: Orphan) -> Result<Option<String>, ManagerError> {
        let removed = self
            .containers
            .fence()
            .hold(self.containers.remove_orphan(orphan))
            .await?;
        self.stores
            .contrail
            .change(|view| view.orphans.remove(&orphan));
        Ok(removed.then(|| format!("removed the {orphan}, which belonged to nothing")))
    }

    fn decide(&self, uuid: Uuid) -> Option<(Machine, Fate)> {
        let put = self.containers.put_at(uuid);
        self.known(|known| {
            let machine = known.contrail.machines.get(&uuid)?;
            Some((machine.clone(), desired::fate(known, uuid, machine, put)))
        })
    }

    fn cache(&self, uuid: Uuid, machine: Option<Machine>) {
        self.stores.contrail.change(|view| match machine {
            Some(machine) => view.machines.insert(uuid, machine),
            None => view.machines.remove(&uuid),
        });
    }
}
