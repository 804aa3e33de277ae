//! The metrics of the manager, in the formats of Prometheus.
//!
//! Counters and histograms are registered by the code that counts ([`Requests`], the containers, the
//! reconciler). Values that exist anyway, such as the sizes of the stores, are read by collectors
//! when somebody scrapes.

mod cluster;
mod services;
mod stores;

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contrail_mesos_api::process_metrics::ProcessCollector;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::contrail::Contrail;
use crate::fence::{Fence, Leadership};
use crate::lead::Readiness;
use crate::listener::ConnectionMetrics;
use crate::services::Services;
use crate::vnc::VncClient;
use cluster::ClusterCollector;
use services::ServiceCollector;
use stores::StoreCollector;

const PREFIX: &str = "contrail_mesos_manager";
const OPENMETRICS: &str = "application/openmetrics-text";
/// The type of the metrics in OpenMetrics.
pub(super) const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a response out of memory to an API server that does not respond.
const DURATION_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    api: &'static str,
    method: String,
    path: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    api: &'static str,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VncCallLabels {
    method: String,
    resource: String,
    status: String,
}

/// What the collectors read.
#[derive(Clone, Debug)]
pub(crate) struct MetricSources {
    pub contrail: Option<Contrail>,
    pub cluster: Option<Arc<Cluster>>,
    pub services: Option<Arc<Services>>,
    pub fence: Fence,
    pub ready: watch::Receiver<Readiness>,
}

/// The metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Requests,
    connections: ConnectionMetrics,
    registry: Registry,
}

/// The requests of agents and CNI plugins.
#[derive(Debug)]
struct Requests {
    total: Family<RequestLabels, Counter>,
    duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
}

impl Requests {
    fn register(registry: &mut Registry) -> Self {
        let requests = Self {
            total: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
        };
        registry.register(
            "requests",
            "Requests of agents and CNI plugins, by outcome",
            requests.total.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Duration of requests of agents and CNI plugins",
            Unit::Seconds,
            requests.duration.clone(),
        );
        requests
    }
}

impl Metrics {
    pub(crate) fn new(sources: MetricSources) -> Arc<Self> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let own = registry.sub_registry_with_prefix(PREFIX);
        own.register(
            "build",
            "The version of this manager",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let requests = Requests::register(own);
        let connections = ConnectionMetrics::default();
        connections.register(own);
        if let Some(contrail) = &sources.contrail {
            contrail.containers.metrics().register(own);
            if let Some(reconciler) = &contrail.reconciler {
                reconciler.metrics().register(own);
                own.register_collector(Box::new(StoreCollector(reconciler.clone())));
            }
        }
        if let Some(cluster) = &sources.cluster {
            cluster.metrics().register(own);
            cluster.endpoint_metrics().register(own);
            own.register_collector(Box::new(ClusterCollector(cluster.clone())));
        }
        if let Some(services) = &sources.services {
            services.metrics().register(own);
            own.register_collector(Box::new(ServiceCollector(services.clone())));
        }
        own.register_collector(Box::new(sources));
        Arc::new(Self {
            requests,
            connections,
            registry,
        })
    }

    /// The metrics of connections.
    pub(crate) fn connections(&self) -> &ConnectionMetrics {
        &self.connections
    }

