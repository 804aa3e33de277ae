//! What is measured, as Prometheus reads it.

mod of_stores;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use super::containers::Containers;
use super::fence::{Fence, Leadership};
use super::lead::Readiness;
use super::reconcile::Reconciler;
use crate::vnc::VncClient;

/// The media type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    api: &'static str,
    method: String,
    path: String,
    status: u16,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    api: &'static str,
    method: String,
}

/// A call to an API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    method: String,
    resource: String,
    status: String,
}

/// The metrics.
pub(super) struct Metrics {
    requests: Family<Answered, Counter>,
    seconds: Family<Asked, Histogram>,
    registry: Mutex<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What is read when somebody asks.
pub(super) struct Seen {
    pub client: VncClient,
    pub containers: Arc<Containers>,
    pub fence: Fence,
    pub ready: watch::Receiver<Readiness>,
    pub reconciler: Option<Arc<Reconciler>>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Seen").finish_non_exhaustive()
    }
}

fn histogram() -> Histogram {
    // From an answer out of memory to a vRouter or API server that is away.
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
    ])
}

impl Metrics {
    pub(super) fn new(seen: Seen) -> Arc<Self> {
        let mut registry = Registry::with_prefix("contrail_mesos_manager");
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests of agents and CNI plugins, by outcome",
            requests.clone(),
        );
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "request_duration",
            "How long requests of agents and CNI plugins took",
            Unit::Seconds,
            seconds.clone(),
        );
        if let Some(reconciler) = &seen.reconciler {
            reconciler.tally().register(&mut registry);
        }
        registry.register_collector(Box::new(seen));
        Arc::new(Self {
            requests,
            seconds,
            registry: Mutex::new(registry),
        })
    }

    /// The text; never with a secret in it.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Measures the requests of one API.
pub(super) async fn measure(
    State((metrics, api)): State<(Arc<Metrics>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = match request.method().as_str() {
        known @ ("GET" | "PUT" | "POST" | "DELETE") => known.to_owned(),
        // Who asks may write any word here.
        _ => "other".to_owned(),
    };
    // The route and not the path, for the same reason.
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("other", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let asked = Asked {
        api,
        method: method.clone(),
    };
    let seconds = started.elapsed().as_secs_f64();
    metrics.seconds.get_or_create(&asked).observe(seconds);
    let answered = Answered {
        api,
        method,
        path,
        status: response.status().as_u16(),
    };
    metrics.requests.get_or_create(&answered).inc();
    response
}

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_calls(&mut encoder)?;
        if let Some(reconciler) = &self.reconciler {
            of_stores::encode(reconciler, &mut encoder)?;
        }
        let tally = self.containers.tally();
        for (name, help, value) in [
            (
                "containers_made",
                "Containers whose ports were made or found",
                &tally.made,
            ),
            (
                "containers_removed",
                "Containers whose ports were removed",
                &tally.removed,
            ),
            (
                "containers_failed",
                "Requests for containers that failed",
                &tally.failed,
            ),
        ] {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            let kind = prometheus_client::metrics::MetricType::Counter;
            counter.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        let unfinished = i64::try_from(self.containers.unfinished()).unwrap_or(i64::MAX);
        let leading = i64::from(self.fence.term().is_some());
        let leader_known = !matches!(
            *self.fence.leadership().borrow(),
            Leadership::Unknown { .. }
        );
        let term = self
            .fence
            .term()
            .map_or(0, |term| i64::try_from(term).unwrap_or(i64::MAX));
        let ready = self.ready.borrow().clone();
        let at = ready
            .provisioned
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let at = at.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        for (name, help, value) in [
            (
                "containers_unfinished",
                "Containers that could not be made and are still to be removed",
                unfinished,
            ),
            (
                "container_histories",
                "Containers of which it is remembered what happened",
                i64::try_from(self.containers.history().len()).unwrap_or(i64::MAX),
            ),
            ("leading", "Whether this manager leads", leading),
            (
                "leader_known",
                "Whether any manager is known to lead",
                i64::from(leader_known),
            ),
            ("term", "The term in which this manager leads, or 0", term),
            (
                "serving",
                "Whether this manager takes on requests",
                i64::from(ready.unready.is_none()),
            ),
            (
                "provisioned_timestamp_seconds",
                "When this manager last provisioned the API server, or 0",
                at,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let kind = prometheus_client::metrics::MetricType::Gauge;
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}

impl Seen {
    fn encode_calls(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = prometheus_client::metrics::MetricType::Counter;
        let help = "Calls to API servers, repetitions included, by outcome";
        let mut encoder = encoder.encode_descriptor("vnc_calls", help, None, kind)?;
        for (outcome, count) in self.client.tally() {
            let called = Called {
                method: outcome.method,
                resource: outcome.resource,
                status: outcome
                    .status
                    .map_or_else(|| "none".to_owned(), |status| status.to_string()),
            };
            ConstCounter::new(count).encode(encoder.encode_family(&called)?)?;
        }
        Ok(())
    }
}
