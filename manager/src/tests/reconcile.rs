//! The reconciler with the simulated API server.

mod links_and_floating_ips;
mod sources;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::*;
use crate::marathon::{self, App, Listing, Mode, Network, RunSpecId};
use crate::mesos_master::{self, Agent, Change, MasterOptions, Masters, State, Status, TaskKey};
use crate::stores::listing::FullListing;
use crate::stores::touched::Touched;
use crate::task_state::TaskState;
use crate::vnc::{FloatingIp, VirtualMachine};
use contrail_mesos_api::http::scripted::{Reply, ScriptedServer};
use contrail_mesos_api::http::{Address, LeaderOptions};

const POOL: &str = "default-domain:default-project:__public__:__fip_pool_public__";

/// A reconciler that trusts its sources at once, and whose updates the test makes.
struct ReconcileFixture {
    base: Fixture,
    reconciler: Arc<Reconciler>,
    writes: watch::Sender<bool>,
}

fn follow(masters: Vec<Address>) -> Follow {
    let mut follow = Follow::new(MasterOptions {
        masters: Masters::Listed(masters),
        secure: false,
        access: LeaderOptions::default(),
    });
    follow.policy = Policy {
        stabilization_window: Duration::ZERO,
        grace_period: Duration::ZERO,
        agent_gone_after: Duration::ZERO,
        ..Policy::default()
    };
    follow
}

/// A task id as Marathon makes it.
fn task_id(number: u128) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

fn task(number: u128, vm: Uuid) -> mesos_master::Task {
    let key = TaskKey {
        framework: "F".into(),
        task: task_id(number).into(),
    };
    mesos_master::Task {
        agent: Some("S1".into()),
        is_defined: true,
        status: Status {
            state: TaskState::Running,
            container: Some(vm.to_string().into()),
            ..Status::default()
        },
        ..mesos_master::Task::undefined(key)
    }
}

/// Hosts node1 and node2, the framework Marathon, and tasks of these numbers with their
/// virtual-machines.
fn state(tasks: &[(u128, Uuid)]) -> State {
    let mut state = State::default();
    for (id, host) in [("S1", "node1"), ("S2", "node2")] {
        let agent = Agent {
            id: id.into(),
            host: host.into(),
            address: None,
            active: true,
            attributes: Box::default(),
            is_recovered: false,
        };
        state.agents.insert(id.into(), agent);
    }
    let framework = mesos_master::Framework {
        id: "F".into(),
        name: "marathon".into(),
        active: true,
    };
    state.frameworks.insert("F".into(), framework);
    // A task on another network, so that the list is never empty.
    let other = (9999, Uuid::from_u128(9999));
    for (number, vm) in tasks.iter().chain([&other]) {
        let task = task(*number, *vm);
        state.tasks.insert(task.key.clone(), Box::new(task));
    }
    state
}

fn listing(labels: &[(&str, &str)], tasks: &[u128]) -> Listing {
    let tasks = tasks.iter().map(|number| marathon::Task {
        id: task_id(*number).into(),
        state: TaskState::Running,
        agent: None,
        host: None,
        addresses: Box::default(),
        staged: None,
        started: None,
        version: None,
    });
    let network = Network {
        mode: Mode::Container,
        name: Some("contrail-cni-plugin".into()),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
    };
    Listing {
        apps: vec![App {
            id: RunSpecId::parse("/shop/web").unwrap(),
            instances: 1,
            labels: Box::default(),
            networks: Box::new([network]),
            tasks: tasks.collect(),
        }],
        followed: true,
        ..Listing::default()
    }
}

impl ReconcileFixture {
    async fn new() -> Self {
        let base = Fixture::new().await;
        let (writes, may_write) = watch::channel(true);
        let reconciler = Reconciler::new(
            base.containers.clone(),
            base.client.clone(),
            &base.config,
            &follow(vec![]),
            may_write,
        );
        Self {
            base,
            reconciler,
            writes,
        }
    }

    /// Creates a container with one port.
    async fn put(&self, number: u128) -> Uuid {
        let (vm, request) = plain(number);
        let made = self.base.containers.put("node1", vm, &request);
        made.await.unwrap();
        vm
    }

