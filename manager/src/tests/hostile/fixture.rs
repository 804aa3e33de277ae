//! A manager between scripted sources and an API server.

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

/// How long a test waits before it gives up. Never asserted as a time.
const TIMEOUT: Duration = Duration::from_mins(2);
const WEB: &str = "default-domain:mesos-default:web";

/// What Mesos sends at the next request instead of, or beside, the expected state.
#[derive(Clone, Debug)]
pub(super) enum FakeResponse {
    /// No stream at all.
    Answer(Reply),
    /// These bytes, and the end of the stream.
    End(Vec<u8>),
    /// These bytes instead of the state.
    Instead(Vec<u8>),
    /// The state, and then these bytes.
    After(Vec<u8>),
    /// The state, these bytes, and the end.
    AfterAndEnd(Vec<u8>),
}

/// What really runs, and what the sources send.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) live: BTreeMap<u128, Uuid>,
    dead: BTreeSet<Uuid>,
    pub(super) mesos: VecDeque<FakeResponse>,
    /// The next lists of apps.
    pub(super) lists: VecDeque<Reply>,
    /// How often the real state of Mesos and the real list of Marathon were sent.
    sent: [usize; 2],
}

pub(super) struct HostileFixture {
    pub(super) base: Fixture,
    pub(super) expected: Arc<Mutex<Expected>>,
    pub(super) mesos: broadcast::Sender<Vec<u8>>,
    pub(super) marathon: broadcast::Sender<Vec<u8>>,
    manager: Manager,
    /// The objects of others at the start.
    others_before: BTreeMap<String, Value>,
    _servers: [ScriptedServer; 2],
}

/// A task id as Marathon makes it.
pub(super) fn task_id(number: u128) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

fn task(number: u128, vm: Uuid) -> Value {
    json!({"task_id": {"value": task_id(number)}, "framework_id": {"value": "F"},
        "agent_id": {"value": "S1"}, "state": "TASK_RUNNING", "statuses": [
            {"state": "TASK_RUNNING", "container_status": {"container_id": {"value": vm}}}]})
}

/// An event as Mesos frames it.
pub(super) fn record(event: &Value) -> Vec<u8> {
    framed(event.to_string().into_bytes())
}

pub(super) fn framed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut record = format!("{}\n", bytes.len()).into_bytes();
    record.append(&mut bytes);
    record
}

pub(super) fn added(number: u128, vm: Uuid) -> Vec<u8> {
    record(&json!({"type": "TASK_ADDED", "task_added": {"task": task(number, vm)}}))
}

pub(super) fn ended(number: u128) -> Vec<u8> {
    record(
        &json!({"type": "TASK_UPDATED", "task_updated": {"framework_id": {"value": "F"},
        "state": "TASK_KILLED", "status": {"task_id": {"value": task_id(number)},
            "agent_id": {"value": "S1"}, "state": "TASK_KILLED"}}}),
    )
}

/// The first event of Mesos, with these tasks.
pub(super) fn subscribed<'a>(live: impl IntoIterator<Item = (&'a u128, &'a Uuid)>) -> Vec<u8> {
    let tasks = live.into_iter().map(|(number, vm)| task(*number, *vm));
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

impl Expected {
    fn mesos(&mut self, feed: &broadcast::Sender<Vec<u8>>) -> Reply {
        const KIND: &str = "application/json";
        let expected = subscribed(&self.live);
        match self.mesos.pop_front() {
            None => {
                self.sent[0] += 1;
                Reply::StreamAfter(KIND, expected, feed.clone())
            }
            Some(FakeResponse::Answer(reply)) => reply,
            Some(FakeResponse::End(bytes)) => Reply::Unsized(KIND, bytes),
            Some(FakeResponse::Instead(bytes)) => Reply::StreamAfter(KIND, bytes, feed.clone()),
            Some(FakeResponse::After(bytes)) => {
                Reply::StreamAfter(KIND, [expected, bytes].concat(), feed.clone())
            }
            Some(FakeResponse::AfterAndEnd(bytes)) => {
                Reply::Unsized(KIND, [expected, bytes].concat())
            }
        }
    }

