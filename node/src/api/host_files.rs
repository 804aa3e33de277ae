//! The metrics of what the library keeps on this host: containers, pending teardowns and addresses.
//! The library is in the process of the agent, which has no metrics of ours; its files have it all.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use contrail_mesos::config::{Config, Network, NetworkProvider};
use contrail_mesos::isolator::checkpoint::{Checkpoints, StoredCheckpoint};
use contrail_mesos::provider::ipam::{AddressUse, address_use};
use contrail_mesos::provider::overlay::OverlayNetworks;
use contrail_mesos::provider::{cni, contrail};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Where the library keeps what, and the networks of the configuration at the start.
#[derive(Clone, Debug)]
pub struct HostFiles {
    state_dir: PathBuf,
    networks: Arc<[Network]>,
    overlays: OverlayNetworks,
}

/// The containers on this host, by the state of their checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ContainerCounts {
    attached: u64,
    incomplete: u64,
    damaged: u64,
}

impl HostFiles {
    /// The files of the library with this configuration. Reads nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            state_dir: config.state_dir.clone(),
            networks: config.networks.clone().into(),
            overlays: OverlayNetworks::new(&config.state_dir),
        }
    }

    /// Encodes all of it. What cannot be read is left out: no value is better than a wrong one. Blocks
    /// on the file system.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_containers(encoder)?;
        self.encode_teardowns(encoder)?;
        self.encode_addresses(encoder)
    }

    fn containers(&self) -> Option<ContainerCounts> {
        let mut counts = ContainerCounts::default();
        for stored in Checkpoints::new(&self.state_dir).load_all().ok()? {
            let count = match stored {
                StoredCheckpoint::Intact {
                    attachments: Some(_),
                    ..
                } => &mut counts.attached,
                StoredCheckpoint::Intact { .. } => &mut counts.incomplete,
                StoredCheckpoint::Damaged { .. } => &mut counts.damaged,
            };
            *count += 1;
        }
        Some(counts)
    }

    fn encode_containers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(counts) = self.containers() else {
            return Ok(());
        };
        let help = "Containers of this host, by the state of their checkpoints.";
        let mut family = encoder.encode_descriptor("containers", help, None, MetricType::Gauge)?;
        for (state, value) in [
            ("attached", counts.attached),
            ("incomplete", counts.incomplete),
            ("damaged", counts.damaged),
        ] {
            ConstGauge::new(value).encode(family.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }

    fn encode_teardowns(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help =
            "Containers that are detached from this host, and whose teardown is not complete.";
        let mut family =
            encoder.encode_descriptor("pending_teardowns", help, None, MetricType::Gauge)?;
        for (provider, pending) in [
            ("contrail", contrail::count_pending(&self.state_dir)),
            ("cni", cni::count_failed_dels(&self.state_dir)),
        ] {
            if let Ok(pending) = pending {
                let labels = [("provider", provider)];
                ConstGauge::new(pending as u64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// The networks whose addresses this host leases, with their use.
    fn addresses(&self) -> Vec<(&str, Vec<AddressUse>)> {
        let networks = self.networks.iter().filter_map(|network| {
            let of_overlay;
            let bridge = match &network.provider {
                NetworkProvider::Bridge(bridge) => bridge,
                NetworkProvider::Overlay(overlay) => {
                    // This host may have no part of it.
                    of_overlay = self.overlays.bridge_network(overlay).ok()?;
                    &of_overlay
                }
                _ => return None,
            };
            let addresses = address_use(&self.state_dir, &network.name, bridge).ok()?;
            Some((network.name.as_str(), addresses))
        });
        networks.collect()
    }

    fn encode_addresses(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let networks = self.addresses();
        for (name, help, is_used) in [
            (
                "network_addresses_used",
                "Addresses of a network that containers of this host have.",
                true,
            ),
            (
                "network_addresses_free",
                "Addresses of a network that containers of this host may still get.",
                false,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (network, addresses) in &networks {
                for one in addresses {
                    let version = if one.is_v6 { "ipv6" } else { "ipv4" };
                    let labels = [("network", *network), ("family", version)];
                    let value = if is_used { one.used } else { one.free };
                    // A subnet of IPv6 may have more addresses than anybody counts.
                    let value = u64::try_from(value).unwrap_or(u64::MAX);
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
