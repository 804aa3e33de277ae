//! The simulated Marathon on the real Mesos: an app and a pod from creation to deletion.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_sim::marathon::launch::image::Images;
use contrail_mesos_sim::marathon::model::Defaults;
use contrail_mesos_sim::marathon::{Marathon, Options};
use mesos_module_tests::testbed::{Cluster, Host};
use reqwest::Method;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    host: Host,
    cluster: Cluster,
    marathon: Marathon,
}

impl Fixture {
    /// Uses the agent's own filesystem instead of the sample's image.
    fn start(address: &str, role: &str) -> Result<Self> {
        let host = Host::start(address.parse::<IpAddr>()?)?;
        let cluster = Cluster::on(&host).env("MESOS_DEFAULT_ROLE", role).start()?;
        let options = Options {
            master: cluster.master().to_owned(),
            listen: (host.address(), 0).into(),
            defaults: Defaults {
                role: role.to_owned(),
                ..Defaults::default()
            },
            images: Images {
                by_name: [("ubuntu-upstart".to_owned(), None)].into(),
                ..Images::default()
            },
            ..Options::default()
        };
        let marathon = host.block_on(Marathon::start(options))?;
        Ok(Self {
            host,
            cluster,
            marathon,
        })
    }

    fn ask(&self, method: Method, path: &str, body: &Value) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.marathon.url());
        self.host.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build()?;
            let answer = client
                .request(method, url)
                .body(body.to_string())
                .send()
                .await?;
            let status = answer.status().as_u16();
            let body = answer.bytes().await?;
            Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
        })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask(Method::GET, path, &Value::Null)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }

    /// Until Marathon has nothing more to do.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/v2/deployments")? != json!([]) {
            ensure!(
                Instant::now() < deadline,
                "still deploying: {} {}",
                self.get("/v2/apps?embed=apps.tasks&embed=apps.lastTaskFailure")?,
                self.get("/v2/pods/::status")?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The ids of the running tasks in Mesos.
    fn running(&self) -> Result<Vec<String>> {
        let answer = self.cluster.master_call(&json!({"type": "GET_TASKS"}))?;
        let tasks = answer["get_tasks"]["tasks"].as_array().cloned();
        let mut running: Vec<String> = tasks
            .unwrap_or_default()
            .iter()
            .filter(|task| task["state"] == "TASK_RUNNING")
            .filter_map(|task| Some(task["task_id"]["value"].as_str()?.to_owned()))
            .collect();
        running.sort();
        Ok(running)
    }

    fn stop(self) -> Result<()> {
        self.host.block_on(self.marathon.stop(true))?;
        self.cluster.stop()
    }
}

/// A sample app on the host network.
fn sample() -> Value {
    json!({
        "id": "/app-no-1", "acceptedResourceRoles": ["slave_public"],
        "backoffFactor": 1.15, "backoffSeconds": 1,
        "container": {"type": "MESOS", "volumes": [], "docker": {"image": "ubuntu-upstart",
            "forcePullImage": true, "parameters": []}},
        "cpus": 0.1, "disk": 0, "instances": 3, "maxLaunchDelaySeconds": 3600, "mem": 32,
        "gpus": 0, "networks": [{"mode": "host"}], "requirePorts": false,
        "upgradeStrategy": {"maximumOverCapacity": 1, "minimumHealthCapacity": 1},
        "killSelection": "YOUNGEST_FIRST",
        "unreachableStrategy": {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0},
        "healthChecks": [], "fetch": [], "constraints": [],
    })
}

