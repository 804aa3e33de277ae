//! The v1 scheduler API of a Mesos master, as far as Marathon needs it.
//!
//! The tests' framework is not used: it places tasks by itself on unreserved resources, while
//! Marathon decides per offer, by reservation, and builds the message from the offer.
//! the offer makes.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use contrail_mesos_api::recordio::{Decoder, RecordIoError};

const JSON: &str = "application/json";
const STREAM_ID: &str = "Mesos-Stream-Id";
/// Heartbeats come every 15 seconds.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Errors of the connection between scheduler and master.
#[derive(Debug, thiserror::Error)]
pub enum MesosError {
    /// The master cannot be reached, or the connection failed.
    #[error("the Mesos master does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// The master rejected a call.
    #[error("the Mesos master refused {call}: {status} {message}")]
    Refused {
        /// The call's type.
        call: String,
        /// The status of the response.
        status: StatusCode,
        /// The body of the response.
        message: String,
    },
    /// The response of the master is not an event stream.
    #[error("the Mesos master's event stream cannot be read: {0}")]
    Garbled(#[from] RecordIoError),
    /// An event is not JSON.
    #[error("an event of the Mesos master is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// The master ended the stream, or sent nothing for too long.
    #[error("the Mesos master's event stream has ended")]
    Ended,
}

fn url(master: &str) -> String {
    format!("http://{master}/api/v1/scheduler")
}

/// Connections to the master use no proxy, whatever the environment says.
fn client() -> Result<Client, reqwest::Error> {
    Client::builder().no_proxy().build()
}

async fn check(call: &Value, response: Response) -> Result<Response, MesosError> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(MesosError::Refused {
        call: call["type"].as_str().unwrap_or_default().to_owned(),
        status: response.status(),
        message: response.text().await.unwrap_or_default(),
    })
}

/// Sends calls as a subscribed framework.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    http: Client,
    url: String,
    stream_id: String,
    framework_id: String,
}

impl Caller {
    /// Sends a call, with `framework_id` added.
    pub(super) async fn call(&self, mut call: Value) -> Result<(), MesosError> {
        call["framework_id"] = json!({"value": self.framework_id});
        let request = self
            .http
            .post(&self.url)
            .header(CONTENT_TYPE, JSON)
            .header(STREAM_ID, &self.stream_id);
        let response = request
            .body(call.to_string())
            .timeout(CALL_TIMEOUT)
            .send()
            .await?;
        check(&call, response).await.map(|_| ())
    }
}

/// The events of a subscribed framework.
#[derive(Debug)]
pub(super) struct Events {
    response: Response,
    records: Decoder,
}

/// Subscribes; `framework_info` has an id if the framework was registered before.
pub(super) async fn subscribe(
    master: &str,
    framework_info: &Value,
) -> Result<(Caller, Events), MesosError> {
    let http = client()?;
    let url = url(master);
    let mut call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": framework_info}});
    if let Some(id) = framework_info.get("id") {
        call["framework_id"] = id.clone();
    }
    let request = http
        .post(&url)
        .header(CONTENT_TYPE, JSON)
        .header(ACCEPT, JSON)
        .body(call.to_string());
    let sent = tokio::time::timeout(CALL_TIMEOUT, request.send());
    let response = sent.await.map_err(|_| MesosError::Ended)??;
    let response = check(&call, response).await?;
    let stream_id = response
        .headers()
        .get(STREAM_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let mut events = Events {
        response,
        records: Decoder::default(),
    };
    let first = events.next().await?;
    let framework_id = first.pointer("/subscribed/framework_id/value");
    let Some(framework_id) = framework_id.and_then(Value::as_str) else {
        return Err(MesosError::Refused {
            call: "SUBSCRIBE".to_owned(),
            status: StatusCode::OK,
            message: first.to_string(),
        });
    };
    let caller = Caller {
        http,
        url,
        stream_id,
        framework_id: framework_id.to_owned(),
    };
    Ok((caller, events))
}

impl Caller {
    /// The framework's id.
    pub(super) fn framework_id(&self) -> &str {
        &self.framework_id
    }
}

impl Events {
    /// The next event, heartbeats included. Cancel safe: dropping it loses no event.
    pub(super) async fn next(&mut self) -> Result<Value, MesosError> {
        loop {
            if let Some(record) = self.records.next_record()? {
                return Ok(serde_json::from_slice(&record)?);
            }
            let chunk = tokio::time::timeout(IDLE_TIMEOUT, self.response.chunk())
                .await
                .map_err(|_| MesosError::Ended)??
                .ok_or(MesosError::Ended)?;
            self.records.push(&chunk);
        }
    }
}

/// How often a teardown is requested.
const TEARDOWN_ATTEMPTS: u32 = 3;

/// Makes the master remove a framework with all its tasks, whether or not it is subscribed.
///
/// A busy master may take longer than a call may, so a teardown that times out is requested again.
pub(super) async fn teardown(master: &str, framework_id: &str) -> Result<(), MesosError> {
    let call = json!({"type": "TEARDOWN"});
    let client = client()?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let response = client
            .post(format!("http://{master}/master/teardown"))
            .body(format!("frameworkId={framework_id}"))
            .timeout(CALL_TIMEOUT)
            .send()
            .await;
        match response {
            Err(error) if error.is_timeout() && attempt < TEARDOWN_ATTEMPTS => {}
            // The attempt before was carried out: the master no longer knows the framework.
            Ok(response) if attempt > 1 && response.status().as_u16() == 400 => return Ok(()),
            response => return check(&call, response?).await.map(|_| ()),
        }
    }
}
