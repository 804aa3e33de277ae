//! Compares a container with its desired state. Pure, and the only place that compares: the
//! reconciler and the dry run compare the cache, and every write compares the objects that it has
//! just read.

use std::fmt;

use uuid::Uuid;

use crate::desired::{DeleteReason, DesiredInterface, DesiredNames, DesiredState};
use crate::model::{CachedVm, Interface, annotation};
use crate::objects;
use crate::vnc::{KeyValues, PropertyUpdate, VirtualMachineInterface};

/// A container: its cache entry, and its interfaces' objects where they have just been read. What
/// only the objects hold is not compared without them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actual<'a> {
    pub vm: &'a CachedVm,
    pub objects: &'a [VirtualMachineInterface],
}

impl<'a> Actual<'a> {
    /// The cache entry alone.
    pub(crate) fn cached(vm: &'a CachedVm) -> Self {
        Self { vm, objects: &[] }
    }
}

/// A difference between a container and its desired state, and so one thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Set the display name and the annotations of the container and its interfaces.
    SetNames,
    /// Add the reference from this virtual-router.
    Link(Uuid),
    /// Remove the reference from this virtual-router: the container is on another host.
    Unlink(Uuid),
    /// Set the security groups of this interface.
    SetSecurityGroups(Uuid),
    /// Set the floating IPs of this interface.
    SetFloatingIps(Uuid),
    /// Set the annotations of this interface that a request determines.
    SetAnnotations(Uuid),
    /// Delete addresses of this interface that a request no longer asks for.
    DeleteAddresses(Uuid),
    /// Delete this interface, which a request no longer asks for.
    DeleteInterface(Uuid),
    /// Delete the container.
    Delete(DeleteReason),
    /// Delete this object, whose parent is gone.
    DeleteOrphan(String),
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetNames => formatter.write_str("set display name and annotations"),
            Self::Link(router) => write!(formatter, "link the virtual-router {router}"),
            Self::Unlink(router) => write!(
                formatter,
                "unlink the virtual-router {router} of another host"
            ),
            Self::SetSecurityGroups(interface) => {
                write!(formatter, "set the security groups of {interface}")
            }
            Self::SetFloatingIps(interface) => {
                write!(formatter, "set the floating IPs of {interface}")
            }
            Self::SetAnnotations(interface) => {
                write!(formatter, "set the annotations of {interface}")
            }
            Self::DeleteAddresses(interface) => {
                write!(formatter, "delete addresses of {interface}")
            }
            Self::DeleteInterface(interface) => {
                write!(formatter, "delete the interface {interface}")
            }
            Self::Delete(reason) => write!(formatter, "delete the container: {reason}"),
            Self::DeleteOrphan(object) => {
                write!(formatter, "delete the {object}: its parent is gone")
            }
        }
    }
}

/// What to write so that a container is in its desired state; empty where it is.
pub(crate) fn diff(actual: Actual<'_>, desired: &DesiredState) -> Vec<Change> {
    let Actual { vm, objects } = actual;
    let mut changes = vec![];
    if let Some(names) = &desired.names
        && (vm.identity != names.identity
            || vm.display_name.as_ref() != Some(&names.display_name)
            || vm.interfaces.iter().any(|interface| {
                object_of(interface, objects).is_some_and(|object| {
                    let (updates, display_name) = interface_names(object, names);
                    !updates.is_empty() || display_name.is_some()
                })
            }))
    {
        changes.push(Change::SetNames);
    }
    if let Some(router) = desired.router {
        diff_links(vm, router, desired, &mut changes);
    }
    for interface in &vm.interfaces {
        let object = object_of(interface, objects);
        let desired_interface = desired
            .interfaces
            .iter()
            .find(|desired| desired.uuid == interface.uuid);
        match desired_interface {
            Some(desired) => changes.extend(diff_interface(interface, object, desired)),
            None if desired.is_exhaustive => {
                changes.push(Change::DeleteInterface(interface.uuid));
            }
            None => {}
        }
    }
    changes
}

