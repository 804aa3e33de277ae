//! What the server does beyond storing, by type: checks, addresses and dependent objects.
//!
//! Invariant: all checks precede all changes, so that nothing has to be undone.

mod checks;
mod dns;
mod floating;
mod ipam;
mod network;
mod policy;
mod pool;
mod port;
mod project;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::db::Db;
use super::response::Outcome;
use super::schema::{KindId, schema};
use super::store::Object;

pub(crate) use pool::{allocate_for_network, count, release_for_network};

/// A body, which hooks complete.
pub(crate) type Body = Map<String, Value>;

/// Sets the name of a new object.
pub(crate) fn before_name(kind: KindId, body: &mut Body) -> Outcome<()> {
    match schema().kind(kind).name.as_str() {
        "tag" => policy::name_tag(body),
        _ => Ok(()),
    }
}

/// Checks a new object and completes its body.
pub(crate) fn before_create(db: &mut Db, kind: KindId, uuid: Uuid, body: &mut Body) -> Outcome<()> {
    match schema().kind(kind).name.as_str() {
        "virtual-network" => network::before_create(db, body)?,
        "network-ipam" => ipam::before_create(body)?,
        "virtual-machine-interface" => port::interface_before_create(uuid, body)?,
        "instance-ip" => port::instance_before_create(db, body)?,
        "floating-ip" | "alias-ip" => floating::before_create(body)?,
        "security-group" => policy::group_before_create(body)?,
        "network-policy" => policy::rules(body, "network_policy_entries", true)?,
        "tag" => policy::tag_before_create(db, body)?,
        "virtual-DNS" => dns::server_before_create(db, body)?,
        "virtual-DNS-record" => dns::record(db, body)?,
        "global-system-config" => project::check_single(db, kind)?,
        _ => {}
    }
    project::check_quota(db, kind, body)
}

/// Allocates addresses and numbers. No check fails after this.
pub(crate) fn allocate(db: &mut Db, kind: KindId, uuid: Uuid, body: &mut Body) -> Outcome<()> {
    match schema().kind(kind).name.as_str() {
        "virtual-network" => network::allocate(db, uuid, body),
        "network-ipam" => ipam::allocate(db, uuid, body),
        "instance-ip" => port::instance_allocate(db, uuid, body),
        "floating-ip" => floating::allocate(db, uuid, body, "floating"),
        "alias-ip" => floating::allocate(db, uuid, body, "alias"),
        "security-group" => {
            policy::group_allocate(db, body);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Creates the dependent objects of a new object.
pub(crate) fn after_create(db: &mut Db, uuid: Uuid) -> Outcome<()> {
    let Some(object) = db.store.get(uuid).cloned() else {
        return Ok(());
    };
    match schema().kind(object.kind).name.as_str() {
        "virtual-network" => network::after_create(db, &object),
        "virtual-machine-interface" => port::interface_after_create(db, &object),
        "project" => project::after_create(db, &object),
        _ => Ok(()),
    }
}

/// Checks an update of an object and completes it.
pub(crate) fn before_update(db: &mut Db, object: &Object, body: &mut Body) -> Outcome<()> {
    match schema().kind(object.kind).name.as_str() {
        "virtual-network" => network::before_update(db, object, body),
        "network-ipam" => ipam::before_update(db, object, body),
        "virtual-machine-interface" => port::interface_before_update(db, object, body),
        "instance-ip" => port::instance_before_update(db, object, body),
        "security-group" => policy::group_before_update(object, body),
        "network-policy" => policy::rules(body, "network_policy_entries", true),
        "tag" => policy::tag_before_update(body),
        "virtual-DNS" => dns::server_before_update(db, body),
        "virtual-DNS-record" => dns::record(db, body),
        _ => Ok(()),
    }
}

/// Whether the update checks of a type depend on references.
pub(crate) fn cares_for_refs(kind: KindId) -> bool {
    [
        "virtual-network",
        "virtual-machine-interface",
        "instance-ip",
    ]
    .contains(&schema().kind(kind).name.as_str())
}

/// Checks the deletion of an object that has no referrers.
pub(crate) fn before_delete(db: &mut Db, object: &Object) -> Outcome<()> {
    match schema().kind(object.kind).name.as_str() {
        "virtual-network" => network::before_delete(object),
        "project" => project::before_delete(db, object),
        "virtual-DNS" => dns::server_before_delete(db, object.kind, object),
        _ => Ok(()),
    }
}

/// Frees addresses and numbers, and deletes dependent objects.
pub(crate) fn after_delete(db: &mut Db, object: &Object) {
    match schema().kind(object.kind).name.as_str() {
        "virtual-network" => network::after_delete(db, object),
        "network-ipam" => db.pools.remove(object.uuid),
        "instance-ip" => port::instance_after_delete(db, object),
        "floating-ip" => floating::after_delete(db, object, "floating_ip_address"),
        "alias-ip" => floating::after_delete(db, object, "alias_ip_address"),
        "security-group" => {
            if let Some(number) = object
                .props
                .get("security_group_id")
                .and_then(Value::as_u64)
            {
                db.numbers.free("security-group", number);
            }
        }
        "tag" => policy::tag_after_delete(db, object),
        _ => {}
    }
}
