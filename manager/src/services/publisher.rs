//! Computes, addresses and publishes services, in the terms in which this manager leads.
//!
//! Invariants: changes that come together are computed together, and at most a fifth of a processor is
//! spent on it. All writes run inside the fence. What cannot be computed or written changes nothing that
//! is published.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contrail_mesos_api::backoff::{Backoff, Delays};
use contrail_mesos_api::cluster::{AddressOwner, ServiceSettings};
use contrail_mesos_api::http::TlsError;
use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::address_book::{AddressBook, AddressRequests};
use super::addresses::{RangeUsage, Shortage};
use super::contrail::{ServiceObjectsInput, ServiceObjectsStatus};
use super::follow::{MesosFollow, follow};
use super::metrics::ServiceMetrics;
use super::publication::{Publication, Target};
use super::task::container_addresses;
use super::trust::{AgentTrust, Trust};
use super::{ComputeServices, DesiredServices, OverlayNetworks, ServiceContext};
use crate::config::{Config, Follow, ServicesOptions};
use crate::contrail::Contrail;
use crate::error::ManagerError;
use crate::fence::Fence;
use crate::lead::Readiness;
use crate::mesos_master::{MasterClient, Task};
use crate::overlay::{ObjectChange, Store as AddressStore, StoreError, StoreSubject, open_store};
use crate::reconcile::Reconciler;
use crate::stores::Store;
use crate::stores::mesos::MesosView;

/// How long changes are collected at least.
const MIN_COLLECT: Duration = Duration::from_millis(50);
/// How long they are collected at most.
const MAX_COLLECT: Duration = Duration::from_secs(5);
/// How many times as long as a computation takes changes are collected.
const COLLECT_FACTOR: u32 = 4;
/// The delays after the store of addresses failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// How many sets of changes wait for the hub before the next one is computed.
pub(crate) const QUEUE: usize = 2;

/// The services of a manager with a table `[services]`.
pub(crate) struct Services {
    options: ServicesOptions,
    store: Arc<dyn AddressStore>,
    mesos: Arc<Store<MesosView>>,
    reconciler: Option<Arc<Reconciler>>,
    /// Replaces what is followed; none if the reconciler follows Mesos.
    follow: Option<watch::Sender<MesosFollow>>,
    overlays: watch::Sender<Arc<OverlayNetworks>>,
    compute: ComputeServices,
    /// That of the last term. A term that has ended must not change that of the next one.
    state: Mutex<Arc<Mutex<ServicesState>>>,
    /// What the objects of Contrail follow.
    objects: watch::Sender<ServiceObjectsInput>,
    /// What became of them; none without Contrail.
    contrail: Option<watch::Receiver<ServiceObjectsStatus>>,
    metrics: ServiceMetrics,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Services")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What operators see.
#[derive(Clone, Debug)]
pub(crate) struct ServicesState {
    /// What is published.
    pub publication: Publication,
    /// How much of each range is used.
    pub usage: Vec<RangeUsage>,
    /// Why nothing is withdrawn, or nothing is published yet; none if all is well.
    pub waiting: Option<String>,
    /// Why addresses cannot be read or written.
    pub store_problem: Option<String>,
    /// Which agent has an address of a range, if one has.
    pub range_problem: Option<String>,
}

/// What a round came to.
#[derive(Debug, Default)]
struct Round {
    /// When the next one is due without a change.
    next: Option<Instant>,
    /// Whether the store failed.
    has_failed: bool,
}

impl Services {
    /// Follows Mesos in the background, unless the reconciler does. It publishes nothing until
    /// [`Services::begin`].
    pub(crate) fn start(
        config: &Config,
        contrail: Option<&Contrail>,
        compute: ComputeServices,
        ready: &watch::Receiver<Readiness>,
        background: &mut JoinSet<()>,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let (Some(options), Some(follow)) = (&config.services, &config.follow) else {
            return Ok(None);
        };
        let store = open_store(
            config.zookeeper.as_ref(),
            &options.state_file,
            StoreSubject::SERVICES,
        );
        let reconciler = contrail.and_then(|contrail| contrail.reconciler.clone());
        let (mesos, follow) = if let Some(reconciler) = &reconciler {
            (reconciler.stores().mesos.clone(), None)
        } else {
            let client = MasterClient::new(follow.mesos.clone())?;
            let mesos = Arc::<Store<MesosView>>::default();
            let sender = watch::Sender::new(MesosFollow::new(client, follow));
            background.spawn(follow_once_ready(
                mesos.clone(),
                sender.subscribe(),
                ready.clone(),
            ));
            (mesos, Some(sender))
        };
        let objects = watch::Sender::default();
        let contrail = contrail.zip(options.contrail.clone());
        let contrail = contrail.map(|(contrail, options)| {
            let input = objects.subscribe();
            super::contrail::spawn(contrail, config, options, input, ready.clone(), background)
        });
        let overlays = config.overlay.as_ref();
        let overlays = overlays.map(|options| OverlayNetworks::of(&options.networks));
        Ok(Some(Arc::new(Self {
            follow,
            reconciler,
            objects,
            contrail,
            overlays: watch::Sender::new(Arc::new(overlays.unwrap_or_default())),
            ..Self::with(options.clone(), store, mesos, compute)
        })))
    }

