//! The Marathon front end of the demo: `contrail-mesos-sim marathon`, and its REST API.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesos_module_tests::{Cluster, Host};
use serde_json::{Value, json};

use crate::show;

pub(crate) struct Marathon {
    host: Host,
    listen: String,
    process: Option<Child>,
}

/// A task as Marathon shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) address: String,
}

/// The sample application of the design document, as it stands there.
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

impl Marathon {
    pub(crate) fn start(host: &Host, cluster: &Cluster) -> Result<Self> {
        let program = show::program("contrail-mesos-sim")?;
        let listen = format!("{}:8080", host.address());
        let log = std::fs::File::create(host.directory().join("marathon.log"))?;
        let process = host
            .command("/bin/sh")
            // The host has process ids of its own; this is how to learn one.
            .args(["-c", "echo $$ > \"$0\"; exec \"$@\""])
            .arg(host.directory().join("marathon.pid"))
            .arg(&program)
            .args(["marathon", "--master", cluster.master(), "--listen", &listen])
            // A root filesystem that is here stands in for the sample's Docker image.
            .args(["--role", "slave_public", "--image", "ubuntu-upstart=busybox", "--teardown"])
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

    pub(crate) fn create_pod(&self) -> Result<String> {
        let pod = json!({
            "id": "/pod-no-1",
            "networks": [{ "name": "contrail-cni-plugin", "mode": "container" }],
            "scheduling": { "placement": { "acceptedResourceRoles": ["slave_public"] } },
            "containers": [{
                "name": "web",
                "resources": { "cpus": 0.1, "mem": 32 },
                "exec": { "command": { "shell":
                    "mkdir -p www && echo hello from the pod > www/index.html && exec busybox httpd -f -p 80 -h www" } },
                "endpoints": [{ "name": "http", "containerPort": 80, "hostPort": 0, "protocol": ["tcp"] }],
            }],
        });
        let answer = self.call(reqwest::Method::POST, "/v2/pods", Some(&pod))?;
        answer["id"]
            .as_str()
            .map(str::to_owned)
            .context("a pod without an id")
    }

    /// Waits until the app has that many running tasks with addresses, and prints them as they come.
    pub(crate) fn wait_app(&self, id: &str, count: usize) -> Result<Vec<Task>> {
        let mut seen = Vec::new();
        self.until("all instances run", || {
            let app = self.get(&format!(
                "/v2/apps{id}?embed=app.tasks&embed=app.lastTaskFailure"
            ))?;
            let mut tasks = Vec::new();
            for task in app["app"]["tasks"].as_array().into_iter().flatten() {
                let (state, address) = (&task["state"], &task["ipAddresses"][0]["ipAddress"]);
                let line = format!(
                    "    {} {} {}",
                    text(&task["id"]),
                    text(state),
                    text(address)
                );
                if !seen.contains(&line) {
                    println!("{}", line.trim_end());
                    seen.push(line);
                }
                if state == "TASK_RUNNING" && address.is_string() {
                    tasks.push(Task {
                        id: text(&task["id"]).to_owned(),
                        address: text(address).to_owned(),
                    });
                }
            }
            if let Some(message) = app["app"]["lastTaskFailure"]["message"].as_str() {
                bail!("a task failed: {message}");
            }
            tasks.sort();
            Ok((tasks.len() == count).then_some(tasks))
        })
    }

    /// Waits until the pod is stable, and returns the host port of its endpoint.
    pub(crate) fn wait_pod(&self, id: &str) -> Result<u16> {
        self.until("the pod is stable", || {
            let status = self.get(&format!("/v2/pods{id}::status"))?;
            let instance = &status["instances"][0];
            if instance["status"] != "STABLE" {
                return Ok(None);
            }
            let port = instance["containers"][0]["endpoints"][0]["allocatedHostPort"].as_u64();
            println!(
                "    {} {} {} host port {}",
                text(&instance["id"]),
                text(&instance["status"]),
                instance["networks"],
                port.unwrap_or_default()
            );
            Ok(port.and_then(|port| port.try_into().ok()))
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
                let log = std::fs::read_to_string(self.host.directory().join("marathon.log"));
                let log = log.unwrap_or_default();
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
