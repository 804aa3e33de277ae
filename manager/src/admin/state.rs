//! What the handlers of the admin listener share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use super::metrics::Metrics;
use crate::cluster::Cluster;
use crate::contrail::Contrail;
use crate::fence::{Fence, Leadership};
use crate::lead::Readiness;
use crate::reconcile::Reconciler;
use crate::services::Services;
use crate::vnc::Outage;
use contrail_mesos_api::agent_api::Refusal;

/// What the handlers read.
#[derive(Debug)]
pub(crate) struct AdminState {
    pub fence: Fence,
    pub ready: watch::Receiver<Readiness>,
    pub metrics: Arc<Metrics>,
    /// None without a table `[vnc]`.
    pub contrail: Option<Contrail>,
    /// None without a table `[overlay]` or `[services]`.
    pub cluster: Option<Arc<Cluster>>,
    /// None without a table `[services]`.
    pub services: Option<Arc<Services>>,
    pub cluster_name: String,
    /// The URL of this manager's API for agents.
    pub url: String,
    /// The address of this listener.
    pub address: SocketAddr,
    /// Whether the leader is elected, so that there may be other managers.
    pub elected: bool,
    pub started: SystemTime,
}

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct LeaderLink {
    /// The URL of its API for agents.
    pub url: String,
    /// The URL of its status page, unless that can be reached on its machine only.
    pub page: Option<String>,
}

impl AdminState {
    /// What manages the objects of containers, or a response that says that there is none.
    pub(super) fn contrail(&self) -> Result<&Contrail, AdminError> {
        self.contrail
            .as_ref()
            .ok_or_else(|| AdminError::not_found("this manager has no [vnc] in its configuration"))
    }

    /// What knows the nodes, or a response that says that there is none.
    pub(super) fn cluster(&self) -> Result<&Cluster, AdminError> {
        self.cluster.as_deref().ok_or_else(|| {
            AdminError::not_found(
                "this manager has neither [overlay] nor [services] in its configuration",
            )
        })
    }

    /// The services, or a response that says that there are none.
    pub(super) fn services(&self) -> Result<&Services, AdminError> {
        self.services.as_deref().ok_or_else(|| {
            AdminError::not_found("this manager has no [services] in its configuration")
        })
    }

    /// The reconciler, or a response that says that there is none.
    pub(super) fn reconciler(&self) -> Result<&Reconciler, AdminError> {
        self.contrail()?.reconciler.as_deref().ok_or_else(|| {
            AdminError::not_found(
                "this manager does not follow Mesos; see [mesos] in its configuration",
            )
        })
    }

    /// The leader, if that is another manager.
    pub(super) fn leader(&self) -> Option<LeaderLink> {
        let Leadership::Following { leader } = self.fence.leadership().borrow().clone() else {
            return None;
        };
        let url = leader.to_string();
        let host = url.parse::<Uri>().ok()?.host()?.to_owned();
        // The managers of a cluster have the same configuration.
        let is_local = self.address.ip().is_loopback();
        let page = (!is_local).then(|| format!("http://{host}:{}/", self.address.port()));
        Some(LeaderLink { url, page })
    }

    /// How the API servers fail, if this manager serves requests and they have failed for some time.
    pub(super) fn confirmed_outage(&self) -> Option<String> {
        let client = &self.contrail.as_ref()?.client;
        let is_confirmed = self.not_serving_reason().is_none() && !*client.available().borrow();
        let outage = client.outage().filter(|_| is_confirmed)?;
        Some(format!(
            "the VNC API does not respond: {}",
            describe(&outage)
        ))
    }

    /// Why this manager does not serve requests.
    pub(super) fn not_serving_reason(&self) -> Option<String> {
        self.ready.borrow().unready.clone()
    }
}

/// Since when and how the API servers fail.
pub(super) fn describe(outage: &Outage) -> String {
    let status = outage
        .last
        .status
        .map_or("no response".to_owned(), |status| {
            format!("status {status}")
        });
    let seconds = outage.since.elapsed().as_secs();
    format!(
        "requests have failed for {seconds} s; the last one, {} /{}, got {status}",
        outage.last.method, outage.last.resource
    )
}

/// An error response.
#[derive(Debug)]
pub(super) struct AdminError(StatusCode, String);

impl AdminError {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    pub(super) fn method_not_allowed(message: impl Into<String>) -> Self {
        Self(StatusCode::METHOD_NOT_ALLOWED, message.into())
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, message.into())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        (self.0, json_body(&Refusal { error: self.1 })).into_response()
    }
}

/// The response to a request with a wrong query.
pub(super) fn refuse_query(problem: &str) -> Response {
    AdminError::bad_request(problem).into_response()
}

/// A response with this JSON.
pub(super) fn json_body(value: &impl Serialize) -> Response {
    // Serialization fails only for maps whose keys are not strings; there are none.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

/// Builds a response on a thread for blocking work: it may read all containers.
pub(super) async fn run_blocking<T: Send + 'static>(
    state: Arc<AdminState>,
    build: impl FnOnce(&AdminState) -> T + Send + 'static,
) -> Result<T, AdminError> {
    tokio::task::spawn_blocking(move || build(&state))
        .await
        .map_err(|error| {
            log::error!(error:%; "internal error in a response of the admin listener");
            let message = "internal error in the manager; see its log".to_owned();
            AdminError(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
}
