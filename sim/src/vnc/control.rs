//! The control listener: the simulation's own way to a running server, which no real one has.
//!
//! ```text
//! GET    /follow?kinds=a,b   all objects of these types, then every change, as JSON lines, for ever
//! GET    /objects?kinds=a,b  all objects by type, with what they refer to
//! GET    /counts             how many objects there are of each type that has any
//! GET    /addresses          every address that somebody has
//! GET    /log?since=N        the requests, from that number on
//! GET    /faults             POST adds one, DELETE clears all
//! GET    /delay              PUT {"milliseconds":N} makes every answer take so long
//! PUT    /online             true or false: whether anybody can reach the API
//! POST   /gone               {"milliseconds":N}: nobody can, for so long
//! POST   /expire-tokens      every token given out has expired
//! ```
//!
//! A line of `/follow` is an [`Event`]. A follower needs no second source: the objects come first,
//! in one consistent state, and no change after it is left out. One that falls behind is told to
//! list again, and the answer ends; to list again is to ask again.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use uuid::Uuid;

use super::Handle;
use super::changes::Change;
use super::db::Db;
use super::render::{self, Wanted};
use super::schema::schema;
use crate::fault_text::{FaultText, Milliseconds};

/// How many changes go into one piece of an answer at most.
const BATCH: usize = 1024;

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An object is so, whether it is new, changed, or part of the list.
    Object {
        /// Its type.
        kind: String,
        /// Its fields.
        object: Map<String, Value>,
    },
    /// An object is gone.
    Gone {
        /// Its type.
        kind: String,
        /// The object.
        uuid: Uuid,
    },
    /// Everything that there was has been told.
    Listed,
    /// Changes were left out, and nothing more comes.
    ListAgain,
}

impl Handle {
    /// Serves the control listener at this address, with the runtime; says where it listens.
    pub async fn control(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = router(self.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                log::error!("the control listener at {address} ended: {error}");
            }
        });
        Ok(address)
    }
}

fn router(handle: Handle) -> Router {
    Router::new()
        .route("/follow", get(follow))
        .route("/objects", get(objects))
        .route("/counts", get(counts))
        .route("/addresses", get(addresses))
        .route("/log", get(log_of))
        .route("/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/delay", get(delay).put(set_delay))
        .route("/online", put(online))
        .route("/gone", post(gone))
        .route("/expire-tokens", post(expire_tokens))
        .with_state(handle)
}

#[derive(Deserialize)]
struct Kinds {
    kinds: Option<String>,
}

impl Kinds {
    /// The types, or that there is none of such a name.
    fn read(&self) -> Result<Option<BTreeSet<String>>, (StatusCode, String)> {
        let Some(kinds) = &self.kinds else {
            return Ok(None);
        };
        let kinds: BTreeSet<_> = kinds.split(',').map(str::to_owned).collect();
        match kinds.iter().find(|kind| schema().id(kind).is_none()) {
            Some(unknown) => Err((
                StatusCode::BAD_REQUEST,
                format!("there is no type {unknown:?}"),
            )),
            None => Ok(Some(kinds)),
        }
    }
}

struct Follower {
    changes: broadcast::Receiver<Change>,
    kinds: Option<BTreeSet<String>>,
    handle: Handle,
    list: Option<Bytes>,
    ended: bool,
}

