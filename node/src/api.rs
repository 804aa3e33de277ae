//! The daemon's API: health, metrics and state, by a unix socket for root and, if configured, by TCP.
//!
//! The table of the routes, `routes`, has every request with its responses. The daemon serves it as an
//! OpenAPI document.
//!
//! An error is JSON with a field `error`. No path takes parameters, and a request with any is refused, but
//! for probes, monitoring, and clients of DC/OS, which add their own. Nothing can be changed by the API. By TCP it is
//! unauthenticated, so requests for foreign names and of foreign pages are refused.

mod documented;
mod drops;
mod host_files;
mod metrics;
mod overlay_agent;
mod serve;
mod services;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use contrail_mesos::node_state::LocalOverlay;
use contrail_mesos_api::agent_api::Refusal;
use contrail_mesos_api::cluster::Revision;
use contrail_mesos_api::http::AllowedHosts;
use contrail_mesos_api::routes::paths;
use contrail_mesos_api::text::{Quoted, with_causes};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::blocks::BlockReports;
use crate::cluster_state::ClusterState;
use crate::dns::DnsView;
use crate::engine::{EngineStatus, SubsystemStatus};
use crate::groups::GroupsView;
use crate::local_state::local_state;
use crate::report::ReportStatus;
use crate::services::ServiceStatus;
use crate::subsystem::ClusterUse;
use crate::uplink;
use crate::watch::{Connection, States};
use documented::routes;
use drops::DropsReport;
pub use host_files::HostFiles;
use metrics::Metrics;
pub use serve::{ApiSocket, ApiSocketError, serve_tcp, serve_unix};

/// What the API shows.
#[derive(Clone, Debug)]
pub struct ApiSources {
    /// This node's name.
    pub node: String,
    /// The latest state of the cluster.
    pub states: States,
    /// The subsystems.
    pub engine: watch::Receiver<EngineStatus>,
    /// The connection to the managers.
    pub connection: watch::Receiver<Connection>,
    /// The reports.
    pub reports: watch::Receiver<ReportStatus>,
    /// The groups of containers.
    pub groups: GroupsView,
    /// The services.
    pub services: watch::Receiver<Arc<ServiceStatus>>,
    /// The DNS server, if there is one.
    pub dns: Option<DnsView>,
    /// What this host wants of overlays that lend blocks.
    pub blocks: BlockReports,
    /// What the library keeps on this host.
    pub host_files: HostFiles,
    /// When the daemon started.
    pub started: Instant,
}

/// The state of the daemon.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The version of the daemon.
    pub version: &'static str,
    /// How long it has run, in seconds.
    pub uptime_seconds: u64,
    /// The revision of the cluster's state that this node knows.
    pub known: Option<Revision>,
    /// The revision that all subsystems have applied.
    pub applied: Option<Revision>,
    /// The connection to the managers.
    pub connection: Connection,
    /// The reports to the managers.
    pub reports: ReportStatus,
    /// The subsystems.
    pub subsystems: Vec<SubsystemStatus>,
    /// The overlays on this host.
    pub overlays: Vec<LocalOverlay>,
}

impl ApiSources {
    /// Why this node is not ready, if it is not.
    fn unready(&self) -> Option<String> {
        if self.engine.borrow().applied().is_some() {
            return None;
        }
        if self.states.borrow().is_none() {
            let problem = self.connection.borrow().problem.clone();
            return Some(match problem {
                None => "no state of the cluster has arrived yet".to_owned(),
                Some(problem) => format!("no state of the cluster has arrived yet: {problem}"),
            });
        }
        let engine = self.engine.borrow();
        let problems = engine
            .subsystems
            .iter()
            .filter(|status| status.applied.is_none() && status.cluster_use != ClusterUse::Unused);
        let problems: Vec<_> = problems
            .map(|status| match status.problems.first() {
                None => format!("{} is being applied", status.name),
                Some(problem) => format!("{}: {problem}", status.name),
            })
            .collect();
        Some(problems.join("; "))
    }

    /// Blocks: asks the kernel for the uplink.
    fn status(&self) -> Status {
        let state = self.states.borrow().clone();
        let overlays = state.as_deref().map_or_else(Vec::new, |state| {
            let own = state.own_node();
            // Without it, the overlays say that they have a problem.
            let uplink = own.and_then(|node| uplink::of_this_host(node.address).ok().flatten());
            local_state(state, uplink.as_ref()).overlays
        });
        let engine = self.engine.borrow().clone();
        Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
            known: state.map(|state| state.revision),
            applied: engine.applied(),
            connection: self.connection.borrow().clone(),
            reports: self.reports.borrow().clone(),
            subsystems: engine.subsystems,
            overlays,
        }
    }
}