    /// Services of the tasks in a store.
    pub(super) fn with(
        options: ServicesOptions,
        store: Arc<dyn AddressStore>,
        mesos: Arc<Store<MesosView>>,
        compute: ComputeServices,
    ) -> Self {
        let state = ServicesState::new(&options);
        Self {
            options,
            store,
            mesos,
            reconciler: None,
            follow: None,
            overlays: watch::Sender::default(),
            compute,
            state: Mutex::new(Arc::new(Mutex::new(state))),
            objects: watch::Sender::default(),
            contrail: None,
            metrics: ServiceMetrics::default(),
        }
    }

    /// The containers of tasks that have an address on a network other than that of their host.
    pub(crate) fn containers_with(&self, address: IpAddr) -> Vec<AddressOwner> {
        let view = self.mesos.snapshot();
        let owns = |task: &&Task| {
            !task.status.state.is_ended()
                && container_addresses(task).any(|own| own == address.to_canonical())
        };
        let owner = |task: &Task| {
            let agent = task.agent.as_deref().and_then(|id| view.agent(id));
            let mut networks = task.status.networks.iter();
            let network = networks.find(|network| network.addresses.contains(&address));
            AddressOwner {
                node: agent.map(|agent| agent.host.to_string()),
                container: task.status.container.as_deref().map(str::to_owned),
                task: Some(task.key.task.to_string()),
                framework: Some(task.key.framework.to_string()),
                network: network.and_then(|network| Some(network.name.as_deref()?.to_owned())),
            }
        };
        view.tasks().filter(owns).map(owner).collect()
    }

    /// What is published when a term begins.
    pub(crate) fn settings(&self) -> ServiceSettings {
        self.options.settings()
    }

    /// Follows Mesos as another configuration says, where nothing else does.
    pub(crate) fn reload(&self, follow: &Follow, client: MasterClient) {
        if let Some(sender) = &self.follow {
            sender.send_replace(MesosFollow::new(client, follow));
        }
    }

    /// The overlays have changed.
    pub(crate) fn set_overlays(&self, overlays: OverlayNetworks) {
        self.overlays.send_replace(Arc::new(overlays));
    }

    /// The metrics.
    pub(crate) fn metrics(&self) -> &ServiceMetrics {
        &self.metrics
    }

    /// Reads what operators see.
    pub(crate) fn read_state<T>(&self, read: impl FnOnce(&ServicesState) -> T) -> T {
        let state = lock(&self.state).clone();
        read(&lock(&state))
    }

    /// The same with a reconciler, which has the store.
    #[cfg(test)]
    pub(super) fn reconciled(self, reconciler: Arc<Reconciler>) -> Self {
        Self {
            mesos: reconciler.stores().mesos.clone(),
            reconciler: Some(reconciler),
            ..self
        }
    }

    /// What the objects of Contrail follow.
    #[cfg(test)]
    pub(super) fn objects(&self) -> watch::Receiver<ServiceObjectsInput> {
        self.objects.subscribe()
    }

    /// What became of the services on Contrail, if there are any.
    pub(crate) fn contrail_status(&self) -> Option<ServiceObjectsStatus> {
        Some(self.contrail.as_ref()?.borrow().clone())
    }

    /// Begins to publish in a term, until the handle is dropped.
    pub(crate) fn begin(
        self: &Arc<Self>,
        fence: Fence,
        changes: mpsc::Sender<Vec<ObjectChange>>,
    ) -> AbortOnDropHandle<()> {
        let state = Arc::new(Mutex::new(ServicesState::new(&self.options)));
        {
            let mut current = lock(&self.state);
            *current = state.clone();
            // What was published in an earlier term may be gone. What is not published yet in this one may
            // be there nevertheless: nothing is taken away.
            self.objects.send_replace(ServiceObjectsInput::default());
        }
        let term = Term {
            state,
            book: AddressBook::new(self.store.clone(), &self.options.ranges),
            trust: AgentTrust::default(),
            shortages: BTreeMap::new(),
            services: self.clone(),
            fence,
            changes,
        };
        AbortOnDropHandle::new(tokio::spawn(term.run()))
    }

