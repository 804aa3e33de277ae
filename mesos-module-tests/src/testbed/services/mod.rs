//! Services of a cluster, as their clients use them: names from a node's DNS, connections to virtual IPs.

mod contrail;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::contrail::{ContrailServices, LINK_LOCAL_DNS, virtual_network_app};
use super::agent::{WAIT_TIMEOUT, config_path, state_dir};
use super::{Host, WeakHost, program, until};

/// The zone of named services.
pub const ZONE: &str = "l4lb.thisdcos.directory";
/// Where each node answers DNS queries.
pub const DNS: &str = "198.18.0.1";
/// How many answers must arrive until a client counts as going on.
const PROGRESS: usize = 20;
/// A server that answers with the id of its task. It goes on for a few seconds after SIGTERM,
/// as servers must that shall lose no connection. `httpd` has a process group of its own.
const SERVER: &str = "mkdir -p www && echo $MESOS_TASK_ID > www/index.html && \
                      trap 'sleep 3; exit 0' TERM; busybox httpd -p PORT -h www && \
                      while :; do sleep 0.2; done";

/// The name of a service of the framework `marathon`.
#[must_use]
pub fn service_name(name: &str) -> String {
    format!("{name}.marathon.{ZONE}")
}

/// An app whose tasks answer with their ids on the network of their hosts. `labels` are those of its only
/// port, such as `VIP_0`.
#[must_use]
pub fn host_app(id: &str, instances: usize, labels: &Value) -> Value {
    json!({
        "id": id, "instances": instances, "cpus": 0.05, "mem": 32,
        "cmd": SERVER.replace("PORT", "$PORT0"), "taskKillGracePeriodSeconds": 20,
        "networks": [{ "mode": "host" }],
        "portDefinitions": [{ "port": 0, "protocol": "tcp", "name": "http", "labels": labels }],
        "constraints": [["hostname", "MAX_PER", "2"]],
    })
}

/// An app whose tasks answer with their ids at port 8080 of their containers, on a network, if `is_mapped`
/// also at a port of their hosts. `labels` are those of its only port.
#[must_use]
pub fn container_app(
    id: &str,
    instances: usize,
    network: &str,
    is_mapped: bool,
    labels: &Value,
) -> Value {
    let mut mapping = json!({ "containerPort": 8080, "name": "http", "labels": labels });
    if is_mapped {
        mapping["hostPort"] = json!(0);
    }
    json!({
        "id": id, "instances": instances, "cpus": 0.05, "mem": 32,
        "cmd": SERVER.replace("PORT", "8080"), "taskKillGracePeriodSeconds": 20,
        "networks": [{ "mode": "container", "name": network }],
        "container": { "type": "MESOS", "portMappings": [mapping] },
        "constraints": [["hostname", "MAX_PER", "2"]],
    })
}

/// A container that an agent has attached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Attached {
    container: String,
    executor: Option<String>,
}

/// Where a client is.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is called in messages.
    pub name: String,
    host: WeakHost,
    container: Option<String>,
}

impl Place {
    /// On a host.
    #[must_use]
    pub fn host(host: &Host) -> Self {
        Self {
            name: format!("host {}", host.address()),
            host: host.downgrade(),
            container: None,
        }
    }