/// What the handlers share.
#[derive(Debug)]
struct ApiState {
    sources: ApiSources,
    metrics: Metrics,
}

/// The routes.
pub fn router(sources: ApiSources) -> Router {
    let metrics = Metrics::new(sources.clone());
    routes()
        .into_router()
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(ApiState { sources, metrics }))
}

/// The same routes for a listener without authentication: requests for foreign names, and those of
/// foreign pages, are refused.
pub fn with_host_check(router: Router, hosts: Arc<AllowedHosts>) -> Router {
    router.layer(from_fn_with_state(hosts, check_host))
}

async fn check_host(
    State(allowed): State<Arc<AllowedHosts>>,
    request: Request,
    next: Next,
) -> Response {
    let authority = request.uri().authority();
    match allowed.refusal(request.method(), authority, request.headers()) {
        None => next.run(request).await,
        Some(error) => refusal(StatusCode::FORBIDDEN, &error),
    }
}

type StatusText = (StatusCode, String);

async fn live(State(state): State<Arc<ApiState>>) -> StatusText {
    let engine = state.sources.engine.borrow();
    let hanging: Vec<_> = engine.hanging().collect();
    if hanging.is_empty() {
        (StatusCode::OK, "live\n".to_owned())
    } else {
        let text = format!("not live: {} hangs\n", hanging.join(" and "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn ready(State(state): State<Arc<ApiState>>) -> StatusText {
    match state.sources.unready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => {
            let text = format!("not ready: {reason}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn show_metrics(State(state): State<Arc<ApiState>>) -> Response {
    // Asks the kernel for its counters.
    blocking(move || state.metrics.response()).await
}

async fn status(State(state): State<Arc<ApiState>>) -> Response {
    blocking(move || json(StatusCode::OK, &state.sources.status())).await
}

/// The response of work that blocks.
async fn blocking(work: impl FnOnce() -> Response + Send + 'static) -> Response {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            log::error!(error:%; "internal error in a response of the API");
            let message = "internal error in the daemon; see its log";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
}

async fn groups(State(state): State<Arc<ApiState>>) -> Response {
    let status = state.sources.groups.status.borrow().clone();
    json(StatusCode::OK, &*status)
}

async fn dropped(State(state): State<Arc<ApiState>>) -> Response {
    let status = state.sources.groups.status.borrow().clone();
    blocking(move || match DropsReport::read(&status) {
        Ok(report) => json(StatusCode::OK, &report),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &with_causes(&error)),
    })
    .await
}

async fn vips(State(state): State<Arc<ApiState>>) -> Response {
    let status = state.sources.services.borrow().clone();
    json(StatusCode::OK, &services::vips(&status))
}

async fn service_report(State(state): State<Arc<ApiState>>) -> Response {
    let status = state.sources.services.borrow().clone();
    blocking(move || match services::report(&status) {
        Ok(report) => json(StatusCode::OK, &report),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &with_causes(&error)),
    })
    .await
}

async fn cluster(State(state): State<Arc<ApiState>>) -> Response {
    let known: Option<Arc<ClusterState>> = state.sources.states.borrow().clone();
    match known {
        Some(known) => json(StatusCode::OK, &*known),
        None => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "no state of the cluster has arrived yet",
        ),
    }
}

fn without_dns() -> Response {
    refusal(StatusCode::NOT_FOUND, "this daemon has no DNS server")
}

async fn records(State(state): State<Arc<ApiState>>) -> Response {
    match state.sources.dns.clone() {
        Some(dns) => blocking(move || json(StatusCode::OK, &dns.records())).await,
        None => without_dns(),
    }
}

async fn host(State(state): State<Arc<ApiState>>, Path(name): Path<String>) -> Response {
    match &state.sources.dns {
        Some(dns) => json(StatusCode::OK, &dns.host(&name)),
        None => without_dns(),
    }
}

async fn service(State(state): State<Arc<ApiState>>, Path(name): Path<String>) -> Response {
    match &state.sources.dns {
        Some(dns) => json(StatusCode::OK, &dns.service(&name)),
        None => without_dns(),
    }
}

async fn not_found() -> Response {
    let paths = paths(&routes().into_operations()).join(", ");
    let message = format!("there is no such path; there are: {paths}");
    refusal(StatusCode::NOT_FOUND, &message)
}

async fn method_not_allowed(method: Method) -> Response {
    let method = Quoted(method.as_str().as_bytes());
    let message = format!("this API does not support {method}; all paths support GET only");
    refusal(StatusCode::METHOD_NOT_ALLOWED, &message)
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let error = message.to_owned();
    json(status, &Refusal { error })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Serialization fails only for maps whose keys are not strings; there are none.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests;
