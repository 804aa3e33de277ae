//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::answer::Class;

/// The codes that are counted by themselves, and their labels. All others are `other`.
const CODES: [(ResponseCode, &str); 6] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::ServFail, "servfail"),
    (ResponseCode::Refused, "refused"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::NotImp, "notimp"),
];

/// The upper bounds of the times for answers of other servers, in seconds.
const FORWARD_SECONDS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 3.0];

/// The metrics of the server.
#[derive(Debug)]
pub struct DnsMetrics {
    responses: [[AtomicU64; CODES.len() + 1]; Class::ALL.len()],
    pub(crate) truncated: Counter,
    pub(crate) malformed: Counter,
    pub(crate) cache_hits: Counter,
    pub(crate) merged: Counter,
    pub(crate) limited: Counter,
    pub(crate) forward_failures: Counter,
    pub(crate) forward_seconds: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) connections_closed: Counter,
}

impl Default for DnsMetrics {
    fn default() -> Self {
        Self {
            responses: Default::default(),
            truncated: Counter::default(),
            malformed: Counter::default(),
            cache_hits: Counter::default(),
            merged: Counter::default(),
            limited: Counter::default(),
            forward_failures: Counter::default(),
            forward_seconds: Histogram::new(FORWARD_SECONDS),
            connections: Gauge::default(),
            connections_closed: Counter::default(),
        }
    }
}

impl DnsMetrics {
    pub(crate) fn responded(&self, class: Class, code: ResponseCode) {
        let code = CODES.iter().position(|(other, _)| *other == code);
        let codes = &self.responses[class as usize];
        codes[code.unwrap_or(CODES.len())].fetch_add(1, Ordering::Relaxed);
    }

    /// How many responses there were, with their labels.
    pub(crate) fn responses(
        &self,
    ) -> impl Iterator<Item = ([(&'static str, &'static str); 2], u64)> {
        let labels = CODES.iter().map(|(_, label)| *label).chain(["other"]);
        let labels: Vec<_> = labels.collect();
        let of_class = move |(class, counts): (Class, &[AtomicU64; CODES.len() + 1])| {
            let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
            let with_labels = labels
                .iter()
                .zip(counts)
                .map(|(code, count)| ([("zone", class.code()), ("code", *code)], count));
            with_labels.collect::<Vec<_>>()
        };
        Class::ALL
            .into_iter()
            .zip(&self.responses)
            .flat_map(of_class)
    }

    /// Registers all but the responses.
    pub(crate) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "dns_truncated",
                "DNS responses that were truncated",
                &self.truncated,
            ),
            (
                "dns_malformed",
                "DNS messages that were no query",
                &self.malformed,
            ),
            (
                "dns_cache_hits",
                "DNS queries for other names that were answered from the cache",
                &self.cache_hits,
            ),
            (
                "dns_merged",
                "DNS queries that waited for the answer to another one",
                &self.merged,
            ),
            (
                "dns_limited",
                "DNS queries that failed because too many waited",
                &self.limited,
            ),
            (
                "dns_forward_failures",
                "DNS questions that no server has answered",
                &self.forward_failures,
            ),
            (
                "dns_connections_closed",
                "DNS connections that were closed for a newer one",
                &self.connections_closed,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "dns_forward_seconds",
            "Time until another server has answered, or all have failed",
            self.forward_seconds.clone(),
        );
        registry.register(
            "dns_connections",
            "Open DNS connections by TCP",
            self.connections.clone(),
        );
    }
}
