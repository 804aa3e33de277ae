//! Following the sources into the stores.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::effort::Source;
use super::{Key, Reconciler};
use crate::config::Follow;
use crate::marathon::{self, MarathonClient, RunSpecId};
use crate::mesos_master::{self, MasterClient};
use crate::stores::mesos;
use crate::stores::read::Reading;
use contrail_mesos_api::http::{CallError, TlsError};

/// How long keys of Marathon are gathered, so that an app of which many tasks change is asked for
/// once.
const GATHER: Duration = Duration::from_secs(1);
/// How long to wait before what could not be read is read again.
const AGAIN: Duration = Duration::from_secs(5);
/// The least time between two looks at everything.
const BREATH: Duration = Duration::from_secs(1);

/// What Marathon has touched, and when first; none where it is not known what.
type Touched = HashMap<Option<RunSpecId>, Instant>;

/// A source that was lost is asked again at least as often as one that answers.
fn no_longer((shortest, longest): (Duration, Duration), resync: Duration) -> (Duration, Duration) {
    (shortest.min(resync), longest.min(resync))
}

/// What is followed.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    mesos: MasterClient,
    marathon: Option<MarathonClient>,
}

impl Sources {
    /// As configured. Reads certificate files: blocks on the file system.
    pub(crate) fn of(follow: &Follow) -> Result<Self, TlsError> {
        let marathon = follow.marathon.clone().map(MarathonClient::new);
        Ok(Self {
            mesos: MasterClient::new(follow.mesos.clone())?,
            marathon: marathon.transpose()?,
        })
    }
}

