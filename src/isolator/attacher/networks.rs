//! The networks of this host and their addresses: how many are in use, and who has one. Changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Attacher, ContainerFilter, ContainerState, ContainerStatus, InspectionDepth};
use crate::address_history::{self, AddressUse};
use crate::config::cni::plugin_type;
use crate::config::{Config, Network, NetworkProvider};
use crate::isolator::error::IsolatorError;
use crate::provider::ProviderErrors;
use crate::provider::ipam::{AddressRole, FamilyUsage, Ipam, NetworkLease};

/// A network of the configuration, or one that a container still is on.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkOverview {
    /// The name that frameworks use.
    pub network: String,
    /// `bridge`, `overlay`, `contrail`, `cni` or `none`.
    pub provider: &'static str,
    /// Whether the configuration has it: without, no container is launched on it.
    pub configured: bool,
    /// Why no container can be launched on it, or what is not known.
    pub problem: Option<String>,
    /// The overlay that it is part of.
    pub overlay: Option<String>,
    /// The virtual network of containers whose labels name none.
    pub virtual_network: Option<String>,
    /// The interface name of the bridge.
    pub bridge: Option<String>,
    /// The types of the CNI plugins, in order.
    pub plugins: Option<Vec<String>>,
    /// The MTU of the containers' interfaces, in bytes; none if it is not known.
    pub mtu: Option<u32>,
    /// The addresses, a family each; empty if others manage them.
    pub families: Vec<FamilyUsage>,
    /// The containers on it.
    pub containers: Vec<NetworkMember>,
}

/// A container on a network.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkMember {
    /// The container's id, as Mesos prints it.
    pub container: String,
    /// The executor's id, which for a command task is the task's.
    pub executor: Option<String>,
    /// The interface in the container.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How far its attach or detach is.
    pub state: ContainerState,
}

/// Everything that this host knows about an address.
#[derive(Clone, Debug)]
pub struct AddressReport {
    /// The containers that have it now, each with the networks on which it has it.
    pub owners: Vec<ContainerStatus>,
    /// Its leases that belong to none of these.
    pub leases: Vec<NetworkLease>,
    /// The networks whose subnets it is in, and what it is to each.
    pub roles: Vec<(String, AddressRole)>,
    /// Who had it before, the latest first.
    pub history: Vec<AddressUse>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Attacher {
    /// The networks of the configuration, and those that containers are still on, by name.
    pub async fn networks(&self, config: &Config) -> Result<Vec<NetworkOverview>, IsolatorError> {
        let (containers, _) = self
            .container_statuses(&ContainerFilter::default(), InspectionDepth::Nothing)
            .await?;
        let mut networks: BTreeMap<String, NetworkOverview> = BTreeMap::new();
        for network in &config.networks {
            networks.insert(network.name.clone(), self.overview(network));
        }
        for container in containers {
            for row in container.networks {
                let entry = networks.entry(row.network.clone());
                let overview = entry.or_insert_with(|| NetworkOverview {
                    network: row.network,
                    provider: row.provider,
                    configured: false,
                    problem: Some("the configuration does not have this network".to_owned()),
                    overlay: None,
                    virtual_network: None,
                    bridge: row.bridge,
                    plugins: None,
                    mtu: Some(row.mtu),
                    families: vec![],
                    containers: vec![],
                });
                overview.containers.push(NetworkMember {
                    container: container.container.clone(),
                    executor: container.executor.clone(),
                    interface: row.interface,
                    addresses: row.addresses.iter().map(IpNet::addr).collect(),
                    state: row.state,
                });
            }
        }
        Ok(networks.into_values().collect())
    }

    /// A network of the configuration, without its containers. Blocks on the file system.
    fn overview(&self, network: &Network) -> NetworkOverview {
        let mut overview = NetworkOverview {
            network: network.name.clone(),
            provider: "none",
            configured: true,
            problem: None,
            overlay: None,
            virtual_network: None,
            bridge: None,
            plugins: None,
            mtu: None,
            families: vec![],
            containers: vec![],
        };
        match &network.provider {
            NetworkProvider::Bridge(bridge) => {
                overview.provider = "bridge";
                overview.bridge = Some(bridge.bridge.clone());
            }
            NetworkProvider::Overlay(overlay) => {
                overview.provider = "overlay";
                overview.overlay = Some(overlay.overlay.clone());
                overview.bridge = Some(overlay.bridge());
            }
            NetworkProvider::Contrail(contrail) => {
                overview.provider = "contrail";
                overview
                    .virtual_network
                    .clone_from(&contrail.virtual_network);
                overview.mtu = Some(contrail.mtu);
            }
            NetworkProvider::Cni(cni) => {
                overview.provider = "cni";
                match &cni.chain {
                    Ok(chain) => {
                        let types = chain.plugins.iter().map(plugin_type);
                        overview.plugins = Some(types.map(str::to_owned).collect());
                    }
                    Err(error) => {
                        let file = cni.file.display();
                        overview.problem = Some(format!("{file} cannot be used: {error}"));
                    }
                }
            }
            NetworkProvider::None => {}
        }
        match self.providers.bridge_network(network) {
            Some(Ok(bridge)) => {
                overview.mtu = Some(bridge.mtu);
                match self.providers.usage(&network.name, &bridge) {
                    Ok(families) => overview.families = families,
                    Err(error) => overview.problem = Some(error.to_string()),
                }
            }
            Some(Err(error)) => overview.problem = Some(error.to_string()),
            None => {}
        }
        overview
    }

    /// Who has an address, and who had it before.
    pub async fn address(
        &self,
        address: IpAddr,
        config: &Config,
    ) -> Result<AddressReport, IsolatorError> {
        let filter = ContainerFilter {
            addresses: vec![address.into()],
            ..ContainerFilter::default()
        };
        let inspected = self.container_statuses(&filter, InspectionDepth::Links);
        let (mut owners, mut problems) = inspected.await?;
        for owner in &mut owners {
            let has_it = |net: &IpNet| net.addr() == address;
            owner
                .networks
                .retain(|row| row.addresses.iter().any(has_it));
        }
        let state_dir = self.state_dir.clone();
        let providers = Arc::clone(&self.providers);
        let (leases, history) = spawn_blocking(move || {
            let leases = providers.leases_of(address).map_err(ProviderErrors::from)?;
            let history = address_history::of_address(&state_dir, address);
            Ok::<_, IsolatorError>((leases, history))
        })
        .await??;
        let is_of_owner = |lease: &NetworkLease| {
            lease.holder.as_ref().is_some_and(|holder| {
                let name = holder.container.to_string();
                owners.iter().any(|owner| owner.container == name)
            })
        };
        let (history, unreadable) = history;
        problems.extend(unreadable);
        let roles = config.networks.iter().filter_map(|network| {
            let bridge = self.providers.bridge_network(network)?.ok()?;
            Some((network.name.clone(), Ipam::role(&bridge, address)?))
        });
        Ok(AddressReport {
            leases: leases
                .into_iter()
                .filter(|lease| !is_of_owner(lease))
                .collect(),
            roles: roles.collect(),
            owners,
            history,
            problems,
        })
    }
}
