//! A manager between sources that are told what to say, and an API server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use serde_json::json;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::*;
use crate::marathon::MarathonOptions;
use crate::mesos_master::{MasterOptions, Masters};
use crate::vnc::VirtualMachine;
use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};
use contrail_mesos_api::http::{Address, LeaderOptions};

/// How long anything may take before a test gives up. Never asserted as a time.
const PATIENCE: Duration = Duration::from_mins(2);
const WEB: &str = "default-domain:mesos-default:web";

/// What Mesos says in place of, or beside, the truth, when it is asked next.
#[derive(Clone, Debug)]
pub(super) enum Lie {
    /// No stream at all.
    Answer(Reply),
    /// These bytes, and the end.
    End(Vec<u8>),
    /// These bytes in place of the state.
    Instead(Vec<u8>),
    /// The state, and then these bytes.
    Behind(Vec<u8>),
    /// The state, these bytes, and the end.
    BehindEnd(Vec<u8>),
}

/// What really runs, and what is said.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) live: BTreeMap<u128, Uuid>,
    dead: BTreeSet<Uuid>,
    pub(super) mesos: VecDeque<Lie>,
    /// What the next lists of apps are.
    pub(super) lists: VecDeque<Reply>,
    /// How often the state of Mesos and the list of Marathon were told truly.
    told: [usize; 2],
}

pub(super) struct Bed {
    pub(super) world: World,
    pub(super) truth: Arc<Mutex<Truth>>,
    pub(super) mesos: broadcast::Sender<Vec<u8>>,
    pub(super) marathon: broadcast::Sender<Vec<u8>>,
    manager: Manager,
    /// What is nobody's of ours, as it was.
    others: BTreeMap<String, Value>,
    _servers: [ScriptedServer; 2],
}

/// A name that Marathon gives.
pub(super) fn task_id(number: u128) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

fn task(number: u128, machine: Uuid) -> Value {
    json!({"task_id": {"value": task_id(number)}, "framework_id": {"value": "F"},
        "agent_id": {"value": "S1"}, "state": "TASK_RUNNING", "statuses": [
            {"state": "TASK_RUNNING", "container_status": {"container_id": {"value": machine}}}]})
}

/// The record that Mesos makes of an event.
pub(super) fn record(event: &Value) -> Vec<u8> {
    framed(event.to_string().into_bytes())
}

pub(super) fn framed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut record = format!("{}\n", bytes.len()).into_bytes();
    record.append(&mut bytes);
    record
}

pub(super) fn added(number: u128, machine: Uuid) -> Vec<u8> {
    record(&json!({"type": "TASK_ADDED", "task_added": {"task": task(number, machine)}}))
}

pub(super) fn ended(number: u128) -> Vec<u8> {
    record(
        &json!({"type": "TASK_UPDATED", "task_updated": {"framework_id": {"value": "F"},
        "state": "TASK_KILLED", "status": {"task_id": {"value": task_id(number)},
            "agent_id": {"value": "S1"}, "state": "TASK_KILLED"}}}),
    )
}

/// The first event of Mesos: these tasks run.
pub(super) fn subscribed<'a>(live: impl IntoIterator<Item = (&'a u128, &'a Uuid)>) -> Vec<u8> {
    let tasks = live
        .into_iter()
        .map(|(number, machine)| task(*number, *machine));
    let tasks: Vec<_> = tasks.collect();
    let state = json!({"get_tasks": {"tasks": tasks}, "get_executors": {},
        "get_agents": {"agents": [
            {"agent_info": {"id": {"value": "S1"}, "hostname": "node1"}, "active": true},
            {"agent_info": {"id": {"value": "S2"}, "hostname": "node2"}, "active": true}]},
        "get_frameworks": {"frameworks": [
            {"framework_info": {"id": {"value": "F"}, "name": "marathon"}, "active": true}]}});
    record(&json!({"type": "SUBSCRIBED", "subscribed": {"get_state": state}}))
}

/// An event of Marathon.
pub(super) fn event(kind: &str, data: &str) -> Vec<u8> {
    format!("event: {kind}\r\ndata: {data}\r\n\r\n").into_bytes()
}

pub(super) fn changed(number: u128) -> Vec<u8> {
    let data =
        json!({"taskId": task_id(number), "appId": "/shop/web", "taskStatus": "TASK_RUNNING"});
    event("status_update_event", &data.to_string())
}

/// The app with these tasks.
pub(super) fn app<'a>(live: impl IntoIterator<Item = &'a u128>) -> Value {
    let tasks = live.into_iter();
    let tasks = tasks.map(|number| json!({"id": task_id(*number), "state": "TASK_RUNNING"}));
    json!({"id": "/shop/web", "instances": 12, "tasks": tasks.collect::<Vec<_>>(),
        "networks": [{"mode": "container", "name": "contrail-cni-plugin",
            "labels": {"security-groups": "web"}}]})
}