async fn follow(State(handle): State<Handle>, Query(kinds): Query<Kinds>) -> Response {
    let kinds = match kinds.read() {
        Ok(kinds) => kinds,
        Err(problem) => return problem.into_response(),
    };
    // Changes are sent under the same lock: none is in neither the list nor what comes after it.
    let (changes, list) = {
        let inner = handle.shared.lock();
        let mut text = String::new();
        for (kind, objects) in snapshot(&inner.db, kinds.as_ref()) {
            for object in objects {
                let kind = kind.clone();
                line(&mut text, &Event::Object { kind, object });
            }
        }
        line(&mut text, &Event::Listed);
        (handle.shared.changes.subscribe(), text)
    };
    let follower = Follower {
        changes,
        kinds,
        handle,
        list: Some(list.into()),
        ended: false,
    };
    let lines = stream::unfold(follower, async |mut follower| {
        let text = follower.next().await?;
        Some((Ok::<_, Infallible>(text), follower))
    });
    let kind = (header::CONTENT_TYPE, "application/x-ndjson");
    ([kind], Body::from_stream(lines)).into_response()
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(list) = self.list.take() {
            return Some(list);
        }
        if self.ended {
            return None;
        }
        let mut uuids = Vec::new();
        match self.changes.recv().await {
            Ok(change) => uuids.push((change.kind, change.uuid)),
            Err(RecvError::Lagged(_)) => return Some(self.end()),
            Err(RecvError::Closed) => return None,
        }
        while uuids.len() < BATCH {
            match self.changes.try_recv() {
                Ok(change) => uuids.push((change.kind, change.uuid)),
                Err(TryRecvError::Lagged(_)) => return Some(self.end()),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let mut text = String::new();
        let mut told = BTreeSet::new();
        let inner = self.handle.shared.lock();
        for (kind, uuid) in uuids {
            let wanted = self.kinds.as_ref().is_none_or(|only| only.contains(&kind));
            if !wanted || !told.insert(uuid) {
                continue;
            }
            // What it is now, not what it was then: the follower has to know no more.
            let event = match inner.db.store.get(uuid) {
                Some(object) => Event::Object {
                    kind,
                    object: render::object(&inner.db, object, &Wanted::own(), None),
                },
                None => Event::Gone { kind, uuid },
            };
            line(&mut text, &event);
        }
        Some(text.into())
    }

    fn end(&mut self) -> Bytes {
        self.ended = true;
        let mut text = String::new();
        line(&mut text, &Event::ListAgain);
        text.into()
    }
}

fn line(text: &mut String, event: &Event) {
    match serde_json::to_string(event) {
        Ok(json) => {
            text.push_str(&json);
            text.push('\n');
        }
        Err(error) => log::error!("cannot write {event:?}: {error}"),
    }
}

fn snapshot(db: &Db, only: Option<&BTreeSet<String>>) -> BTreeMap<String, Vec<Map<String, Value>>> {
    let kinds = schema().kinds().iter().enumerate();
    kinds
        .filter(|(_, kind)| only.is_none_or(|only| only.contains(&kind.name)))
        .map(|(id, kind)| {
            let objects = db.store.of_kind(id);
            let objects = objects.map(|object| render::object(db, object, &Wanted::own(), None));
            (kind.name.clone(), objects.collect::<Vec<_>>())
        })
        .filter(|(_, objects)| !objects.is_empty())
        .collect()
}

async fn objects(State(handle): State<Handle>, Query(kinds): Query<Kinds>) -> Response {
    match kinds.read() {
        Ok(kinds) => Json(snapshot(&handle.shared.lock().db, kinds.as_ref())).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn counts(State(handle): State<Handle>) -> Response {
    Json(handle.counts()).into_response()
}

async fn addresses(State(handle): State<Handle>) -> Response {
    let addresses = handle.addresses().into_iter();
    let addresses: Vec<_> = addresses
        .map(|(of, address, holder)| json!({"of": of, "address": address, "holder": holder}))
        .collect();
    Json(addresses).into_response()
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn log_of(State(handle): State<Handle>, Query(since): Query<Since>) -> Response {
    let mut entries = handle.log();
    entries.retain(|entry| entry.order >= since.since);
    Json(entries).into_response()
}

async fn faults(State(handle): State<Handle>) -> Response {
    let faults = handle.shared.lock().faults.clone();
    let faults: Vec<FaultText> = faults.into_iter().map(FaultText::from).collect();
    Json(faults).into_response()
}

async fn add_fault(State(handle): State<Handle>, Json(fault): Json<FaultText>) {
    handle.fault(fault.into());
}

async fn clear_faults(State(handle): State<Handle>) {
    handle.clear_faults();
}

async fn delay(State(handle): State<Handle>) -> Response {
    Json(Milliseconds::from(handle.shared.lock().delay)).into_response()
}

async fn set_delay(State(handle): State<Handle>, Json(delay): Json<Milliseconds>) {
    handle.set_delay(delay.into());
}

async fn online(State(handle): State<Handle>, Json(online): Json<bool>) -> Response {
    handle.unplug();
    if online && let Err(error) = handle.plug().await {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    StatusCode::OK.into_response()
}

async fn gone(State(handle): State<Handle>, Json(time): Json<Milliseconds>) {
    handle.unplug();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from(time)).await;
        if let Err(error) = handle.plug().await {
            log::error!("the API server cannot come back: {error}");
        }
    });
}

async fn expire_tokens(State(handle): State<Handle>) {
    handle.expire_tokens();
}

#[cfg(test)]
mod tests;
