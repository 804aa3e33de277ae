//! Reading the VNC API into the cache: type by type, page by page.
//!
//! A reading that fails goes on where it was as soon as the server answers again; the cache holds
//! the last whole one until the next is whole. Objects come and go meanwhile: what refers to
//! something that has come since the page of it was read is an orphan only if it is one again in
//! later readings, and then by its own word.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::contrail::{ContrailView, Details, Given, Interface, Machine, Names, Orphan, Router};
use crate::config::Default as Defaults;
use crate::containers::Adopted;
use crate::intern::Interner;
use crate::plan::{self, OWNER};
use crate::vnc::{
    Detail, FloatingIp, FqName, InstanceIp, KeyValues, Object, Query, Ref, VirtualMachine,
    VirtualMachineInterface, VirtualRouter, VncClient, VncError,
};

/// What is read, in this order: what refers before what is referred to would look like orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    FloatingIps,
    InstanceIps,
    Interfaces,
    Machines,
    Routers,
    Done,
}

/// A reading that is under way.
#[derive(Debug)]
pub(crate) struct Reading {
    begun: Instant,
    cluster: String,
    page: u32,
    stage: Stage,
    marker: Option<String>,
    texts: Interner,
    names: HashSet<Arc<FqName>>,
    networks: HashMap<Arc<FqName>, Uuid>,
    addresses: HashMap<Uuid, Vec<Given>>,
    floating: HashMap<Uuid, Vec<Given>>,
    /// The interface of each address and floating address of ours that says it is one.
    owned: Vec<(Orphan, Option<Uuid>)>,
    interfaces: HashMap<Uuid, Vec<Interface>>,
    known: HashSet<Uuid>,
    machines: HashMap<Uuid, VirtualMachineSlim>,
    routers: HashMap<ArcStr, Router>,
    links: HashMap<Uuid, Vec<Uuid>>,
}

#[derive(Debug)]
struct VirtualMachineSlim {
    agent: ArcStr,
    display_name: Option<ArcStr>,
    names: Names,
}

fn fields<const N: usize>(fields: [&str; N]) -> Detail {
    Detail::Fields(fields.map(str::to_owned).to_vec())
}

/// Hardly anything has more than one.
fn put<T>(all: &mut HashMap<Uuid, Vec<T>>, of: Uuid, one: T) {
    let those = all.entry(of).or_insert_with(|| Vec::with_capacity(1));
    those.push(one);
}

fn first(references: &[Ref]) -> Option<Uuid> {
    references.iter().find_map(|reference| reference.uuid)
}

