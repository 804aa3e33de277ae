//! The publisher with a store in memory, and tasks that a test sets.

use std::sync::Mutex;
use std::time::Duration;

use contrail_mesos_api::cluster::{BackendState, Object, ObjectKey, Reach, Service};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::super::*;
use crate::fence::Fence;
use crate::mesos_master::{Agent, Change, State};
use crate::overlay::ObjectChange;
use crate::overlay::memory::{Fault, MemoryStore};
use crate::stores::Store;

const WINDOW: Duration = Duration::from_mins(1);

/// A list of Mesos with these agents, and whether each has registered.
fn listed(agents: &[(u8, bool)]) -> State {
    let agents = agents.iter().map(|(number, active)| {
        let agent = agent(*number, *active);
        (agent.id.clone(), agent)
    });
    State {
        agents: agents.collect(),
        ..State::default()
    }
}

fn agent(number: u8, active: bool) -> Agent {
    Agent {
        id: format!("S{number}").into(),
        host: format!("node{number}").into(),
        address: Some([192, 0, 2, number].into()),
        active,
        attributes: Box::default(),
        is_recovered: !active,
    }
}

/// A backend on the host of an agent.
fn backend(address: &str, host: u8) -> DesiredBackend {
    DesiredBackend {
        backend: Backend {
            address: address.parse().unwrap(),
            local: None,
            host: [192, 0, 2, host].into(),
            reach: Reach::Cluster,
            state: BackendState::Ready,
            task: format!("task-{address}"),
        },
        interface: None,
    }
}

/// The services of a term, and what it has published.
struct Fixture {
    services: Arc<Services>,
    store: Arc<MemoryStore>,
    mesos: Arc<Store<MesosView>>,
    tasks: Arc<Mutex<DesiredServices>>,
    changes: mpsc::Receiver<Vec<ObjectChange>>,
    published: BTreeMap<ServiceKey, Service>,
    is_complete: bool,
    _term: AbortOnDropHandle<()>,
}

impl Fixture {
    fn new() -> Self {
        Self::of(Arc::default(), Arc::default(), ServicesOptions::default())
    }

    fn of(
        store: Arc<MemoryStore>,
        tasks: Arc<Mutex<DesiredServices>>,
        options: ServicesOptions,
    ) -> Self {
        let mesos = Arc::<Store<MesosView>>::default();
        let computed = tasks.clone();
        let compute: ComputeServices = Arc::new(move |_, _| computed.lock().unwrap().clone());
        let services = Arc::new(Services::with(
            options,
            store.clone(),
            mesos.clone(),
            compute,
        ));
        let (sender, changes) = mpsc::channel(QUEUE);
        let term = services.begin(Fence::alone(), sender);
        Self {
            services,
            store,
            mesos,
            tasks,
            changes,
            published: BTreeMap::new(),
            is_complete: false,
            _term: term,
        }
    }

    /// The services of the same tasks in the next manager.
    fn successor(&self) -> Self {
        Self::of(
            self.store.clone(),
            self.tasks.clone(),
            ServicesOptions::default(),
        )
    }

    fn list(&self, agents: &[(u8, bool)]) {
        let state = listed(agents);
        self.mesos
            .change(|view| view.apply_snapshot(state, tokio::time::Instant::now(), WINDOW));
    }

    fn lose(&self) {
        self.mesos
            .change(|view| view.mark_lost(tokio::time::Instant::now(), "refused"));
    }

    fn apply(&self, change: Change) {
        self.mesos
            .change(|view| view.apply_change(change, tokio::time::Instant::now()));
    }

    fn set(&self, service: &str, backends: Vec<DesiredBackend>) {
        let key: ServiceKey = service.parse().unwrap();
        let mut tasks = self.tasks.lock().unwrap();
        if backends.is_empty() {
            tasks.services.remove(&key);
        } else {
            let service = DesiredService {
                backends,
                affinity: None,
                frameworks: vec!["marathon".to_owned()],
            };
            tasks.services.insert(key, service);
        }
        drop(tasks);
        self.mesos.change(|_| ());
    }

    /// The next changes, as they come.
    async fn next(&mut self) -> Vec<ObjectChange> {
        let changes = self.changes.recv().await.unwrap();
        for change in &changes {
            match change {
                ObjectChange::Put(Object::Service(service)) => {
                    self.published
                        .insert(service.service.clone(), service.clone());
                }
                ObjectChange::Delete(ObjectKey::Service { service }) => {
                    self.published.remove(service);
                }
                ObjectChange::Put(Object::ServicesComplete) => self.is_complete = true,
                _ => {}
            }
        }
        changes
    }

