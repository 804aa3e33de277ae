//! Lists our objects in the VNC API into the cache: type by type, page by page.
//!
//! A listing that fails resumes at the same page; the cache keeps the last complete listing until
//! the next one is complete. Objects come and go meanwhile: what refers to an object that was
//! created after its page was read looks like an orphan, so orphans count only once later listings
//! confirm them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::contrail::{ContrailView, Router};
use crate::intern::Interner;
use crate::model::{
    AddressObject, Adoption, CachedVm, Defaults, Interface, InterfaceDetails, MesosIdentity,
    Orphan, annotation, is_owned,
};
use crate::objects;
use crate::vnc::{
    Detail, FloatingIp, FqName, InstanceIp, KeyValues, Object, Query, Ref, VirtualMachine,
    VirtualMachineInterface, VirtualRouter, VncClient, VncError,
};

/// The types in the order in which they are listed: a referrer before its target would look like
/// an orphan otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    FloatingIps,
    InstanceIps,
    Interfaces,
    Vms,
    Routers,
    Complete,
}

/// A listing that is under way.
#[derive(Debug)]
pub(crate) struct FullListing {
    begun: Instant,
    cluster: String,
    page_size: u32,
    stage: Stage,
    marker: Option<String>,
    interner: Interner,
    names: HashSet<Arc<FqName>>,
    networks: HashMap<Arc<FqName>, Uuid>,
    addresses: HashMap<Uuid, Vec<AddressObject>>,
    floating_ips: HashMap<Uuid, Vec<AddressObject>>,
    /// Our objects that need a parent, and the uuid of the parent that they name.
    children: Vec<(Orphan, Option<Uuid>)>,
    interfaces: HashMap<Uuid, Vec<Interface>>,
    /// All interfaces and virtual-machines that exist, ours or not.
    parents: HashSet<Uuid>,
    vms: HashMap<Uuid, VmRow>,
    routers: HashMap<ArcStr, Router>,
    links: HashMap<Uuid, Vec<Uuid>>,
}

/// A virtual-machine as its page has it.
#[derive(Debug)]
struct VmRow {
    agent: ArcStr,
    display_name: Option<ArcStr>,
    identity: MesosIdentity,
}

fn fields<const N: usize>(fields: [&str; N]) -> Detail {
    Detail::Fields(fields.map(str::to_owned).to_vec())
}

/// Adds to a list that rarely has more than one element.
fn push<T>(lists: &mut HashMap<Uuid, Vec<T>>, key: Uuid, value: T) {
    lists
        .entry(key)
        .or_insert_with(|| Vec::with_capacity(1))
        .push(value);
}

fn first(references: &[Ref]) -> Option<Uuid> {
    references.iter().find_map(|reference| reference.uuid)
}

/// The index of an interface among those of its container.
fn index_of(annotations: &KeyValues) -> u16 {
    annotations
        .get(annotation::INDEX)
        .and_then(|index| index.split('/').next()?.parse().ok())
        .unwrap_or(0)
}

