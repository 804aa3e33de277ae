//! What is in the VNC API is kept true.

mod gaps;
mod sources;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::*;
use crate::marathon::{self, App, Listing, Mode, Network, RunSpecId};
use crate::mesos_master::{self, Agent, Change, MasterOptions, Masters, State, Status, TaskKey};
use crate::stores::read::Reading;
use crate::task_state::TaskState;
use crate::vnc::{FloatingIp, VirtualMachine};
use contrail_mesos_api::http::scripted::{Reply, ScriptedServer};
use contrail_mesos_api::http::{Address, LeaderOptions};

const POOL: &str = "default-domain:default-project:__public__:__fip_pool_public__";

/// A reconciler that believes at once, and is told what Mesos and Marathon say.
struct Rig {
    world: World,
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
        settle: Duration::ZERO,
        young: Duration::ZERO,
        agent_gone: Duration::ZERO,
        ..Policy::default()
    };
    follow
}

/// A name that Marathon gives.
fn task_id(number: u128) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

fn task(number: u128, machine: Uuid) -> mesos_master::Task {
    mesos_master::Task {
        key: TaskKey {
            framework: "F".into(),
            task: task_id(number).into(),
        },
        agent: Some("S1".into()),
        executor: None,
        labels: Box::default(),
        status: Status {
            state: TaskState::Running,
            container: Some(machine.to_string().into()),
            ..Status::default()
        },
    }
}

