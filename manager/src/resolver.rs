//! Resolves names to uuids and networks, with a short-lived cache.
//!
//! A name that does not exist is never cached, so an object that is created later is found; and an
//! object that turns out to be deleted is forgotten. Concurrent lookups of one name are one
//! request.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use ipnet::IpNet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::agent_names::AgentNames;
use crate::config::Config;
use crate::error::ManagerError;
use crate::model::{self, Create, Network, Subnet, annotation};
use crate::vnc::{
    Detail, Domain, FloatingIpPool, FqName, IpamSubnet, NetworkIpam, NetworkIpamSubnets, Object,
    Prefix, Project, Query, Ref, SecurityGroup, VirtualMachine, VirtualNetwork, VirtualRouter,
    VncClient,
};
use contrail_mesos_api::text::Quoted;

/// From this number of entries on, expired ones are removed first.
const MAX_CACHED_NAMES: usize = 10_000;
/// How many names a message lists.
const MAX_LISTED_NAMES: usize = 20;
/// How many containers of a virtual-router are looked at for the name of their agent.
const MAX_VIEWED_CONTAINERS: usize = 20;
/// The parent of all virtual-routers.
const GLOBAL_SYSTEM_CONFIG: &str = "default-global-system-config";

/// A lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LookupKey {
    Network(FqName),
    /// A type, and the name of an object of it.
    Object(&'static str, FqName),
    /// An agent's name and its host's address.
    Router(String, Option<IpAddr>),
}

/// The result of a lookup.
#[derive(Clone, Debug)]
enum Resolution {
    Uuid(Uuid),
    Network(Arc<Network>),
}

/// A cached result and when its lookup began. Locked while the lookup runs.
type Slot = Arc<tokio::sync::Mutex<Option<(Resolution, Instant)>>>;

/// Resolves names, and creates what the configuration allows to be created.
#[derive(Debug)]
pub(crate) struct NameResolver {
    client: VncClient,
    create: Create,
    cluster: String,
    ttl: Duration,
    slots: Mutex<HashMap<LookupKey, Slot>>,
    agents: AgentNames,
}

