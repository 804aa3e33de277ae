//! The task that sends all requests of a framework to the master.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::{debug, info, warn};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::offer::RemainingOffer;
use super::spec::{Launch, Placement};
use super::{FrameworkError, Options, TaskUpdate, UpdateLog};
use contrail_mesos_api::recordio::Decoder;

/// Between two attempts to reach the master.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A request of a handle to the actor.
#[derive(Debug)]
pub(super) enum Request {
    Launch(Box<Launch>, oneshot::Sender<Placement>),
    Call(Value, oneshot::Sender<Result<(), FrameworkError>>),
    Stop,
}

/// Subscribes, and spawns the actor. Returns the framework's id.
pub(super) async fn start(
    master: &str,
    options: Options,
    inbox: mpsc::UnboundedReceiver<Request>,
    shared: Arc<Mutex<UpdateLog>>,
) -> Result<String, FrameworkError> {
    let mut actor = Actor {
        client: reqwest::Client::builder().no_proxy().build()?,
        url: format!("http://{master}/master/api/v1/scheduler"),
        framework_id: options.framework_id.clone(),
        options,
        stream_id: None,
        waiting: VecDeque::new(),
        shared,
    };
    let deadline = Instant::now() + actor.options.subscribe_timeout;
    let stream = loop {
        let failure = match actor.subscribe().await {
            Ok(stream) => break stream,
            // The master will refuse the same request again.
            Err(FrameworkError::Refused { call, status, body }) if status == 400 => {
                return Err(FrameworkError::Refused { call, status, body });
            }
            Err(failure) => failure,
        };
        if Instant::now() > deadline {
            return Err(FrameworkError::NoMaster {
                master: master.to_owned(),
                waited: actor.options.subscribe_timeout,
                last: describe(&failure),
            });
        }
        sleep(RETRY_DELAY).await;
    };
    let id = actor.framework_id.clone().unwrap_or_default();
    tokio::spawn(actor.run(stream, inbox));
    Ok(id)
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The subscription's response, and the part of it that is not decoded yet.
struct Stream {
    response: reqwest::Response,
    decoder: Decoder,
}

impl Stream {
    /// The next event, or `None` after the connection was lost. Cancel safe.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.decoder.next_record() {
                Ok(Some(record)) => match serde_json::from_slice(&record) {
                    Ok(event) => return Some(event),
                    Err(error) => warn!("an event of the Mesos master is not JSON: {error}"),
                },
                Ok(None) => match self.response.chunk().await {
                    Ok(Some(bytes)) => self.decoder.push(&bytes),
                    Ok(None) => return None,
                    Err(error) => {
                        debug!(
                            "the Mesos master's event stream broke: {}",
                            describe(&error)
                        );
                        return None;
                    }
                },
                Err(error) => {
                    warn!("the Mesos master's event stream: {error}");
                    return None;
                }
            }
        }
    }
}

/// Whether the actor continues.
enum Next {
    Continue,
    Stop,
}

struct Actor {
    client: reqwest::Client,
    url: String,
    options: Options,
    framework_id: Option<String>,
    stream_id: Option<String>,
    waiting: VecDeque<(Launch, oneshot::Sender<Placement>)>,
    shared: Arc<Mutex<UpdateLog>>,
}

impl Actor {
    async fn run(mut self, stream: Stream, mut inbox: mpsc::UnboundedReceiver<Request>) {
        let mut stream = Some(stream);
        loop {
            let next = match &mut stream {
                Some(connected) => tokio::select! {
                    event = connected.next() => if let Some(event) = event {
                        self.on_event(event).await
                    } else {
                        info!("framework {}: lost the Mesos master, subscribing again", self.id());
                        stream = None;
                        Next::Continue
                    },
                    request = inbox.recv() => self.on_request(request).await,
                },
                None => match self.subscribe().await {
                    Ok(connected) => {
                        stream = Some(connected);
                        // The master does not send the updates since the loss by itself.
                        self.post_or_log(json!({"type": "RECONCILE", "reconcile": {"tasks": []}}))
                            .await;
                        self.revive().await;
                        Next::Continue
                    }
                    Err(error) => {
                        debug!("framework {}: {}", self.id(), describe(&error));
                        tokio::select! {
                            () = sleep(RETRY_DELAY) => Next::Continue,
                            request = inbox.recv() => self.on_request(request).await,
                        }
                    }
                },
            };
            if matches!(next, Next::Stop) {
                break;
            }
        }
        UpdateLog::lock(&self.shared).end("it was torn down".to_owned());
    }

    fn id(&self) -> &str {
        self.framework_id.as_deref().unwrap_or("(new)")
    }

    /// Opens the event stream and waits for the event that confirms it.
    async fn subscribe(&mut self) -> Result<Stream, FrameworkError> {
        self.stream_id = None;
        let mut info = json!({
            "user": self.options.user,
            "name": self.options.name,
            "roles": [self.options.role],
            "checkpoint": self.options.checkpoint,
            "failover_timeout": self.options.failover_timeout.as_secs_f64(),
            "capabilities": [{"type": "MULTI_ROLE"}, {"type": "RESERVATION_REFINEMENT"},
                             {"type": "TASK_KILLING_STATE"}],
        });
        if let Some(id) = &self.framework_id {
            info["id"] = json!({"value": id});
        }
        let call = json!({"type": "SUBSCRIBE", "subscribe": {
            "framework_info": info,
            // No offers until a launch waits.
            "suppressed_roles": [self.options.role],
        }});
        let response = self.post(call).await?;
        self.stream_id = response
            .headers()
            .get("Mesos-Stream-Id")
            .and_then(|id| id.to_str().ok())
            .map(ToOwned::to_owned);
        let mut stream = Stream {
            response,
            decoder: Decoder::default(),
        };
        while let Some(event) = stream.next().await {
            if let Some(id) = event.pointer("/subscribed/framework_id/value") {
                self.framework_id = id.as_str().map(ToOwned::to_owned);
                return Ok(stream);
            }
            if event["type"] == "ERROR" {
                return Err(FrameworkError::Refused {
                    call: "SUBSCRIBE".to_owned(),
                    status: 400,
                    body: event["error"]["message"].to_string(),
                });
            }
        }
        Err(FrameworkError::Ended(
            ": the stream ended before its first event".to_owned(),
        ))
    }

