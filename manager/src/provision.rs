//! Creates what containers need: the default project, its ipams, the default network and a policy.
//!
//! Missing objects are created and existing ones are not changed, so that several managers can
//! provision at once and an operator's changes stay.

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

/// The IP fabric network, which every API server creates.
const FABRIC: [&str; 3] = ["default-domain", "default-project", "ip-fabric"];

/// The configuration of all vRouter agents, which every API server creates.
pub(crate) const GLOBAL_VROUTER_CONFIG: [&str; 2] = [
    "default-global-system-config",
    "default-global-vrouter-config",
];
/// The port ranges of Contrail's own mesos-manager.
const PORT_TRANSLATION: [(&str, i32, i32); 2] = [("tcp", 56_000, 57_023), ("udp", 57_024, 58_047)];

/// Creates the missing objects.
pub(super) async fn provision(client: &VncClient, config: &Config) -> Result<(), VncError> {
    let Some(options) = &config.provision else {
        // The cheapest request that shows whether the API server responds.
        return client.ping().await;
    };
    let provisioner = Provisioner {
        client,
        config,
        missing: None,
    };
    provisioner.run(options).await
}

/// What [`provision`] would create. Creates nothing.
pub(super) async fn missing(client: &VncClient, config: &Config) -> Result<Vec<String>, VncError> {
    let Some(options) = &config.provision else {
        client.ping().await?;
        return Ok(vec![]);
    };
    let provisioner = Provisioner {
        client,
        config,
        missing: Some(Mutex::default()),
    };
    provisioner.run(options).await?;
    let missing = provisioner.missing.unwrap_or_default();
    Ok(missing.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Provisioner<'_> {
    async fn run(&self, options: &Provision) -> Result<(), VncError> {
        let config = self.config;
        let network = &config.defaults.network;
        let project = FqName::new([&config.defaults.domain, &config.defaults.project]);
        let mut projects = vec![project.clone()];
        projects.extend(network.parent().filter(|other| *other != project));
        for project in &projects {
            if config.create.domains
                && let Some(domain) = project.parent()
            {
                self.ensure(Domain::named(domain)).await?;
            }
            self.ensure(Project::named(project.clone())).await?;
        }
        let cluster = &config.defaults.cluster;
        let fabric_ipam = project.child(format!("{cluster}-ip-fabric-ipam"));
        let pod_ipam = project.child(format!("{cluster}-pod-task-ipam"));
        self.ipam(&fabric_ipam, &options.ip_fabric_subnets).await?;
        self.ipam(&pod_ipam, &options.pod_task_subnets).await?;
        let ipam = if options.ip_fabric_forwarding {
            fabric_ipam
        } else {
            pod_ipam
        };
        let network = self.ensure(default_network(network, ipam, options)).await?;

        let policy = project.child(format!("{cluster}-default-ip-fabric-np"));
        let Some(fabric) = self
            .client
            .id_of::<VirtualNetwork>(&FqName::new(FABRIC))
            .await?
        else {
            log::warn!("the API server has no network ip-fabric; no policy is created for it");
            return Ok(());
        };
        if options.ip_fabric_snat {
            self.port_translation().await?;
        }
        let policy = self.ensure(fabric_policy(policy)).await?;
        let names = [FqName::new(FABRIC), config.defaults.network.clone()];
        for (network, name) in [fabric, network].into_iter().zip(&names) {
            self.attach((network, name), policy).await?;
        }
        Ok(())
    }
}

struct Provisioner<'a> {
    client: &'a VncClient,
    config: &'a Config,
    /// Collects what is missing in a dry run, which creates nothing.
    missing: Option<Mutex<Vec<String>>>,
}

impl Provisioner<'_> {
    async fn ensure<T: Object>(&self, mut object: T) -> Result<Uuid, VncError> {
        let annotations = [("owner", OWNER), ("cluster", &self.config.defaults.cluster)];
        object.common_mut().annotations = annotations.into_iter().collect();
        let name = object.common().fq_name.clone();
        if self.missing.is_some() {
            let uuid = self.client.id_of::<T>(&name).await?;
            if uuid.is_none() {
                self.add_missing(format!("create the {} {name}", T::TYPE));
            }
            return Ok(uuid.unwrap_or_default());
        }
        let ensured = self.client.ensure(&object).await?;
        match ensured.existing {
            None => log::info!(object:% = name; "provisioned the {}", T::TYPE),
            Some(mut existing) => {
                // The owner does not matter here.
                existing
                    .differing_fields
                    .retain(|field| field != "annotations");
                if !existing.differing_fields.is_empty() {
                    let differs = existing.differing_fields.join(", ");
                    log::warn!(object:% = name, differs; "the {} differs from the configuration and is not changed", T::TYPE);
                }
            }
        }
        Ok(ensured.uuid)
    }

    fn add_missing(&self, change: String) {
        if let Some(missing) = &self.missing {
            let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.push(change);
        }
    }

    /// Attaches the policy to the network.
    async fn attach(&self, (network, name): (Uuid, &FqName), policy: Uuid) -> Result<(), VncError> {
        if self.missing.is_some() {
            let existing = if network.is_nil() || policy.is_nil() {
                None
            } else {
                self.client.read::<VirtualNetwork>(network).await?
            };
            let mut policies = existing
                .iter()
                .flat_map(|network| &network.network_policy_refs);
            if !policies.any(|other| other.uuid == Some(policy)) {
                self.add_missing(format!(
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

    /// Sets the ports for SNAT, without which it does not work. All users of this Contrail share them,
    /// so existing ones are not changed.
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
            self.add_missing(format!("set the port_translation_pools of {name}"));
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
        self.ensure(ipam).await.map(drop)
    }
}

fn default_network(name: &FqName, ipam: FqName, options: &Provision) -> VirtualNetwork {
    let mut network = VirtualNetwork::named(name.clone());
    network.address_allocation_mode = Some("flat-subnet-only".to_owned());
    network.virtual_network_properties = Some(VirtualNetworkProperties {
        // The server rejects flat subnets with any other mode.
        forwarding_mode: Some("l3".to_owned()),
        ..VirtualNetworkProperties::default()
    });
    network.network_ipam_refs = vec![Ref::with(ipam, NetworkIpamSubnets::default())];
    network.fabric_snat = options.ip_fabric_snat.then_some(true);
    if options.ip_fabric_forwarding {
        network.virtual_network_refs = vec![Ref::to(FqName::new(FABRIC))];
    }
    network
}

/// Allows all traffic between the networks that have the policy and the IP fabric network.
fn fabric_policy(name: FqName) -> NetworkPolicy {
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