    async fn read(&self) {
        let mut listing = FullListing::new(&self.base.config.defaults, 2);
        listing.resume(&self.base.client).await.unwrap();
        self.reconciler.apply_contrail_listing(listing);
    }

    fn mesos(&self, tasks: &[(u128, Uuid)]) {
        let update = mesos_master::Update::Snapshot(Box::new(state(tasks)));
        self.reconciler.apply_mesos_update(update);
    }

    fn marathon(&self, listing: Listing) {
        self.reconciler
            .apply_marathon_update(marathon::Update::Snapshot(Box::new(listing)));
    }

    /// Lists and reconciles twice; the second time there must be nothing to write.
    async fn settle(&self) {
        self.read().await;
        self.reconciler.settle().await;
        self.read().await;
        assert_eq!(self.reconciler.due_changes(), []);
        let writes = self.written();
        self.reconciler.settle().await;
        assert_eq!(self.written(), writes);
    }

    /// The number of requests that changed something.
    fn written(&self) -> usize {
        let log = self.base.server.log();
        log.iter().filter(|entry| !entry.changes.is_empty()).count()
    }

    fn annotation(&self, uuid: Uuid, key: &str) -> Option<String> {
        let object = self.base.server.object(&uuid.to_string())?;
        let pairs = object["annotations"]["key_value_pair"].as_array()?;
        let pair = pairs.iter().find(|pair| pair["key"] == key)?;
        Some(pair["value"].as_str()?.to_owned())
    }

    fn interface(&self, vm: Uuid) -> Value {
        let interface = agent_api::interface_uuid(vm, "eth0").to_string();
        self.base.server.object(&interface).unwrap()
    }

    fn floating(&self) -> Vec<(String, Vec<String>)> {
        let floating = self.base.server.objects("floating-ip");
        let floating = floating.iter().map(|one| {
            let address = one["floating_ip_address"].as_str().unwrap().to_owned();
            (address, refs(one, "virtual_machine_interface_refs"))
        });
        floating.collect()
    }
}

#[tokio::test]
async fn container_is_named_after_its_task() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    fixture.settle().await;
    let object = fixture.base.server.object(&vm.to_string()).unwrap();
    assert_eq!(object["display_name"], task_id(1));
    for (key, value) in [
        ("application", "/shop/web"),
        ("task", &task_id(1)),
        ("framework", "marathon"),
        ("mesos-agent", "S1"),
        ("agent", "node1"),
        ("owner", "contrail-mesos"),
    ] {
        assert_eq!(fixture.annotation(vm, key).as_deref(), Some(value), "{key}");
    }
    let interface = agent_api::interface_uuid(vm, "eth0");
    assert_eq!(
        fixture.annotation(interface, "application").as_deref(),
        Some("/shop/web")
    );
    assert_eq!(
        fixture.interface(vm)["display_name"],
        format!("{} eth0", task_id(1))
    );
    // The agent still finds its ports.
    fixture
        .base
        .containers
        .get(Some("node1"), vm)
        .await
        .unwrap();
    fixture
        .base
        .containers
        .delete(Some("node1"), vm)
        .await
        .unwrap();
    fixture.base.assert_clean("deleted");
}

#[tokio::test]
async fn task_is_touched_when_the_addresses_of_its_container_are_known() {
    let fixture = ReconcileFixture::new().await;
    let one = fixture.put(1).await;
    fixture.mesos(&[(1, one)]);
    let mesos = fixture.reconciler.stores().mesos.clone();
    let next = || mesos.read(|view| view.touched().next());
    let touched = |since| mesos.read(|view| view.touched().since(Some(since)));
    // By a listing, once.
    let seen = next();
    fixture.read().await;
    let key = task(1, one).key;
    assert_eq!(touched(seen), [Touched::Task(key)]);
    fixture.read().await;
    assert_eq!(next(), seen + 1);
    // By the reconciler, if an agent has requested it since.
    let two = fixture.put(2).await;
    let task = task(2, two);
    let key = task.key.clone();
    let added = mesos_master::Change::TaskAdded(Box::new(task));
    fixture
        .reconciler
        .apply_mesos_update(mesos_master::Update::Changed(added));
    let seen = next();
    let mut changed = mesos.subscribe();
    let reconciler = fixture.reconciler.clone();
    let worker = tokio::spawn(async move { reconciler.work().await });
    changed.changed().await.unwrap();
    worker.abort();
    assert_eq!(touched(seen), [Touched::Task(key)]);
    // And when it is gone.
    let seen = next();
    fixture.base.containers.delete(None, two).await.unwrap();
    fixture.read().await;
    assert_eq!(touched(seen).len(), 1);
}

