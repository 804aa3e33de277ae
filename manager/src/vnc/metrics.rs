//! Request counters of the client, and whether the API servers are failing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use tokio::sync::watch;

/// For how long requests have to fail until the API servers count as unavailable: a single failure
/// may be that of one server behind a load balancer.
const CONFIRMATION_TIME: Duration = Duration::from_secs(2);

/// A kind of request and its result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestOutcome {
    /// `GET`, `POST`, …
    pub method: String,
    /// The first segment of the path: an object type, `ref-update`, …
    pub resource: String,
    /// The status code; `None` without a response.
    pub status: Option<u16>,
}

/// An ongoing outage: the last request got no response or a 5xx status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first of the failed requests ended.
    pub since: Instant,
    /// The last failed request.
    pub last: RequestOutcome,
    /// How many requests in a row got no response, or one of a proxy whose server is away.
    pub failures: u64,
}

impl Outage {
    /// Whether more than one request has failed, for some time.
    fn is_confirmed(&self) -> bool {
        self.failures > 1 && self.since.elapsed() >= CONFIRMATION_TIME
    }
}

/// The client's request counters.
#[derive(Debug, Default)]
pub(super) struct ClientMetrics {
    state: Mutex<MetricsState>,
    /// Whether the API servers respond.
    available: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct MetricsState {
    counts: BTreeMap<RequestOutcome, u64>,
    outage: Option<Outage>,
    /// When the last request ended that was successful.
    responded: Option<Instant>,
}

impl ClientMetrics {
    fn state(&self) -> MutexGuard<'_, MetricsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, method: &Method, path: &str, status: Option<StatusCode>) {
        let resource = path.trim_start_matches('/');
        // The client builds all paths, so the number of first segments is bounded.
        let end = resource.find(['/', '?']).unwrap_or(resource.len());
        let outcome = RequestOutcome {
            method: method.to_string(),
            resource: resource[..end].to_owned(),
            status: status.map(|status| status.as_u16()),
        };
        let mut state = self.state();
        if outcome.status.is_none_or(|status| status >= 500) {
            let before = state.outage.take();
            // Others than these are about one object.
            let is_away = matches!(outcome.status, None | Some(502..=504));
            let outage = Outage {
                since: before
                    .as_ref()
                    .map_or_else(Instant::now, |outage| outage.since),
                failures: before.map_or(0, |outage| outage.failures) + u64::from(is_away),
                last: outcome.clone(),
            };
            if is_away && outage.is_confirmed() {
                self.set_available(false);
            }
            state.outage = Some(outage);
        } else {
            state.outage = None;
            state.responded = Some(Instant::now());
            self.set_available(true);
        }
        *state.counts.entry(outcome).or_default() += 1;
    }

    fn set_available(&self, available: bool) {
        self.available
            .send_if_modified(|current| std::mem::replace(current, available) != available);
    }

    /// Whether the API servers respond: false before the first response, and in a confirmed outage.
    pub(super) fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// Whether a request was successful within this time, and none has failed since.
    pub(super) fn has_responded_within(&self, time: Duration) -> bool {
        let state = self.state();
        let recently = state.responded.is_some_and(|at| at.elapsed() < time);
        recently && state.outage.is_none()
    }

    pub(super) fn outage(&self) -> Option<Outage> {
        self.state().outage.clone()
    }

    pub(super) fn counts(&self) -> Vec<(RequestOutcome, u64)> {
        self.state()
            .counts
            .iter()
            .map(|(outcome, count)| (outcome.clone(), *count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_first_path_segment() {
        let metrics = ClientMetrics::default();
        for path in ["/virtual-machine/1", "/virtual-machine/2?x=/y", "/"] {
            metrics.record(&Method::GET, path, Some(StatusCode::OK));
        }
        metrics.record(&Method::GET, "/virtual-machine/1", None);
        let recorded = metrics.counts();
        let counts: Vec<_> = recorded
            .iter()
            .map(|(outcome, count)| (outcome.resource.as_str(), outcome.status, *count))
            .collect();
        assert_eq!(
            counts,
            [
                ("", Some(200), 1),
                ("virtual-machine", None, 1),
                ("virtual-machine", Some(200), 2)
            ]
        );
        // The last request got no response. A 4xx status is a response.
        assert!(
            metrics
                .outage()
                .is_some_and(|outage| outage.last.status.is_none())
        );
        metrics.record(&Method::GET, "/x", Some(StatusCode::CONFLICT));
        assert_eq!(metrics.outage(), None);
        metrics.record(&Method::GET, "/x", Some(StatusCode::BAD_GATEWAY));
        assert!(metrics.outage().is_some());
    }
}
