//! The executor's connection to its agent.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use contrail_mesos_api::recordio::Decoder;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// Between two attempts to reach the agent.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Limit for the first subscription: the container's network may not be ready yet.
const FIRST_CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection that is neither accepted nor refused would wait for the kernel's timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit for the agent's answer on a connection that it has accepted. An agent that launches many
/// containers is slow, and takes a second subscription before its first task was delivered for an
/// executor that has lost this task: `TASK_LOST`, "Task launched during agent restart".
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// The executor's environment from the agent.
pub(super) struct Agent {
    client: reqwest::Client,
    /// `http://address:port/slave(1)`
    base: String,
    framework_id: String,
    executor_id: String,
    /// How long the agent may be disconnected. `None` if the framework does not checkpoint.
    recovery: Option<Duration>,
    /// How long tasks have to end when the agent ends the executor.
    pub(super) grace: Duration,
    events: Option<(reqwest::Response, Decoder)>,
    /// `TaskInfo`s of which no update has been acknowledged.
    tasks: Vec<Value>,
    /// Updates that have not been acknowledged, oldest first.
    updates: Vec<Value>,
}

/// An event of the connection to the agent.
pub(super) enum Event {
    /// An event of the executor API.
    Api(Value),
    /// The agent has reconnected after a restart.
    Reconnected,
    /// The agent did not reconnect in time.
    Lost,
}

impl Agent {
    /// Reads the environment and subscribes. Also returns the body of `SUBSCRIBED`.
    pub(super) async fn connect() -> Result<(Self, Value)> {
        let endpoint = variable("MESOS_AGENT_ENDPOINT")?;
        let pid = variable("MESOS_SLAVE_PID")?;
        let process = pid.split('@').next().unwrap_or("slave(1)");
        let checkpoint = env::var("MESOS_CHECKPOINT").is_ok_and(|value| value == "1");
        let recovery = duration("MESOS_RECOVERY_TIMEOUT").unwrap_or(Duration::from_mins(15));
        let mut agent = Self {
            client: reqwest::Client::builder()
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .build()?,
            base: format!("http://{endpoint}/{process}"),
            framework_id: variable("MESOS_FRAMEWORK_ID")?,
            executor_id: variable("MESOS_EXECUTOR_ID")?,
            recovery: checkpoint.then_some(recovery),
            grace: duration("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD")
                .unwrap_or(Duration::from_secs(5)),
            events: None,
            tasks: Vec::new(),
            updates: Vec::new(),
        };
        let subscribed = agent.subscribe(FIRST_CONNECTION_TIMEOUT).await?;
        Ok((agent, subscribed))
    }