impl FullListing {
    pub(crate) fn new(defaults: &Defaults, page_size: u32) -> Self {
        Self {
            begun: Instant::now(),
            cluster: defaults.cluster.clone(),
            page_size,
            stage: Stage::FloatingIps,
            marker: None,
            interner: Interner::default(),
            names: HashSet::new(),
            networks: HashMap::new(),
            addresses: HashMap::new(),
            floating_ips: HashMap::new(),
            children: vec![],
            interfaces: HashMap::new(),
            parents: HashSet::new(),
            vms: HashMap::new(),
            routers: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// Lists everything that is left to list. After an error, or if the future is dropped, the next
    /// call starts with the same page.
    pub(crate) async fn resume(&mut self, client: &VncClient) -> Result<(), VncError> {
        while self.stage != Stage::Complete {
            let next = match self.stage {
                Stage::FloatingIps => {
                    let detail = fields([
                        "annotations",
                        "virtual_machine_interface_refs",
                        "floating_ip_address",
                    ]);
                    self.next_page(client, detail, Self::add_floating_ip)
                        .await?
                }
                Stage::InstanceIps => {
                    let detail = fields([
                        "annotations",
                        "virtual_machine_interface_refs",
                        "instance_ip_address",
                    ]);
                    self.next_page(client, detail, Self::add_instance_ip)
                        .await?
                }
                Stage::Interfaces => {
                    let detail = fields([
                        "annotations",
                        "virtual_machine_refs",
                        "security_group_refs",
                        "virtual_network_refs",
                    ]);
                    let add = |this: &mut Self, interface: VirtualMachineInterface| {
                        this.add_interface(&interface);
                    };
                    self.next_page(client, detail, add).await?
                }
                Stage::Vms => {
                    let detail = fields(["annotations", "display_name"]);
                    self.next_page(client, detail, Self::add_vm).await?
                }
                Stage::Routers => {
                    let detail = fields(["virtual_router_ip_address", "virtual_machine_refs"]);
                    let add = |this: &mut Self, router: VirtualRouter| this.add_router(&router);
                    self.next_page(client, detail, add).await?
                }
                Stage::Complete => return Ok(()),
            };
            self.marker = next;
            if self.marker.is_none() {
                self.stage = match self.stage {
                    Stage::FloatingIps => Stage::InstanceIps,
                    Stage::InstanceIps => Stage::Interfaces,
                    Stage::Interfaces => Stage::Vms,
                    Stage::Vms => Stage::Routers,
                    Stage::Routers | Stage::Complete => Stage::Complete,
                };
            }
        }
        Ok(())
    }

    async fn next_page<T: Object>(
        &mut self,
        client: &VncClient,
        detail: Detail,
        add: impl Fn(&mut Self, T),
    ) -> Result<Option<String>, VncError> {
        let query = Query::new().detail(detail).page(self.page_size);
        let (objects, next) = client
            .list_page::<T>(&query, self.marker.as_deref())
            .await?;
        for object in objects {
            add(self, object);
        }
        Ok(next)
    }

    fn is_ours(&self, annotations: &KeyValues) -> bool {
        is_owned(annotations, &self.cluster)
    }

    fn intern_name(&mut self, name: &FqName) -> Arc<FqName> {
        if let Some(shared) = self.names.get(name) {
            return Arc::clone(shared);
        }
        let new = Arc::new(name.clone());
        self.names.insert(Arc::clone(&new));
        new
    }

    fn add_floating_ip(&mut self, floating_ip: FloatingIp) {
        let common = floating_ip.common;
        let Some(uuid) = common.uuid else { return };
        let interfaces = floating_ip.virtual_machine_interface_refs;
        let interface = first(&interfaces);
        let reference = Ref {
            uuid: Some(uuid),
            ..Ref::to(common.fq_name)
        };
        for interface in interfaces.iter().filter_map(|interface| interface.uuid) {
            let stands_for = if objects::is_created_for(interface, &reference) {
                Some(uuid)
            } else {
                objects::adopted_for(interface, &common.annotations)
            };
            if let Some(stands_for) = stands_for {
                let object = (stands_for, floating_ip.floating_ip_address.0);
                push(&mut self.floating_ips, interface, object);
            }
        }
        if self.is_ours(&common.annotations) {
            self.children.push((Orphan::FloatingIp(uuid), interface));
        }
    }

    fn add_instance_ip(&mut self, instance_ip: InstanceIp) {
        let Some(uuid) = instance_ip.common.uuid else {
            return;
        };
        let interfaces = instance_ip.virtual_machine_interface_refs;
        for interface in interfaces.iter().filter_map(|interface| interface.uuid) {
            let object = (uuid, instance_ip.instance_ip_address.0);
            push(&mut self.addresses, interface, object);
        }
        if self.is_ours(&instance_ip.common.annotations) {
            self.children
                .push((Orphan::InstanceIp(uuid), first(&interfaces)));
        }
    }

    fn add_interface(&mut self, interface: &VirtualMachineInterface) {
        let Some(uuid) = interface.common.uuid else {
            return;
        };
        self.parents.insert(uuid);
        let annotations = &interface.common.annotations;
        if !self.is_ours(annotations) {
            return;
        }
        let vm = first(&interface.virtual_machine_refs);
        self.children.push((Orphan::Interface(uuid), vm));
        let Some(vm) = vm else { return };
        let network_name = annotations
            .get(annotation::NETWORK)
            .map(|name| self.interner.get(name));
        let mut security_groups: Vec<_> = interface
            .security_group_refs
            .iter()
            .map(|group| self.intern_name(&group.to))
            .collect();
        security_groups.sort_unstable();
        let network = interface
            .virtual_network_refs
            .first()
            .map(|network| (self.intern_name(&network.to), network.uuid));
        if let Some((name, Some(uuid))) = &network {
            self.networks.insert(Arc::clone(name), *uuid);
        }
        let details = InterfaceDetails {
            network: network.map(|(name, _)| name),
            addresses: self.addresses.remove(&uuid).unwrap_or_default().into(),
            floating_ips: self.floating_ips.remove(&uuid).unwrap_or_default().into(),
        };
        let cached = Interface {
            uuid,
            index: index_of(annotations),
            network_name,
            security_groups: security_groups.into(),
            floating_ips: details.floating_ips.iter().map(|(uuid, _)| *uuid).collect(),
            address_count: u16::try_from(details.addresses.len()).unwrap_or(u16::MAX),
            details,
        };
        push(&mut self.interfaces, vm, cached);
    }

    fn add_vm(&mut self, vm: VirtualMachine) {
        let Some(uuid) = vm.common.uuid else { return };
        self.parents.insert(uuid);
        let annotations = &vm.common.annotations;
        if !self.is_ours(annotations) {
            return;
        }
        let interner = &mut self.interner;
        let agent = annotations.get(annotation::AGENT).unwrap_or_default();
        let row = VmRow {
            agent: interner.get(agent),
            display_name: vm.common.display_name.map(Into::into),
            identity: MesosIdentity::from_annotations(annotations, &mut |value| {
                interner.get(value)
            }),
        };
        self.vms.insert(uuid, row);
    }

    fn add_router(&mut self, router: &VirtualRouter) {
        let Some(uuid) = router.common.uuid else {
            return;
        };
        for vm in router.virtual_machine_refs.iter().filter_map(|vm| vm.uuid) {
            push(&mut self.links, vm, uuid);
        }
        let name = self.interner.get(router.common.fq_name.name());
        let router = Router {
            uuid,
            address: router.virtual_router_ip_address.0,
        };
        self.routers.insert(name, router);
    }

    /// The new content of the cache, in place of `old`.
    pub(crate) fn finish(mut self, old: &ContrailView, now: Instant) -> ContrailView {
        let mut vms: HashMap<Uuid, Box<CachedVm>> = self
            .vms
            .into_iter()
            .map(|(uuid, row)| {
                let mut interfaces = self.interfaces.remove(&uuid).unwrap_or_default();
                interfaces.sort_by_key(|interface| (interface.index, interface.uuid));
                let vm = CachedVm {
                    agent: row.agent,
                    display_name: row.display_name,
                    identity: row.identity,
                    interfaces: interfaces.into(),
                    routers: self.links.remove(&uuid).unwrap_or_default().into(),
                    first_seen: old.vms.get(&uuid).map_or(now, |known| known.first_seen),
                };
                (uuid, Box::new(vm))
            })
            .collect();
        // One that was read by itself meanwhile may have been created after its page was listed.
        for (uuid, vm) in &old.vms {
            if vm.first_seen >= self.begun {
                vms.entry(*uuid).or_insert_with(|| vm.clone());
            }
        }
        let orphans = self
            .children
            .into_iter()
            .filter(|(_, parent)| parent.is_none_or(|parent| !self.parents.contains(&parent)))
            .map(|(orphan, _)| (orphan, old.orphans.get(&orphan).copied().unwrap_or(now)))
            .collect();
        let mut source = old.source.clone();
        let sizes = (old.vms.len(), vms.len());
        source.mark_listed(now, sizes, true, std::time::Duration::ZERO);
        ContrailView {
            source,
            vms,
            routers: self.routers,
            networks: self.networks,
            orphans,
        }
    }
}

/// The cache's entry of one container whose objects were just read.
pub(crate) fn cached_vm(
    vm: &VirtualMachine,
    interfaces: &[&VirtualMachineInterface],
    adoptions: &[Adoption],
    first_seen: Instant,
) -> CachedVm {
    let annotations = &vm.common.annotations;
    let mut interfaces: Vec<_> = interfaces
        .iter()
        .filter_map(|interface| cached_interface(interface, adoptions))
        .collect();
    interfaces.sort_by_key(|interface| (interface.index, interface.uuid));
    CachedVm {
        agent: annotations
            .get(annotation::AGENT)
            .unwrap_or_default()
            .into(),
        display_name: vm.common.display_name.as_deref().map(Into::into),
        identity: MesosIdentity::from_annotations(annotations, &mut |value| value.into()),
        interfaces: interfaces.into(),
        routers: vm
            .virtual_router_back_refs
            .iter()
            .filter_map(|router| router.uuid)
            .collect(),
        first_seen,
    }
}

pub(crate) fn cached_interface(
    interface: &VirtualMachineInterface,
    adoptions: &[Adoption],
) -> Option<Interface> {
    let uuid = interface.common.uuid?;
    let annotations = &interface.common.annotations;
    let mut security_groups: Vec<_> = interface
        .security_group_refs
        .iter()
        .map(|group| Arc::new(group.to.clone()))
        .collect();
    security_groups.sort_unstable();
    let created = interface
        .floating_ip_back_refs
        .iter()
        .filter(|reference| objects::is_created_for(uuid, reference))
        .filter_map(|reference| reference.uuid);
    let adopted = adoptions
        .iter()
        .filter(|adoption| adoption.interface == uuid)
        .map(|adoption| adoption.stands_for);
    let floating_ips: Box<[Uuid]> = created.chain(adopted).collect();
    let details = InterfaceDetails {
        network: interface
            .virtual_network_refs
            .first()
            .map(|network| Arc::new(network.to.clone())),
        addresses: interface
            .instance_ip_back_refs
            .iter()
            .filter_map(|reference| Some((reference.uuid?, None)))
            .collect(),
        floating_ips: floating_ips.iter().map(|uuid| (*uuid, None)).collect(),
    };
    Some(Interface {
        uuid,
        index: index_of(annotations),
        network_name: annotations.get(annotation::NETWORK).map(Into::into),
        security_groups: security_groups.into(),
        floating_ips,
        address_count: u16::try_from(interface.instance_ip_back_refs.len()).unwrap_or(u16::MAX),
        details,
    })
}
