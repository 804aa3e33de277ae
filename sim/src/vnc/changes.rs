//! Changes, for followers that need the configuration of a virtual-router, as a vRouter agent does.
//!
//! A change names the virtual-routers that it concerns: those that refer to a virtual machine to
//! which the changed object belongs.

use std::collections::BTreeSet;

use serde::Serialize;
use uuid::Uuid;

use super::schema::schema;
use super::store::Store;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It was created.
    Create,
    /// Its properties or references changed.
    Update,
    /// It was deleted.
    Delete,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What happened.
    pub operation: Operation,
    /// The object's type, such as `virtual-machine-interface`.
    pub kind: String,
    /// The uuid of the object.
    pub uuid: Uuid,
    /// The name of the object.
    pub fq_name: Vec<String>,
    /// The virtual-routers that it concerns, as they were linked at that moment.
    pub virtual_routers: BTreeSet<Uuid>,
}

/// The links from a type to the virtual machines that it configures: through its referrers, or
/// through its targets.
const LINKS_TO_MACHINES: [(&str, LinkDirection, &str); 12] = [
    (
        "virtual-machine",
        LinkDirection::Referrers,
        "virtual-router",
    ),
    (
        "virtual-machine-interface",
        LinkDirection::Targets,
        "virtual-machine",
    ),
    (
        "instance-ip",
        LinkDirection::Targets,
        "virtual-machine-interface",
    ),
    (
        "floating-ip",
        LinkDirection::Targets,
        "virtual-machine-interface",
    ),
    (
        "virtual-network",
        LinkDirection::Referrers,
        "virtual-machine-interface",
    ),
    (
        "security-group",
        LinkDirection::Referrers,
        "virtual-machine-interface",
    ),
    (
        "routing-instance",
        LinkDirection::Referrers,
        "virtual-machine-interface",
    ),
    (
        "interface-route-table",
        LinkDirection::Referrers,
        "virtual-machine-interface",
    ),
    ("network-ipam", LinkDirection::Referrers, "virtual-network"),
    (
        "network-policy",
        LinkDirection::Referrers,
        "virtual-network",
    ),
    (
        "loadbalancer",
        LinkDirection::Targets,
        "virtual-machine-interface",
    ),
    ("tag", LinkDirection::Referrers, "virtual-machine-interface"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkDirection {
    Referrers,
    Targets,
}

/// The virtual-routers that an object concerns.
pub(crate) fn routers(store: &Store, uuid: Uuid) -> BTreeSet<Uuid> {
    let mut routers = BTreeSet::new();
    let mut visited = BTreeSet::new();
    let mut pending = vec![uuid];
    while let Some(uuid) = pending.pop() {
        let Some(object) = store.get(uuid).filter(|_| visited.insert(uuid)) else {
            continue;
        };
        if object.is("virtual-router") {
            routers.insert(uuid);
            continue;
        }
        for (from, direction, to) in LINKS_TO_MACHINES {
            let Some(to) = schema().id(to).filter(|_| object.is(from)) else {
                continue;
            };
            match direction {
                LinkDirection::Referrers => {
                    pending.extend(store.referrers(uuid, to).map(|next| next.uuid));
                }
                LinkDirection::Targets => {
                    pending.extend(store.targets(object, to).map(|(next, _)| next.uuid));
                }
            }
        }
    }
    routers
}
