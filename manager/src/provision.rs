//! What has to be there before the first container: project, ipams, default network, policy.
//!
//! Everything is made if it is missing and left as it is if it is there, so that several managers
//! can provision at once, and an operator's changes stay.

use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use uuid::Uuid;

use super::config::{Config, Provision};
use super::model::OWNER;
use crate::vnc::{
    Actions, Domain, FqName, GlobalVrouterConfig, IpamSubnet, IpamSubnets, NetworkIpam,
    NetworkIpamSubnets, NetworkPolicy, Object, Patch, PolicyAddress, PolicyAttachment,
    PolicyEntries, PolicyRule, PortRange, PortTranslationPool, PortTranslationPools, Prefix,
    Project, Ref, Sequence, VirtualNetwork, VirtualNetworkProperties, VncClient, VncError,
};

/// The fabric's own network, which every API server makes.
const FABRIC: [&str; 3] = ["default-domain", "default-project", "ip-fabric"];

/// What all vRouter agents have in common, which every API server makes.
const GLOBAL_VROUTER_CONFIG: [&str; 2] = [
    "default-global-system-config",
    "default-global-vrouter-config",
];
/// As Contrail's own mesos-manager has them.
const PORT_TRANSLATION: [(&str, i32, i32); 2] = [("tcp", 56_000, 57_023), ("udp", 57_024, 58_047)];

/// Makes what is missing.
pub(super) async fn provision(client: &VncClient, config: &Config) -> Result<(), VncError> {
    let Some(wanted) = &config.provision else {
        // The least that says whether the API server can be reached.
        return client.ping().await;
    };
    let maker = Maker {
        client,
        config,
        missing: None,
    };
    maker.all(wanted).await
}

/// Says what [`provision`] would make, and makes nothing.
pub(super) async fn missing(client: &VncClient, config: &Config) -> Result<Vec<String>, VncError> {
    let Some(wanted) = &config.provision else {
        client.ping().await?;
        return Ok(vec![]);
    };
    let maker = Maker {
        client,
        config,
        missing: Some(Mutex::default()),
    };
    maker.all(wanted).await?;
    let missing = maker.missing.unwrap_or_default();
    Ok(missing.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Maker<'_> {
    async fn all(&self, wanted: &Provision) -> Result<(), VncError> {
        let (maker, config) = (self, self.config);
        let network = &config.defaults.network;
        let project = FqName::new([&config.defaults.domain, &config.defaults.project]);
        let mut projects = vec![project.clone()];
        projects.extend(network.parent().filter(|other| *other != project));
        for project in &projects {
            if config.create.domains
                && let Some(domain) = project.parent()
            {
                maker.make(Domain::named(domain)).await?;
            }
            maker.make(Project::named(project.clone())).await?;
        }
        let cluster = &config.defaults.cluster;
        let fabric_ipam = project.child(format!("{cluster}-ip-fabric-ipam"));
        let pod_ipam = project.child(format!("{cluster}-pod-task-ipam"));
        maker.ipam(&fabric_ipam, &wanted.ip_fabric_subnets).await?;
        maker.ipam(&pod_ipam, &wanted.pod_task_subnets).await?;
        let ipam = if wanted.ip_fabric_forwarding {
            fabric_ipam
        } else {
            pod_ipam
        };
        let network = maker.make(self::network(network, ipam, wanted)).await?;

        let policy = project.child(format!("{cluster}-default-ip-fabric-np"));
        let Some(fabric) = maker
            .client
            .id_of::<VirtualNetwork>(&FqName::new(FABRIC))
            .await?
        else {
            log::warn!("the API server has no network ip-fabric, so there is no policy for it");
            return Ok(());
        };
        if wanted.ip_fabric_snat {
            maker.port_translation().await?;
        }
        let policy = maker.make(self::policy(policy)).await?;
        let names = [FqName::new(FABRIC), config.defaults.network.clone()];
        for (network, name) in [fabric, network].into_iter().zip(&names) {
            maker.attach((network, name), policy).await?;
        }
        Ok(())
    }
}

struct Maker<'a> {
    client: &'a VncClient,
    config: &'a Config,
    /// What is missing, where nothing is to be made.
    missing: Option<Mutex<Vec<String>>>,
}

