//! Health checks as the executors of Mesos make them: the rules of delay, grace period and consecutive
//! failures are those of its `HealthChecker`.
//!
//! HTTP and TCP checks go to the loopback address of the container, in whose network namespace the
//! executor runs. A command runs beside the executor, not in the root filesystem of an image.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// What a check says of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The task's id.
    pub(super) task: String,
    /// Whether it is healthy.
    pub(super) healthy: bool,
    /// Whether it has failed so often that it must be killed.
    pub(super) kill: bool,
}

impl Report {
    /// The fields of the status update.
    pub(super) fn fields(&self) -> Value {
        json!({
            "healthy": self.healthy,
            "reason": "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED",
        })
    }
}

/// Checks a task that has just been started, until the handle is aborted or the executor ends. None if
/// it has no check.
pub(super) fn start(
    info: &Value,
    environment: BTreeMap<String, String>,
    reports: UnboundedSender<Report>,
) -> Option<AbortHandle> {
    let check = info.get("health_check").filter(|check| check.is_object())?;
    let check = Check {
        definition: check.clone(),
        environment,
        client: reqwest::Client::builder().no_proxy().build().ok()?,
    };
    let task = info["task_id"]["value"].as_str().unwrap_or_default();
    let checker = run(task.to_owned(), check, reports);
    Some(tokio::spawn(checker).abort_handle())
}

async fn run(task: String, check: Check, reports: UnboundedSender<Report>) {
    let started = Instant::now();
    let mut rule = Rule {
        grace: check.seconds("grace_period_seconds", 10.0),
        max: check.definition["consecutive_failures"]
            .as_u64()
            .unwrap_or(3),
        failures: 0,
        initializing: true,
    };
    sleep(check.seconds("delay_seconds", 15.0)).await;
    loop {
        let result = check.make().await;
        if let Err(error) = &result {
            eprintln!("executor: the health check of {task} failed: {error:#}");
        }
        if let Some((healthy, kill)) = rule.judge(result.is_ok(), started.elapsed()) {
            let report = Report {
                task: task.clone(),
                healthy,
                kill,
            };
            // Fails when the executor has ended.
            if reports.send(report).is_err() {
                return;
            }
        }
        sleep(check.seconds("interval_seconds", 10.0)).await;
    }
}

/// Which results are reported.
struct Rule {
    grace: Duration,
    max: u64,
    failures: u64,
    /// Until the first success, or a failure after the grace period.
    initializing: bool,
}

impl Rule {
    /// Whether to report a result: healthy, and whether to kill the task.
    fn judge(&mut self, succeeded: bool, age: Duration) -> Option<(bool, bool)> {
        if succeeded {
            let is_news = self.initializing || self.failures > 0;
            self.initializing = false;
            self.failures = 0;
            return is_news.then_some((true, false));
        }
        if self.initializing && age <= self.grace {
            return None;
        }
        self.failures += 1;
        Some((false, self.failures >= self.max))
    }
}

struct Check {
    definition: Value,
    environment: BTreeMap<String, String>,
    client: reqwest::Client,
}

impl Check {
    fn seconds(&self, field: &str, default: f64) -> Duration {
        let seconds = self.definition[field].as_f64().unwrap_or(default);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    async fn make(&self) -> Result<()> {
        let limit = self.seconds("timeout_seconds", 20.0);
        let attempt = async {
            match self.definition["type"].as_str().unwrap_or_default() {
                "HTTP" => self.http(&self.definition["http"]).await,
                "TCP" => {
                    TcpStream::connect(address(&self.definition["tcp"])?).await?;
                    Ok(())
                }
                "COMMAND" => self.command(&self.definition["command"]).await,
                other => bail!("unknown type of health check {other:?}"),
            }
        };
        timeout(limit, attempt).await.context("it takes too long")?
    }

    async fn http(&self, http: &Value) -> Result<()> {
        let scheme = http["scheme"].as_str().unwrap_or("http");
        let path = http["path"].as_str().unwrap_or("/");
        let url = format!("{scheme}://{}{path}", address(http)?);
        let status = self.client.get(url).send().await?.status();
        ensure!((200..400).contains(&status.as_u16()), "{status}");
        Ok(())
    }

    async fn command(&self, command: &Value) -> Result<()> {
        let value = command["value"].as_str().unwrap_or_default();
        let mut process = if command["shell"].as_bool().unwrap_or(true) {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", value]);
            shell
        } else {
            let arguments = command["arguments"].as_array().into_iter().flatten();
            let mut process = Command::new(value);
            process.args(arguments.skip(1).filter_map(Value::as_str));
            process
        };
        let process = process.env_clear().envs(&self.environment);
        let status = process.kill_on_drop(true).status().await?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// The address of a check: the loopback address of its family, and its port.
fn address(check: &Value) -> Result<SocketAddr> {
    let port = check["port"].as_u64().context("it has no port")?;
    let address = match check["protocol"].as_str() {
        Some("IPv6") => IpAddr::from(Ipv6Addr::LOCALHOST),
        _ => IpAddr::from(Ipv4Addr::LOCALHOST),
    };
    Ok(SocketAddr::new(address, u16::try_from(port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_reported_as_by_mesos() {
        let mut rule = Rule {
            grace: Duration::from_secs(10),
            max: 2,
            failures: 0,
            initializing: true,
        };
        let at = Duration::from_secs;
        for (succeeded, age, report) in [
            (false, at(1), None),
            (true, at(2), Some((true, false))),
            (true, at(3), None),
            // The grace period ends with the first success.
            (false, at(4), Some((false, false))),
            (true, at(5), Some((true, false))),
            (false, at(6), Some((false, false))),
            (false, at(7), Some((false, true))),
            (false, at(8), Some((false, true))),
        ] {
            assert_eq!(rule.judge(succeeded, age), report, "after {age:?}");
        }
    }

    #[test]
    fn check_goes_to_the_loopback_address_of_its_family() {
        let check = json!({"port": 80, "protocol": "IPv6"});
        assert_eq!(address(&check).unwrap().to_string(), "[::1]:80");
        let check = json!({"port": 80});
        assert_eq!(address(&check).unwrap().to_string(), "127.0.0.1:80");
        assert!(address(&json!({})).is_err() && address(&json!({"port": 70000})).is_err());
    }
}