    /// What the tasks ask for, and how far what is missing is gone. Blocks.
    fn read(&self, trust: &mut AgentTrust) -> Reading {
        let overlays = self.overlays.borrow().clone();
        self.mesos.read(|view| {
            let now = Instant::now();
            let (trusted, next) = trust.observe(view, now);
            // Which networks are virtual is not known before.
            let lacks_contrail = self.reconciler.as_ref().is_some_and(|reconciler| {
                let contrail = &reconciler.stores().contrail;
                contrail.read(|view| view.source.last_listed().is_none())
            });
            let trusted = if lacks_contrail {
                Trust::Lost
            } else {
                trusted
            };
            let waiting = match &trusted {
                trusted if trusted.is_full() => None,
                Trust::Lost if lacks_contrail && view.source.is_fresh() => Some(
                    "the VNC API has not listed anything yet, so it is not known which networks are virtual"
                        .to_owned(),
                ),
                Trust::Except(_) => Some(format!(
                    "agents that have not registered with the leading master again, or have just come back: {}",
                    trust.awaited(now)
                )),
                Trust::Additions if view.has_undefined_tasks() => Some(
                    "what the tasks of agents that came back declare is not known yet".to_owned(),
                ),
                Trust::Additions if view.source.trusted_since().is_some() => Some(format!(
                    "agents that have not registered with the leading master again, one of them with an \
                     unknown address: {}",
                    trust.awaited(now)
                )),
                Trust::Lost | Trust::Additions => Some(format!(
                    "Mesos is not trusted: {}",
                    view.source.problem(now)
                )),
            };
            let desired = (trusted != Trust::Lost).then(|| {
                let context = ServiceContext {
                    options: &self.options,
                    overlays: &overlays,
                    is_full: trusted.is_full(),
                    reconciler: self.reconciler.as_ref(),
                };
                (self.compute)(view, &context)
            });
            Reading {
                desired: desired.unwrap_or_default(),
                trust: trusted,
                waiting,
                next,
                range_problem: agent_in_ranges(view, &self.options.ranges),
            }
        })
    }
}

impl ServicesState {
    fn new(options: &ServicesOptions) -> Self {
        Self {
            publication: Publication::new(&options.ranges, options.grace),
            usage: vec![],
            waiting: Some("the manager has just begun to lead".to_owned()),
            store_problem: None,
            range_problem: None,
        }
    }
}

/// Names an agent with an address of a range: hosts refuse traffic to addresses there that no service has.
fn agent_in_ranges(view: &MesosView, ranges: &[IpNet]) -> Option<String> {
    let agents = view.agents().filter_map(|agent| {
        let address = agent.address?.to_canonical();
        let range = ranges.iter().find(|range| range.contains(&address))?;
        Some((address, *range, &agent.host))
    });
    let mut agents: Vec<_> = agents.collect();
    agents.sort_unstable();
    let (address, range, host) = agents.first()?;
    Some(format!(
        "agents have addresses of the range {range}, such as {} with {address} ({} in all)",
        Quoted(host.as_bytes()),
        agents.len()
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each field is right alone.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A standby does not follow Mesos.
async fn follow_once_ready(
    mesos: Arc<Store<MesosView>>,
    source: watch::Receiver<MesosFollow>,
    mut ready: watch::Receiver<Readiness>,
) {
    let is_ready = |ready: &Readiness| ready.unready.is_none();
    if ready.wait_for(is_ready).await.is_ok() {
        follow(mesos, source).await;
    }
}

/// What the tasks ask for at one moment.
#[derive(Debug)]
struct Reading {
    desired: DesiredServices,
    trust: Trust,
    /// Why not everything that is missing is gone.
    waiting: Option<String>,
    /// When the trust may change without an event.
    next: Option<Instant>,
    /// Which agent has an address of a range, if one has.
    range_problem: Option<String>,
}

/// What there is in a term.
struct Term {
    services: Arc<Services>,
    state: Arc<Mutex<ServicesState>>,
    fence: Fence,
    changes: mpsc::Sender<Vec<ObjectChange>>,
    book: AddressBook,
    trust: AgentTrust,
    /// What names could not be given at the last attempt.
    shortages: BTreeMap<String, Vec<Shortage>>,
}

impl Term {
    /// Publishes until nobody reads the changes.
    async fn run(mut self) {
        let services = self.services.clone();
        let mut mesos = services.mesos.subscribe();
        let mut overlays = services.overlays.subscribe();
        let mut retries = RETRY.delays();
        loop {
            mesos.mark_unchanged();
            overlays.mark_unchanged();
            let began = Instant::now();
            let Some(round) = self.round().await else {
                return;
            };
            let cost = began.elapsed();
            let due = due(&round, &mut retries);
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Both senders are in the services.
                _ = mesos.changed() => {}
                _ = overlays.changed() => {}
                () = due => {}
            }
            sleep((cost * COLLECT_FACTOR).clamp(MIN_COLLECT, MAX_COLLECT)).await;
        }
    }

    /// Computes and publishes once. None if nobody reads the changes.
    async fn round(&mut self) -> Option<Round> {
        let services = self.services.clone();
        // A copy: after a computation that panicked, the agents are still known.
        let mut trust = self.trust.clone();
        let read = tokio::task::spawn_blocking(move || {
            let reading = services.read(&mut trust);
            (reading, trust)
        });
        let reading = match read.await {
            Ok((reading, trust)) => {
                self.trust = trust;
                reading
            }
            Err(error) => {
                log::error!(error:%; "internal error in the computation of services; they stay as they are");
                lock(&self.state).waiting =
                    Some("internal error in the manager; see its log".to_owned());
                return Some(Round {
                    has_failed: true,
                    ..Round::default()
                });
            }
        };
        let now = Instant::now();
        let mut round = Round {
            next: reading.next,
            has_failed: false,
        };
        let target = {
            let mut state = lock(&self.state);
            if state.waiting != reading.waiting {
                state.waiting.clone_from(&reading.waiting);
            }
            state.range_problem = reading.range_problem;
            state.publication.target(reading.desired, &reading.trust)
        };
        let Some(mut target) = target else {
            return Some(round);
        };
        if !self.book.is_loaded() {
            let work = async { Ok::<_, ManagerError>(self.book.load().await?) };
            if let Err(error) = self.fence.run_in_term(work).await {
                self.fail(&error, &mut round);
                return Some(round);
            }
        }
        let requests = {
            let mut state = lock(&self.state);
            state.publication.limit(&mut target, self.book.pool());
            let (requests, next) =
                state
                    .publication
                    .address_requests(&target, self.book.pool(), &reading.trust, now);
            round.next = [round.next, next].into_iter().flatten().min();
            requests
        };
        self.change_addresses(&requests, &mut round).await;
        if !self.book.is_loaded() {
            // It is not known what names have.
            return Some(round);
        }
        self.publish(target).await.then_some(round)
    }

    async fn change_addresses(&mut self, requests: &AddressRequests, round: &mut Round) {
        if requests.is_empty() {
            self.shortages.clear();
        } else {
            let work = async { Ok::<_, ManagerError>(self.book.change(requests).await?) };
            match self.fence.run_in_term(work).await {
                Ok(shortages) => self.shortages = shortages,
                Err(error) => return self.fail(&error, round),
            }
        }
        lock(&self.state).store_problem = None;
    }

    fn fail(&self, error: &ManagerError, round: &mut Round) {
        round.has_failed = true;
        let mut state = lock(&self.state);
        let problem = Some(error.to_string());
        if state.store_problem != problem {
            log::error!(error:%; "cannot read or write the addresses of services; retrying");
            state.store_problem = problem;
        }
    }

    /// Publishes a target. Returns whether anybody reads the changes.
    async fn publish(&mut self, target: Target) -> bool {
        let changes = {
            let mut state = lock(&self.state);
            let was_complete = state.publication.is_complete();
            let changes = state
                .publication
                .publish(target, self.book.pool(), &self.shortages);
            state.usage = self.book.usage();
            if !was_complete {
                let counts = state.publication.counts();
                let (services, task_names) = (counts.services, counts.task_names);
                log::info!(services, task_names; "all services are published");
            }
            changes
        };
        if changes.is_empty() {
            return true;
        }
        self.services.metrics.count_changes(&changes);
        self.services.publish_objects(&self.state);
        self.changes.send(changes).await.is_ok()
    }
}

impl Services {
    /// Publishes what the objects of Contrail follow, unless another term has begun. What is published of
    /// services is never less than what there may be, once it is complete.
    fn publish_objects(&self, state: &Arc<Mutex<ServicesState>>) {
        if self.objects.receiver_count() == 0 {
            return;
        }
        let input = {
            let state = lock(state);
            let services = state.publication.services().iter();
            let services = services.map(|(key, published)| {
                let addresses = published.service.addresses.clone();
                (key.clone(), (addresses, published.desired.clone()))
            });
            ServiceObjectsInput {
                services: Arc::new(services.collect()),
                is_trusted: state.publication.is_complete(),
            }
        };
        // Held meanwhile: a term begins before or after that.
        let current = lock(&self.state);
        if Arc::ptr_eq(&current, state) {
            self.objects.send_replace(input);
        }
    }
}

/// When the next round is due without a change.
fn due(round: &Round, retries: &mut Delays) -> Option<Instant> {
    if round.has_failed {
        let retry = Instant::now() + retries.next_delay();
        return Some(round.next.map_or(retry, |next| next.min(retry)));
    }
    *retries = RETRY.delays();
    round.next
}

impl From<StoreError> for ManagerError {
    fn from(error: StoreError) -> Self {
        Self::Allocations(error.to_string())
    }
}