/// Hosts node1 and node2, the framework Marathon, and tasks of these numbers with their machines.
fn state(tasks: &[(u128, Uuid)]) -> State {
    let mut state = State::default();
    for (id, host) in [("S1", "node1"), ("S2", "node2")] {
        let agent = Agent {
            id: id.into(),
            host: host.into(),
            address: None,
            active: true,
            attributes: Box::default(),
        };
        state.agents.insert(id.into(), agent);
    }
    let framework = mesos_master::Framework {
        id: "F".into(),
        name: "marathon".into(),
        active: true,
    };
    state.frameworks.insert("F".into(), framework);
    // One of another network, so that there is always a task.
    let other = (9999, Uuid::from_u128(9999));
    for (number, machine) in tasks.iter().chain([&other]) {
        let task = task(*number, *machine);
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

impl Rig {
    async fn new() -> Self {
        let world = World::new().await;
        let (writes, may_write) = watch::channel(true);
        let reconciler = Reconciler::new(
            world.containers.clone(),
            world.client.clone(),
            &world.config,
            &follow(vec![]),
            may_write,
        );
        Self {
            world,
            reconciler,
            writes,
        }
    }

    /// Makes a container with one port.
    async fn put(&self, number: u128) -> Uuid {
        let (machine, request) = plain(number);
        let made = self.world.containers.put("node1", machine, &request);
        made.await.unwrap();
        machine
    }

    async fn read(&self) {
        let mut reading = Reading::new(&self.world.config.defaults, 2);
        reading.go_on(&self.world.client).await.unwrap();
        self.reconciler.take_contrail(reading);
    }

    fn mesos(&self, tasks: &[(u128, Uuid)]) {
        let update = mesos_master::Update::Snapshot(Box::new(state(tasks)));
        self.reconciler.take_mesos(update);
    }

    fn marathon(&self, listing: Listing) {
        self.reconciler
            .take_marathon(marathon::Update::Snapshot(Box::new(listing)));
    }

    /// Reads and corrects, twice; says whether the second time there was nothing to write.
    async fn settle(&self) {
        self.read().await;
        self.reconciler.settle().await;
        self.read().await;
        assert_eq!(self.reconciler.differences(), []);
        let writes = self.written();
        self.reconciler.settle().await;
        assert_eq!(self.written(), writes);
    }

    /// How many requests have changed something.
    fn written(&self) -> usize {
        let log = self.world.server.log();
        log.iter().filter(|entry| !entry.changes.is_empty()).count()
    }

    fn annotation(&self, uuid: Uuid, key: &str) -> Option<String> {
        let object = self.world.server.object(&uuid.to_string())?;
        let pairs = object["annotations"]["key_value_pair"].as_array()?;
        let pair = pairs.iter().find(|pair| pair["key"] == key)?;
        Some(pair["value"].as_str()?.to_owned())
    }

    fn interface(&self, machine: Uuid) -> Value {
        let interface = agent_api::interface_uuid(machine, "eth0").to_string();
        self.world.server.object(&interface).unwrap()
    }

    fn floating(&self) -> Vec<(String, Vec<String>)> {
        let floating = self.world.server.objects("floating-ip");
        let floating = floating.iter().map(|one| {
            let address = one["floating_ip_address"].as_str().unwrap().to_owned();
            (address, refs(one, "virtual_machine_interface_refs"))
        });
        floating.collect()
    }
}

#[tokio::test]
async fn a_container_is_called_as_its_task_is() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    rig.settle().await;
    let object = rig.world.server.object(&machine.to_string()).unwrap();
    assert_eq!(object["display_name"], task_id(1));
    for (key, value) in [
        ("application", "/shop/web"),
        ("task", &task_id(1)),
        ("framework", "marathon"),
        ("mesos-agent", "S1"),
        ("agent", "node1"),
        ("owner", "contrail-mesos"),
    ] {
        assert_eq!(
            rig.annotation(machine, key).as_deref(),
            Some(value),
            "{key}"
        );
    }
    let interface = agent_api::interface_uuid(machine, "eth0");
    assert_eq!(
        rig.annotation(interface, "application").as_deref(),
        Some("/shop/web")
    );
    assert_eq!(
        rig.interface(machine)["display_name"],
        format!("{} eth0", task_id(1))
    );
    // What an agent was told is still so.
    rig.world
        .containers
        .get(Some("node1"), machine)
        .await
        .unwrap();
    rig.world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    rig.world.assert_clean("deleted");
}

#[tokio::test]
async fn labels_that_change_are_followed() {
    let rig = Rig::new().await;
    let one = rig.put(1).await;
    let two = rig.put(2).await;
    rig.mesos(&[(1, one), (2, two)]);
    let fixed = format!("{POOL}(10.66.77.123)");
    let labels = [("security-groups", "web"), ("floating-ips", fixed.as_str())];
    rig.marathon(listing(&labels, &[1]));
    rig.settle().await;
    let web = "default-domain:mesos-default:web";
    let group = |machine| {
        let group = &rig.interface(machine)["security_group_refs"][0]["to"];
        serde_json::from_value::<FqName>(group.clone())
            .ok()
            .map(|name| name.to_string())
    };
    assert_eq!(group(one).as_deref(), Some(web));
    assert_eq!(group(two), None);
    let interface = agent_api::interface_uuid(one, "eth0").to_string();
    assert_eq!(
        rig.floating(),
        [("10.66.77.123".to_owned(), vec![interface.clone()])]
    );

    // Another address of another pool, and another group.
    let other = "default-domain:default-project:__public__:__fip_pool_public2__(10.33.44.11)";
    let groups = "default-domain:default-project:security_groups_mesos";
    rig.marathon(listing(
        &[("security-groups", groups), ("floating-ips", other)],
        &[1],
    ));
    rig.settle().await;
    assert_eq!(group(one).as_deref(), Some(groups));
    assert_eq!(
        rig.floating(),
        [("10.33.44.11".to_owned(), vec![interface])]
    );

    // The address moves to the other task, and then is given up.
    rig.marathon(listing(&[("floating-ips", other)], &[2]));
    let owned = rig
        .world
        .client
        .list::<FloatingIp>(&crate::vnc::Query::new())
        .await
        .unwrap();
    rig.world
        .client
        .delete::<FloatingIp>(owned[0].common.uuid.unwrap())
        .await
        .unwrap();
    rig.settle().await;
    let interface = agent_api::interface_uuid(two, "eth0").to_string();
    assert_eq!(
        rig.floating(),
        [("10.33.44.11".to_owned(), vec![interface])]
    );
    rig.marathon(listing(&[], &[1, 2]));
    rig.settle().await;
    assert_eq!(rig.floating(), []);
    assert_eq!((group(one), group(two)), (None, None));
}

#[tokio::test]
async fn one_that_cannot_be_put_right_stops_no_other() {
    let rig = Rig::new().await;
    let one = rig.put(1).await;
    let two = rig.put(2).await;
    rig.mesos(&[(1, one), (2, two)]);
    let fixed = format!("{POOL}(10.66.77.123)");
    // Both want it, and only one can have it.
    rig.marathon(listing(&[("floating-ips", fixed.as_str())], &[1, 2]));
    rig.read().await;
    rig.reconciler.settle().await;
    assert_eq!(rig.floating().len(), 1);
    assert_eq!(rig.reconciler.waiting(), 1);
    // The other waits, however often it is asked for, and is not called right.
    let before = rig.world.client.requests();
    rig.reconciler.settle().await;
    assert_eq!(rig.world.client.requests(), before);
    assert_eq!(rig.reconciler.differences().len(), 1);
}

#[tokio::test]
async fn links_that_are_missing_are_made_again() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.mesos(&[(1, machine)]);
    rig.settle().await;
    // Somebody registers the virtual-router anew.
    let name = FqName::new(["default-global-system-config", "node1"]);
    let router = rig
        .world
        .client
        .id_of::<VirtualRouter>(&name)
        .await
        .unwrap()
        .unwrap();
    let client = &rig.world.client;
    client
        .unlink::<VirtualRouter, VirtualMachine>(router, machine)
        .await
        .unwrap();
    client.delete::<VirtualRouter>(router).await.unwrap();
    rig.settle().await;
    let links = || {
        refs(
            &rig.world.server.object(&machine.to_string()).unwrap(),
            "virtual_router_back_refs",
        )
    };
    assert_eq!(links(), Vec::<String>::new());
    let mut router = VirtualRouter::named(name);
    router.virtual_router_ip_address = "10.84.22.27".parse::<IpAddr>().unwrap().into();
    let router = client.create(&router).await.unwrap();
    rig.settle().await;
    assert_eq!(links(), [router.to_string()]);
}