#[tokio::test]
async fn changed_labels_are_applied() {
    let fixture = ReconcileFixture::new().await;
    let one = fixture.put(1).await;
    let two = fixture.put(2).await;
    fixture.mesos(&[(1, one), (2, two)]);
    let fixed = format!("{POOL}(10.66.77.123)");
    let labels = [("security-groups", "web"), ("floating-ips", fixed.as_str())];
    fixture.marathon(listing(&labels, &[1]));
    fixture.settle().await;
    let web = "default-domain:mesos-default:web";
    let group = |vm| {
        let group = &fixture.interface(vm)["security_group_refs"][0]["to"];
        serde_json::from_value::<FqName>(group.clone())
            .ok()
            .map(|name| name.to_string())
    };
    assert_eq!(group(one).as_deref(), Some(web));
    assert_eq!(group(two), None);
    let interface = agent_api::interface_uuid(one, "eth0").to_string();
    assert_eq!(
        fixture.floating(),
        [("10.66.77.123".to_owned(), vec![interface.clone()])]
    );

    // Another address of another pool, and another group.
    let other = "default-domain:default-project:__public__:__fip_pool_public2__(10.33.44.11)";
    let groups = "default-domain:default-project:security_groups_mesos";
    fixture.marathon(listing(
        &[("security-groups", groups), ("floating-ips", other)],
        &[1],
    ));
    fixture.settle().await;
    assert_eq!(group(one).as_deref(), Some(groups));
    assert_eq!(
        fixture.floating(),
        [("10.33.44.11".to_owned(), vec![interface])]
    );

    // The address moves to the other task, and then is removed.
    fixture.marathon(listing(&[("floating-ips", other)], &[2]));
    let owned = fixture
        .base
        .client
        .list::<FloatingIp>(&crate::vnc::Query::new())
        .await
        .unwrap();
    fixture
        .base
        .client
        .delete::<FloatingIp>(owned[0].common.uuid.unwrap())
        .await
        .unwrap();
    fixture.settle().await;
    let interface = agent_api::interface_uuid(two, "eth0").to_string();
    assert_eq!(
        fixture.floating(),
        [("10.33.44.11".to_owned(), vec![interface])]
    );
    fixture.marathon(listing(&[], &[1, 2]));
    fixture.settle().await;
    assert_eq!(fixture.floating(), []);
    assert_eq!((group(one), group(two)), (None, None));
}

#[tokio::test]
async fn failing_container_does_not_block_others() {
    let fixture = ReconcileFixture::new().await;
    let one = fixture.put(1).await;
    let two = fixture.put(2).await;
    fixture.mesos(&[(1, one), (2, two)]);
    let fixed = format!("{POOL}(10.66.77.123)");
    // Both request it, and only one can have it.
    fixture.marathon(listing(&[("floating-ips", fixed.as_str())], &[1, 2]));
    fixture.read().await;
    fixture.reconciler.settle().await;
    assert_eq!(fixture.floating().len(), 1);
    assert_eq!(fixture.reconciler.waiting(), 1);
    // The other waits for its retry, and still differs.
    let before = fixture.base.client.requests();
    fixture.reconciler.settle().await;
    assert_eq!(fixture.base.client.requests(), before);
    assert_eq!(fixture.reconciler.due_changes().len(), 1);
}