impl Reading {
    pub(crate) fn new(defaults: &Defaults, page: u32) -> Self {
        Self {
            begun: Instant::now(),
            cluster: defaults.cluster.clone(),
            page,
            stage: Stage::FloatingIps,
            marker: None,
            texts: Interner::default(),
            names: HashSet::new(),
            networks: HashMap::new(),
            addresses: HashMap::new(),
            floating: HashMap::new(),
            owned: vec![],
            interfaces: HashMap::new(),
            known: HashSet::new(),
            machines: HashMap::new(),
            routers: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// Reads until everything is read. After an error, and if it is dropped, the same page is the
    /// next one.
    pub(crate) async fn go_on(&mut self, client: &VncClient) -> Result<(), VncError> {
        while self.stage != Stage::Done {
            let next = match self.stage {
                Stage::FloatingIps => {
                    let detail = fields([
                        "annotations",
                        "virtual_machine_interface_refs",
                        "floating_ip_address",
                    ]);
                    let take = |this: &mut Self, one: FloatingIp| this.floating_ip(&one);
                    self.turn(client, detail, take).await?
                }
                Stage::InstanceIps => {
                    let detail = fields([
                        "annotations",
                        "virtual_machine_interface_refs",
                        "instance_ip_address",
                    ]);
                    let take = |this: &mut Self, one: InstanceIp| this.instance_ip(&one);
                    self.turn(client, detail, take).await?
                }
                Stage::Interfaces => {
                    let detail = fields([
                        "annotations",
                        "virtual_machine_refs",
                        "security_group_refs",
                        "virtual_network_refs",
                    ]);
                    let take = |this: &mut Self, one: VirtualMachineInterface| this.interface(&one);
                    self.turn(client, detail, take).await?
                }
                Stage::Machines => {
                    let detail = fields(["annotations", "display_name"]);
                    let take = |this: &mut Self, one: VirtualMachine| this.machine(one);
                    self.turn(client, detail, take).await?
                }
                Stage::Routers => {
                    let detail = fields(["virtual_router_ip_address", "virtual_machine_refs"]);
                    let take = |this: &mut Self, one: VirtualRouter| this.router(&one);
                    self.turn(client, detail, take).await?
                }
                Stage::Done => return Ok(()),
            };
            self.marker = next;
            if self.marker.is_none() {
                self.stage = match self.stage {
                    Stage::FloatingIps => Stage::InstanceIps,
                    Stage::InstanceIps => Stage::Interfaces,
                    Stage::Interfaces => Stage::Machines,
                    Stage::Machines => Stage::Routers,
                    Stage::Routers | Stage::Done => Stage::Done,
                };
            }
        }
        Ok(())
    }

    async fn turn<T: Object>(
        &mut self,
        client: &VncClient,
        detail: Detail,
        take: impl Fn(&mut Self, T),
    ) -> Result<Option<String>, VncError> {
        let query = Query::new().detail(detail).page(self.page);
        let (objects, next) = client
            .list_page::<T>(&query, self.marker.as_deref())
            .await?;
        for object in objects {
            take(self, object);
        }
        Ok(next)
    }

    fn is_ours(&self, annotations: &KeyValues) -> bool {
        annotations.get("owner") == Some(OWNER) && annotations.get("cluster") == Some(&self.cluster)
    }

    fn name(&mut self, name: &FqName) -> Arc<FqName> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new = Arc::new(name.clone());
        self.names.insert(Arc::clone(&new));
        new
    }

    fn floating_ip(&mut self, one: &FloatingIp) {
        let Some(uuid) = one.common.uuid else { return };
        let interface = first(&one.virtual_machine_interface_refs);
        for owner in &one.virtual_machine_interface_refs {
            let reference = Ref {
                uuid: Some(uuid),
                ..Ref::to(one.common.fq_name.clone())
            };
            let Some(owner) = owner.uuid else { continue };
            let stands_for = if plan::is_ours(owner, &reference) {
                Some(uuid)
            } else {
                plan::adopted(owner, &one.common.annotations)
            };
            if let Some(stands_for) = stands_for {
                let given = (stands_for, one.floating_ip_address.0);
                put(&mut self.floating, owner, given);
            }
        }
        if self.is_ours(&one.common.annotations) {
            self.owned.push((Orphan::FloatingIp(uuid), interface));
        }
    }

    fn instance_ip(&mut self, one: &InstanceIp) {
        let Some(uuid) = one.common.uuid else { return };
        for owner in &one.virtual_machine_interface_refs {
            if let Some(owner) = owner.uuid {
                let given = (uuid, one.instance_ip_address.0);
                put(&mut self.addresses, owner, given);
            }
        }
        if self.is_ours(&one.common.annotations) {
            let interface = first(&one.virtual_machine_interface_refs);
            self.owned.push((Orphan::InstanceIp(uuid), interface));
        }
    }

    fn interface(&mut self, one: &VirtualMachineInterface) {
        let Some(uuid) = one.common.uuid else { return };
        self.known.insert(uuid);
        let annotations = &one.common.annotations;
        if !self.is_ours(annotations) {
            return;
        }
        let machine = first(&one.virtual_machine_refs);
        self.owned.push((Orphan::Interface(uuid), machine));
        let Some(machine) = machine else { return };
        let index = annotations
            .get("index")
            .and_then(|index| index.split('/').next()?.parse().ok());
        let network = annotations.get("network").map(|text| self.texts.get(text));
        let groups = one.security_group_refs.iter();
        let mut groups: Vec<_> = groups.map(|group| self.name(&group.to)).collect();
        groups.sort_unstable();
        let on = one.virtual_network_refs.first();
        let on = on.map(|on| (self.name(&on.to), on.uuid));
        if let Some((name, Some(uuid))) = &on {
            self.networks.insert(Arc::clone(name), *uuid);
        }
        let details = Details {
            network: on.map(|(name, _)| name),
            addresses: self.addresses.remove(&uuid).unwrap_or_default().into(),
            floating: self.floating.remove(&uuid).unwrap_or_default().into(),
        };
        let interface = Interface {
            uuid,
            index: index.unwrap_or(0),
            network,
            groups: groups.into(),
            floating: details.floating.iter().map(|(uuid, _)| *uuid).collect(),
            addresses: u16::try_from(details.addresses.len()).unwrap_or(u16::MAX),
            details,
        };
        put(&mut self.interfaces, machine, interface);
    }

    fn machine(&mut self, one: VirtualMachine) {
        let Some(uuid) = one.common.uuid else { return };
        self.known.insert(uuid);
        let annotations = &one.common.annotations;
        if !self.is_ours(annotations) {
            return;
        }
        let agent = self.texts.get(annotations.get("agent").unwrap_or_default());
        let names = Names::read(annotations, &mut |text| self.texts.get(text));
        let display_name = one.common.display_name.map(Into::into);
        let slim = VirtualMachineSlim {
            agent,
            display_name,
            names,
        };
        self.machines.insert(uuid, slim);
    }

    fn router(&mut self, one: &VirtualRouter) {
        let Some(uuid) = one.common.uuid else { return };
        for machine in one.virtual_machine_refs.iter().filter_map(|one| one.uuid) {
            put(&mut self.links, machine, uuid);
        }
        let router = Router {
            uuid,
            address: one.virtual_router_ip_address.0,
        };
        let name = self.texts.get(one.common.fq_name.name());
        self.routers.insert(name, router);
    }

    /// What was read, in place of what was read before.
    pub(crate) fn finish(mut self, old: &ContrailView, now: Instant) -> ContrailView {
        let mut machines: HashMap<Uuid, Box<Machine>> = self
            .machines
            .into_iter()
            .map(|(uuid, slim)| {
                let mut interfaces = self.interfaces.remove(&uuid).unwrap_or_default();
                interfaces.sort_by_key(|one| (one.index, one.uuid));
                let machine = Machine {
                    agent: slim.agent,
                    display_name: slim.display_name,
                    names: slim.names,
                    interfaces: interfaces.into(),
                    routers: self.links.remove(&uuid).unwrap_or_default().into(),
                    seen: old.machines.get(&uuid).map_or(now, |known| known.seen),
                };
                (uuid, Box::new(machine))
            })
            .collect();
        // What was looked at by itself meanwhile may have come after its page was read.
        for (uuid, machine) in &old.machines {
            if machine.seen >= self.begun {
                let known = machines.entry(*uuid);
                known.or_insert_with(|| machine.clone());
            }
        }
        let orphans = self.owned.into_iter();
        let orphans =
            orphans.filter(|(_, owner)| owner.is_none_or(|one| !self.known.contains(&one)));
        let orphans = orphans
            .map(|(orphan, _)| (orphan, old.orphans.get(&orphan).copied().unwrap_or(now)))
            .collect();
        let mut source = old.source.clone();
        let sizes = (old.machines.len(), machines.len());
        source.listed(now, sizes, true, std::time::Duration::ZERO);
        ContrailView {
            source,
            machines,
            routers: self.routers,
            networks: self.networks,
            orphans,
        }
    }
}

/// One container, as its objects say that were just read.
pub(crate) fn one(
    machine: &VirtualMachine,
    interfaces: &[VirtualMachineInterface],
    adopted: &[Adopted],
    seen: Instant,
) -> Machine {
    let annotations = &machine.common.annotations;
    let interfaces = interfaces.iter().filter_map(|one| {
        let uuid = one.common.uuid?;
        let annotations = &one.common.annotations;
        let index = annotations
            .get("index")
            .and_then(|index| index.split('/').next()?.parse().ok());
        let groups = one.security_group_refs.iter();
        let mut groups: Vec<_> = groups.map(|group| Arc::new(group.to.clone())).collect();
        groups.sort_unstable();
        let floating = one.floating_ip_back_refs.iter();
        let floating = floating.filter(|reference| plan::is_ours(uuid, reference));
        let floating = floating.filter_map(|one| one.uuid);
        let adopted = adopted.iter().filter(|one| one.interface == uuid);
        let floating: Box<[Uuid]> = floating.chain(adopted.map(|one| one.stands_for)).collect();
        let addresses = one.instance_ip_back_refs.iter();
        let details = Details {
            network: one
                .virtual_network_refs
                .first()
                .map(|on| Arc::new(on.to.clone())),
            addresses: addresses
                .filter_map(|one| Some((one.uuid?, None)))
                .collect(),
            floating: floating.iter().map(|uuid| (*uuid, None)).collect(),
        };
        Some(Interface {
            uuid,
            index: index.unwrap_or(0),
            network: annotations.get("network").map(Into::into),
            groups: groups.into(),
            floating,
            addresses: u16::try_from(one.instance_ip_back_refs.len()).unwrap_or(u16::MAX),
            details,
        })
    });
    let mut interfaces: Vec<_> = interfaces.collect();
    interfaces.sort_by_key(|one| (one.index, one.uuid));
    let routers = machine.virtual_router_back_refs.iter();
    Machine {
        agent: annotations.get("agent").unwrap_or_default().into(),
        display_name: machine.common.display_name.as_deref().map(Into::into),
        names: Names::read(annotations, &mut |text| text.into()),
        interfaces: interfaces.into(),
        routers: routers.filter_map(|one| one.uuid).collect(),
        seen,
    }
}
