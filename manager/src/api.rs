//! The agents' API over HTTP: see [`contrail_mesos_api::agent_api`] for what it says.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::access::Gate;
use super::containers::Containers;
use super::error::ManagerError;
use super::fence::Leadership;
use super::lead::Readiness;
use super::listener::Peer;
use super::standby;
use contrail_mesos_api::agent_api::{PortsRequest, Refusal};
use contrail_mesos_api::text::Quoted;

/// The longest request: a container with many ports and labels.
const LONGEST: usize = 256 << 10;

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub containers: Arc<Containers>,
    pub gate: Arc<Gate>,
    /// Why containers cannot be made yet.
    pub ready: watch::Receiver<Readiness>,
    /// Who writes.
    pub leadership: watch::Receiver<Leadership>,
    /// What was begun, and ends even when nobody waits for its answer.
    pub tasks: TaskTracker,
}

impl Shared {
    /// Refuses as long as the API server is not provisioned.
    pub(super) fn check_ready(&self) -> Result<(), ManagerError> {
        match &self.ready.borrow().unready {
            None => Ok(()),
            Some(reason) => Err(ManagerError::NotReady(reason.clone())),
        }
    }

    /// Runs to the end, also when whoever asked goes away: half a container is nobody's wish.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ManagerError>> + Send + 'static,
    ) -> Result<T, ManagerError> {
        self.tasks.spawn(work).await.unwrap_or_else(|error| {
            log::error!(error:%; "internal error in a request");
            let what = "internal error in the manager; its log says more".to_owned();
            Err(ManagerError::InvalidResponse(what))
        })
    }
}

/// The routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/ports", get(list))
        .route("/v1/ports/{machine}", put(make).get(read).delete(remove))
        .fallback(async || {
            Refused(
                StatusCode::NOT_FOUND,
                "there is nothing at this path; see /v1/ports".to_owned(),
            )
        })
        .method_not_allowed_fallback(async || {
            Refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path knows other methods".to_owned(),
            )
        })
        .layer(DefaultBodyLimit::max(LONGEST))
        .layer(from_fn_with_state(shared.clone(), standby::redirect))
        .with_state(shared)
}

struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(Refusal { error: self.1 })).into_response();
        if self.0 == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<ManagerError> for Refused {
    fn from(error: ManagerError) -> Self {
        Self(error.status(), error.to_string())
    }
}

type Answer<T> = Result<Json<T>, Refused>;

fn machine(text: &str) -> Result<Uuid, ManagerError> {
    // The canonical form only: the vRouter agent knows no other.
    let uuid = text
        .parse()
        .ok()
        .filter(|uuid: &Uuid| uuid.to_string() == text);
    uuid.ok_or_else(|| {
        ManagerError::invalid(format!(
            "{} is not a machine's uuid",
            Quoted(text.as_bytes())
        ))
    })
}

async fn make(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer<impl Serialize> {
    let agent = shared.gate.agent(&headers, &peer)?;
    let body = body.map_err(|rejection| Refused(rejection.status(), rejection.body_text()))?;
    let machine = machine(&uuid)?;
    let mut reader = serde_json::Deserializer::from_slice(&body);
    let request: PortsRequest = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        ManagerError::invalid(format!("the body is not a request for ports: {error}"))
    })?;
    shared.check_ready()?;
    let containers = shared.containers.clone();
    let work = async move { containers.put(&agent, machine, &request).await };
    Ok(Json(shared.to_the_end(work).await?))
}

async fn read(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Answer<impl Serialize> {
    let agent = shared.gate.agent(&headers, &peer)?;
    Ok(Json(
        shared.containers.get(Some(&agent), machine(&uuid)?).await?,
    ))
}

async fn remove(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
) -> Answer<impl Serialize> {
    let agent = shared.gate.agent(&headers, &peer)?;
    let machine = machine(&uuid)?;
    let containers = shared.containers.clone();
    let work = async move { containers.delete(Some(&agent), machine).await };
    shared.to_the_end(work).await?;
    Ok(Json(serde_json::json!({})))
}

#[derive(Deserialize)]
struct Of {
    agent: String,
    address: Option<IpAddr>,
}

async fn list(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    of: Result<Query<Of>, axum::extract::rejection::QueryRejection>,
) -> Answer<impl Serialize> {
    let agent = shared.gate.agent(&headers, &peer)?;
    let Query(of) = of.map_err(|rejection| {
        ManagerError::invalid(format!("ask for ?agent=<name>: {}", rejection.body_text()))
    })?;
    if of.agent != agent {
        let what = "an agent lists its own containers only".to_owned();
        return Err(ManagerError::Foreign(what).into());
    }
    Ok(Json(shared.containers.list(&agent, of.address).await?))
}
