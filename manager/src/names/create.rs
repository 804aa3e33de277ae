//! What is made because a container names it, where the configuration allows that.
//!
//! It stays when the container ends: others may have come to use it.

use ipnet::IpNet;
use uuid::Uuid;

use super::{Names, quoted};
use crate::error::ManagerError;
use crate::plan::OWNER;
use crate::vnc::{
    Domain, FqName, IpamSubnet, KeyValues, NetworkIpam, NetworkIpamSubnets, Object, Prefix,
    Project, Ref, VirtualNetwork,
};

impl Names {
    /// The uuid of a project.
    pub(crate) async fn project(&self, name: &FqName) -> Result<Uuid, ManagerError> {
        if let Some(uuid) = self.id::<Project>(name).await? {
            return Ok(uuid);
        }
        if !self.create.projects {
            return Err(self.unknown::<Project>("project", name).await?);
        }
        if let Some(domain) = name.parent()
            && self.id::<Domain>(&domain).await?.is_none()
        {
            if !self.create.domains {
                return Err(ManagerError::invalid(format!(
                    "there is no domain {}",
                    quoted(&domain)
                )));
            }
            self.make(Domain::named(domain)).await?;
        }
        self.make(Project::named(name.clone())).await
    }

    async fn make<T: Object>(&self, mut object: T) -> Result<Uuid, ManagerError> {
        object.common_mut().annotations = self.marks();
        let ensured = self.client.ensure(&object).await?;
        if ensured.found.is_none() {
            log::info!(object:% = object.common().fq_name; "created the {}", T::TYPE);
        }
        Ok(ensured.uuid)
    }

    fn marks(&self) -> KeyValues {
        [("owner", OWNER), ("cluster", &self.cluster)]
            .into_iter()
            .collect()
    }

    pub(super) async fn create_network(
        &self,
        name: &FqName,
        subnets: &[IpNet],
    ) -> Result<VirtualNetwork, ManagerError> {
        if !self.create.networks {
            return Err(self.unknown::<VirtualNetwork>("network", name).await?);
        }
        if subnets.is_empty() {
            let unknown = self.unknown::<VirtualNetwork>("network", name).await?;
            return Err(ManagerError::invalid(format!(
                "{unknown}; it is created only with subnets: name them in the label network-subnets"
            )));
        }
        if let Some(project) = name.parent() {
            self.project(&project).await?;
        }
        let mut ipam = NetworkIpam::named(name.clone());
        ipam.common.annotations = self.marks();
        let ipam_made = self.client.ensure(&ipam).await?;
        let subnets = subnets.iter().map(|subnet| IpamSubnet {
            subnet: Some(Prefix::of(*subnet)),
            ..IpamSubnet::default()
        });
        let mut network = VirtualNetwork::named(name.clone());
        network.common.annotations = self.marks();
        network.network_ipam_refs = vec![Ref::with(
            ipam.common.fq_name,
            NetworkIpamSubnets {
                ipam_subnets: subnets.collect(),
            },
        )];
        let made = match self.client.ensure(&network).await {
            Ok(made) => made,
            Err(error) => {
                // What nobody uses yet; if this fails, the next one who asks uses it.
                if ipam_made.found.is_none()
                    && let Err(error) = self.client.delete::<NetworkIpam>(ipam_made.uuid).await
                {
                    log::warn!(error:% = error; "an ipam without a network is left");
                }
                return Err(error.into());
            }
        };
        if made.found.is_none() {
            log::info!(object:% = name; "created the virtual-network");
        }
        let read = self.client.read::<VirtualNetwork>(made.uuid).await?;
        read.ok_or_else(|| {
            ManagerError::invalid(format!(
                "the network {} was deleted meanwhile",
                quoted(name)
            ))
        })
    }
}