impl Reconciler {
    /// Follows and corrects, as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, sources: Sources) {
        let workers = join_all((0..self.workers).map(|_| self.work()));
        tokio::join!(
            self.follow(sources),
            self.read_contrail(),
            self.look_again(),
            workers,
        );
    }

    /// Follows these sources, and others in their place when there are others.
    async fn follow(&self, mut sources: Sources) {
        let mut others = self.sources.subscribe();
        loop {
            if let Some(newer) = others.borrow_and_update().clone() {
                sources = newer;
            }
            let Sources { mesos, marathon } = sources.clone();
            let marathon = async {
                if let Some(marathon) = marathon {
                    self.follow_marathon(marathon).await;
                }
            };
            let follow = async { tokio::join!(self.follow_mesos(mesos), marathon) };
            tokio::select! {
                _ = follow => {}
                // It cannot fail: the other end is here.
                _ = others.changed() => {}
            }
            // Nothing is believed of the new ones because the old ones have said so.
            let why = "the configuration was read again";
            let now = Instant::now();
            self.stores.mesos.change(|view| view.lost(now, why));
            self.stores.marathon.change(|view| view.lost(now, why));
        }
    }

    async fn look_again(&self) {
        loop {
            // An error is that nobody has asked.
            let _ = timeout(self.settings().resync, self.all.notified()).await;
            self.look_at_all().await;
            sleep(BREATH).await;
        }
    }

    async fn follow_mesos(&self, client: MasterClient) {
        let options = mesos_master::FollowOptions::default();
        let resync = self.settings().resync;
        let options = mesos_master::FollowOptions {
            resync_interval: resync.min(options.resync_interval),
            backoff: no_longer(options.backoff, resync),
            ..options
        };
        let mut follower = mesos_master::Follower::start(client, options);
        loop {
            let update = follower.next().await;
            self.take_mesos(update);
        }
    }

    /// Takes over what Mesos says.
    pub(crate) fn take_mesos(&self, update: mesos_master::Update) {
        let now = Instant::now();
        match update {
            mesos_master::Update::Lost(error) => {
                self.tally.update("mesos", "loss");
                let why = error.to_string();
                self.stores.mesos.change(|view| view.lost(now, &why));
            }
            mesos_master::Update::Snapshot(state) => {
                self.tally.update("mesos", "list");
                let policy = self.settings().policy;
                let state = mesos::share(*state, &mut self.stores.texts());
                self.stores.mesos.change(|view| {
                    view.listed(state, now, policy.settle);
                    if let Some(before) = now.checked_sub(policy.young) {
                        view.forget_vanished(before);
                    }
                });
                self.stores.texts().tidy();
                self.counters.listed(Source::Mesos);
                self.all.notify_one();
            }
            mesos_master::Update::Changed(change) => {
                self.tally.update("mesos", "event");
                let touched = self.stores.mesos.change(|view| view.apply(change, now));
                self.touch(touched);
                self.counters.changed();
            }
        }
    }

    /// Puts on the queue what may be a container of ours: most tasks have no network.
    fn touch(&self, machines: Vec<Uuid>) {
        if machines.is_empty() {
            return;
        }
        self.stores.contrail.read(|contrail| {
            for machine in machines {
                if contrail.machines.contains_key(&machine)
                    || self.containers.put_at(machine).is_some()
                {
                    self.queue.push(Key::Machine(machine));
                }
            }
        });
    }

    async fn follow_marathon(&self, client: MarathonClient) {
        let options = marathon::FollowOptions::default();
        let resync = self.settings().resync;
        let options = marathon::FollowOptions {
            resync_interval: resync.min(options.resync_interval),
            lossy_resync_interval: resync.min(options.lossy_resync_interval),
            min_list_interval: resync.min(options.min_list_interval),
            backoff: no_longer(options.backoff, resync),
            ..options
        };
        let mut follower = marathon::Follower::start(client.clone(), options);
        let mut keys = Touched::new();
        let mut due = Instant::now();
        loop {
            let update = tokio::select! {
                update = follower.next() => update,
                () = sleep_until(due), if !keys.is_empty() => {
                    keys = self.reread(&client, std::mem::take(&mut keys)).await;
                    due = Instant::now() + AGAIN;
                    continue;
                }
            };
            match update {
                marathon::Update::Changed(key) => {
                    self.tally.update("marathon", "event");
                    if keys.is_empty() {
                        due = Instant::now() + GATHER;
                    }
                    keys.entry(key.run_spec().cloned())
                        .or_insert_with(Instant::now);
                }
                marathon::Update::Snapshot(_) => {
                    keys.clear();
                    self.take_marathon(update);
                }
                marathon::Update::Lost(_) => self.take_marathon(update),
            }
        }
    }

    /// Takes over what Marathon says of everything.
    pub(crate) fn take_marathon(&self, update: marathon::Update) {
        let now = Instant::now();
        match update {
            marathon::Update::Lost(error) => {
                self.tally.update("marathon", "loss");
                let why = error.to_string();
                self.stores.marathon.change(|view| view.lost(now, &why));
            }
            marathon::Update::Snapshot(listing) => {
                self.tally.update("marathon", "list");
                let settle = self.settings().policy.settle;
                self.stores.marathon.change(|view| {
                    view.listed(*listing, now, settle);
                    view.share(&mut self.stores.texts());
                });
                self.stores.texts().tidy();
                self.counters.listed(Source::Marathon);
                self.all.notify_one();
            }
            marathon::Update::Changed(_) => {}
        }
    }

    /// Reads apps and pods again, and all where it is not known which; says which it could not.
    async fn reread(&self, client: &MarathonClient, keys: Touched) -> Touched {
        let mut failed = Touched::new();
        if let Some(since) = keys.get(&None) {
            match client.list().await {
                Ok(listing) => {
                    self.take_marathon(marathon::Update::Snapshot(Box::new(listing)));
                    return failed;
                }
                Err(error) => log::warn!(error:%; "Marathon's pods cannot be read again yet"),
            }
            failed.insert(None, *since);
        }
        let mut changed = HashMap::new();
        for (id, since) in keys {
            let Some(id) = id else { continue };
            match self.reread_one(client, &id).await {
                Ok(true) => {
                    changed.insert(id, since);
                }
                Ok(false) => {}
                Err(error) => {
                    log::warn!(app:% = id, error:%; "it cannot be read again yet");
                    failed.insert(Some(id), since);
                }
            }
        }
        self.touch_applications(&changed);
        failed
    }

    async fn reread_one(&self, client: &MarathonClient, id: &RunSpecId) -> Result<bool, CallError> {
        let store = &self.stores.marathon;
        if let Some(app) = client.app(id).await? {
            return Ok(store.change(|view| view.app(id, Some(app))));
        }
        let pod = client.pod(id).await?;
        Ok(store.change(|view| view.pod(id, pod)))
    }

    /// Looks at the containers of apps whose networks have other labels now; since when each has.
    fn touch_applications(&self, changed: &HashMap<RunSpecId, Instant>) {
        if changed.is_empty() {
            return;
        }
        let changed: HashMap<&str, Instant> = changed
            .iter()
            .map(|(id, since)| (id.as_str(), *since))
            .collect();
        self.stores.contrail.read(|contrail| {
            for (uuid, machine) in &contrail.machines {
                let application = machine.names.application.as_deref();
                if let Some(since) = application.and_then(|one| changed.get(one)) {
                    self.queue.push_since(Key::Machine(*uuid), *since);
                }
            }
        });
    }

    async fn read_contrail(&self) {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(30))
            .with_jitter()
            .without_max_times();
        let mut changed = self.settings.subscribe();
        loop {
            let began = Instant::now();
            let mut reading = Reading::new(&self.defaults, self.settings().page);
            let mut pauses = backoff.build();
            while let Err(error) = reading.go_on(&self.client).await {
                self.tally.update("contrail", "loss");
                log::warn!(error:%; "the VNC API cannot be read; going on later");
                let now = Instant::now();
                let why = error.to_string();
                self.stores
                    .contrail
                    .change(|view| view.source.lost(now, &why));
                sleep(pauses.next().unwrap_or_default()).await;
            }
            self.take_contrail(reading);
            self.tally.update("contrail", "list");
            self.tally.reading.observe(began.elapsed().as_secs_f64());
            self.look_up_networks().await;
            // An error is that the time is over.
            let _ = timeout(self.settings().resync, changed.changed()).await;
        }
    }

    /// Takes over what was read of the VNC API.
    pub(crate) fn take_contrail(&self, reading: Reading) {
        self.stores.contrail.replace(|old| {
            let mut new = reading.finish(old, Instant::now());
            let mut texts = self.stores.texts();
            new.machines
                .values_mut()
                .for_each(|machine| machine.share(&mut texts));
            new
        });
        self.stores.texts().tidy();
        self.counters.listed(Source::Contrail);
        self.all.notify_one();
    }
}