    /// In the container with this id, on a host.
    #[must_use]
    pub fn container(host: &Host, container: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: host.downgrade(),
            container: Some(container.to_owned()),
        }
    }

    /// In the container of a running command task, on its host.
    pub fn task(host: &Host, task: &str) -> Result<Self> {
        let output = host
            .command(program("contrail-mesos")?)
            .arg("--config")
            .arg(config_path(host))
            .args(["status", "-o", "json"])
            .output()?;
        let status: Value = serde_json::from_slice(&output.stdout)?;
        let rows: Vec<Attached> = serde_json::from_value(status["containers"].clone())?;
        let row = rows
            .into_iter()
            .find(|row| row.executor.as_deref() == Some(task));
        let row = row.with_context(|| format!("no container of {task}: {status}"))?;
        Ok(Self::container(host, &row.container, task))
    }

    /// Runs a script there: in the network and mount namespaces of a container, so that its
    /// `/etc/resolv.conf` counts, and in its sandbox.
    pub fn sh(&self, script: &str) -> Result<String> {
        let script = self.script(script);
        let output = self.host.upgrade()?.sh(&script);
        output.with_context(|| format!("on {}", self.name))
    }

    fn script(&self, script: &str) -> String {
        match &self.container {
            None => script.to_owned(),
            Some(container) => format!(
                "pid=$(ip netns pids {container} | head -n 1) && \
                 exec nsenter --target $pid --mount --net --wd /bin/sh -ec \"$(cat <<'END'\n{script}\nEND\n)\""
            ),
        }
    }

    /// The addresses of a name, from the node's DNS: of type `A` or `AAAA`. None for a name that does
    /// not exist.
    pub fn addresses(&self, name: &str, kind: &str) -> Result<Vec<IpAddr>> {
        let answer = self.sh(&format!("dig +short +time=2 +tries=1 @{DNS} {name} {kind}"))?;
        answer
            .lines()
            .map(|line| line.parse().with_context(|| answer.clone()))
            .collect()
    }

    /// The response code of the node's DNS for a name, such as `NOERROR`.
    pub fn response_code(&self, name: &str, kind: &str) -> Result<String> {
        let answer = self.sh(&format!("dig +time=2 +tries=1 @{DNS} {name} {kind}"))?;
        let code = answer.split("status: ").nth(1);
        let code = code.and_then(|rest| rest.split(',').next());
        Ok(code.with_context(|| answer.clone())?.to_owned())
    }

    /// What answers at a URL, on a connection of its own.
    pub fn get(&self, url: &str) -> Result<String> {
        let answer = self.sh(&format!("curl -gsS -m 5 {url}"))?;
        Ok(answer.trim().to_owned())
    }

    /// What answers at a port of a named service. On a host, whose own resolver is not that of the node,
    /// the name comes from the node's DNS first.
    pub fn get_service(&self, service: &str, port: u16) -> Result<String> {
        let name = service_name(service);
        if self.container.is_some() {
            return self.get(&format!("http://{name}:{port}/"));
        }
        let addresses = self.addresses(&name, "A")?;
        let address = addresses.first().context("the name has no address")?;
        self.get(&format!(
            "--resolve {name}:{port}:{address} http://{name}:{port}/"
        ))
    }

    /// Waits until each of these tasks has answered, and nothing else has after the first of them.
    pub fn expect_answers(
        &self,
        ids: &BTreeSet<String>,
        get: impl Fn(&Self) -> Result<String>,
    ) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut wrong = None;
        until(&format!("all tasks answer to {}", self.name), || {
            let answer = get(self)?;
            if ids.contains(&answer) {
                seen.insert(answer);
            } else if !seen.is_empty() {
                wrong = Some(answer);
                return Ok(Some(()));
            }
            ensure!(seen == *ids, "only {seen:?} of {ids:?}");
            Ok(Some(()))
        })?;
        ensure!(wrong.is_none(), "{wrong:?} is none of {ids:?}");
        Ok(())
    }

    /// Checks that a connection is refused, and not just unanswered.
    pub fn expect_refused(&self, url: &str) -> Result<()> {
        // 7 is curl's status for a connection that could not be made.
        let status = self.sh(&format!(
            "status=0; curl -gs -o /dev/null -m 5 {url} || status=$?; echo $status"
        ))?;
        ensure!(status.trim() == "7", "{url}: curl ended with {status}");
        Ok(())
    }
}

/// Waits until a node tells containers where its DNS is.
pub fn wait_for_dns(host: &Host) -> Result<()> {
    let path = state_dir(host).join("node/dns.json");
    until("containers get the node's DNS", || {
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(DNS), "{text}");
        Ok(Some(()))
    })
}

/// A client that opens one connection after another, without a pause, until it is stopped.
pub struct Client {
    process: Child,
    results: PathBuf,
    stop: PathBuf,
}

impl Client {
    /// Starts a client. `name` is that of its files in the host's directory.
    pub fn start(place: &Place, name: &str, url: &str) -> Result<Self> {
        let host = place.host.upgrade()?;
        let file = |kind: &str| host.directory().join(format!("client-{name}.{kind}"));
        let (results, stop) = (file("results"), file("stop"));
        let script = place.script(&format!(
            "while [ ! -e {} ]; do \
             curl -gfsS -m 3 {url} 2>&1 || echo \"FAILED $?\"; done",
            stop.display()
        ));
        let process = host
            .command("/bin/sh")
            .args(["-ec", &script])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&results)?)
            .spawn()?;
        let client = Self {
            process,
            results,
            stop,
        };
        client.wait_for_progress()?;
        Ok(client)
    }

    /// The lines so far.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.results).unwrap_or_default();
        // The last line may be incomplete.
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete.lines().map(str::to_owned).collect()
    }

    /// Waits until more answers have arrived, and fails if a request has.
    pub fn wait_for_progress(&self) -> Result<()> {
        let (started, before) = (Instant::now(), self.lines().len());
        loop {
            let lines = self.lines();
            if let Some(at) = lines.iter().position(|line| line.starts_with("FAILED")) {
                bail!(
                    "request {at} failed: {:?}",
                    &lines[at.saturating_sub(1)..=at]
                );
            }
            if lines.len() >= before + PROGRESS {
                return Ok(());
            }
            ensure!(started.elapsed() < WAIT_TIMEOUT, "{} answers", lines.len());
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends the client. Fails if one of its requests has; returns how many were answered, and by whom.
    pub fn finish(mut self) -> Result<(usize, BTreeSet<String>)> {
        self.wait_for_progress()?;
        fs::write(&self.stop, "")?;
        self.process.wait()?;
        let lines = self.lines();
        let failed = lines.iter().find(|line| line.starts_with("FAILED"));
        ensure!(failed.is_none(), "a request failed: {failed:?}");
        Ok((lines.len(), lines.into_iter().collect()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The loop ends with its next round.
        if let Err(error) = fs::write(&self.stop, "") {
            log::error!("cannot end a client: {error}");
        }
        let _ = self.process.wait();
    }
}