fn object_of<'a>(
    interface: &Interface,
    objects: &'a [VirtualMachineInterface],
) -> Option<&'a VirtualMachineInterface> {
    objects
        .iter()
        .find(|object| object.common.uuid == Some(interface.uuid))
}

/// A container is linked once it is complete. A request completes it before it is linked.
fn diff_links(vm: &CachedVm, router: Uuid, desired: &DesiredState, changes: &mut Vec<Change>) {
    let is_linked = vm.routers.contains(&router);
    let can_link = desired.is_exhaustive || vm.is_complete();
    if !is_linked && can_link {
        changes.push(Change::Link(router));
    }
    // A container leaves no host before it is linked to the right one.
    if is_linked || can_link {
        let others = vm.routers.iter().filter(|other| **other != router);
        changes.extend(others.map(|other| Change::Unlink(*other)));
    }
}

/// What to write so that an interface is as desired.
pub(crate) fn diff_interface(
    interface: &Interface,
    object: Option<&VirtualMachineInterface>,
    desired: &DesiredInterface,
) -> Vec<Change> {
    let uuid = interface.uuid;
    let mut changes = vec![];
    if let (Some(object), Some(port)) = (object, &desired.planned) {
        let is_on_network = object
            .virtual_network_refs
            .iter()
            .any(|network| network.uuid == Some(port.network.uuid));
        if !is_on_network {
            return vec![Change::DeleteInterface(uuid)];
        }
        if !contains(
            &object.common.annotations,
            &port.interface.common.annotations,
        ) {
            changes.push(Change::SetAnnotations(uuid));
        }
        let has_surplus_addresses = object
            .instance_ip_back_refs
            .iter()
            .filter(|reference| objects::is_created_for(uuid, reference))
            .any(|reference| !desired.wants_address(reference.uuid));
        if has_surplus_addresses {
            changes.push(Change::DeleteAddresses(uuid));
        }
    }
    let security_groups = interface.security_groups.iter().map(|group| &**group);
    if !security_groups.eq(desired.sorted_security_groups()) {
        changes.push(Change::SetSecurityGroups(uuid));
    }
    let mut actual_floating_ips = interface.floating_ips.to_vec();
    let mut desired_floating_ips: Vec<_> = desired.floating_ip_uuids().collect();
    actual_floating_ips.sort_unstable();
    desired_floating_ips.sort_unstable();
    if actual_floating_ips != desired_floating_ips {
        changes.push(Change::SetFloatingIps(uuid));
    }
    changes
}

fn contains(annotations: &KeyValues, subset: &KeyValues) -> bool {
    subset
        .0
        .iter()
        .all(|(key, value)| annotations.get(key) == Some(value))
}

/// The annotations to set, and the display name where it differs, so that an interface is named
/// after its task.
pub(crate) fn interface_names(
    interface: &VirtualMachineInterface,
    names: &DesiredNames,
) -> (Vec<PropertyUpdate>, Option<String>) {
    let annotations = &interface.common.annotations;
    // The vRouter agent does not escape these.
    let safe = names.identity.annotations().filter(|(key, value)| {
        [annotation::APPLICATION, annotation::TASK].contains(key) && objects::is_json_safe(value)
    });
    let updates = annotation_updates(annotations, safe);
    let name = annotations.get(annotation::INTERFACE).unwrap_or("eth?");
    let display_name = format!("{} {name}", names.display_name);
    let differs = interface.common.display_name.as_deref() != Some(&*display_name);
    (updates, differs.then_some(display_name))
}

/// The updates that set those of the wanted annotations that differ.
pub(crate) fn annotation_updates<'a>(
    annotations: &KeyValues,
    wanted: impl Iterator<Item = (&'static str, &'a str)>,
) -> Vec<PropertyUpdate> {
    wanted
        .filter(|(key, value)| annotations.get(key) != Some(value))
        .map(|(key, value)| PropertyUpdate::Set {
            field: "annotations".to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        })
        .collect()
}