    async fn post(&self, mut call: Value) -> Result<reqwest::Response, FrameworkError> {
        if let Some(id) = &self.framework_id {
            call["framework_id"] = json!({"value": id});
        }
        let mut request = self
            .client
            .post(&self.url)
            .header("Accept", "application/json");
        if let Some(stream) = &self.stream_id {
            request = request.header("Mesos-Stream-Id", stream);
        }
        let response = request.json(&call).send().await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(FrameworkError::Refused {
            call: call["type"].as_str().unwrap_or_default().to_owned(),
            status: response.status().as_u16(),
            body: response.text().await.unwrap_or_default(),
        })
    }

    /// Sends a call, and logs its failure: the master repeats events that are not acknowledged.
    async fn post_or_log(&self, call: Value) {
        if let Err(error) = self.post(call).await {
            warn!("framework {}: {}", self.id(), describe(&error));
        }
    }

    async fn on_request(&mut self, request: Option<Request>) -> Next {
        match request {
            Some(Request::Launch(launch, reply)) => {
                self.waiting.push_back((*launch, reply));
                self.revive().await;
            }
            Some(Request::Call(call, reply)) => {
                let result = self.post(call).await.map(|_| ());
                let _ = reply.send(result);
            }
            Some(Request::Stop) | None => return Next::Stop,
        }
        Next::Continue
    }

    async fn revive(&self) {
        if !self.waiting.is_empty() {
            self.post_or_log(json!({"type": "REVIVE"})).await;
        }
    }

    async fn on_event(&mut self, event: Value) -> Next {
        match event["type"].as_str().unwrap_or_default() {
            "OFFERS" => self.on_offers(&event["offers"]["offers"]).await,
            "UPDATE" => self.on_update(&event["update"]["status"]).await,
            "ERROR" => {
                let message = event["error"]["message"].as_str().unwrap_or_default();
                warn!(
                    "framework {}: the Mesos master sent an error: {message}",
                    self.id()
                );
                UpdateLog::lock(&self.shared).end(message.to_owned());
                return Next::Stop;
            }
            _ => {}
        }
        Next::Continue
    }

    async fn on_update(&self, status: &Value) {
        let Some(update) = TaskUpdate::read(status) else {
            warn!(
                "framework {}: cannot read the task status {status}",
                self.id()
            );
            return;
        };
        debug!("task {}: {update}", update.task_id);
        UpdateLog::lock(&self.shared).record(&update);
        // Only updates that need an acknowledgement have an id.
        if let (Some(uuid), Some(agent)) = (status.get("uuid"), update.agent_id) {
            self.post_or_log(json!({"type": "ACKNOWLEDGE", "acknowledge": {
                "agent_id": {"value": agent},
                "task_id": {"value": update.task_id},
                "uuid": uuid,
            }}))
            .await;
        }
    }

    async fn on_offers(&mut self, offers: &Value) {
        let mut unused = Vec::new();
        let before = self.waiting.len();
        for offer in offers.as_array().into_iter().flatten() {
            let agent = offer["agent_id"]["value"].as_str().unwrap_or_default();
            let hostname = offer["hostname"].as_str().unwrap_or_default();
            let mut remaining = RemainingOffer::of(offer, &self.options.role);
            let mut operations = Vec::new();
            let mut replies = Vec::new();
            let mut waiting = VecDeque::new();
            let framework = self.id().to_owned();
            for (launch, reply) in self.waiting.drain(..) {
                let Some(taken) = launch.take(&mut remaining) else {
                    waiting.push_back((launch, reply));
                    continue;
                };
                let (operation, place) = launch.operation(&framework, agent, hostname, taken);
                operations.push(operation);
                replies.push((reply, place));
            }
            self.waiting = waiting;
            if operations.is_empty() {
                unused.push(offer["id"].clone());
                continue;
            }
            self.post_or_log(json!({"type": "ACCEPT", "accept": {
                "offer_ids": [offer["id"]],
                "operations": operations,
                "filters": {"refuse_seconds": 0.0},
            }}))
            .await;
            for (reply, place) in replies {
                // The launch is valid even if its caller does not wait any more.
                let _ = reply.send(place);
            }
        }
        if !unused.is_empty() {
            self.post_or_log(json!({"type": "DECLINE", "decline": {
                "offer_ids": unused,
                "filters": {"refuse_seconds": 0.0},
            }}))
            .await;
        }
        if self.waiting.is_empty() {
            self.post_or_log(json!({"type": "SUPPRESS"})).await;
        } else if self.waiting.len() < before {
            self.post_or_log(json!({"type": "REVIVE"})).await;
        }
        // Otherwise nothing fitted, and the next allocation cycle brings new offers.
    }
}