impl NameResolver {
    pub(crate) fn new(client: VncClient, config: &Config) -> Self {
        Self {
            client,
            create: config.create,
            cluster: config.defaults.cluster.clone(),
            ttl: config.name_cache_ttl,
            slots: Mutex::default(),
            agents: AgentNames::default(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<LookupKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the cache: an object that was cached is gone.
    pub(crate) fn clear(&self) {
        self.slots().clear();
    }

    async fn cached(
        &self,
        key: LookupKey,
        look_up: impl Future<Output = Result<Option<Resolution>, ManagerError>>,
    ) -> Result<Option<Resolution>, ManagerError> {
        let slot = {
            let mut slots = self.slots();
            if slots.len() >= MAX_CACHED_NAMES {
                let is_fresh = |slot: &Slot| match slot.try_lock() {
                    Ok(slot) => slot
                        .as_ref()
                        .is_some_and(|(_, since)| self.is_fresh(*since)),
                    // Its lookup is running.
                    Err(_) => true,
                };
                slots.retain(|_, slot| is_fresh(slot));
            }
            slots.entry(key.clone()).or_default().clone()
        };
        let mut cached = slot.lock().await;
        if let Some((resolution, since)) = &*cached
            && self.is_fresh(*since)
        {
            return Ok(Some(resolution.clone()));
        }
        *cached = None;
        let since = Instant::now();
        let found = look_up.await;
        match &found {
            Ok(Some(resolution)) => *cached = Some((resolution.clone(), since)),
            _ => {
                self.slots().remove(&key);
            }
        }
        found
    }

    fn is_fresh(&self, since: Instant) -> bool {
        since.elapsed() < self.ttl
    }

    async fn uuid<T: Object>(&self, name: &FqName) -> Result<Option<Uuid>, ManagerError> {
        let look_up = async {
            let uuid = self.client.id_of::<T>(name).await?;
            Ok(uuid.map(Resolution::Uuid))
        };
        let key = LookupKey::Object(T::TYPE, name.clone());
        match self.cached(key, look_up).await? {
            Some(Resolution::Uuid(uuid)) => Ok(Some(uuid)),
            _ => Ok(None),
        }
    }

    /// The uuid of a security group.
    pub(crate) async fn security_group(&self, name: &FqName) -> Result<Uuid, ManagerError> {
        match self.uuid::<SecurityGroup>(name).await? {
            Some(uuid) => Ok(uuid),
            None => Err(self
                .not_found::<SecurityGroup>("security group", name)
                .await?),
        }
    }

    /// The uuid of a floating IP pool.
    pub(crate) async fn floating_ip_pool(&self, name: &FqName) -> Result<Uuid, ManagerError> {
        match self.uuid::<FloatingIpPool>(name).await? {
            Some(uuid) => Ok(uuid),
            None => Err(self
                .not_found::<FloatingIpPool>("floating IP pool", name)
                .await?),
        }
    }

    /// The uuid of an agent's virtual-router: the one of its name, else the one with its address.
    pub(crate) async fn router(
        &self,
        agent: &str,
        address: Option<IpAddr>,
    ) -> Result<Uuid, ManagerError> {
        let key = LookupKey::Router(agent.to_owned(), address);
        match self.cached(key, self.find_router(agent, address)).await? {
            Some(Resolution::Uuid(uuid)) => Ok(uuid),
            _ => Err(ManagerError::InvalidResponse(
                "a virtual-router has no uuid".to_owned(),
            )),
        }
    }

    async fn find_router(
        &self,
        agent: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<Resolution>, ManagerError> {
        let name = FqName::new([GLOBAL_SYSTEM_CONFIG, agent]);
        if let Some(uuid) = self.client.id_of::<VirtualRouter>(&name).await? {
            return Ok(Some(Resolution::Uuid(uuid)));
        }
        let fields = Detail::Fields(vec!["virtual_router_ip_address".to_owned()]);
        let routers = self
            .client
            .list::<VirtualRouter>(&Query::new().detail(fields))
            .await?;
        let mut with_address = routers
            .iter()
            .filter(|router| address.is_some() && router.virtual_router_ip_address.0 == address);
        if let Some(router) = with_address.next() {
            return match with_address.next() {
                None if self.is_of_another_agent(router, agent).await? => {
                    Err(ManagerError::Foreign(format!(
                        "the virtual-router with the address of agent {agent:?} is that of agent \
                         {:?}; give the agent the name of its own virtual-router",
                        router.common.fq_name.name()
                    )))
                }
                None => Ok(router.common.uuid.map(Resolution::Uuid)),
                Some(other) => Err(ManagerError::invalid(format!(
                    "the virtual-routers {:?} and {:?} both have the agent's address; give the \
                     agent the name of its own",
                    router.common.fq_name.name(),
                    other.common.fq_name.name(),
                ))),
            };
        }
        let names = list_names(routers.iter().map(|router| router.common.fq_name.name()));
        let or_address = address.map_or_else(String::new, |address| {
            format!(" or has the address {address}")
        });
        Err(ManagerError::invalid(format!(
            "no virtual-router is called {agent:?}{or_address}; register the host's vRouter under \
             the agent's name (existing virtual-routers: {names})"
        )))
    }

    /// The names of agents, which are those of their virtual-routers.
    pub(crate) fn agents(&self) -> &AgentNames {
        &self.agents
    }

    /// Whether a virtual-router has the name of an agent other than this one: one that has sent a
    /// request, or that has a container there.
    async fn is_of_another_agent(
        &self,
        router: &VirtualRouter,
        agent: &str,
    ) -> Result<bool, ManagerError> {
        let name = router.common.fq_name.name();
        if name == agent {
            return Ok(false);
        }
        if self.agents.contains(name) {
            return Ok(true);
        }
        let Some(uuid) = router.common.uuid else {
            return Ok(false);
        };
        let router = self.client.read::<VirtualRouter>(uuid).await?;
        let vms: Vec<Uuid> = router
            .iter()
            .flat_map(|router| &router.virtual_machine_refs)
            .filter_map(|vm| vm.uuid)
            .take(MAX_VIEWED_CONTAINERS)
            .collect();
        if vms.is_empty() {
            return Ok(false);
        }
        let fields = Detail::Fields(vec!["annotations".to_owned()]);
        let query = Query::new().uuids(vms).detail(fields);
        let vms = self.client.list::<VirtualMachine>(&query).await?;
        Ok(vms.iter().any(|vm| {
            let annotations = &vm.common.annotations;
            model::is_owned(annotations, &self.cluster)
                && annotations.get(annotation::AGENT) == Some(name)
        }))
    }

    /// The error for a name that does not exist: which names do.
    async fn not_found<T: Object>(
        &self,
        kind: &str,
        name: &FqName,
    ) -> Result<ManagerError, ManagerError> {
        let Some(parent) = name.parent() else {
            return Ok(ManagerError::invalid(format!(
                "there is no {kind} {}",
                quoted(name)
            )));
        };
        let siblings = match parent.parts().len() {
            1 => self.siblings::<T, Domain>(&parent).await?,
            2 => self.siblings::<T, Project>(&parent).await?,
            _ => self.siblings::<T, VirtualNetwork>(&parent).await?,
        };
        Ok(ManagerError::invalid(format!(
            "there is no {kind} {}: {siblings}",
            quoted(name)
        )))
    }

    async fn siblings<T: Object, P: Object>(
        &self,
        parent: &FqName,
    ) -> Result<String, ManagerError> {
        let Some(uuid) = self.client.id_of::<P>(parent).await? else {
            return Ok(format!("nor is there a {} {}", P::TYPE, quoted(parent)));
        };
        let query = Query::new().children_of([uuid]).detail(Detail::Names);
        let siblings = self.client.list::<T>(&query).await?;
        let names = list_names(
            siblings
                .iter()
                .map(|sibling| sibling.common().fq_name.name()),
        );
        Ok(format!("the {} {} has {names}", P::TYPE, quoted(parent)))
    }
}

/// Networks.
impl NameResolver {
    /// The network of that name. One that does not exist is created with these subnets, if that is
    /// allowed.
    pub(crate) async fn network(
        &self,
        name: &FqName,
        subnets: &[IpNet],
    ) -> Result<Arc<Network>, ManagerError> {
        let look_up = async {
            let found = match self.client.find::<VirtualNetwork>(name).await? {
                Some(found) => found,
                None => Box::pin(self.create_network(name, subnets)).await?,
            };
            let network = Box::pin(self.with_subnets(found)).await?;
            Ok(Some(Resolution::Network(Arc::new(network))))
        };
        match self
            .cached(LookupKey::Network(name.clone()), look_up)
            .await?
        {
            Some(Resolution::Network(network)) => Ok(network),
            _ => Err(ManagerError::InvalidResponse(format!(
                "the network {name} has no uuid"
            ))),
        }
    }

    /// The networks with these uuids that exist, read without the cache.
    pub(crate) async fn read_networks(
        &self,
        uuids: Vec<Uuid>,
    ) -> Result<Vec<Network>, ManagerError> {
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
        let uuid = network.common.uuid.ok_or_else(|| {
            ManagerError::InvalidResponse(format!("the network {name} has no uuid"))
        })?;
        let (uses_own_subnets, uses_flat_subnets) = match network.address_allocation_mode.as_deref()
        {
            Some("flat-subnet-only") => (false, true),
            Some("user-defined-subnet-only") => (true, false),
            _ => (true, true),
        };
        let subnets_of_ipams = network.network_ipam_refs.iter().map(async |ipam| {
            let subnets = ipam
                .attr
                .as_ref()
                .map_or(&[][..], |attr| &attr.ipam_subnets);
            // A flat ipam holds the prefixes itself; the network only has the uuid for them.
            let is_flat = subnets.iter().all(|subnet| subnet.subnet.is_none());
            if !is_flat {
                return Ok(if uses_own_subnets {
                    to_subnets(subnets, None)
                } else {
                    vec![]
                });
            }
            let (true, Some(uuid)) = (uses_flat_subnets, ipam.uuid) else {
                return Ok(vec![]);
            };
            let flat_uuid = subnets.first().and_then(|subnet| subnet.subnet_uuid);
            let ipam = self.client.read::<NetworkIpam>(uuid).await?;
            let subnets = ipam.and_then(|ipam| ipam.ipam_subnets).unwrap_or_default();
            Ok::<_, ManagerError>(to_subnets(&subnets.subnets, flat_uuid))
        });
        let subnets = try_join_all(subnets_of_ipams).await?.concat();
        Ok(Network {
            uuid,
            name,
            subnets,
        })
    }
}

/// Creates what a container names and does not exist, where the configuration allows that. It stays
/// when the container ends: others may use it by then.
impl NameResolver {
    /// The uuid of a project.
    pub(crate) async fn project(&self, name: &FqName) -> Result<Uuid, ManagerError> {
        if let Some(uuid) = self.uuid::<Project>(name).await? {
            return Ok(uuid);
        }
        if !self.create.projects {
            return Err(self.not_found::<Project>("project", name).await?);
        }
        if let Some(domain) = name.parent()
            && self.uuid::<Domain>(&domain).await?.is_none()
        {
            if !self.create.domains {
                return Err(ManagerError::invalid(format!(
                    "there is no domain {}",
                    quoted(&domain)
                )));
            }
            self.create(Domain::named(domain)).await?;
        }
        self.create(Project::named(name.clone())).await
    }

    async fn create<T: Object>(&self, mut object: T) -> Result<Uuid, ManagerError> {
        object.common_mut().annotations = model::ownership(&self.cluster);
        let ensured = self.client.ensure(&object).await?;
        if ensured.existing.is_none() {
            log::info!(object:% = object.common().fq_name; "created the {}", T::TYPE);
        }
        Ok(ensured.uuid)
    }

    async fn create_network(
        &self,
        name: &FqName,
        subnets: &[IpNet],
    ) -> Result<VirtualNetwork, ManagerError> {
        if !self.create.networks {
            return Err(self.not_found::<VirtualNetwork>("network", name).await?);
        }
        let too_small: Vec<String> = subnets
            .iter()
            .filter_map(|subnet| model::too_small(*subnet))
            .map(|problem| format!("network {}: {problem}", quoted(name)))
            .collect();
        if !too_small.is_empty() {
            return Err(ManagerError::Invalid(too_small));
        }
        if subnets.is_empty() {
            let not_found = self.not_found::<VirtualNetwork>("network", name).await?;
            return Err(ManagerError::invalid(format!(
                "{not_found}; it is created only with subnets: name them in the label \
                 network-subnets"
            )));
        }
        if let Some(project) = name.parent() {
            self.project(&project).await?;
        }
        let mut ipam = NetworkIpam::named(name.clone());
        ipam.common.annotations = model::ownership(&self.cluster);
        let ensured_ipam = self.client.ensure(&ipam).await?;
        let subnets = subnets.iter().map(|subnet| IpamSubnet {
            subnet: Some(Prefix::of(*subnet)),
            ..IpamSubnet::default()
        });
        let mut network = VirtualNetwork::named(name.clone());
        network.common.annotations = model::ownership(&self.cluster);
        network.network_ipam_refs = vec![Ref::with(
            ipam.common.fq_name,
            NetworkIpamSubnets {
                ipam_subnets: subnets.collect(),
            },
        )];
        let ensured = match self.client.ensure(&network).await {
            Ok(ensured) => ensured,
            Err(error) => {
                // Nothing uses it yet. If the delete fails, the next request uses the ipam.
                if ensured_ipam.existing.is_none()
                    && let Err(error) = self.client.delete::<NetworkIpam>(ensured_ipam.uuid).await
                {
                    log::warn!(error:% = error; "an ipam without a network is left");
                }
                return Err(error.into());
            }
        };
        if ensured.existing.is_none() {
            log::info!(object:% = name; "created the virtual-network");
        }
        self.client
            .read::<VirtualNetwork>(ensured.uuid)
            .await?
            .ok_or_else(|| {
                ManagerError::invalid(format!(
                    "the network {} was deleted meanwhile",
                    quoted(name)
                ))
            })
    }
}

/// The subnets of an ipam, requested by their own uuid or by that of a flat ipam.
fn to_subnets(subnets: &[IpamSubnet], flat_uuid: Option<Uuid>) -> Vec<Subnet> {
    subnets
        .iter()
        .filter_map(|subnet| {
            Some(Subnet {
                net: subnet.subnet.as_ref()?.network()?.trunc(),
                uuid: flat_uuid.or(subnet.subnet_uuid),
                gateway: subnet
                    .default_gateway
                    .0
                    .filter(|address| !address.is_unspecified()),
                dns: subnet
                    .dns_server_address
                    .0
                    .filter(|address| !address.is_unspecified()),
            })
        })
        .collect()
}

fn quoted(name: &FqName) -> String {
    Quoted(name.to_string().as_bytes()).to_string()
}

/// Some names, sorted. Quoted: others choose them.
fn list_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    if names.is_empty() {
        return "none".to_owned();
    }
    let listed: Vec<String> = names
        .iter()
        .take(MAX_LISTED_NAMES)
        .map(|name| Quoted(name.as_bytes()).to_string())
        .collect();
    let listed = listed.join(", ");
    match names.len().checked_sub(MAX_LISTED_NAMES) {
        None | Some(0) => listed,
        Some(more) => format!("{listed} and {more} more"),
    }
}