    async fn subscribe(&mut self, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let attempt = timeout(ANSWER_TIMEOUT, self.try_subscribe()).await;
            let failure = match attempt {
                Ok(Ok(subscribed)) => return Ok(subscribed),
                Ok(Err(failure)) => failure,
                Err(_) => anyhow::anyhow!("no response"),
            };
            if Instant::now() > deadline {
                return Err(
                    failure.context(format!("cannot subscribe to the agent at {}", self.base))
                );
            }
            sleep(RETRY_DELAY).await;
        }
    }

    async fn try_subscribe(&mut self) -> Result<Value> {
        let subscribe = json!({
            "unacknowledged_tasks": self.tasks,
            "unacknowledged_updates":
                self.updates.iter().map(|status| json!({"status": status})).collect::<Vec<_>>(),
        });
        let response = self
            .post(json!({"type": "SUBSCRIBE", "subscribe": subscribe}))
            .await?;
        self.events = Some((response, Decoder::default()));
        let event = self
            .next_api()
            .await
            .context("the stream ended before its first event")?;
        if event["type"] != "SUBSCRIBED" {
            bail!("the agent's first event is {}", event["type"]);
        }
        Ok(event["subscribed"].clone())
    }

    async fn post(&self, mut call: Value) -> Result<reqwest::Response> {
        call["framework_id"] = json!({"value": self.framework_id});
        call["executor_id"] = json!({"value": self.executor_id});
        let kind = call["type"].to_string();
        let url = format!("{}/api/v1/executor", self.base);
        let response = self
            .client
            .post(url)
            .header("Accept", "application/json")
            .json(&call)
            .send()
            .await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.text().await.unwrap_or_default();
            bail!("the agent refused {kind} with HTTP {status}: {body}");
        }
        Ok(response)
    }

    async fn next_api(&mut self) -> Option<Value> {
        let (response, decoder) = self.events.as_mut()?;
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => return serde_json::from_slice(&record).ok(),
                Ok(None) => decoder.push(&response.chunk().await.ok()??),
                Err(_) => return None,
            }
        }
    }

    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        if self.events.is_some() {
            if let Some(event) = self.next_api().await {
                if event["type"] == "ACKNOWLEDGED" {
                    self.acknowledged(&event["acknowledged"]);
                }
                return Event::Api(event);
            }
            eprintln!("executor: the agent has disconnected");
            self.events = None;
        }
        let Some(limit) = self.recovery else {
            return Event::Lost;
        };
        match self.subscribe(limit).await {
            Ok(_) => Event::Reconnected,
            Err(error) => {
                eprintln!("executor: {error:#}");
                Event::Lost
            }
        }
    }

    fn acknowledged(&mut self, event: &Value) {
        self.updates
            .retain(|status| status["uuid"] != event["uuid"]);
        self.tasks
            .retain(|task| task["task_id"] != event["task_id"]);
    }

    /// Whether the agent has acknowledged everything.
    pub(super) fn is_settled(&self) -> bool {
        self.updates.is_empty()
    }

    /// Keeps a task until its first update is acknowledged.
    pub(super) fn launched(&mut self, task: &Value) {
        self.tasks.push(task.clone());
    }

    /// Sends a status update. `more` has fields besides those that every update has.
    pub(super) async fn update(&mut self, task: &Value, state: &str, message: &str, more: Value) {
        let mut status = more;
        status["task_id"] = task["task_id"].clone();
        status["state"] = json!(state);
        status["message"] = json!(message);
        status["source"] = json!("SOURCE_EXECUTOR");
        status["executor_id"] = json!({"value": self.executor_id});
        status["uuid"] = json!(base64(Uuid::new_v4().as_bytes()));
        status["timestamp"] = json!(now());
        self.updates.push(status.clone());
        if self.events.is_none() {
            return;
        }
        let call = json!({"type": "UPDATE", "update": {"status": status}});
        // It is sent again with the next subscription.
        if let Err(error) = self.post(call).await {
            eprintln!("executor: {error:#}");
        }
    }

    /// A client of the agent's operator API.
    pub(super) fn operator(&self) -> Operator {
        Operator {
            client: self.client.clone(),
            url: format!("{}/api/v1", self.base),
        }
    }
}

/// The agent's operator API.
#[derive(Clone)]
pub(super) struct Operator {
    client: reqwest::Client,
    url: String,
}

impl Operator {
    /// Sends a call. Returns the status and the body.
    pub(super) async fn call(&self, call: Value) -> Result<(u16, String)> {
        let request = self
            .client
            .post(&self.url)
            .header("Accept", "application/json");
        let response = request.json(&call).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }
}

fn variable(name: &str) -> Result<String> {
    env::var(name)
        .with_context(|| format!("{name} is not set: only an agent of Mesos starts executors"))
}

/// Durations as Mesos prints them: `15mins`, `2secs`, `100ms`.
fn duration(name: &str) -> Option<Duration> {
    parse_duration(&env::var(name).ok()?)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let seconds = match &text[unit..] {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "secs" => 1.0,
        "mins" => 60.0,
        "hrs" => 3600.0,
        "days" => 86400.0,
        "weeks" => 604_800.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// The JSON form of bytes in protobuf.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - group.len()));
        for digit in 0..4 {
            text.push(if digit <= group.len() {
                char::from(DIGITS[bits >> (18 - 6 * digit) & 63])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_encoded_as_protobuf_json() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(base64(&[255, 254, 253, 252]), "//79/A==");
    }

    #[test]
    fn durations_are_parsed_as_mesos_prints_them() {
        assert_eq!(parse_duration("15mins"), Some(Duration::from_mins(15)));
        assert_eq!(parse_duration("2.5secs"), Some(Duration::from_millis(2500)));
        assert_eq!(parse_duration("soon"), None);
    }
}
