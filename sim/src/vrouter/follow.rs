//! Follows the API server's changes, and applies them after a delay.
//!
//! There are two queues: one of addresses, which may be delayed further, and one of all other
//! objects. Each queue keeps its order. A repeated list goes through the same queues.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::config::{ADDRESS_KIND, FOLLOWED_KINDS, Object};
use super::state::Shared;
use crate::vnc::Event;

/// The pause before a new request to the API server's control listener.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// An update of the configuration.
enum Update {
    Replace(Vec<Object>),
    Put(Object),
    Remove(uuid::Uuid),
}

/// The queues of updates, each with the time of its arrival.
struct Queues {
    addresses: Queue,
    others: Queue,
}

type Queue = mpsc::UnboundedSender<(Instant, Update)>;

impl Queues {
    fn of(&self, kind: &str) -> &Queue {
        if kind == ADDRESS_KIND {
            &self.addresses
        } else {
            &self.others
        }
    }
}

fn send(queue: &Queue, update: Update) {
    // The receiver lives as long as this task.
    let _ = queue.send((Instant::now(), update));
}

/// Follows until the task is aborted.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let (addresses, address_updates) = mpsc::unbounded_channel();
    let (others, other_updates) = mpsc::unbounded_channel();
    let queues = Queues { addresses, others };
    let connect = async {
        let mut warned = false;
        loop {
            match follow_once(&shared, &queues).await {
                Ok(()) => log::info!("{}: requesting the list again", shared.options.name),
                Err(problem) if !warned => {
                    let name = &shared.options.name;
                    log::warn!("{name}: no configuration at present: {problem}");
                    warned = true;
                    continue;
                }
                Err(_) => {}
            }
            sleep(RETRY_DELAY).await;
        }
    };
    tokio::join!(
        connect,
        apply_updates(&shared, false, other_updates),
        apply_updates(&shared, true, address_updates)
    );
}

/// Follows until the API server requests to list again, or the connection fails.
async fn follow_once(shared: &Shared, queues: &Queues) -> Result<(), String> {
    let url = format!(
        "{}/follow?kinds={}",
        shared.options.control.trim_end_matches('/'),
        FOLLOWED_KINDS.join(",")
    );
    // The control listener is on this machine, so the environment's proxy does not apply.
    let client = reqwest::Client::builder().no_proxy().build();
    let response = client
        .map_err(|error| error_chain(&error))?
        .get(&url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| error_chain(&error))?;
    let mut pieces = response.bytes_stream();
    let mut buffer = Vec::new();
    let mut list = Some(Vec::new());
    while let Some(piece) = pieces.next().await {
        buffer.extend_from_slice(&piece.map_err(|error| error_chain(&error))?);
        let mut start = 0;
        while let Some(end) = buffer[start..].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[start..start + end];
            start += end + 1;
            let event = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            match event {
                Event::Listed => {
                    let (addresses, others) = list
                        .take()
                        .unwrap_or_default()
                        .into_iter()
                        .partition(|object: &Object| object.kind == ADDRESS_KIND);
                    send(&queues.others, Update::Replace(others));
                    send(&queues.addresses, Update::Replace(addresses));
                }
                Event::ListAgain => return Ok(()),
                Event::Gone { kind, uuid } => send(queues.of(&kind), Update::Remove(uuid)),
                Event::Object { kind, object } => {
                    let object = Object::read(kind.clone(), object)
                        .ok_or_else(|| format!("a {kind} without uuid or name"))?;
                    match &mut list {
                        Some(list) => list.push(object),
                        None => send(queues.of(&kind), Update::Put(object)),
                    }
                }
            }
        }
        buffer.drain(..start);
    }
    Err("the API server's control listener ended its response".to_owned())
}

async fn apply_updates(
    shared: &Shared,
    addresses: bool,
    mut updates: mpsc::UnboundedReceiver<(Instant, Update)>,
) {
    while let Some((sent, update)) = updates.recv().await {
        let delay = shared.lock().delays.of(addresses);
        if !delay.is_zero() {
            sleep_until(sent + delay).await;
        }
        {
            let mut state = shared.lock();
            match update {
                Update::Replace(objects) => {
                    state.config.replace(addresses, objects);
                    if addresses {
                        state.synced.addresses = true;
                    } else {
                        state.synced.others = true;
                    }
                }
                Update::Put(object) => state.config.put(object),
                Update::Remove(uuid) => state.config.remove(uuid),
            }
        }
        shared.wake_data_path();
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
