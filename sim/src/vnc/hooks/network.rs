//! Virtual networks and their own subnets.

use ipnet::IpNet;
use serde_json::{Value, json};
use uuid::Uuid;

use super::checks::{check_each, check_overlap, check_unused};
use super::{Body, ipam};
use crate::vnc::addresses::{Subnet, network};
use crate::vnc::create::internal;
use crate::vnc::db::{Db, array, fq_name, names};
use crate::vnc::python_repr;
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::schema::schema;
use crate::vnc::store::{Object, canonical};

/// Networks whose addresses the server does not manage.
pub(super) fn is_underlay(fq_name: &[String]) -> bool {
    fq_name == ["default-domain", "default-project", "ip-fabric"]
        || fq_name == ["default-domain", "default-project", "__link_local__"]
}

pub(super) fn before_create(db: &Db, body: &mut Body) -> Outcome<()> {
    if body["perms2"]["global_access"] == 7 {
        body.insert("is_shared".to_owned(), true.into());
    } else if body.get("is_shared").is_some_and(python_repr::truthy) {
        body["perms2"]["global_access"] = 7.into();
    }
    if body
        .get("virtual_network_network_id")
        .is_some_and(|id| !id.is_null())
    {
        return fail(403, "Cannot set the virtual network ID");
    }
    let named = fq_name(body);
    check_subnets(db, &named, body, None)?;
    // The server itself creates networks without a project.
    if !body.contains_key("parent_uuid") {
        return Err(ApiError::key_error("parent_uuid"));
    }
    Ok(())
}

/// Checks the subnets in a body's references to ipams, and completes them.
fn check_subnets(db: &Db, name: &[String], body: &mut Body, old: Option<&Object>) -> Outcome<()> {
    let mode = body
        .get("virtual_network_properties")
        .or_else(|| old.and_then(|old| old.props.get("virtual_network_properties")))
        .map(|properties| properties["forwarding_mode"].clone());
    let is_l3 = mode.is_some_and(|mode| mode == "l3");
    let not_l3 = || ApiError::new(400, "flat-subnet is allowed only with l3 network");
    let ipam_kind = Db::kind(Some("network-ipam"))?;
    if !body.contains_key("network_ipam_refs") {
        // The references stay, but must match the new properties.
        let flat = old.filter(|_| body.contains_key("virtual_network_properties"));
        let flat = flat.is_some_and(|old| {
            let mut ipams = db.store.targets(old, ipam_kind);
            ipams.any(|(ipam, _)| ipam.props.contains_key("ipam_subnet_method"))
        });
        return if flat && !is_l3 {
            Err(not_l3())
        } else {
            Ok(())
        };
    }
    let mut refs = array(body.get("network_ipam_refs"))?.to_vec();
    let (mut flat_nets, mut nets) = (Vec::new(), Vec::new());
    let mut any_flat = false;
    for reference in &mut refs {
        let by_uuid = reference.get("uuid").and_then(Value::as_str);
        let ipam = if let Some(uuid) = by_uuid.and_then(canonical) {
            db.store.get(uuid)
        } else {
            let to = reference.get("to").ok_or(ApiError::key_error("to"))?;
            db.store.by_name(ipam_kind, &names(Some(to)))
        };
        let ipam = ipam.ok_or_else(ApiError::internal)?;
        let Some(subnets) = reference["attr"]
            .get_mut("ipam_subnets")
            .and_then(Value::as_array_mut)
        else {
            return fail(500, "TypeError: 'NoneType' object is not subscriptable");
        };
        if ipam.text("ipam_subnet_method") == Some("flat-subnet") {
            any_flat = true;
            flat_nets.extend(ipam::nets(&ipam.props));
            if subnets
                .iter()
                .any(|subnet| subnet["subnet"].get("ip_prefix").is_some())
            {
                return fail(
                    400,
                    "with flat-subnet, network can not have user-defined subnet",
                );
            }
            if subnets.is_empty() {
                subnets.push(json!({}));
            }
        } else {
            check_each(subnets)?;
            nets.extend(
                subnets
                    .iter()
                    .filter_map(|subnet| network(subnet.get("subnet"))),
            );
        }
        for subnet in subnets.iter_mut().filter_map(Value::as_object_mut) {
            if !subnet.get("subnet_uuid").is_some_and(python_repr::truthy) {
                subnet.insert("subnet_uuid".to_owned(), Uuid::new_v4().to_string().into());
            }
        }
    }
    if any_flat && !is_l3 {
        return Err(not_l3());
    }
    flat_nets.append(&mut nets);
    check_overlap(&flat_nets)?;
    // Fills in gateways and service addresses.
    read(&mut refs, &name.join(":"))?;
    body.insert("network_ipam_refs".to_owned(), refs.into());
    Ok(())
}

/// The subnets in references to ipams that are not flat.
fn read(refs: &mut [Value], owner: &str) -> Outcome<Vec<Subnet>> {
    let mut subnets = Vec::new();
    for reference in refs {
        let list = reference["attr"]
            .get_mut("ipam_subnets")
            .and_then(Value::as_array_mut);
        for subnet in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            if subnet
                .get("subnet")
                .is_some_and(|subnet| subnet.get("ip_prefix").is_some())
            {
                let subnet = Subnet::read(subnet, owner);
                subnets.push(subnet.map_err(|problem| ApiError::new(500, problem))?);
            }
        }
    }
    Ok(subnets)
}

