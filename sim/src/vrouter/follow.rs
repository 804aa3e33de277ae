//! Follows the API server's changes, and applies them after a delay.
//!
//! There are two queues: one of addresses, which may be delayed further, and one of all other
//! objects. Each queue keeps its order. A repeated list goes through the same queues.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::config::{ADDRESS, KINDS, Object};
use super::state::Shared;
use crate::vnc::Event;

/// The pause before a new request to the API server's control listener.
const PAUSE: Duration = Duration::from_millis(100);

/// An entry of a queue.
enum Item {
    All(Vec<Object>),
    Put(Object),
    Gone(uuid::Uuid),
}

type Queue = mpsc::UnboundedSender<(Instant, Item)>;

/// Follows until the task is aborted.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let (rest, rest_items) = mpsc::unbounded_channel();
    let (addresses, address_items) = mpsc::unbounded_channel();
    let connect = async {
        let mut complained = false;
        loop {
            match read(&shared, &rest, &addresses).await {
                Ok(()) => log::info!("{}: the list is asked for again", shared.options.name),
                Err(problem) if !complained => {
                    let name = &shared.options.name;
                    log::warn!("{name}: no configuration for now: {problem}");
                    complained = true;
                    continue;
                }
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    };
    tokio::join!(
        connect,
        arrive(&shared, false, rest_items),
        arrive(&shared, true, address_items)
    );
}

async fn read(shared: &Shared, rest: &Queue, addresses: &Queue) -> Result<(), String> {
    let url = format!(
        "{}/follow?kinds={}",
        shared.options.control.trim_end_matches('/'),
        KINDS.join(",")
    );
    // The control listener is on this machine, so the environment's proxy does not apply.
    let client = reqwest::Client::builder().no_proxy().build();
    let client = client.map_err(|error| chain(&error))?;
    let answer = client.get(&url).send().await;
    let answer = answer.and_then(reqwest::Response::error_for_status);
    let mut pieces = answer.map_err(|error| chain(&error))?.bytes_stream();
    let mut buffer = Vec::new();
    let mut list = Some((Vec::new(), Vec::new()));
    while let Some(piece) = pieces.next().await {
        buffer.extend_from_slice(&piece.map_err(|error| chain(&error))?);
        let mut start = 0;
        while let Some(end) = buffer[start..].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[start..start + end];
            start += end + 1;
            let event = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            let (object, kind) = match event {
                Event::Listed => {
                    let (others, instances) = list.take().unwrap_or_default();
                    put(rest, Item::All(others));
                    put(addresses, Item::All(instances));
                    continue;
                }
                Event::ListAgain => return Ok(()),
                Event::Gone { kind, uuid } => (Item::Gone(uuid), kind),
                Event::Object { kind, object } => {
                    let object = Object::read(kind.clone(), object)
                        .ok_or_else(|| format!("a {kind} without uuid or name"))?;
                    if let Some((others, instances)) = &mut list {
                        let list = if kind == ADDRESS { instances } else { others };
                        list.push(object);
                        continue;
                    }
                    (Item::Put(object), kind)
                }
            };
            put(if kind == ADDRESS { addresses } else { rest }, object);
        }
        buffer.drain(..start);
    }
    Err("the API server's control listener ended its answer".to_owned())
}

fn put(queue: &Queue, item: Item) {
    // The receiver lives as long as this task.
    let _ = queue.send((Instant::now(), item));
}

async fn arrive(
    shared: &Shared,
    addresses: bool,
    mut items: mpsc::UnboundedReceiver<(Instant, Item)>,
) {
    while let Some((sent, item)) = items.recv().await {
        let delay = shared.lock().delays.of(addresses);
        if !delay.is_zero() {
            sleep_until(sent + delay).await;
        }
        {
            let mut state = shared.lock();
            match item {
                Item::All(objects) => {
                    state.config.replace(addresses, objects);
                    if addresses {
                        state.synced.addresses = true;
                    } else {
                        state.synced.others = true;
                    }
                }
                Item::Put(object) => state.config.put(object),
                Item::Gone(uuid) => state.config.remove(uuid),
            }
        }
        shared.wake_data_path();
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