impl Truth {
    fn mesos(&mut self, feed: &broadcast::Sender<Vec<u8>>) -> Reply {
        const KIND: &str = "application/json";
        let truth = subscribed(&self.live);
        match self.mesos.pop_front() {
            None => {
                self.told[0] += 1;
                Reply::StreamAfter(KIND, truth, feed.clone())
            }
            Some(Lie::Answer(reply)) => reply,
            Some(Lie::End(bytes)) => Reply::Unsized(KIND, bytes),
            Some(Lie::Instead(bytes)) => Reply::StreamAfter(KIND, bytes, feed.clone()),
            Some(Lie::Behind(bytes)) => {
                Reply::StreamAfter(KIND, [truth, bytes].concat(), feed.clone())
            }
            Some(Lie::BehindEnd(bytes)) => Reply::Unsized(KIND, [truth, bytes].concat()),
        }
    }

    fn marathon(&mut self, asked: &ReceivedRequest, feed: &broadcast::Sender<Vec<u8>>) -> Reply {
        match asked.line().as_str() {
            "GET /v2/events" => {
                let attached = event("event_stream_attached", "{\"remoteAddress\":\"::1\"}");
                Reply::StreamAfter("text/event-stream", attached, feed.clone())
            }
            "GET /v2/info" => ok(&json!({"version": "1.11.24"})),
            "GET /v2/apps" => self.lists.pop_front().unwrap_or_else(|| {
                self.told[1] += 1;
                ok(&json!({"apps": [app(self.live.keys())]}))
            }),
            "GET /v2/apps/shop/web" => ok(&json!({"app": app(self.live.keys())})),
            "GET /v2/pods/::status" => ok(&json!([])),
            _ => Reply::Answer(404, json!({"message": "nothing here"}).to_string()),
        }
    }
}

impl Bed {
    /// Twelve containers that live, and what is nobody's of ours.
    pub(super) async fn start() -> Self {
        let world = World::new().await;
        let truth = Arc::new(Mutex::new(Truth::default()));
        let (mesos, _) = broadcast::channel(1 << 12);
        let (marathon, _) = broadcast::channel(1 << 12);
        let (said, feed) = (truth.clone(), mesos.clone());
        let master = ScriptedServer::start(move |_, _| said.lock().unwrap().mesos(&feed)).await;
        let (said, feed) = (truth.clone(), marathon.clone());
        let front =
            ScriptedServer::start(move |asked, _| said.lock().unwrap().marathon(asked, &feed));
        let front = front.await;
        let address = |server: &ScriptedServer, port| {
            Address::parse(&server.address.to_string(), port).unwrap()
        };
        let mut follow = Follow::new(MasterOptions {
            masters: Masters::Listed(vec![address(&master, crate::mesos_master::PORT)]),
            secure: false,
            access: LeaderOptions::default(),
        });
        follow.marathon = Some(MarathonOptions {
            servers: vec![address(&front, crate::marathon::PORT)],
            access: LeaderOptions::default(),
        });
        // It waits for nothing: only what is said keeps it from deleting.
        follow.policy.settle = Duration::ZERO;
        follow.policy.young = Duration::ZERO;
        follow.policy.agent_gone = Duration::ZERO;
        follow.resync = Duration::from_millis(200);
        let mut config = world.config.clone();
        config.follow = Some(follow);

        let mut foreign = world.config.clone();
        "other".clone_into(&mut foreign.defaults.cluster);
        let foreign = Containers::new(world.client.clone(), &foreign);
        let (machine, request) = rich(500);
        foreign.put("node1", machine, &request).await.unwrap();
        let mut unmarked = VirtualMachine::named(FqName::new(["unmarked"]));
        unmarked.common.uuid = Some(Uuid::from_u128(77));
        world.client.create(&unmarked).await.unwrap();
        let manager = Manager::start(config).await.unwrap();
        let mut bed = Self {
            world,
            truth,
            mesos,
            marathon,
            manager,
            others: BTreeMap::new(),
            _servers: [master, front],
        };
        bed.others = bed.of_others();
        for number in 1..=12 {
            bed.begin(number, &[]).await;
        }
        bed.settle("at the start").await;
        bed
    }

    pub(super) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    /// Everything that no container of ours has, but for what refers to it.
    fn of_others(&self) -> BTreeMap<String, Value> {
        let server = &self.world.server;
        let kinds = [
            "virtual-machine",
            "virtual-machine-interface",
            "instance-ip",
            "floating-ip",
        ];
        let objects = kinds.into_iter().flat_map(|kind| server.objects(kind));
        let ours = |object: &Value| {
            let pairs = object["annotations"]["key_value_pair"].as_array();
            let mut pairs = pairs.into_iter().flatten();
            pairs.any(|pair| pair["key"] == "cluster" && pair["value"] == "mesos")
        };
        let objects = objects.filter(|object| !ours(object));
        objects
            .map(|object| (object["uuid"].as_str().unwrap().to_owned(), object))
            .collect()
    }

