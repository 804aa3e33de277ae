//! The routes of the API, with their documentation.

use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::http::StatusCode;
use contrail_mesos_api::overlay_modules::proto::AgentInfo;
use contrail_mesos_api::routes::{Document, Operation, Routes};
use prometheus_client::encoding::prometheus_text;
use serde_json::json;

use super::drops::DropsReport;
use super::services::{DcosVip, ServiceReport};
use super::{ApiState, Status, overlay_agent, refusal};
use crate::cluster_state::ClusterState;
use crate::dns::{HostEntry, ServiceEntry, ShownRecord};
use crate::groups::GroupsStatus;

const DESCRIPTION: &str = "\
The API of the daemon `contrail-mesos-node` beside each agent: health, metrics and state, by a unix \
socket for root and, if configured, by TCP. Nothing can be changed by it.

- By TCP it is unauthenticated: requests for foreign host names and of foreign pages are refused with \
403.
- An error is JSON with a field `error`. An unknown path is answered with 404, another method with 405.
- Fields and paths may be added; clients ignore what they do not know.";

const NO_DNS: &str = "This daemon has no DNS server.";
const KERNEL_FAILED: &str = "The kernel does not tell its counters.";

/// The document as text, made once.
pub(super) fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
        let document = Document {
            title: "contrail-mesos-node",
            version: env!("CARGO_PKG_VERSION"),
            description: DESCRIPTION,
            security_schemes: json!({}),
            security: json!([]),
            operations: routes().into_operations(),
        };
        document.to_text()
    });
    DOCUMENT.clone()
}

/// All routes.
pub(super) fn routes() -> Routes<Arc<ApiState>> {
    let routes = Routes::new(|problem| refusal(StatusCode::BAD_REQUEST, problem));
    let routes = probes(routes);
    let routes = state(routes);
    names(routes)
        .route(
            Operation::get(
                "/overlay-agent/overlay",
                "The overlays in the form of DC/OS",
            )
            .notes("The answer of DC/OS' overlay module for agents.")
            .query::<String>("jsonp", "The function that gets the JSON", "show")
            .ignoring_unknown_parameters()
            .json::<AgentInfo>(200, "This agent and its overlays")
            .content(200, "text/javascript", "")
            .content(200, "application/x-protobuf", "")
            .error(400, "The parameter is not the name of a function.")
            .error(403, "JSONP is not for pages of other sites.")
            .error(415, "The client accepts neither JSON nor protobuf.")
            .error(503, "This node is not registered at a manager yet."),
            overlay_agent::overlay,
        )
        .document(document)
}

fn probes(routes: Routes<Arc<ApiState>>) -> Routes<Arc<ApiState>> {
    routes
        .route(
            Operation::get("/live", "Whether no subsystem hangs")
                .ignoring_unknown_parameters()
                .text(200, "No subsystem hangs.")
                .text(503, "The subsystems that hang"),
            super::live,
        )
        .route(
            Operation::get("/ready", "Whether a complete state was applied")
                .ignoring_unknown_parameters()
                .text(200, "A complete state of the cluster was applied.")
                .text(503, "Why none was"),
            super::ready,
        )
        .route(
            Operation::get("/metrics", "Metrics in the Prometheus text format")
                .ignoring_unknown_parameters()
                .content(200, prometheus_text::CONTENT_TYPE, "The metrics"),
            super::show_metrics,
        )
}

fn state(routes: Routes<Arc<ApiState>>) -> Routes<Arc<ApiState>> {
    routes
        .route(
            Operation::get("/v1/status", "The state of the daemon")
                .json::<Status>(200, "The state of the daemon"),
            super::status,
        )
        .route(
            Operation::get(
                "/v1/cluster",
                "The state of the cluster that this node knows",
            )
            .json::<ClusterState>(200, "The state of the cluster")
            .error(503, "No state of the cluster has arrived yet."),
            super::cluster,
        )
        .route(
            Operation::get("/v1/groups", "The groups of containers that are enforced")
                .json::<GroupsStatus>(200, "What is enforced"),
            super::groups,
        )
        .route(
            Operation::get(
                "/v1/drops",
                "The packets that were dropped because of groups",
            )
            .json::<DropsReport>(200, "What was dropped")
            .error(500, KERNEL_FAILED),
            super::dropped,
        )
        .route(
            Operation::get("/v1/vips", "The services in the form of DC/OS")
                .notes("The form of dcos-net.")
                .json::<Vec<DcosVip>>(200, "The services with their backends"),
            super::vips,
        )
        .route(
            Operation::get(
                "/v1/services",
                "The services, their backends and connections",
            )
            .json::<Vec<ServiceReport<'static>>>(200, "The services")
            .error(500, KERNEL_FAILED),
            super::service_report,
        )
}

/// What the DNS server knows.
fn names(routes: Routes<Arc<ApiState>>) -> Routes<Arc<ApiState>> {
    routes
        .route(
            Operation::get("/v1/records", "The DNS records of services and tasks")
                .notes("The form of dcos-net.")
                .json::<Vec<ShownRecord>>(200, "The records")
                .error(404, NO_DNS),
            super::records,
        )
        .route(
            Operation::get("/v1/hosts/{name}", "The addresses of a name of ours")
                .notes("The form of Mesos-DNS.")
                .in_path::<String>("name", "The name", "web.marathon.l4lb.thisdcos.directory")
                .json::<Vec<HostEntry>>(200, "Its addresses; none if there is no such name")
                .error(404, NO_DNS),
            super::host,
        )
        .route(
            Operation::get("/v1/services/{name}", "The ports of a name of ours")
                .notes("The form of Mesos-DNS.")
                .in_path::<String>(
                    "name",
                    "The name",
                    "_tcp.web.marathon.l4lb.thisdcos.directory",
                )
                .json::<Vec<ServiceEntry>>(200, "Its ports; none if there is no such name")
                .error(404, NO_DNS),
            super::service,
        )
}