    /// Fails if something is published within that time.
    async fn assert_silent(&mut self, duration: Duration) {
        let changes = timeout(duration, self.changes.recv()).await;
        assert!(changes.is_err(), "{changes:?}");
    }

    fn addresses(&self, service: &str) -> Vec<String> {
        let key: ServiceKey = service.parse().unwrap();
        let addresses = self.published[&key].addresses.iter();
        addresses.map(ToString::to_string).collect()
    }

    fn hosts(&self, service: &str) -> Vec<u8> {
        let key: ServiceKey = service.parse().unwrap();
        let Some(service) = self.published.get(&key) else {
            return vec![];
        };
        let backends = service.backends.iter();
        backends
            .map(|backend| match backend.host {
                std::net::IpAddr::V4(host) => host.octets()[3],
                std::net::IpAddr::V6(_) => unreachable!(),
            })
            .collect()
    }
}

const WEB: &str = "web.marathon:80/tcp";
const API: &str = "api.marathon:80/tcp";

fn both() -> Vec<DesiredBackend> {
    vec![backend("10.0.0.1:80", 1), backend("10.0.0.2:80", 2)]
}

#[tokio::test(start_paused = true)]
async fn services_are_published_once_mesos_is_listed() {
    let mut fixture = Fixture::new();
    fixture.set(WEB, both());
    fixture.assert_silent(Duration::from_mins(30)).await;
    let waiting = fixture.services.read_state(|state| state.waiting.clone());
    assert!(waiting.unwrap().contains("not trusted"));
    fixture.list(&[(1, true), (2, true)]);
    let changes = fixture.next().await;
    assert!(fixture.is_complete && changes.len() == 2, "{changes:?}");
    assert_eq!(fixture.hosts(WEB), [1, 2]);
    assert!(fixture.services.read_state(|state| state.waiting.is_none()));
    // Nothing has changed.
    fixture.mesos.change(|_| ());
    fixture.assert_silent(Duration::from_mins(1)).await;
    fixture.set(API, both());
    assert_eq!(fixture.next().await.len(), 1);
    fixture.set(WEB, vec![]);
    assert_eq!(fixture.next().await.len(), 1);
    assert_eq!(fixture.hosts(WEB), [0; 0]);
    let metrics = fixture.services.metrics();
    assert_eq!(metrics.changes("service", "put"), 2);
    assert_eq!(metrics.changes("service", "delete"), 1);
}

#[tokio::test(start_paused = true)]
async fn addresses_survive_a_new_leader() {
    let mut fixture = Fixture::new();
    fixture.list(&[(1, true), (2, true)]);
    assert_eq!(fixture.next().await.len(), 1);
    // In another order than that of the names.
    for service in [WEB, API, "db.marathon:5432/tcp"] {
        fixture.set(service, both());
        fixture.next().await;
    }
    let addresses = fixture.addresses(WEB);
    let mut next = fixture.successor();
    next.list(&[(1, true), (2, true)]);
    next.next().await;
    assert_eq!(next.published, fixture.published);
    // The earlier leader cannot write any more: it reads what the new one wrote.
    next.set("new.marathon:80/tcp", both());
    next.next().await;
    fixture.mesos.change(|_| ());
    fixture.next().await;
    assert_eq!(fixture.published, next.published);
    assert_eq!(next.addresses(WEB), addresses);
}

#[tokio::test(start_paused = true)]
async fn failover_of_mesos_withdraws_nothing() {
    let mut fixture = Fixture::new();
    fixture.list(&[(1, true), (2, true)]);
    fixture.next().await;
    fixture.set(WEB, both());
    fixture.next().await;
    // The stream breaks. Another master knows the agents, but no task yet.
    fixture.lose();
    fixture.set(WEB, vec![]);
    fixture.assert_silent(Duration::from_mins(5)).await;
    fixture.list(&[(1, false), (2, false)]);
    fixture.assert_silent(Duration::from_mins(1)).await;
    // One is back, with its task.
    fixture.set(WEB, vec![backend("10.0.0.1:80", 1)]);
    fixture.apply(Change::AgentAdded(Box::new(agent(1, true))));
    fixture.assert_silent(Duration::from_mins(1)).await;
    // Its task ends: that is known.
    fixture.set(WEB, vec![]);
    fixture.next().await;
    assert_eq!(fixture.hosts(WEB), [2]);
    // The other one never comes back.
    fixture.next().await;
    assert_eq!(fixture.hosts(WEB), [0; 0]);
    assert!(fixture.services.read_state(|state| state.waiting.is_none()));
}