#[tokio::test]
async fn what_is_dead_is_removed_and_only_what_is_ours() {
    let rig = Rig::new().await;
    let dead = rig.put(1).await;
    let alive = rig.put(2).await;
    // Of another cluster, and of nobody.
    let mut config = rig.world.config.clone();
    config.defaults.cluster = "other".to_owned();
    let other = Containers::new(rig.world.client.clone(), &config);
    let (foreign, request) = plain(3);
    other.put("node1", foreign, &request).await.unwrap();
    let mut unmarked = VirtualMachine::named(FqName::new(["unmarked"]));
    unmarked.common.uuid = Some(Uuid::from_u128(77));
    rig.world.client.create(&unmarked).await.unwrap();
    rig.read().await;

    // Nothing on the word of one that is lost, or has not been heard of.
    let doubtful = async |rig: &Rig| {
        rig.reconciler.settle().await;
        assert_eq!(rig.world.more("virtual-machine"), 4);
    };
    doubtful(&rig).await;
    rig.mesos(&[(1, dead), (2, alive)]);
    rig.settle().await;
    let lost = async |rig: &Rig| {
        let nobody = ScriptedServer::start(|_, _| Reply::Answer(503, String::new())).await;
        let address = Address::parse(&nobody.address.to_string(), mesos_master::PORT).unwrap();
        let client = mesos_master::MasterClient::new(follow(vec![address]).mesos).unwrap();
        let error = client.state().await.unwrap_err();
        rig.reconciler.take_mesos(mesos_master::Update::Lost(error));
    };
    lost(&rig).await;
    doubtful(&rig).await;
    // It ends; a list has to confirm it.
    rig.mesos(&[(1, dead), (2, alive)]);
    let ended = Change::TaskUpdated {
        key: task(1, dead).key,
        agent: None,
        executor: None,
        status: Box::new(Status {
            state: TaskState::Failed,
            ..Status::default()
        }),
    };
    rig.reconciler
        .take_mesos(mesos_master::Update::Changed(ended));
    doubtful(&rig).await;
    rig.mesos(&[(2, alive)]);
    rig.settle().await;
    assert!(rig.world.server.object(&dead.to_string()).is_none());
    assert_eq!(rig.world.more("virtual-machine"), 3);
    assert_eq!(rig.world.more("virtual-machine-interface"), 2);
    assert_eq!(rig.world.more("instance-ip"), 2);
    rig.world
        .containers
        .get(Some("node1"), alive)
        .await
        .unwrap();
    other.get(Some("node1"), foreign).await.unwrap();
}

#[tokio::test]
async fn one_that_an_agent_asks_for_again_meanwhile_is_not_removed() {
    let rig = Rig::new().await;
    let machine = rig.put(1).await;
    rig.read().await;
    rig.mesos(&[]);
    let (_, request) = plain(1);
    rig.reconciler
        .stores()
        .contrail
        .read(|view| assert!(view.machines.contains_key(&machine)));
    // Whoever removes waits for the agent's own request, and then asks again whether to.
    let put_before = rig.world.containers.put_at(machine);
    rig.world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    let still = || rig.world.containers.put_at(machine) == put_before;
    let removed = rig
        .world
        .containers
        .remove_if(machine, still)
        .await
        .unwrap();
    assert!(!removed);
    rig.world
        .containers
        .get(Some("node1"), machine)
        .await
        .unwrap();
}
