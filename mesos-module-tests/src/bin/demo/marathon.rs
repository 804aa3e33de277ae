//! The Marathon front end of the demo: `contrail-mesos-sim marathon`, and its REST API.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesos_module_tests::testbed::{Cluster, Host};
use serde_json::{Value, json};

pub(crate) struct Marathon {
    host: Host,
    listen: String,
    process: Option<Child>,
}

/// A running task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) address: String,
}

/// A sample app.
pub(crate) fn sample() -> Value {
    json!({
        "id": "/app-no-1",
        "acceptedResourceRoles": ["slave_public"],
        "backoffFactor": 1.15,
        "backoffSeconds": 1,
        "container": {
            "type": "MESOS",
            "volumes": [],
            "docker": { "image": "ubuntu-upstart", "forcePullImage": true, "parameters": [] }
        },
        "cpus": 0.1,
        "disk": 0,
        "instances": 1,
        "maxLaunchDelaySeconds": 3600,
        "mem": 128,
        "gpus": 0,
        "networks": [{ "name": "contrail-cni-plugin", "mode": "container" }],
        "requirePorts": false,
        "upgradeStrategy": { "maximumOverCapacity": 1, "minimumHealthCapacity": 1 },
        "killSelection": "YOUNGEST_FIRST",
        "unreachableStrategy": { "inactiveAfterSeconds": 0, "expungeAfterSeconds": 0 },
        "healthChecks": [],
        "fetch": [],
        "constraints": []
    })
}

/// A pod with one container that serves a page, if `mapped` also at a port of the host.
pub(crate) fn pod(mapped: bool) -> Value {
    let mut pod = json!({
        "id": "/pod-no-1",
        "networks": [{ "name": "contrail-cni-plugin", "mode": "container" }],
        "scheduling": { "placement": { "acceptedResourceRoles": ["slave_public"] } },
        "containers": [{
            "name": "web",
            "resources": { "cpus": 0.1, "mem": 32 },
            "exec": { "command": { "shell":
                "mkdir -p www && echo hello from the pod > www/index.html && exec busybox httpd -f -p 80 -h www" } },
        }],
    });
    if mapped {
        pod["containers"][0]["endpoints"] = json!([
            { "name": "http", "containerPort": 80, "hostPort": 0, "protocol": ["tcp"] },
        ]);
    }
    pod
}

impl Marathon {
    /// Starts it for the sample app: a local root filesystem replaces the sample's Docker image.
    pub(crate) fn start(host: &Host, cluster: &Cluster) -> Result<Self> {
        let arguments = [
            "--role",
            "slave_public",
            "--image",
            "ubuntu-upstart=busybox",
        ];
        Self::start_with(host, cluster, &arguments)
    }

    /// Starts it with more arguments.
    pub(crate) fn start_with(host: &Host, cluster: &Cluster, arguments: &[&str]) -> Result<Self> {
        let program = mesos_module_tests::testbed::program("contrail-mesos-sim")?;
        let listen = format!("{}:8080", host.address());
        let log = std::fs::File::create(host.directory().join("marathon.log"))?;
        let process = host
            .command("/bin/sh")
            // The host has its own process ids: the shell writes down that of the program.
            .args(["-c", "echo $$ > \"$0\"; exec \"$@\""])
            .arg(host.directory().join("marathon.pid"))
            .arg(&program)
            .args(["marathon", "--master", cluster.master(), "--listen", &listen])
            .arg("--teardown")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let marathon = Self {
            host: host.clone(),
            listen,
            process: Some(process),
        };
        marathon.until("Marathon answers", || {
            Ok(marathon.get("/ping").is_ok().then_some(()))
        })?;
        Ok(marathon)
    }

    pub(crate) fn create_app(&self, app: &Value) -> Result<String> {
        let answer = self.call(reqwest::Method::POST, "/v2/apps", Some(app))?;
        answer["id"]
            .as_str()
            .map(str::to_owned)
            .context("an app without an id")
    }

    pub(crate) fn create_pod(&self, pod: &Value) -> Result<String> {
        let answer = self.call(reqwest::Method::POST, "/v2/pods", Some(pod))?;
        answer["id"]
            .as_str()
            .map(str::to_owned)
            .context("a pod without an id")
    }

    /// Waits until the app has exactly `count` tasks, all running and with addresses. Prints them as
    /// they change.
    pub(crate) fn wait_app(&self, id: &str, count: usize) -> Result<Vec<Task>> {
        let mut printed = Vec::new();
        self.wait_tasks(id, count, |line| {
            if !printed.iter().any(|old| old == line) {
                println!("{line}");
                printed.push(line.to_owned());
            }
        })
    }

    /// As [`Self::wait_app`], but prints nothing.
    pub(crate) fn wait_app_quietly(&self, id: &str, count: usize) -> Result<Vec<Task>> {
        self.wait_tasks(id, count, |_| {})
    }