    fn marathon(&mut self, request: &ReceivedRequest, feed: &broadcast::Sender<Vec<u8>>) -> Reply {
        match request.line().as_str() {
            "GET /v2/events" => {
                let attached = event("event_stream_attached", "{\"remoteAddress\":\"::1\"}");
                Reply::StreamAfter("text/event-stream", attached, feed.clone())
            }
            "GET /v2/info" => ok(&json!({"version": "1.11.24"})),
            "GET /v2/apps" => self.lists.pop_front().unwrap_or_else(|| {
                self.sent[1] += 1;
                ok(&json!({"apps": [app(self.live.keys())]}))
            }),
            "GET /v2/apps/shop/web" => ok(&json!({"app": app(self.live.keys())})),
            "GET /v2/pods/::status" => ok(&json!([])),
            _ => Reply::Answer(404, json!({"message": "nothing here"}).to_string()),
        }
    }
}

impl HostileFixture {
    /// Twelve running containers, and objects of others.
    pub(super) async fn start() -> Self {
        let base = Fixture::new().await;
        let expected = Arc::new(Mutex::new(Expected::default()));
        let (mesos, _) = broadcast::channel(1 << 12);
        let (marathon, _) = broadcast::channel(1 << 12);
        let (state, feed) = (expected.clone(), mesos.clone());
        let master = ScriptedServer::start(move |_, _| state.lock().unwrap().mesos(&feed)).await;
        let (state, feed) = (expected.clone(), marathon.clone());
        let front =
            ScriptedServer::start(move |request, _| state.lock().unwrap().marathon(request, &feed));
        let front = front.await;
        let address = |server: &ScriptedServer, port| {
            Address::parse(&server.address.to_string(), port).unwrap()
        };
        let mut follow = Follow::new(MasterOptions {
            masters: Masters::Listed(vec![address(&master, crate::mesos_master::DEFAULT_PORT)]),
            secure: false,
            access: LeaderOptions::default(),
        });
        follow.marathon = Some(MarathonOptions {
            servers: vec![address(&front, crate::marathon::DEFAULT_PORT)],
            access: LeaderOptions::default(),
        });
        // No waiting times: only the content of the updates keeps it from deleting.
        follow.policy.stabilization_window = Duration::ZERO;
        follow.policy.grace_period = Duration::ZERO;
        follow.policy.agent_gone_after = Duration::ZERO;
        follow.resync = Duration::from_millis(200);
        let mut config = base.config.clone();
        config.follow = Some(follow);

        let mut foreign = base.config.clone();
        "other".clone_into(&mut foreign.defaults.cluster);
        let foreign = Containers::new(base.client.clone(), &foreign);
        let (vm, request) = rich(500);
        foreign.put("node1", vm, &request).await.unwrap();
        let mut unmarked = VirtualMachine::named(FqName::new(["unmarked"]));
        unmarked.common.uuid = Some(Uuid::from_u128(77));
        base.client.create(&unmarked).await.unwrap();
        let manager = Manager::start(config).await.unwrap();
        let mut fixture = Self {
            base,
            expected,
            mesos,
            marathon,
            manager,
            others_before: BTreeMap::new(),
            _servers: [master, front],
        };
        fixture.others_before = fixture.objects_of_others();
        for number in 1..=12 {
            fixture.begin(number, &[]).await;
        }
        fixture.settle("at the start").await;
        fixture
    }

