//! The manager's Marathon follower, on a simulated Marathon of three servers whose tasks run on the
//! real Mesos: it receives every change, and its listings match the tasks in Mesos.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::http::{Address, Credentials, LeaderOptions};
use contrail_mesos_manager::marathon::{
    DEFAULT_PORT, FollowOptions, Follower, Key, Listing, MarathonClient, MarathonOptions, TaskId,
    Update,
};
use contrail_mesos_sim::marathon::events::Event;
use contrail_mesos_sim::marathon::version::Version;
use contrail_mesos_sim::marathon::{Handle, HttpCredentials, Marathon, Options};
use mesos_module_tests::testbed::agent::WAIT_TIMEOUT;
use mesos_module_tests::testbed::{Cluster, Host};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const WEB: &str = "/v2/apps/shop/web";
const USER: &str = "contrail";
const PASSWORD: &str = "a password of this test alone";

struct Fixture {
    host: Host,
    cluster: Cluster,
    marathon: Marathon,
    client: MarathonClient,
    follower: Follower,
}

impl Fixture {
    /// The follower is configured with the standbys only, so that they must redirect it to the
    /// leader.
    fn start(address: &str, version: Version) -> Result<Self> {
        let host = Host::start(address.parse::<IpAddr>()?)?;
        let cluster = Cluster::on(&host).start()?;
        let any = (host.address(), 0).into();
        let options = Options {
            master: cluster.master().to_owned(),
            listen: any,
            standbys: vec![any, any],
            version,
            http_credentials: HttpCredentials::parse(&format!("{USER}:{PASSWORD}")),
            outstanding: 256,
            ..Options::default()
        };
        let marathon = host.block_on(Marathon::start(options))?;
        let standbys: Vec<Address> = marathon
            .handle()
            .servers()
            .iter()
            .skip(1)
            .map(|server| Address::parse(&server.to_string(), DEFAULT_PORT))
            .collect::<Result<_, _>>()?;
        let client = MarathonClient::new(MarathonOptions {
            servers: standbys,
            access: LeaderOptions {
                credentials: Credentials::Basic {
                    user: USER.to_owned(),
                    password: PASSWORD.into(),
                },
                ..LeaderOptions::default()
            },
        })?;
        let options = FollowOptions {
            backoff: (Duration::from_millis(10), Duration::from_millis(200)),
            ..FollowOptions::default()
        };
        let follower = host.block_on(async { Follower::start(client.clone(), options) });
        Ok(Self {
            host,
            cluster,
            marathon,
            client,
            follower,
        })
    }

    fn handle(&self) -> &Handle {
        self.marathon.handle()
    }

