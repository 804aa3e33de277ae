//! The endpoints of the master module of DC/OS.
//!
//! | request | answer |
//! |---|---|
//! | `GET /overlay-master/state` | the overlays, and what each node has of them: JSON, JSONP with `?jsonp=`, or the protobuf message `State` |
//! | `POST /overlay-master/agents/delete` | the state without the nodes with the addresses of the body, `{"agents": ["10.0.0.5"]}` |
//!
//! Clients of these endpoints do not know the header with an agent's name. So the token counts, if
//! there is one, and with client certificates only an operator may delete nodes other than its own.
//! Requests of foreign pages are refused, as browsers can send these, and so is JSONP. But browsers say
//! where a script is loaded from only if the manager has TLS, or is on their own host. Without a token or
//! client certificates, any page that a browser in the cluster's network shows can read the state by JSONP.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, RawQuery, Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use axum::{Extension, Router};
use contrail_mesos_api::http::is_of_foreign_page;
use contrail_mesos_api::overlay_modules::proto;
use contrail_mesos_api::overlay_modules::{AnswerError, FOREIGN_SCRIPT, answer, query_parameter};
use contrail_mesos_api::routes::{Operation, Routes, paths};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::agents::{ApiError, refuse_query};
use super::auth::Operator;
use super::{ApiState, standby};
use crate::cluster::Cluster;
use crate::error::ManagerError;
use crate::listener::{AllowedHosts, BodyLimits, Peer, check_host, discard, receive_body};

/// Enough for the addresses of all nodes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What the handlers share.
#[derive(Debug)]
pub(super) struct OverlayMasterState {
    api: Arc<ApiState>,
    cluster: Arc<Cluster>,
}

/// The routes with their documentation.
pub(super) fn routes() -> Routes<Arc<OverlayMasterState>> {
    let operation = |operation: Operation| {
        operation
            .ignoring_unknown_parameters()
            .json::<proto::State>(200, "The state")
            .content(200, "application/x-protobuf", "")
            .error(
                307,
                "Another manager leads: the one in the header `Location`.",
            )
            .error(400, "The request is wrong.")
            .error(401, "There is no token, or a wrong one.")
            .error(
                403,
                "The certificate names no operator, or the request is of a foreign page.",
            )
            .error(404, "The manager has no `[overlay]`.")
            .error(415, "The client accepts neither JSON nor protobuf.")
            .error(
                503,
                "No leader is known, or it is not prepared yet: try again.",
            )
    };
    let get = Operation::get("/overlay-master/state", "The overlays in the form of DC/OS");
    let post = Operation::post(
        "/overlay-master/agents/delete",
        "Deletes nodes by their addresses",
    );
    Routes::new(refuse_query)
        .route(
            operation(get)
                .notes("The answer of DC/OS' overlay module for masters.")
                .query::<String>("jsonp", "The function that gets the JSON", "show")
                .content(200, "text/javascript", ""),
            state,
        )
        .route(
            operation(post)
                .notes("All or none are deleted. Unknown addresses are ignored.")
                .body::<DeleteRequest>("The nodes", json!({ "agents": ["192.0.2.9"] })),
            delete,
        )
}

/// The routes. A request is authenticated before its body is read.
pub(super) fn router(
    api: &Arc<ApiState>,
    cluster: Option<Arc<Cluster>>,
    hosts: Arc<AllowedHosts>,
) -> Router {
    let routes = if let Some(cluster) = cluster {
        routes()
            .into_router()
            .with_state(Arc::new(OverlayMasterState {
                api: api.clone(),
                cluster,
            }))
    } else {
        let paths = paths(&routes().into_operations()).into_iter();
        paths.fold(Router::new(), |router, path| {
            router.route(path, any(async || ApiError::from(NOT_CONFIGURED)))
        })
    };
    let limits = BodyLimits {
        max_bytes: MAX_BODY_BYTES,
        timeout: api.body_timeout,
    };
    routes
        .layer(from_fn_with_state(limits, receive_body))
        .layer(from_fn_with_state(api.clone(), authenticate))
        .layer(from_fn_with_state(api.clone(), standby::redirect))
        .layer(from_fn_with_state(hosts, check_host))
}

const NOT_CONFIGURED: ManagerError =
    ManagerError::NotConfigured("this manager has no [overlay] in its configuration");

/// Middleware that refuses requests without valid credentials.
pub(super) async fn authenticate(
    State(state): State<Arc<ApiState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match state.authenticator.operator(request.headers(), &peer) {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            Ok(next.run(request).await)
        }
        Err(error) => {
            let address = peer.address.ip();
            if let Some(left_out) = state.refusals.pass(Some(address)) {
                log::warn!(peer:% = peer.address, error:%, left_out; "request refused");
            }
            discard(request.into_body()).await;
            Err(error.into())
        }
    }
}

async fn state(
    State(state): State<Arc<OverlayMasterState>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    state.api.check_ready()?;
    let jsonp = query_parameter(query.as_deref(), "jsonp");
    if jsonp.is_some() && is_of_foreign_page(&headers) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            FOREIGN_SCRIPT.to_owned(),
        ));
    }
    respond(&state.cluster, &headers, jsonp.as_deref())
}

fn respond(
    cluster: &Cluster,
    headers: &HeaderMap,
    jsonp: Option<&str>,
) -> Result<Response, ApiError> {
    let accept = headers.get(ACCEPT).map(HeaderValue::as_bytes);
    let answer = answer(&cluster.overlay_state()?, accept, jsonp).map_err(|error| {
        let status = match error {
            AnswerError::NotAccepted => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            AnswerError::Callback(_) => StatusCode::BAD_REQUEST,
        };
        ApiError::new(status, error.to_string())
    })?;
    let headers = [
        (CONTENT_TYPE, answer.content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, answer.body).into_response())
}

/// The nodes to delete, by their addresses.
#[derive(Debug, Deserialize, JsonSchema)]
struct DeleteRequest {
    /// Their addresses.
    agents: BTreeSet<IpAddr>,
}

async fn delete(
    State(state): State<Arc<OverlayMasterState>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: DeleteRequest = serde_json::from_slice(&body).map_err(|error| {
        let expected = "{\"agents\": [\"10.0.0.5\"]}";
        ManagerError::invalid(format!("the body is not like {expected}: {error}"))
    })?;
    state.api.check_ready()?;
    let addresses: Vec<IpAddr> = request.agents.iter().map(IpAddr::to_canonical).collect();
    let names = state.cluster.names_of(&addresses)?;
    // All or none: what is refused is known before anything is deleted.
    for name in &names {
        operator.check(name)?;
    }
    let cluster = state.cluster.clone();
    let work = async move {
        for name in &names {
            cluster.remove(name).await?;
        }
        Ok(())
    };
    state.api.run_to_completion(work).await?;
    respond(&state.cluster, &headers, None)
}
