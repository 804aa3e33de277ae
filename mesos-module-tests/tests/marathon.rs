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

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

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

    fn request(&self, method: Method, path: &str, body: &Value) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.marathon.url());
        self.host.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build()?;
            let response = client
                .request(method, url)
                .body(body.to_string())
                .send()
                .await?;
            let status = response.status().as_u16();
            let body = response.bytes().await?;
            Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
        })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.request(Method::GET, path, &Value::Null)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }

    /// Waits until Marathon has no deployments.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
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
        let response = self.cluster.master_call(&json!({"type": "GET_TASKS"}))?;
        let mut running: Vec<String> = response["get_tasks"]["tasks"]
            .as_array()
            .into_iter()
            .flatten()
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
    let mut ids: Vec<String> = tasks["tasks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|task| task["id"].as_str())
        .map(str::to_owned)
        .collect();
    ids.sort();
    ids
}

#[test]
fn sample_app_and_pod_run_and_are_deleted() -> Result<()> {
    let mut fixture = Fixture::start("10.94.1.1", "slave_public")?;
    let (status, app) = fixture.request(Method::POST, "/v2/apps", &sample())?;
    ensure!(status == 201, "{status} {app}");
    fixture.settle()?;
    let tasks = fixture.get("/v2/tasks")?;
    let task_ids = ids(&tasks);
    assert_eq!(task_ids.len(), 3);
    assert_eq!(fixture.running()?, task_ids);
    let address = fixture.host.address().to_string();
    for task in tasks["tasks"].as_array().context("no tasks")? {
        assert_eq!(task["state"], "TASK_RUNNING", "{task}");
        assert_eq!(task["ipAddresses"][0]["ipAddress"], address, "{task}");
        assert!(task["ports"][0].as_u64() >= Some(31000), "{task}");
    }

    let (status, body) =
        fixture.request(Method::PUT, "/v2/apps/app-no-1", &json!({"instances": 1}))?;
    assert_eq!(status, 200, "{body}");
    fixture.settle()?;
    let task_ids = ids(&fixture.get("/v2/tasks")?);
    assert_eq!(task_ids.len(), 1);
    assert_eq!(fixture.running()?, task_ids);

    let container = |name: &str| {
        json!({"name": name, "resources": {"cpus": 0.1, "mem": 32},
               "exec": {"command": {"shell": "sleep 1000"}}})
    };
    let pod = json!({"id": "/pod-no-1", "networks": [{"mode": "host"}],
                     "containers": [container("c1"), container("c2")]});
    let (status, pod) = fixture.request(Method::POST, "/v2/pods", &pod)?;
    ensure!(status == 201, "{status} {pod}");
    fixture.settle()?;
    let pod = fixture.get("/v2/pods/pod-no-1::status")?;
    assert_eq!(pod["status"], "STABLE", "{pod}");
    assert_eq!(fixture.running()?.len(), 3);

    // The tasks survive a crash of master and agent, and Marathon subscribes again.
    let before = fixture.running()?;
    fixture.cluster.restart()?;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while fixture.running().unwrap_or_default() != before {
        ensure!(
            Instant::now() < deadline,
            "the tasks that run are not the same: {:?}",
            fixture.running()
        );
        std::thread::sleep(Duration::from_millis(100));
    }

    let (status, _) = fixture.request(Method::DELETE, "/v2/pods/pod-no-1", &Value::Null)?;
    assert_eq!(status, 202);
    let (status, _) = fixture.request(Method::DELETE, "/v2/apps/app-no-1", &Value::Null)?;
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
    let (status, _) = fixture.request(Method::POST, "/v2/apps", &sample())?;
    assert_eq!(status, 201);
    let unknown = json!({"id": "/b", "cmd": "sleep 1000", "cpus": 0.1, "mem": 32,
                         "networks": [{"name": "nowhere"}]});
    let (status, _) = fixture.request(Method::POST, "/v2/apps", &unknown)?;
    assert_eq!(status, 201);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let message = loop {
        let app = fixture.get("/v2/apps/b?embed=app.lastTaskFailure")?;
        if let Some(message) = app["app"]["lastTaskFailure"]["message"].as_str() {
            break message.to_owned();
        }
        ensure!(
            Instant::now() < deadline,
            "no task of the app has failed: {app}"
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(message.contains("nowhere"), "{message}");
    // Nothing is reserved for slave_public here.
    let waiting = fixture.get("/v2/apps/app-no-1?embed=app.tasks")?;
    assert_eq!(waiting["app"]["tasks"], json!([]), "{waiting}");
    fixture.stop()
}
