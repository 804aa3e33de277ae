//! The simulated Marathon of a test, on a real Mesos.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_sim::marathon::{Marathon as Server, Options};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Host, until};

/// A Marathon without authentication, whose tasks end with it.
pub struct Marathon {
    host: Host,
    server: Server,
}

/// A running task of an app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppTask {
    /// Its id.
    pub id: String,
    /// The name of its agent: an address in these tests.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports on the host.
    pub ports: Vec<u16>,
}

impl Marathon {
    /// Starts a Marathon on a host, for the Mesos master at this `address:port`.
    pub fn start(host: &Host, master: &str) -> Result<Self> {
        let options = Options {
            master: master.to_owned(),
            listen: (host.address(), 0).into(),
            ..Options::default()
        };
        Ok(Self {
            host: host.clone(),
            server: host.block_on(Server::start(options))?,
        })
    }

    /// The URL of its API, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Sends a request, which must succeed.
    pub fn request(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url());
        self.host.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build()?;
            let request = client.request(method, url).body(body.to_string());
            let response = request.send().await?;
            let status = response.status();
            let body = response.text().await?;
            ensure!(status.is_success(), "{path}: {status} {body}");
            Ok(serde_json::from_str(&body).unwrap_or_default())
        })
    }

    /// Creates an app.
    pub fn create(&self, app: &Value) -> Result<()> {
        self.request(Method::POST, "/v2/apps", app).map(drop)
    }

    /// Creates an app, and waits until all its instances run and are healthy.
    pub fn run(&self, app: &Value) -> Result<Vec<AppTask>> {
        self.create(app)?;
        let id = app["id"].as_str().context("an app without an id")?;
        self.wait(id)
    }

    /// Sets the number of instances of an app, and waits until they run and are healthy.
    pub fn scale(&self, id: &str, instances: usize) -> Result<Vec<AppTask>> {
        let change = json!({ "instances": instances });
        self.request(Method::PUT, &format!("/v2/apps{id}"), &change)?;
        self.wait(id)
    }

    /// Waits until an app is deployed, and returns its tasks.
    pub fn wait(&self, id: &str) -> Result<Vec<AppTask>> {
        until(&format!("{id} is deployed"), || {
            let app = self.app(id)?;
            let is_deployed = app["deployments"].as_array().is_none_or(Vec::is_empty);
            ensure!(is_deployed, "{app}");
            Ok(Some(tasks(&app)))
        })
    }

    /// An app with its tasks.
    pub fn app(&self, id: &str) -> Result<Value> {
        let path = format!("/v2/apps{id}?embed=app.tasks&embed=app.lastTaskFailure");
        Ok(self.request(Method::GET, &path, &Value::Null)?["app"].take())
    }

    /// Deletes an app, and waits until none of its tasks runs.
    pub fn delete(&self, id: &str) -> Result<()> {
        let path = format!("/v2/apps{id}?force=true");
        self.request(Method::DELETE, &path, &Value::Null)?;
        until(&format!("{id} is gone"), || {
            let deployments = self.request(Method::GET, "/v2/deployments", &Value::Null)?;
            Ok((deployments == json!([])).then_some(()))
        })
    }

    /// Stops it: Mesos kills its tasks.
    pub fn stop(self) -> Result<()> {
        self.host.block_on(self.server.stop(true))?;
        Ok(())
    }
}

/// The ids of tasks.
#[must_use]
pub fn ids(tasks: &[AppTask]) -> BTreeSet<String> {
    tasks.iter().map(|task| task.id.clone()).collect()
}

/// The running tasks of an app.
fn tasks(app: &Value) -> Vec<AppTask> {
    let all = app["tasks"].as_array().into_iter().flatten();
    let running = all.filter(|task| task["state"] == "TASK_RUNNING");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut tasks: Vec<AppTask> = running
        .map(|task| {
            let addresses = task["ipAddresses"].as_array().into_iter().flatten();
            let ports = task["ports"].as_array().into_iter().flatten();
            AppTask {
                id: text(&task["id"]),
                host: text(&task["host"]),
                addresses: addresses
                    .filter_map(|own| own["ipAddress"].as_str()?.parse().ok())
                    .collect(),
                ports: ports
                    .filter_map(|port| port.as_u64()?.try_into().ok())
                    .collect(),
            }
        })
        .collect();
    tasks.sort();
    tasks
}
