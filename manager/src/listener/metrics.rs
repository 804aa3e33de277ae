//! Metrics of connections.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a connection was closed before its peer did that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseReason {
    /// There were as many connections as there may be, all of them with a request in progress.
    Limit,
    /// The same for one address.
    AddressLimit,
    /// It waited for its peer, and a new connection needed its place.
    MadeRoom,
    /// The TLS handshake failed.
    HandshakeFailed,
    /// The TLS handshake did not end in time.
    HandshakeTimeout,
    /// The peer sent no request, or not the whole head of one, in time.
    IdleTimeout,
    /// The body of a request did not arrive in time.
    BodyTimeout,
}

impl EncodeLabelValue for CloseReason {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.code(), encoder)
    }
}

impl CloseReason {
    /// Why a connection was refused, for the log.
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::AddressLimit => {
                "all connections that this address may have are in use; see \
                 connections_per_address in [limits]"
            }
            _ => "all connections are in use; see connections in [limits]",
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::AddressLimit => "address_limit",
            Self::MadeRoom => "made_room",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::BodyTimeout => "body_timeout",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabel {
    api: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    api: &'static str,
    reason: CloseReason,
}

/// The connections of all listeners. Clones share the values.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionMetrics {
    open: Family<ApiLabel, Gauge>,
    closed: Family<ClosedLabels, Counter>,
    certificate_expiry: Gauge,
}

impl ConnectionMetrics {
    /// Sets when the certificate of the agents' API expires; none without `[tls]`.
    pub(crate) fn set_certificate_expiry(&self, expiry: Option<i64>) {
        self.certificate_expiry.set(expiry.unwrap_or(0));
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.open.clone());
        registry.register(
            "connections_closed",
            "Connections that were refused or closed by the manager, by reason",
            self.closed.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of the agents' API expires, in seconds since the epoch, or 0",
            self.certificate_expiry.clone(),
        );
    }

    pub(super) fn open(&self, api: &'static str) -> Gauge {
        self.open.get_or_create(&ApiLabel { api }).clone()
    }

    pub(super) fn count_closed(&self, api: &'static str, reason: CloseReason) {
        let labels = ClosedLabels { api, reason };
        self.closed.get_or_create(&labels).inc();
    }
}
