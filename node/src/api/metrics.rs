//! The metrics of the daemon, in the text format of Prometheus. Values are read when somebody asks.

use std::fmt;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use contrail_mesos::net::conntrack;
use contrail_mesos::net::nft::groups::DropReason;
use contrail_mesos_api::process_metrics::ProcessCollector;

use super::{ApiSources, drops};
use crate::engine::SubsystemStatus;

const PREFIX: &str = "contrail_mesos_node";

/// The metrics.
#[derive(Debug)]
pub(super) struct Metrics(Registry);

impl Metrics {
    pub(super) fn new(sources: ApiSources) -> Self {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix(PREFIX);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        own.register("build", "The version of this daemon", version);
        if let Some(dns) = &sources.dns {
            dns.metrics().register(own);
        }
        own.register_collector(Box::new(sources));
        registry.register_collector(Box::new(ProcessCollector));
        Self(registry)
    }

    /// All metrics.
    pub(super) fn response(&self) -> Response {
        let mut body = String::new();
        match prometheus_text::encode(&mut body, &self.0) {
            Ok(()) => ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// The values of which every subsystem has one.
type SubsystemValue = fn(&SubsystemStatus) -> u64;

const SUBSYSTEM_COUNTERS: [(&str, &str, SubsystemValue); 5] = [
    ("comparisons", "Comparisons, by subsystem.", |status| {
        status.comparisons
    }),
    (
        "changes",
        "Changes for a new state of the cluster or at the start, by subsystem.",
        |status| status.changes,
    ),
    (
        "repairs",
        "Changes that undo what something else had changed, by subsystem.",
        |status| status.repairs,
    ),
    (
        "failures",
        "Comparisons with problems, by subsystem.",
        |status| status.failures,
    ),
    (
        "panics",
        "Comparisons that panicked, by subsystem.",
        |status| status.panics,
    ),
];

impl Collector for ApiSources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_gauges(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        self.encode_drops(&mut encoder)?;
        encode_conntrack(&mut encoder)?;
        self.encode_dns(&mut encoder)?;
        self.encode_blocks(&mut encoder)?;
        self.host_files.encode(&mut encoder)?;
        let engine = self.engine.borrow().clone();
        let subsystems = &engine.subsystems;
        let help = "What is not as it must be, by subsystem.";
        let mut family = encoder.encode_descriptor("problems", help, None, MetricType::Gauge)?;
        for status in subsystems {
            let labels = [("subsystem", status.name)];
            ConstGauge::new(count(status.problems.len())).encode(family.encode_family(&labels)?)?;
        }
        for (name, help, value) in SUBSYSTEM_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for status in subsystems {
                let labels = [("subsystem", status.name)];
                ConstCounter::new(value(status)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl ApiSources {
    fn encode_blocks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let blocks = self.blocks.borrow().clone();
        for (name, help, is_used) in [
            (
                "block_addresses_used",
                "Addresses that containers have in borrowed blocks.",
                true,
            ),
            (
                "block_addresses_wanted",
                "Addresses that this node wants in blocks, with its reserve.",
                false,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for report in &blocks {
                let v4 = ("ipv4", report.used, report.wanted);
                let v6 = ("ipv6", report.used6, report.wanted6);
                for (version, used, wanted) in [v4, v6] {
                    let labels = [("overlay", report.overlay.as_str()), ("family", version)];
                    let value = if is_used { used } else { wanted };
                    ConstGauge::new(u64::from(value)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.states.borrow().clone();
        let engine = self.engine.borrow().clone();
        let known = state
            .as_ref()
            .map(|state| state.revision)
            .unwrap_or_default();
        let applied = engine.applied().unwrap_or_default();
        for (name, help, value) in [
            (
                "ready",
                "Whether a complete state of the cluster was applied.",
                u64::from(self.unready().is_none()),
            ),
            (
                "synced",
                "Whether this node is in step with a manager.",
                u64::from(self.connection.borrow().manager.is_some()),
            ),
            (
                "known_term",
                "The term of the revision that this node knows, or 0.",
                known.term,
            ),
            (
                "known_counter",
                "The counter of the revision that this node knows.",
                known.counter,
            ),
            (
                "applied_term",
                "The term of the revision that all subsystems have applied, or 0.",
                applied.term,
            ),
            (
                "applied_counter",
                "The counter of the revision that all subsystems have applied.",
                applied.counter,
            ),
            (
                "nodes",
                "Nodes of the cluster that this node knows, itself included.",
                state.as_ref().map_or(0, |state| count(state.nodes.len())),
            ),
            (
                "overlays",
                "Overlays of the cluster that this node knows.",
                state
                    .as_ref()
                    .map_or(0, |state| count(state.overlays.len())),
            ),
            (
                "group_endpoints",
                "Containers of this host on networks that isolate groups.",
                count(self.groups.status.borrow().endpoints.len()),
            ),
            (
                "services",
                "Services whose data path is in place.",
                count(self.services.borrow().services.len()),
            ),
            (
                "service_backends",
                "Backends that get new connections from this host, summed up over all addresses.",
                count(self.services.borrow().backends),
            ),
            (
                "manager_problems",
                "What the managers cannot give this node.",
                count(self.reports.borrow().problems.len()),
            ),
            (
                "hanging_subsystems",
                "Subsystems whose comparison does not end.",
                count(engine.hanging().count()),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }

    fn encode_drops(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.groups.status.borrow().clone();
        // Without an answer of the kernel, no value is better than a wrong one.
        let Some(totals) = drops::totals(&status) else {
            return Ok(());
        };
        let help = "Packets to containers that were dropped, by reason.";
        let mut family =
            encoder.encode_descriptor("dropped_packets", help, None, MetricType::Counter)?;
        for reason in DropReason::ALL {
            let labels = [("reason", reason.code())];
            let packets = totals.get(&reason).copied().unwrap_or(0);
            ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_dns(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(dns) = &self.dns else {
            return Ok(());
        };
        let help = "Answers of other DNS servers that are kept.";
        let metric = encoder.encode_descriptor("dns_cached", help, None, MetricType::Gauge)?;
        ConstGauge::new(count(dns.cached())).encode(metric)?;
        let help = "DNS responses, by what the name is and by code.";
        let mut family =
            encoder.encode_descriptor("dns_responses", help, None, MetricType::Counter)?;
        for (labels, count) in dns.metrics().responses() {
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let connection = self.connection.borrow().clone();
        let reports = self.reports.borrow().clone();
        for (name, help, value) in [
            (
                "watch_streams",
                "Streams from managers that were opened.",
                connection.streams,
            ),
            (
                "watch_items",
                "Items of the cluster's state that were received.",
                connection.items,
            ),
            (
                "reports",
                "Reports that a manager has accepted.",
                reports.reports,
            ),
            ("report_failures", "Reports that failed.", reports.failures),
            (
                "service_flows_forgotten",
                "Tracked flows that had to begin again, because their backend was gone.",
                self.services.borrow().forgotten_flows,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }
}

fn encode_conntrack(encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    // Without an answer of the kernel, no value is better than a wrong one.
    let Ok(table) = conntrack::table_use() else {
        return Ok(());
    };
    for (name, help, value) in [
        (
            "conntrack_flows",
            "Flows that the kernel tracks.",
            table.flows,
        ),
        (
            "conntrack_limit",
            "The most flows that the kernel tracks.",
            table.limit,
        ),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)?;
    }
    for (name, help, value) in [
        (
            "conntrack_failures",
            "Flows that the kernel could not track, and packets that it dropped with them.",
            table.failed,
        ),
        (
            "conntrack_evictions",
            "Flows that the kernel forgot early to make room for others.",
            table.evicted,
        ),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)?;
    }
    Ok(())
}