    fn wait_tasks(&self, id: &str, count: usize, mut show: impl FnMut(&str)) -> Result<Vec<Task>> {
        self.until("all instances run", || {
            let app = self.get(&format!(
                "/v2/apps{id}?embed=app.tasks&embed=app.deployments&embed=app.lastTaskFailure"
            ))?;
            let tasks = app["app"]["tasks"].as_array();
            for task in tasks.into_iter().flatten() {
                let address = &task["ipAddresses"][0]["ipAddress"];
                let words = [&task["id"], &task["state"], address].map(text);
                show(format!("    {}", words.join(" ")).trim_end());
            }
            if let Some(message) = app["app"]["lastTaskFailure"]["message"].as_str() {
                bail!("a task failed: {message}");
            }
            let running = running(&app);
            let all = running.len() == tasks.map_or(0, Vec::len);
            let deployed = app["app"]["deployments"]
                .as_array()
                .is_none_or(Vec::is_empty);
            Ok((all && deployed && running.len() == count).then_some(running))
        })
    }

    /// The app's running tasks with addresses.
    pub(crate) fn tasks(&self, id: &str) -> Result<Vec<Task>> {
        Ok(running(
            &self.get(&format!("/v2/apps{id}?embed=app.tasks"))?,
        ))
    }

    /// Where the first mapped port of the app's only task is reached from outside.
    pub(crate) fn mapped_port(&self, id: &str) -> Result<String> {
        let app = self.get(&format!("/v2/apps{id}?embed=app.tasks"))?;
        let task = &app["app"]["tasks"][0];
        let port = task["ports"][0].as_u64().context("no port is mapped")?;
        Ok(format!("{}:{port}", text(&task["host"])))
    }

    /// Waits until the app and all its tasks are gone.
    pub(crate) fn wait_gone(&self, id: &str) -> Result<()> {
        self.until("the app is gone", || {
            let response = self.get("/v2/tasks")?;
            let tasks = response["tasks"].as_array();
            let gone = tasks.is_some_and(|tasks| tasks.iter().all(|task| task["appId"] != id));
            Ok((gone && !self.apps()?.iter().any(|app| app == id)).then_some(()))
        })
    }

    /// Sets the app's number of instances.
    pub(crate) fn scale(&self, id: &str, instances: usize) -> Result<()> {
        println!("    PUT /v2/apps{id} {{\"instances\": {instances}}}");
        let body = json!({ "instances": instances });
        self.call(reqwest::Method::PUT, &format!("/v2/apps{id}"), Some(&body))?;
        Ok(())
    }

    /// Changes an app.
    pub(crate) fn update(&self, app: &Value) -> Result<()> {
        let path = format!("/v2/apps{}", text(&app["id"]));
        println!("    PUT {path}");
        self.call(reqwest::Method::PUT, &path, Some(app))?;
        Ok(())
    }

    /// The address of its API.
    pub(crate) fn address(&self) -> &str {
        &self.listen
    }

    /// Waits until the pod is stable, and returns the host port of its endpoint, if it has one.
    pub(crate) fn wait_pod(&self, id: &str) -> Result<Option<u16>> {
        self.until("the pod is stable", || {
            let status = self.get(&format!("/v2/pods{id}::status"))?;
            let instance = &status["instances"][0];
            if instance["status"] != "STABLE" {
                return Ok(None);
            }
            let [id, state] = [&instance["id"], &instance["status"]].map(text);
            print!("    {id} {state} {}", instance["networks"]);
            let port = instance["containers"][0]["endpoints"][0]["allocatedHostPort"].as_u64();
            println!(
                "{}",
                port.map_or_else(String::new, |port| format!(" host port {port}"))
            );
            Ok(Some(port.map(u16::try_from).transpose()?))
        })
    }

    /// The ids of all apps.
    pub(crate) fn apps(&self) -> Result<Vec<String>> {
        let answer = self.get("/v2/apps")?;
        let apps = answer["apps"].as_array().into_iter().flatten();
        Ok(apps.map(|app| text(&app["id"]).to_owned()).collect())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        println!("    DELETE {path}");
        self.call(reqwest::Method::DELETE, &format!("{path}?force=true"), None)?;
        Ok(())
    }

    pub(crate) fn wait_empty(&self) -> Result<()> {
        self.until("every task has ended", || {
            let tasks = self.get("/v2/tasks")?;
            let pods = self.get("/v2/pods/::status")?;
            let none = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
            Ok((none(&tasks["tasks"]) && none(&pods)).then_some(()))
        })
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        self.host.sh(&format!(
            "kill -TERM $(cat {}/marathon.pid)",
            self.host.directory().display()
        ))?;
        let status = process.wait()?;
        ensure!(status.success(), "contrail-mesos-sim ended with {status}");
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Value> {
        self.call(reqwest::Method::GET, path, None)
    }

    fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.host.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build()?;
            let mut request = client.request(method, format!("http://{}{path}", self.listen));
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.header("Accept", "application/json").send().await?;
            let status = response.status();
            let text = response.text().await?;
            ensure!(status.is_success(), "{path}: {status} {text}");
            Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
        })
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if start.elapsed() > Duration::from_secs(90) {
                let log = std::fs::read_to_string(self.host.directory().join("marathon.log"))
                    .unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!("gave up waiting until {what}; Marathon's log ends with {tail:#?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The tasks of an app that run and have an address.
fn running(app: &Value) -> Vec<Task> {
    let mut tasks: Vec<Task> = app["app"]["tasks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|task| task["state"] == "TASK_RUNNING")
        .filter_map(|task| {
            Some(Task {
                id: text(&task["id"]).to_owned(),
                address: task["ipAddresses"][0]["ipAddress"].as_str()?.to_owned(),
            })
        })
        .collect();
    tasks.sort();
    tasks
}