#[tokio::test]
async fn missing_link_is_restored() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.mesos(&[(1, vm)]);
    fixture.settle().await;
    // Somebody deletes and registers the virtual-router again.
    let name = FqName::new(["default-global-system-config", "node1"]);
    let router = fixture
        .base
        .client
        .id_of::<VirtualRouter>(&name)
        .await
        .unwrap()
        .unwrap();
    let client = &fixture.base.client;
    client
        .unlink::<VirtualRouter, VirtualMachine>(router, vm)
        .await
        .unwrap();
    client.delete::<VirtualRouter>(router).await.unwrap();
    fixture.settle().await;
    let links = || {
        refs(
            &fixture.base.server.object(&vm.to_string()).unwrap(),
            "virtual_router_back_refs",
        )
    };
    assert_eq!(links(), Vec::<String>::new());
    let mut router = VirtualRouter::named(name);
    router.virtual_router_ip_address = "10.84.22.27".parse::<IpAddr>().unwrap().into();
    let router = client.create(&router).await.unwrap();
    fixture.settle().await;
    assert_eq!(links(), [router.to_string()]);
}

#[tokio::test]
async fn unused_containers_of_ours_are_deleted() {
    let fixture = ReconcileFixture::new().await;
    let dead = fixture.put(1).await;
    let alive = fixture.put(2).await;
    // One of another cluster, and one without annotations.
    let mut config = fixture.base.config.clone();
    config.defaults.cluster = "other".to_owned();
    let other = Containers::new(fixture.base.client.clone(), &config);
    let (foreign, request) = plain(3);
    other.put("node1", foreign, &request).await.unwrap();
    let mut unmarked = VirtualMachine::named(FqName::new(["unmarked"]));
    unmarked.common.uuid = Some(Uuid::from_u128(77));
    fixture.base.client.create(&unmarked).await.unwrap();
    fixture.read().await;

    // Nothing is deleted while Mesos is lost, or has never listed.
    let keeps_all = async |fixture: &ReconcileFixture| {
        fixture.reconciler.settle().await;
        assert_eq!(fixture.base.added("virtual-machine"), 4);
    };
    keeps_all(&fixture).await;
    fixture.mesos(&[(1, dead), (2, alive)]);
    fixture.settle().await;
    let lost = async |fixture: &ReconcileFixture| {
        let nobody = ScriptedServer::start(|_, _| Reply::Answer(503, String::new())).await;
        let address =
            Address::parse(&nobody.address.to_string(), mesos_master::DEFAULT_PORT).unwrap();
        let client = mesos_master::MasterClient::new(follow(vec![address]).mesos).unwrap();
        let error = client.state().await.unwrap_err();
        fixture
            .reconciler
            .apply_mesos_update(mesos_master::Update::Lost(error));
    };
    lost(&fixture).await;
    keeps_all(&fixture).await;
    // Its task ends; a list has to confirm it.
    fixture.mesos(&[(1, dead), (2, alive)]);
    let ended = Change::TaskUpdated {
        key: task(1, dead).key,
        agent: None,
        executor: None,
        status: Box::new(Status {
            state: TaskState::Failed,
            ..Status::default()
        }),
    };
    fixture
        .reconciler
        .apply_mesos_update(mesos_master::Update::Changed(ended));
    keeps_all(&fixture).await;
    fixture.mesos(&[(2, alive)]);
    fixture.settle().await;
    assert!(fixture.base.server.object(&dead.to_string()).is_none());
    assert_eq!(fixture.base.added("virtual-machine"), 3);
    assert_eq!(fixture.base.added("virtual-machine-interface"), 2);
    assert_eq!(fixture.base.added("instance-ip"), 2);
    fixture
        .base
        .containers
        .get(Some("node1"), alive)
        .await
        .unwrap();
    other.get(Some("node1"), foreign).await.unwrap();
}

#[tokio::test]
async fn container_requested_meanwhile_is_not_deleted() {
    let fixture = ReconcileFixture::new().await;
    let vm = fixture.put(1).await;
    fixture.read().await;
    fixture.mesos(&[]);
    let (_, request) = plain(1);
    fixture
        .reconciler
        .stores()
        .contrail
        .read(|view| assert!(view.vms.contains_key(&vm)));
    // The delete waits for the agent's request, and then checks again whether it is due.
    let requested_before = fixture.base.containers.last_requested(vm);
    fixture
        .base
        .containers
        .put("node1", vm, &request)
        .await
        .unwrap();
    let still = || fixture.base.containers.last_requested(vm) == requested_before;
    let removed = fixture.base.containers.delete_if(vm, still).await.unwrap();
    assert!(!removed);
    fixture
        .base
        .containers
        .get(Some("node1"), vm)
        .await
        .unwrap();
}