    fn request(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let leader = self.handle().leader().context("no leader")?;
        let url = format!("http://{}{path}", self.handle().servers()[leader]);
        self.host.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build()?;
            let request = client.request(method, url).body(body.to_string());
            let response = request.basic_auth(USER, Some(PASSWORD)).send().await?;
            let status = response.status();
            let body = response.bytes().await?;
            ensure!(status.is_success(), "{path}: {status} {body:?}");
            Ok(serde_json::from_slice(&body).unwrap_or_default())
        })
    }

    fn next(&mut self) -> Result<Update> {
        let follower = &mut self.follower;
        let next = async { tokio::time::timeout(WAIT_TIMEOUT, follower.next()).await };
        self.host
            .block_on(next)
            .context("the follower sends no update")
    }

    /// Waits for a snapshot with the stream attached, and compares it. Losses before it are skipped.
    fn expect_snapshot(&mut self) -> Result<()> {
        loop {
            if let Update::Snapshot(listing) = self.next()?
                && listing.followed
            {
                ensure!(listing.is_complete(), "{:?}", listing.skipped);
                return self.compare(&listing);
            }
        }
    }

    fn expect_lost(&mut self) -> Result<()> {
        while !matches!(self.next()?, Update::Lost(_)) {}
        Ok(())
    }

    /// The ids of the tasks in Marathon's store.
    fn stored_tasks(&self) -> BTreeSet<String> {
        self.handle().tasks().into_keys().collect()
    }

    /// Fails unless the listing, Marathon's store and Mesos have exactly the same tasks.
    fn compare(&self, listing: &Listing) -> Result<()> {
        let app_tasks = listing
            .apps
            .iter()
            .flat_map(|app| &app.tasks)
            .map(|task| task.id.to_string());
        let pod_tasks = listing
            .pods
            .iter()
            .flat_map(|pod| &pod.instances)
            .flat_map(|instance| &instance.containers)
            .filter_map(|container| Some(container.task.as_deref()?.to_owned()));
        let listed: BTreeSet<String> = app_tasks.chain(pod_tasks).collect();
        let stored = self.stored_tasks();
        ensure!(listed == stored, "listed {listed:?}, stored {stored:?}");
        let response = self.cluster.master_call(&json!({"type": "GET_TASKS"}))?;
        let running: BTreeSet<String> = response["get_tasks"]["tasks"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|task| task["state"] == "TASK_RUNNING")
            .filter_map(|task| Some(task["task_id"]["value"].as_str()?.to_owned()))
            .collect();
        ensure!(running == stored, "Mesos runs {running:?} of {stored:?}");
        Ok(())
    }

    /// Runs `act`, waits until no deployment is left and `count` tasks run, and until the follower
    /// has named every task that was added or removed. Then compares a new listing.
    fn step(&mut self, count: usize, act: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let before = self.stored_tasks();
        act(self)?;
        let started = Instant::now();
        loop {
            let tasks = self.handle().tasks();
            let running = tasks.values().all(|state| *state == "TASK_RUNNING");
            let changed = tasks.keys().ne(before.iter());
            if self.handle().deployments() == 0 && running && changed && tasks.len() == count {
                break;
            }
            ensure!(started.elapsed() < WAIT_TIMEOUT, "{count} of {tasks:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let after = self.stored_tasks();
        let mut missing: BTreeSet<String> = before.symmetric_difference(&after).cloned().collect();
        while !missing.is_empty() {
            match self.next()? {
                Update::Changed(key) => missing.retain(|task| !names(&key, task)),
                // A snapshot includes all earlier changes.
                Update::Snapshot(_) => missing.clear(),
                Update::Lost(error) => bail!("the stream is lost: {error}"),
            }
        }
        let listing = self.host.block_on(self.client.list())?;
        self.compare(&listing)
    }

    fn stop(self) -> Result<()> {
        drop(self.follower);
        self.host.block_on(self.marathon.stop(true))?;
        self.cluster.stop()
    }
}

/// Whether a key marks this task as changed.
fn names(key: &Key, task: &str) -> bool {
    match key {
        Key::Task { task: own, .. } => **own == *task,
        Key::Instance(instance) => {
            TaskId::parse(task).is_some_and(|task| task.instance == *instance)
        }
        Key::RunSpec(_) | Key::Pods => false,
    }
}

fn app() -> Value {
    json!({"id": "/shop/web", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 16, "instances": 3})
}

/// Follows an app and a pod from creation to deletion, through changes of Marathon's leader.
fn follow(address: &str, version: Version) -> Result<()> {
    let mut fixture = Fixture::start(address, version)?;
    fixture.expect_snapshot()?;
    assert_eq!(fixture.handle().streams(), 1);
    assert!(
        fixture
            .handle()
            .log(1)
            .into_iter()
            .filter(|entry| entry.path.starts_with("/v2/events"))
            .any(|entry| entry.status == Some(302))
    );

    fixture.step(3, |fixture| {
        fixture.request(Method::POST, "/v2/apps", &app()).map(drop)
    })?;
    for count in [10, 2] {
        fixture.step(count, |fixture| {
            let change = json!({"instances": count});
            fixture.request(Method::PUT, WEB, &change).map(drop)
        })?;
    }
    fixture.step(2, |fixture| {
        let change = json!({"env": {"COLOUR": "blue"}});
        fixture.request(Method::PUT, WEB, &change).map(drop)
    })?;
    fixture.step(2, |fixture| {
        let path = format!("{WEB}/restart");
        fixture.request(Method::POST, &path, &Value::Null).map(drop)
    })?;
    fixture.step(2, |fixture| {
        let task = fixture
            .stored_tasks()
            .into_iter()
            .next()
            .context("no task")?;
        let path = format!("{WEB}/tasks/{task}");
        fixture
            .request(Method::DELETE, &path, &Value::Null)
            .map(drop)
    })?;
    fixture.step(4, |fixture| {
        let container = |name: &str| {
            json!({"name": name, "resources": {"cpus": 0.01, "mem": 16},
                   "exec": {"command": {"shell": "sleep 1000"}}})
        };
        let pod = json!({"id": "/pod", "containers": [container("c1"), container("c2")]});
        fixture.request(Method::POST, "/v2/pods", &pod).map(drop)
    })?;

    let framework = fixture.handle().framework_id();
    let before = fixture.stored_tasks();
    fixture.handle().set_leader(Some(1));
    fixture.expect_lost()?;
    fixture.expect_snapshot()?;
    fixture.handle().set_leader(None);
    fixture.expect_lost()?;
    let error = fixture
        .host
        .block_on(fixture.client.list())
        .err()
        .context("a list without a leader succeeds")?
        .to_string();
    ensure!(error.contains("502"), "{error}");
    fixture.handle().set_leader(Some(2));
    fixture.expect_snapshot()?;
    // The leader becomes unreachable, and another server takes over.
    fixture.handle().unplug(2);
    fixture.expect_lost()?;
    fixture.handle().set_leader(Some(0));
    fixture.expect_snapshot()?;
    let handle = fixture.marathon.handle().clone();
    fixture.host.block_on(handle.plug(2))?;
    assert_eq!(
        fixture.stored_tasks(),
        before,
        "changes of the leader restart no task"
    );
    assert_eq!(fixture.handle().framework_id(), framework);

    slow_consumer(&fixture, version)?;
    fixture.step(2, |fixture| {
        fixture
            .request(Method::DELETE, "/v2/pods/pod", &Value::Null)
            .map(drop)
    })?;
    fixture.step(0, |fixture| {
        fixture.request(Method::DELETE, WEB, &Value::Null).map(drop)
    })?;
    fixture.stop()
}

/// Another client reads too slowly: Marathon 1.7 drops events, later versions end its stream. The
/// follower is not affected.
fn slow_consumer(fixture: &Fixture, version: Version) -> Result<()> {
    let handle = fixture.handle();
    let address = handle.servers()[0];
    let credentials = reqwest::Client::new()
        .get("http://m/")
        .basic_auth(USER, Some(PASSWORD))
        .build()?
        .headers()["authorization"]
        .to_str()?
        .to_owned();
    let request = format!(
        "GET /v2/events?event_type=flood HTTP/1.1\r\nHost: m\r\nAccept: text/event-stream\r\n\
         Authorization: {credentials}\r\n\r\n"
    );
    fixture.host.block_on(async {
        let streams = handle.streams();
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(request.as_bytes()).await?;
        while handle.streams() == streams {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let text = "x".repeat(1 << 16);
        let started = Instant::now();
        let mut sent = 0;
        while handle.lost() == 0 {
            handle.publish(Event::new("flood", json!({"number": sent, "text": text})));
            sent += 1;
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "none of {sent} events is lost"
            );
            tokio::task::yield_now().await;
        }
        let closes = version.closes_slow_streams();
        assert_eq!(handle.streams(), streams + usize::from(!closes));
        if closes {
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).await?;
            ensure!(rest.len() < sent * text.len(), "no event is missing");
        }
        Ok(())
    })
}

#[test]
fn newest_marathon_is_followed() -> Result<()> {
    follow("10.94.3.1", Version::V1_11)
}

#[test]
fn oldest_marathon_is_followed() -> Result<()> {
    follow("10.94.4.1", Version::V1_7)
}