#[tokio::test(start_paused = true)]
async fn new_leader_waits_for_agents_after_a_failover_of_mesos() {
    let mut fixture = Fixture::new();
    fixture.set(WEB, vec![backend("10.0.0.1:80", 1)]);
    fixture.list(&[(1, true), (2, false)]);
    fixture.assert_silent(Duration::from_mins(5)).await;
    let waiting = fixture.services.read_state(|state| state.waiting.clone());
    assert!(waiting.unwrap().ends_with("come back: 1"));
    fixture.set(WEB, both());
    fixture.apply(Change::AgentAdded(Box::new(agent(2, true))));
    fixture.assert_silent(Duration::from_secs(9)).await;
    fixture.next().await;
    assert!(fixture.is_complete);
    assert_eq!(fixture.hosts(WEB), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn store_that_fails_withdraws_nothing_and_is_retried() {
    let mut fixture = Fixture::new();
    fixture.store.fail([Fault::Unavailable; 3]);
    fixture.set(WEB, both());
    fixture.list(&[(1, true), (2, true)]);
    fixture.next().await;
    assert_eq!(fixture.store.remaining_faults(), 0);
    let address = fixture.addresses(WEB);
    // A new name gets no address meanwhile; what is published goes on, and changes.
    fixture.store.fail([Fault::Unavailable; 2]);
    fixture.set(WEB, vec![backend("10.0.0.1:80", 1)]);
    fixture.set(API, both());
    fixture.next().await;
    assert_eq!(fixture.hosts(WEB), [1]);
    assert_eq!(fixture.addresses(WEB), address);
    if fixture.hosts(API).is_empty() {
        fixture.next().await;
    }
    assert_eq!(fixture.hosts(API), [1, 2]);
    // The outcome of a write is unknown: it is read again, and no address is given twice.
    for fault in [Fault::LostAnswer, Fault::LostRequest] {
        fixture.store.fail([fault]);
        let loads = fixture.store.loads();
        let name = format!("{fault:?}").to_lowercase();
        fixture.set(&format!("{name}.marathon:80/tcp"), both());
        fixture.next().await;
        assert_eq!(fixture.store.loads(), loads + 1, "{fault:?}");
    }
    let mut all: Vec<_> = fixture
        .published
        .values()
        .flat_map(|service| service.addresses.clone())
        .collect();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!((all.len(), count), (4, 4));
    assert!(
        fixture
            .services
            .read_state(|state| state.store_problem.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn damaged_store_publishes_nothing_and_is_a_problem() {
    let mut fixture = Fixture::new();
    fixture.store.set_record("names-00", b"{}");
    fixture.set(WEB, both());
    fixture.list(&[(1, true), (2, true)]);
    fixture.assert_silent(Duration::from_mins(5)).await;
    let problem = fixture
        .services
        .read_state(|state| state.store_problem.clone());
    assert!(problem.unwrap().contains("names-00"));
}

#[tokio::test(start_paused = true)]
async fn address_is_free_after_the_grace() {
    let store = Arc::<MemoryStore>::default();
    let options = ServicesOptions {
        grace: Duration::from_mins(2),
        ..ServicesOptions::default()
    };
    let mut fixture = Fixture::of(store.clone(), Arc::default(), options);
    fixture.set(WEB, both());
    fixture.list(&[(1, true), (2, true)]);
    fixture.next().await;
    fixture.set(WEB, vec![]);
    fixture.next().await;
    fixture.assert_silent(Duration::from_secs(100)).await;
    assert_eq!(store.records().len(), 1);
    fixture.assert_silent(Duration::from_secs(30)).await;
    assert_eq!(store.records().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_published_together() {
    let mut fixture = Fixture::new();
    fixture.list(&[(1, true), (2, true)]);
    fixture.next().await;
    for round in 0..200 {
        let host = 1 + round % 2;
        fixture.set(WEB, vec![backend(&format!("10.0.0.{host}:80"), host)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut published = 0;
    while let Ok(Some(changes)) = timeout(Duration::from_secs(20), fixture.changes.recv()).await {
        published += changes.len();
    }
    assert!((1..=8).contains(&published), "{published}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_services_come_and_go_at_once() {
    let mut fixture = Fixture::new();
    fixture.list(&[(1, true), (2, true)]);
    fixture.next().await;
    let service = |number: usize| {
        let backends = (1..=3_u8).map(|host| backend(&format!("10.0.{host}.1:80"), host));
        let service = DesiredService {
            backends: backends.collect(),
            affinity: None,
            frameworks: vec![],
        };
        (
            format!("s{number}.marathon:80/tcp").parse().unwrap(),
            service,
        )
    };
    fixture.tasks.lock().unwrap().services = (0..10_000).map(service).collect();
    fixture.mesos.change(|_| ());
    assert_eq!(fixture.next().await.len(), 10_000);
    // In a few transactions, each below the limit of ZooKeeper.
    let writes = fixture.store.writes();
    let records: usize = writes.iter().sum();
    assert!(records <= 256 && writes.len() < 10, "{writes:?}");
    let longest = fixture
        .store
        .records()
        .into_values()
        .map(|record| record.len());
    assert!(longest.max().unwrap() < 16 << 10);
    // One more name changes one record.
    fixture.set(WEB, both());
    assert_eq!(fixture.next().await.len(), 1);
    assert_eq!(fixture.store.writes().last(), Some(&1));
    fixture.tasks.lock().unwrap().services.clear();
    fixture.mesos.change(|_| ());
    assert_eq!(fixture.next().await.len(), 10_001);
    assert!(fixture.published.is_empty());
}

#[tokio::test(start_paused = true)]
async fn computation_that_panics_changes_nothing() {
    let mesos = Arc::<Store<MesosView>>::default();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let failing = fails.clone();
    let compute: ComputeServices = Arc::new(move |_, _| {
        assert!(
            !failing.load(std::sync::atomic::Ordering::Relaxed),
            "a mistake"
        );
        DesiredServices::default()
    });
    let store = Arc::<MemoryStore>::default();
    let services = Services::with(ServicesOptions::default(), store, mesos.clone(), compute);
    let services = Arc::new(services);
    let (sender, mut changes) = mpsc::channel(QUEUE);
    let _term = services.begin(Fence::alone(), sender);
    mesos.change(|view| view.apply_snapshot(listed(&[]), tokio::time::Instant::now(), WINDOW));
    assert!(
        timeout(Duration::from_secs(5), changes.recv())
            .await
            .is_err()
    );
    let waiting = services.read_state(|state| state.waiting.clone());
    assert!(waiting.unwrap().contains("internal error"));
    fails.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(changes.recv().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn agents_are_still_known_after_a_computation_that_panicked() {
    let mesos = Arc::<Store<MesosView>>::default();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let failing = fails.clone();
    let compute: ComputeServices = Arc::new(move |_, _| {
        let fails = failing.swap(false, std::sync::atomic::Ordering::Relaxed);
        assert!(!fails, "a mistake");
        DesiredServices::default()
    });
    let store = Arc::<MemoryStore>::default();
    let services = Services::with(ServicesOptions::default(), store, mesos.clone(), compute);
    let (sender, mut changes) = mpsc::channel(QUEUE);
    let _term = Arc::new(services).begin(Fence::alone(), sender);
    // It is waited for, for ten minutes.
    let state = listed(&[(1, false)]);
    mesos.change(|view| view.apply_snapshot(state, tokio::time::Instant::now(), WINDOW));
    let five = Duration::from_mins(5);
    assert!(timeout(five, changes.recv()).await.is_err());
    fails.store(true, std::sync::atomic::Ordering::Relaxed);
    mesos.change(|_| ());
    assert!(
        timeout(Duration::from_mins(4), changes.recv())
            .await
            .is_err()
    );
    assert!(!fails.load(std::sync::atomic::Ordering::Relaxed));
    let published = timeout(Duration::from_mins(2), changes.recv()).await;
    assert_eq!(published.unwrap().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn services_are_published_once_contrail_is_listed() {
    let servers = vec![crate::vnc::server_address("http://127.0.0.1:9").unwrap()];
    let config = crate::config::Config::new(crate::vnc::VncOptions::new(servers.clone()));
    let client = crate::vnc::VncClient::new(crate::vnc::VncOptions::new(servers)).unwrap();
    let containers = crate::containers::Containers::new(client.clone(), &config);
    let follow = crate::config::Follow::new(crate::mesos_master::MasterOptions {
        masters: crate::mesos_master::Masters::Listed(vec![]),
        secure: false,
        access: contrail_mesos_api::http::LeaderOptions::default(),
    });
    let (_, writes) = tokio::sync::watch::channel(false);
    let reconciler =
        crate::reconcile::Reconciler::new(containers, client, &config, &follow, writes);
    let compute: ComputeServices = Arc::new(|_, _| DesiredServices::default());
    let store = Arc::<MemoryStore>::default();
    let services = Services::with(ServicesOptions::default(), store, Arc::default(), compute);
    let services = Arc::new(services.reconciled(reconciler.clone()));
    let (sender, mut changes) = mpsc::channel(QUEUE);
    let _term = services.begin(Fence::alone(), sender);
    let stores = reconciler.stores();
    let now = tokio::time::Instant::now();
    let state = listed(&[(1, true)]);
    stores
        .mesos
        .change(|view| view.apply_snapshot(state, now, WINDOW));
    let day = Duration::from_hours(24);
    assert!(timeout(day, changes.recv()).await.is_err());
    let waiting = services.read_state(|state| state.waiting.clone());
    assert!(waiting.unwrap().contains("VNC API has not listed"));
    stores.contrail.change(|view| {
        view.source.mark_listed(now, (0, 0), true, WINDOW);
        // Later, what is known of it is enough.
        view.source.mark_lost(now, "refused");
    });
    stores.mesos.change(|_| ());
    assert_eq!(changes.recv().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn range_with_the_address_of_an_agent_is_a_problem() {
    let options = ServicesOptions {
        ranges: vec!["192.0.2.0/25".parse().unwrap()],
        ..ServicesOptions::default()
    };
    let mut fixture = Fixture::of(Arc::default(), Arc::default(), options);
    fixture.list(&[(200, true), (1, true), (2, true)]);
    fixture.next().await;
    let problem = |fixture: &Fixture| {
        let services = &fixture.services;
        services.read_state(|state| state.range_problem.clone())
    };
    let found = problem(&fixture).unwrap();
    assert!(
        found.contains("192.0.2.1 (2 in all)") && found.contains("node1"),
        "{found}"
    );
    fixture.list(&[(200, true)]);
    fixture.assert_silent(Duration::from_mins(1)).await;
    assert_eq!(problem(&fixture), None);
}

#[tokio::test(start_paused = true)]
async fn agent_without_an_address_is_named_as_the_reason_to_wait() {
    let fixture = Fixture::new();
    let mut state = listed(&[(1, false)]);
    state
        .agents
        .values_mut()
        .for_each(|agent| agent.address = None);
    fixture
        .mesos
        .change(|view| view.apply_snapshot(state, tokio::time::Instant::now(), WINDOW));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let waiting = fixture.services.read_state(|state| state.waiting.clone());
    assert!(
        waiting.clone().unwrap().ends_with("unknown address: 1"),
        "{waiting:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn objects_of_contrail_learn_nothing_of_an_earlier_term() {
    let mut fixture = Fixture::new();
    let objects = fixture.services.objects();
    fixture.list(&[(1, true), (2, true)]);
    fixture.set(WEB, both());
    fixture.next().await;
    let published = objects.borrow().clone();
    assert!(published.is_trusted && published.services.len() == 1);
    // Another term begins, and has published nothing.
    let (_control, closed) = crate::fence::fence("not yet");
    let (sender, _changes) = mpsc::channel(QUEUE);
    let _term = fixture.services.begin(closed, sender);
    let assert_empty = || {
        let input = objects.borrow().clone();
        assert!(!input.is_trusted && input.services.is_empty(), "{input:?}");
    };
    assert_empty();
    // The one before still works on a change.
    fixture.set(API, both());
    fixture.next().await;
    assert_empty();
}

#[tokio::test(start_paused = true)]
async fn objects_of_contrail_learn_what_is_published() {
    let mut fixture = Fixture::new();
    let mut objects = fixture.services.objects();
    fixture.list(&[(1, true), (2, true)]);
    fixture.set(WEB, both());
    fixture.next().await;
    let published = objects
        .wait_for(|objects| objects.is_trusted)
        .await
        .unwrap()
        .services
        .clone();
    let (addresses, desired) = &published[&WEB.parse().unwrap()];
    assert_eq!((addresses.len(), desired.backends.len()), (1, 2));
}
