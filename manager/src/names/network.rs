//! A network, and the subnets from which it gives addresses.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::try_join_all;
use ipnet::IpNet;
use uuid::Uuid;

use super::{Key, Known, Names};
use crate::error::ManagerError;
use crate::vnc::{Detail, FqName, IpamSubnet, NetworkIpam, Query, VirtualNetwork};

/// A network that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub uuid: Uuid,
    /// `domain:project:network`.
    pub name: FqName,
    /// In the server's order.
    pub subnets: Vec<Subnet>,
}

/// A subnet from which a network gives addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub net: IpNet,
    /// What an address is asked for by. All subnets of one flat ipam share it.
    pub uuid: Option<Uuid>,
    pub gateway: Option<IpAddr>,
    pub dns: Option<IpAddr>,
}

impl Network {
    /// The subnet of an address.
    pub(crate) fn subnet(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets
            .iter()
            .find(|subnet| subnet.net.contains(&address))
    }

    /// The subnets as a message lists them.
    pub(crate) fn list(&self) -> String {
        if self.subnets.is_empty() {
            return "none".to_owned();
        }
        let nets: Vec<String> = self
            .subnets
            .iter()
            .map(|subnet| subnet.net.to_string())
            .collect();
        nets.join(", ")
    }
}

impl Names {
    /// The network of that name. One that is not there is created with these subnets, if that is
    /// allowed.
    pub(crate) async fn network(
        &self,
        name: &FqName,
        subnets: &[IpNet],
    ) -> Result<Arc<Network>, ManagerError> {
        let find = async {
            let found = match self.client.find::<VirtualNetwork>(name).await? {
                Some(found) => found,
                None => Box::pin(self.create_network(name, subnets)).await?,
            };
            let network = Box::pin(self.with_subnets(found)).await?;
            Ok(Some(Known::Network(Arc::new(network))))
        };
        match self.known(Key::Network(name.clone()), find).await? {
            Some(Known::Network(network)) => Ok(network),
            _ => Err(ManagerError::InvalidResponse(format!(
                "the network {name} has no uuid"
            ))),
        }
    }

    /// The networks with these uuids, those that are there; asked for anew.
    pub(crate) async fn read(&self, uuids: Vec<Uuid>) -> Result<Vec<Network>, ManagerError> {
        if uuids.is_empty() {
            return Ok(vec![]);
        }
        let fields = ["network_ipam_refs", "address_allocation_mode"];
        let detail = Detail::Fields(fields.map(str::to_owned).to_vec());
        let query = Query::new().uuids(uuids).detail(detail);
        let mut networks = vec![];
        for network in self.client.list::<VirtualNetwork>(&query).await? {
            networks.push(self.with_subnets(network).await?);
        }
        Ok(networks)
    }

    async fn with_subnets(&self, network: VirtualNetwork) -> Result<Network, ManagerError> {
        let name = network.common.fq_name.clone();
        let nonsense =
            |what: &str| ManagerError::InvalidResponse(format!("the network {name} {what}"));
        let uuid = network.common.uuid.ok_or_else(|| nonsense("has no uuid"))?;
        let (own, flat) = match network.address_allocation_mode.as_deref() {
            Some("flat-subnet-only") => (false, true),
            Some("user-defined-subnet-only") => (true, false),
            _ => (true, true),
        };
        let of_ipams = network.network_ipam_refs.iter().map(async |ipam| {
            let subnets = ipam
                .attr
                .as_ref()
                .map_or(&[][..], |attr| &attr.ipam_subnets);
            // A flat ipam has the prefixes itself; the network only says by which uuid it knows them.
            let is_flat = subnets.iter().all(|subnet| subnet.subnet.is_none());
            if !is_flat {
                return Ok(if own {
                    self::subnets(subnets, None)
                } else {
                    vec![]
                });
            }
            let (true, Some(uuid)) = (flat, ipam.uuid) else {
                return Ok(vec![]);
            };
            let by = subnets.first().and_then(|subnet| subnet.subnet_uuid);
            let ipam = self.client.read::<NetworkIpam>(uuid).await?;
            let subnets = ipam.and_then(|ipam| ipam.ipam_subnets).unwrap_or_default();
            Ok::<_, ManagerError>(self::subnets(&subnets.subnets, by))
        });
        let subnets = try_join_all(of_ipams).await?.concat();
        Ok(Network {
            uuid,
            name,
            subnets,
        })
    }
}

fn subnets(subnets: &[IpamSubnet], flat: Option<Uuid>) -> Vec<Subnet> {
    let one = |subnet: &IpamSubnet| {
        Some(Subnet {
            net: subnet.subnet.as_ref()?.network()?.trunc(),
            uuid: flat.or(subnet.subnet_uuid),
            gateway: subnet
                .default_gateway
                .0
                .filter(|address| !address.is_unspecified()),
            dns: subnet
                .dns_server_address
                .0
                .filter(|address| !address.is_unspecified()),
        })
    };
    subnets.iter().filter_map(one).collect()
}