fn ids(tasks: &Value) -> Vec<String> {
    let tasks = tasks["tasks"].as_array().cloned().unwrap_or_default();
    let ids = tasks.iter().filter_map(|task| task["id"].as_str());
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

#[test]
fn sample_app_and_pod_run_and_are_deleted() -> Result<()> {
    let mut fixture = Fixture::start("10.94.1.1", "slave_public")?;
    let (status, app) = fixture.ask(Method::POST, "/v2/apps", &sample())?;
    ensure!(status == 201, "{status} {app}");
    fixture.settle()?;
    let tasks = fixture.get("/v2/tasks")?;
    let three = ids(&tasks);
    assert_eq!(three.len(), 3);
    assert_eq!(fixture.running()?, three);
    let address = fixture.host.address().to_string();
    for task in tasks["tasks"].as_array().context("no tasks")? {
        assert_eq!(task["state"], "TASK_RUNNING", "{task}");
        assert_eq!(task["ipAddresses"][0]["ipAddress"], address, "{task}");
        assert!(task["ports"][0].as_u64() >= Some(31000), "{task}");
    }

    let fewer = fixture.ask(Method::PUT, "/v2/apps/app-no-1", &json!({"instances": 1}))?;
    assert_eq!(fewer.0, 200, "{}", fewer.1);
    fixture.settle()?;
    let one = ids(&fixture.get("/v2/tasks")?);
    assert_eq!(one.len(), 1);
    assert_eq!(fixture.running()?, one);

    let part = |name: &str| {
        json!({"name": name, "resources": {"cpus": 0.1, "mem": 32},
               "exec": {"command": {"shell": "sleep 1000"}}})
    };
    let pod = json!({"id": "/pod-no-1", "networks": [{"mode": "host"}],
                     "containers": [part("c1"), part("c2")]});
    let (status, pod) = fixture.ask(Method::POST, "/v2/pods", &pod)?;
    ensure!(status == 201, "{status} {pod}");
    fixture.settle()?;
    let shown = fixture.get("/v2/pods/pod-no-1::status")?;
    assert_eq!(shown["status"], "STABLE", "{shown}");
    assert_eq!(fixture.running()?.len(), 3);

    // Master and agent die at once; what runs, runs on, and Marathon finds its way back.
    let before = fixture.running()?;
    fixture.cluster.restart()?;
    let deadline = Instant::now() + PATIENCE;
    while fixture.running().unwrap_or_default() != before {
        ensure!(
            Instant::now() < deadline,
            "not adopted: {:?}",
            fixture.running()
        );
        std::thread::sleep(Duration::from_millis(100));
    }

    let (status, _) = fixture.ask(Method::DELETE, "/v2/pods/pod-no-1", &Value::Null)?;
    assert_eq!(status, 202);
    let (status, _) = fixture.ask(Method::DELETE, "/v2/apps/app-no-1", &Value::Null)?;
    assert_eq!(status, 200);
    fixture.settle()?;
    assert_eq!(fixture.running()?, Vec::<String>::new());
    assert_eq!(fixture.get("/v2/apps")?, json!({"apps": []}));
    assert_eq!(fixture.get("/v2/pods")?, json!([]));
    fixture.stop()
}

#[test]
fn unplaceable_task_waits_and_failure_is_reported() -> Result<()> {
    let fixture = Fixture::start("10.94.2.1", "*")?;
    let (status, _) = fixture.ask(Method::POST, "/v2/apps", &sample())?;
    assert_eq!(status, 201);
    let unknown = json!({"id": "/b", "cmd": "sleep 1000", "cpus": 0.1, "mem": 32,
                         "networks": [{"name": "nowhere"}]});
    let (status, _) = fixture.ask(Method::POST, "/v2/apps", &unknown)?;
    assert_eq!(status, 201);
    let deadline = Instant::now() + PATIENCE;
    let message = loop {
        let shown = fixture.get("/v2/apps/b?embed=app.lastTaskFailure")?;
        let message = &shown["app"]["lastTaskFailure"]["message"];
        if let Some(message) = message.as_str() {
            break message.to_owned();
        }
        ensure!(Instant::now() < deadline, "it does not fail: {shown}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(message.contains("nowhere"), "{message}");
    // Nothing is reserved for slave_public here.
    let waiting = fixture.get("/v2/apps/app-no-1?embed=app.tasks")?;
    assert_eq!(waiting["app"]["tasks"], json!([]), "{waiting}");
    fixture.stop()
}