    pub(super) fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap()
    }

    /// The objects that are not ours.
    fn objects_of_others(&self) -> BTreeMap<String, Value> {
        let server = &self.base.server;
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

    /// Waits until `check` succeeds.
    async fn until(&self, what: &str, mut check: impl FnMut() -> Result<(), String>) {
        let started = Instant::now();
        while let Err(problem) = check() {
            assert!(started.elapsed() < TIMEOUT, "{what}: {problem}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every fake response was sent, and then the real state twice.
    pub(super) async fn wait_for_sources(&self, what: &str) {
        let none_left = || {
            let expected = self.expected();
            let left = expected.mesos.len() + expected.lists.len();
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} fake responses are not sent yet"))
            }
        };
        self.until(what, none_left).await;
        let before = self.expected().sent;
        let again = || {
            let sent = self.expected().sent;
            let twice = (0..2).all(|at| sent[at] >= before[at] + 2);
            if twice {
                Ok(())
            } else {
                Err("the sources are not read again".to_owned())
            }
        };
        self.until(what, again).await;
    }

    /// A task begins, and these events are sent. Its agent requests its ports once the manager has
    /// listed the task.
    pub(super) async fn begin(&self, number: u128, events: &[Vec<u8>]) {
        let (vm, request) = plain(number);
        self.expected().live.insert(number, vm);
        self.send(events);
        self.wait_for_sources("a task begins").await;
        let put = self
            .manager
            .contrail()
            .unwrap()
            .containers
            .put("node1", vm, &request);
        put.await.unwrap();
    }

    /// A task ends, and only the manager deletes its objects.
    pub(super) fn end(&self, number: u128, events: &[Vec<u8>]) {
        let mut expected = self.expected();
        let vm = expected.live.remove(&number).unwrap();
        expected.dead.insert(vm);
        drop(expected);
        self.send(events);
    }

    pub(super) fn send(&self, events: &[Vec<u8>]) {
        for event in events {
            // Without a subscriber it is lost, as in reality.
            let _ = self.mesos.send(event.clone());
        }
    }

    /// Waits until running containers are in their desired state and ended ones are gone. Nothing of
    /// a running one has been deleted meanwhile, and nothing of others was touched.
    pub(super) async fn settle(&self, what: &str) {
        self.wait_for_sources(what).await;
        self.until(what, || self.check_state()).await;
        let reconciler = self.manager.reconciler().unwrap();
        self.until(what, || match reconciler.waiting() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} wait")),
        })
        .await;
        assert_eq!(self.objects_of_others(), self.others_before, "{what}");
        let live = self.expected().live.clone();
        let uuids: BTreeSet<String> = live
            .values()
            .flat_map(|vm| [*vm, agent_api::interface_uuid(*vm, "eth0")])
            .map(|uuid| uuid.to_string())
            .collect();
        for entry in self.base.server.log() {
            let of = entry.path.rsplit('/').next().unwrap_or_default();
            assert!(
                entry.method != "DELETE" || !uuids.contains(of),
                "{what}: {entry:?} of a running container"
            );
        }
        for vm in live.values() {
            self.manager
                .contrail()
                .unwrap()
                .containers
                .get(Some("node1"), *vm)
                .await
                .unwrap();
        }
    }

    fn check_state(&self) -> Result<(), String> {
        let expected = self.expected();
        let server = &self.base.server;
        for vm in &expected.dead {
            let interface = agent_api::interface_uuid(*vm, "eth0");
            for uuid in [*vm, interface] {
                if server.object(&uuid.to_string()).is_some() {
                    return Err(format!("{uuid} has ended and still exists"));
                }
            }
        }
        for (number, vm) in &expected.live {
            let interface = agent_api::interface_uuid(*vm, "eth0").to_string();
            let (Some(vm), Some(interface)) =
                (server.object(&vm.to_string()), server.object(&interface))
            else {
                return Err(format!("{vm} runs and does not exist"));
            };
            let group = &interface["security_group_refs"][0]["to"];
            let group = serde_json::from_value::<FqName>(group.clone()).map(|one| one.to_string());
            let right = vm["display_name"] == task_id(*number)
                && refs(&vm, "virtual_router_back_refs").len() == 1
                && refs(&interface, "instance_ip_back_refs").len() == 1
                && group.as_deref().ok() == Some(WEB);
            if !right {
                return Err(format!("{vm} with {interface} is not in its desired state"));
            }
        }
        let of_ours = 2 + expected.live.len();
        let there = self.base.added("virtual-machine");
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
