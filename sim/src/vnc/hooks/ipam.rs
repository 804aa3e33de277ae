//! Ipams and their flat subnets, which several networks share.

use ipnet::IpNet;
use serde_json::Value;
use uuid::Uuid;

use super::Body;
use super::checks::{check_each, check_overlap, check_unused};
use crate::vnc::addresses::{Subnet, network};
use crate::vnc::db::{Db, fq_name};
use crate::vnc::python_repr;
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::store::Object;

/// The prefixes of an ipam's subnets.
pub(super) fn nets(props: &Body) -> Vec<IpNet> {
    let subnets = props
        .get("ipam_subnets")
        .map(|subnets| &subnets["subnets"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    subnets
        .filter_map(|subnet| network(subnet.get("subnet")))
        .collect()
}

pub(super) fn before_create(body: &mut Body) -> Outcome<()> {
    let flat = body
        .get("ipam_subnet_method")
        .is_some_and(|method| method == "flat-subnet");
    if !flat
        && body
            .get("ipam_subnets")
            .is_some_and(|subnets| !subnets.is_null())
    {
        return fail(400, "ipam-subnets are allowed only with flat-subnet");
    }
    if !flat && body.get("ipam_subnetting").is_some_and(python_repr::truthy) {
        return fail(400, "subnetting is allowed only with flat-subnet");
    }
    check(body)
}

fn check(body: &mut Body) -> Outcome<()> {
    check_overlap(&nets(body))?;
    let subnets = body
        .get("ipam_subnets")
        .and_then(|subnets| subnets["subnets"].as_array());
    check_each(subnets.map_or(&[], Vec::as_slice))?;
    read(body).map(|_| ())
}

fn read(body: &mut Body) -> Outcome<Vec<Subnet>> {
    let name = fq_name(body).join(":");
    let list = body
        .get_mut("ipam_subnets")
        .and_then(|subnets| subnets.get_mut("subnets"))
        .and_then(Value::as_array_mut);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .map(|subnet| Subnet::read(subnet, &name).map_err(|problem| ApiError::new(500, problem)))
        .collect()
}

pub(super) fn allocate(db: &mut Db, uuid: Uuid, body: &mut Body) -> Outcome<()> {
    let subnets = read(body)?;
    db.pools.set(uuid, subnets);
    Ok(())
}

pub(super) fn before_update(db: &mut Db, object: &Object, body: &mut Body) -> Outcome<()> {
    if let Some(method) = body.get("ipam_subnet_method")
        && object
            .props
            .get("ipam_subnet_method")
            .unwrap_or(&Value::Null)
            != method
    {
        return fail(400, "ipam_subnet_method can not be changed");
    }
    if !body.contains_key("ipam_subnets") {
        return Ok(());
    }
    if object.text("ipam_subnet_method") != Some("flat-subnet") {
        return fail(400, "ipam-subnets are allowed only with flat-subnet");
    }
    check(body)?;
    let new = nets(body);
    let mut gone = nets(&object.props);
    gone.retain(|old| !new.contains(old));
    let kind = Db::kind(Some("virtual-network"))?;
    let networks: Vec<_> = db.store.referrers(object.uuid, kind).cloned().collect();
    for network in networks {
        check_unused(db, &network, &gone)?;
    }
    allocate(db, object.uuid, body)
}