    /// Waits until it is so.
    async fn until(&self, what: &str, mut is_so: impl FnMut() -> Result<(), String>) {
        let started = Instant::now();
        while let Err(problem) = is_so() {
            assert!(started.elapsed() < PATIENCE, "{what}: {problem}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every lie was told, and the truth twice after them.
    pub(super) async fn told(&self, what: &str) {
        let none_left = || {
            let truth = self.truth();
            let left = truth.mesos.len() + truth.lists.len();
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} lies are left to tell"))
            }
        };
        self.until(what, none_left).await;
        let before = self.truth().told;
        let again = || {
            let told = self.truth().told;
            let twice = (0..2).all(|at| told[at] >= before[at] + 2);
            if twice {
                Ok(())
            } else {
                Err("the sources are not asked again".to_owned())
            }
        };
        self.until(what, again).await;
    }

    /// A task begins, and these events are sent of it. Its agent asks once Mesos is known to know.
    pub(super) async fn begin(&self, number: u128, events: &[Vec<u8>]) {
        let (machine, request) = plain(number);
        self.truth().live.insert(number, machine);
        self.send(events);
        self.told("a task begins").await;
        let put = self.manager.containers().put("node1", machine, &request);
        put.await.unwrap();
    }

    /// A task ends, and nobody but the manager will remove what it had.
    pub(super) fn end(&self, number: u128, events: &[Vec<u8>]) {
        let mut truth = self.truth();
        let machine = truth.live.remove(&number).unwrap();
        truth.dead.insert(machine);
        drop(truth);
        self.send(events);
    }

    pub(super) fn send(&self, events: &[Vec<u8>]) {
        for event in events {
            // Without anybody who listens it is lost, as in life.
            let _ = self.mesos.send(event.clone());
        }
    }

    /// Waits until what lives is there and right, and what is dead is gone; nothing of the first
    /// has been deleted in the meantime, and nothing of others touched.
    pub(super) async fn settle(&self, what: &str) {
        self.told(what).await;
        self.until(what, || self.is_true()).await;
        let reconciler = self.manager.reconciler().unwrap();
        self.until(what, || match reconciler.waiting() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} wait")),
        })
        .await;
        assert_eq!(self.of_others(), self.others, "{what}");
        let live = self.truth().live.clone();
        let uuids: BTreeSet<String> = live
            .values()
            .flat_map(|machine| [*machine, agent_api::interface_uuid(*machine, "eth0")])
            .map(|uuid| uuid.to_string())
            .collect();
        for entry in self.world.server.log() {
            let of = entry.path.rsplit('/').next().unwrap_or_default();
            assert!(
                entry.method != "DELETE" || !uuids.contains(of),
                "{what}: {entry:?} of what lives"
            );
        }
        for machine in live.values() {
            self.manager
                .containers()
                .get(Some("node1"), *machine)
                .await
                .unwrap();
        }
    }

    fn is_true(&self) -> Result<(), String> {
        let truth = self.truth();
        let server = &self.world.server;
        for machine in &truth.dead {
            let interface = agent_api::interface_uuid(*machine, "eth0");
            for uuid in [*machine, interface] {
                if server.object(&uuid.to_string()).is_some() {
                    return Err(format!("{uuid} is dead and there"));
                }
            }
        }
        for (number, machine) in &truth.live {
            let interface = agent_api::interface_uuid(*machine, "eth0").to_string();
            let (Some(machine), Some(interface)) = (
                server.object(&machine.to_string()),
                server.object(&interface),
            ) else {
                return Err(format!("{machine} lives and is not there"));
            };
            let group = &interface["security_group_refs"][0]["to"];
            let group = serde_json::from_value::<FqName>(group.clone()).map(|one| one.to_string());
            let right = machine["display_name"] == task_id(*number)
                && refs(&machine, "virtual_router_back_refs").len() == 1
                && refs(&interface, "instance_ip_back_refs").len() == 1
                && group.as_deref().ok() == Some(WEB);
            if !right {
                return Err(format!("{machine} with {interface} is not right"));
            }
        }
        let of_ours = 2 + truth.live.len();
        let there = self.world.more("virtual-machine");
        if there == of_ours {
            Ok(())
        } else {
            Err(format!("{there} machines, not {of_ours}"))
        }
    }

    pub(super) async fn stop(self) {
        self.manager.stop().await;
    }
}
