//! The metrics of services.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::encode_gauge;
use crate::services::Services;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RangeLabels {
    range: String,
}

/// Reads what is published.
#[derive(Debug)]
pub(super) struct ServiceCollector(pub Arc<Services>);

impl Collector for ServiceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (counts, is_complete, is_waiting, usage) = self.0.read_state(|state| {
            let publication = &state.publication;
            (
                publication.counts(),
                publication.is_complete(),
                state.waiting.is_some(),
                state.usage.clone(),
            )
        });
        for (name, help, value) in [
            ("services", "Published services.", counts.services),
            (
                "services_without_ready_backend",
                "Published services without a backend that gets new connections.",
                counts.without_ready,
            ),
            (
                "services_task_names",
                "Published names of tasks.",
                counts.task_names,
            ),
            (
                "services_problems",
                "Ports and labels of tasks that make no service, or not the expected one.",
                counts.problems,
            ),
            (
                "services_complete",
                "Whether everything has been published since the term began.",
                usize::from(is_complete),
            ),
            (
                "services_waiting",
                "Whether something that is missing in Mesos is not withdrawn, because it may still be there.",
                usize::from(is_waiting),
            ),
        ] {
            encode_gauge(&mut encoder, name, help, value as u64)?;
        }
        let mut family = encoder.encode_descriptor(
            "services_backends",
            "Published backends of services, by whether they get new connections, or may be gone.",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [
            ("ready", counts.ready),
            ("draining", counts.draining),
            ("kept", counts.kept),
        ] {
            let labels = StateLabels { state };
            ConstGauge::new(count as u64).encode(family.encode_family(&labels)?)?;
        }
        for (name, help, is_used) in [
            (
                "services_addresses_used",
                "Addresses of a range that names of services have.",
                true,
            ),
            (
                "services_addresses_free",
                "Addresses of a range that no name has.",
                false,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for usage in &usage {
                let labels = RangeLabels {
                    range: usage.range.to_string(),
                };
                let value = if is_used { usage.used } else { usage.free };
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