pub(super) fn allocate(db: &mut Db, uuid: Uuid, body: &mut Body) -> Outcome<()> {
    let name = fq_name(body).join(":");
    let mut refs = array(body.get("network_ipam_refs"))?.to_vec();
    let subnets = read(&mut refs, &name)?;
    db.pools.set(uuid, subnets);
    let number = db.numbers.network(&name);
    body.insert("virtual_network_network_id".to_owned(), number.into());
    Ok(())
}

/// Creates the network's own routing instance.
pub(super) fn after_create(db: &mut Db, object: &Object) -> Outcome<()> {
    let mut name = object.fq_name.clone();
    name.push(object.name().to_owned());
    let snat = object.props.get("fabric_snat") == Some(&Value::Bool(true));
    internal(
        db,
        "routing-instance",
        json!({
            "fq_name": name, "parent_type": "virtual-network",
            "routing_instance_is_default": true, "routing_instance_fabric_snat": snat,
            "routing_instance_has_pnf": false
        }),
    )
    .map(|_| ())
}

pub(super) fn before_update(db: &mut Db, object: &Object, body: &mut Body) -> Outcome<()> {
    if object.fq_name == ["default-domain", "default-project", "__link_local__"] {
        return Ok(());
    }
    if let Some(id) = body
        .get("virtual_network_network_id")
        .filter(|id| !id.is_null())
        && object.props.get("virtual_network_network_id") != Some(id)
    {
        return fail(403, "Cannot update the virtual network ID");
    }
    let requested = array(body.get("network_ipam_refs"))?.to_vec();
    check_subnets(db, &object.fq_name, body, Some(object))?;
    if !body.contains_key("network_ipam_refs") {
        return Ok(());
    }
    let mut refs = array(body.get("network_ipam_refs"))?.to_vec();
    let subnets = read(&mut refs, &object.fq_name.join(":"))?;
    let gone: Vec<IpNet> = db
        .pools
        .of(object.uuid)
        .iter()
        .map(|old| old.network)
        .filter(|old| !subnets.iter().any(|new| new.network == *old))
        .collect();
    check_unused(db, object, &gone)?;
    check_gateways(db, object, &requested)?;
    db.pools.set(object.uuid, subnets);
    Ok(())
}

/// Checks that gateways do not change. Like the real server, it only checks references with a uuid.
fn check_gateways(db: &Db, object: &Object, requested: &[Value]) -> Outcome<()> {
    let gateway = |subnet: &Value| {
        let text = subnet["default_gateway"].as_str().map(str::to_lowercase);
        text.filter(|text| text != "none")
    };
    let subnets = |attr: &Value| attr["ipam_subnets"].as_array().cloned().unwrap_or_default();
    for (ipam, attr) in db.store.targets(object, Db::kind(Some("network-ipam"))?) {
        let same = requested
            .iter()
            .filter(|reference| reference["uuid"] == ipam.uuid.to_string());
        for new in same.flat_map(|reference| subnets(&reference["attr"])) {
            let Some(net) = network(new.get("subnet")) else {
                continue;
            };
            let mut olds = subnets(attr).into_iter();
            let Some(old) = olds.find(|old| network(old.get("subnet")) == Some(net)) else {
                continue;
            };
            let mut plain = json!({
                "subnet": old["subnet"], "addr_from_start": old["addr_from_start"]
            });
            if let Some(fields) = plain.as_object_mut() {
                Subnet::read(fields, "").map_err(|problem| ApiError::new(500, problem))?;
            }
            let (old, new, usual) = (gateway(&old), gateway(&new), gateway(&plain));
            if old != new
                && (if new.is_none() {
                    old != usual
                } else {
                    new != usual
                })
            {
                let shown = |text: Option<String>| text.unwrap_or_else(|| "None".to_owned());
                return fail(
                    400,
                    format!(
                        "default gateway change is not allowed orig:{}, new: {}",
                        shown(old),
                        shown(new)
                    ),
                );
            }
        }
    }
    Ok(())
}

pub(super) fn before_delete(object: &Object) -> Outcome<()> {
    if is_underlay(&object.fq_name) {
        return fail(
            409,
            format!(
                "Can not delete system created default virtual-network {}",
                object.uuid
            ),
        );
    }
    Ok(())
}

pub(super) fn after_delete(db: &mut Db, object: &Object) {
    db.pools.remove(object.uuid);
    if let Some(number) = object
        .props
        .get("virtual_network_network_id")
        .and_then(Value::as_u64)
    {
        db.numbers.free("virtual-network", number);
    }
    let Some(kind) = schema().id("routing-instance") else {
        return;
    };
    let own: Vec<_> = db
        .store
        .of_kind(kind)
        .filter(|instance| instance.parent == Some(object.uuid))
        .map(|instance| instance.uuid)
        .collect();
    for uuid in own {
        let referrers: Vec<_> = db.store.all_referrers(uuid).map(|from| from.uuid).collect();
        for from in referrers {
            db.set_refs(from, kind, Vec::new());
        }
        db.remove(uuid);
    }
}