    /// All metrics, in the format that these headers accept.
    pub(super) fn response(&self, headers: &HeaderMap) -> Response {
        let mut body = String::new();
        let (content_type, encoded) = if accepts_openmetrics(headers) {
            (
                OPENMETRICS_CONTENT_TYPE,
                text::encode(&mut body, &self.registry),
            )
        } else {
            (
                prometheus_text::CONTENT_TYPE,
                prometheus_text::encode(&mut body, &self.registry),
            )
        };
        match encoded {
            Ok(()) => ([(CONTENT_TYPE, content_type), (VARY, "accept")], body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// Whether the client prefers OpenMetrics to the text format, which is the default.
fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    let mut openmetrics = 0.0;
    let mut text = 0.0;
    for range in headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|parameter| parameter.strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse::<f64>().unwrap_or_default());
        if media_type.eq_ignore_ascii_case(OPENMETRICS) {
            openmetrics = quality.max(openmetrics);
        } else if media_type.eq_ignore_ascii_case("text/plain") {
            text = quality.max(text);
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

/// Middleware that measures the requests of one API.
pub(crate) async fn measure(
    State((metrics, api)): State<(Arc<Metrics>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    // The client chooses method and path, so labels are taken from what the manager knows.
    let method = match request.method().as_str() {
        known @ ("GET" | "PUT" | "POST" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_owned();
    let response = next.run(request).await;
    metrics
        .requests
        .duration
        .get_or_create(&DurationLabels {
            api,
            method: method.clone(),
        })
        .observe(started.elapsed().as_secs_f64());
    metrics
        .requests
        .total
        .get_or_create(&RequestLabels {
            api,
            method,
            path,
            status: response.status().as_u16(),
        })
        .inc();
    response
}

impl Collector for MetricSources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(contrail) = &self.contrail {
            encode_contrail(contrail, &mut encoder)?;
        }
        let ready = self.ready.borrow().clone();
        let leader_known = !matches!(
            *self.fence.leadership().borrow(),
            Leadership::Unknown { .. }
        );
        let term = self.fence.term();
        for (name, help, value) in [
            (
                "leading",
                "Whether this manager leads.",
                u64::from(term.is_some()),
            ),
            (
                "leader_known",
                "Whether this manager knows a leader.",
                u64::from(leader_known),
            ),
            (
                "term",
                "The term in which this manager leads, or 0.",
                term.unwrap_or_default(),
            ),
            (
                "serving",
                "Whether this manager serves requests of agents.",
                u64::from(ready.unready.is_none()),
            ),
        ] {
            encode_gauge(&mut encoder, name, help, value)?;
        }
        if self.contrail.is_some() {
            let provisioned = ready
                .prepared
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map_or(0, |at| at.as_secs());
            encode_gauge(
                &mut encoder,
                "provisioned_timestamp_seconds",
                "When this manager last provisioned the API server, in seconds since the epoch, or 0.",
                provisioned,
            )?;
        }
        Ok(())
    }
}

fn encode_contrail(
    contrail: &Contrail,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    encode_vnc_calls(&contrail.client, encoder)?;
    let containers = &contrail.containers;
    for (name, help, value) in [
        (
            "containers_unfinished",
            "Containers that could not be created and whose objects must still be deleted.",
            containers.unfinished() as u64,
        ),
        (
            "container_histories",
            "Containers with a history in memory.",
            containers.history().len() as u64,
        ),
        (
            "vnc_up",
            "Whether the API servers respond.",
            u64::from(*contrail.client.available().borrow()),
        ),
    ] {
        encode_gauge(encoder, name, help, value)?;
    }
    Ok(())
}

fn encode_vnc_calls(
    client: &VncClient,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(
        "vnc_calls",
        "Requests to API servers, including retries, by outcome.",
        None,
        MetricType::Counter,
    )?;
    for (outcome, count) in client.request_counts() {
        let labels = VncCallLabels {
            method: outcome.method,
            resource: outcome.resource,
            status: outcome
                .status
                .map_or_else(|| "none".to_owned(), |status| status.to_string()),
        };
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_follows_the_accept_header() {
        let openmetrics = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            accepts_openmetrics(&headers)
        };
        assert!(!accepts_openmetrics(&HeaderMap::new()));
        assert!(!openmetrics("*/*"));
        assert!(!openmetrics("text/plain"));
        assert!(openmetrics("application/openmetrics-text"));
        // As Prometheus 2 sends it.
        assert!(openmetrics(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        assert!(!openmetrics(
            "application/openmetrics-text;q=0.2, text/plain;q=0.5"
        ));
        assert!(!openmetrics("application/openmetrics-text; q=0, */*"));
    }
}