impl Maker<'_> {
    async fn make<T: Object>(&self, mut object: T) -> Result<Uuid, VncError> {
        let marks = [("owner", OWNER), ("cluster", &self.config.defaults.cluster)];
        object.common_mut().annotations = marks.into_iter().collect();
        let name = object.common().fq_name.clone();
        if self.missing.is_some() {
            let there = self.client.id_of::<T>(&name).await?;
            if there.is_none() {
                self.lacks(format!("make the {} {name}", T::TYPE));
            }
            return Ok(there.unwrap_or_default());
        }
        let ensured = self.client.ensure(&object).await?;
        match ensured.found {
            None => log::info!(object:% = name; "provisioned the {}", T::TYPE),
            Some(mut found) => {
                // Whose it is makes no difference here.
                found.differs.retain(|field| field != "annotations");
                if !found.differs.is_empty() {
                    let differs = found.differs.join(", ");
                    log::warn!(object:% = name, differs; "the {} is not as configured, and left as it is", T::TYPE);
                }
            }
        }
        Ok(ensured.uuid)
    }

    fn lacks(&self, what: String) {
        if let Some(missing) = &self.missing {
            let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.push(what);
        }
    }

    /// Has the policy hold for the network.
    async fn attach(&self, (network, name): (Uuid, &FqName), policy: Uuid) -> Result<(), VncError> {
        if self.missing.is_some() {
            let there = if network.is_nil() || policy.is_nil() {
                None
            } else {
                self.client.read::<VirtualNetwork>(network).await?
            };
            let mut policies = there
                .iter()
                .flat_map(|network| &network.network_policy_refs);
            if !policies.any(|other| other.uuid == Some(policy)) {
                self.lacks(format!(
                    "attach the default policy to the virtual-network {name}"
                ));
            }
            return Ok(());
        }
        let attachment = PolicyAttachment {
            sequence: Some(Sequence::default()),
        };
        self.client
            .link_with::<VirtualNetwork, NetworkPolicy>(network, policy, &attachment)
            .await?;
        self.client.relax_for_delete(network, policy).await
    }

    /// Without ports to translate to, nothing leaves with the host's address. They are the same for
    /// all that uses this Contrail, so that what is there stays.
    async fn port_translation(&self) -> Result<(), VncError> {
        let name = FqName::new(GLOBAL_VROUTER_CONFIG);
        let Some(found) = self.client.find::<GlobalVrouterConfig>(&name).await? else {
            log::warn!(object:% = name; "the API server has no such global-vrouter-config");
            return Ok(());
        };
        let pools = found.port_translation_pools.unwrap_or_default();
        let Some(uuid) = found
            .common
            .uuid
            .filter(|_| pools.port_translation_pool.is_empty())
        else {
            return Ok(());
        };
        if self.missing.is_some() {
            self.lacks(format!("set the port_translation_pools of {name}"));
            return Ok(());
        }
        let pools = PORT_TRANSLATION.map(|(protocol, start_port, end_port)| PortTranslationPool {
            protocol: protocol.to_owned(),
            port_range: Some(PortRange {
                start_port,
                end_port,
            }),
            port_count: Some((end_port - start_port + 1).to_string()),
        });
        let pools = PortTranslationPools {
            port_translation_pool: pools.into(),
        };
        let patch = Patch::new().set("port_translation_pools", &pools);
        self.client
            .update::<GlobalVrouterConfig>(uuid, patch)
            .await?;
        log::info!(object:% = name; "provisioned the port_translation_pools");
        Ok(())
    }

    async fn ipam(&self, name: &FqName, subnets: &[IpNet]) -> Result<(), VncError> {
        if subnets.is_empty() {
            return Ok(());
        }
        let mut ipam = NetworkIpam::named(name.clone());
        ipam.ipam_subnet_method = Some("flat-subnet".to_owned());
        let subnets = subnets.iter().map(|subnet| IpamSubnet {
            subnet: Some(Prefix::of(*subnet)),
            ..IpamSubnet::default()
        });
        ipam.ipam_subnets = Some(IpamSubnets {
            subnets: subnets.collect(),
        });
        self.make(ipam).await.map(drop)
    }
}

fn network(name: &FqName, ipam: FqName, wanted: &Provision) -> VirtualNetwork {
    let mut network = VirtualNetwork::named(name.clone());
    network.address_allocation_mode = Some("flat-subnet-only".to_owned());
    network.virtual_network_properties = Some(VirtualNetworkProperties {
        // The server refuses flat subnets with any other.
        forwarding_mode: Some("l3".to_owned()),
        ..VirtualNetworkProperties::default()
    });
    network.network_ipam_refs = vec![Ref::with(ipam, NetworkIpamSubnets::default())];
    network.fabric_snat = wanted.ip_fabric_snat.then_some(true);
    if wanted.ip_fabric_forwarding {
        network.virtual_network_refs = vec![Ref::to(FqName::new(FABRIC))];
    }
    network
}

/// Everything may pass between the networks that have the policy and the fabric's.
fn policy(name: FqName) -> NetworkPolicy {
    let rule = PolicyRule {
        direction: Some("<>".to_owned()),
        protocol: Some("any".to_owned()),
        src_addresses: vec![PolicyAddress {
            network_policy: Some(name.to_string()),
            ..PolicyAddress::default()
        }],
        src_ports: vec![PortRange::ANY],
        dst_addresses: vec![PolicyAddress {
            virtual_network: Some(FqName::new(FABRIC).to_string()),
            ..PolicyAddress::default()
        }],
        dst_ports: vec![PortRange::ANY],
        action_list: Some(Actions {
            simple_action: Some("pass".to_owned()),
        }),
        ..PolicyRule::default()
    };
    let mut policy = NetworkPolicy::named(name);
    policy.network_policy_entries = Some(PolicyEntries {
        policy_rule: vec![rule],
    });
    policy
}
