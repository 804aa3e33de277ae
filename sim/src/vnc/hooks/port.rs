//! Virtual machine interfaces and instance IPs.

use std::net::IpAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Body;
use super::network::is_underlay;
use super::pool::{self, AddressRequest};
use crate::vnc::db::{Db, array, names};
use crate::vnc::python_repr::{self, truthy};
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::schema::schema;
use crate::vnc::store::{Object, Ref, canonical};

const MACS: &str = "virtual_machine_interface_mac_addresses";
const BINDINGS: &str = "virtual_machine_interface_bindings";
const PAIRS: &str = "virtual_machine_interface_allowed_address_pairs";

pub(super) fn interface_before_create(uuid: Uuid, body: &mut Body) -> Outcome<()> {
    let networks = array(body.get("virtual_network_refs"))?;
    if !body.contains_key("virtual_network_refs") {
        return Err(ApiError::key_error("virtual_network_refs"));
    }
    if networks.is_empty() {
        return fail(500, "IndexError: list index out of range");
    }
    let vlan = body
        .get("virtual_machine_interface_properties")
        .and_then(|properties| properties["sub_interface_vlan_tag"].as_i64())
        .unwrap_or_default();
    if !(0..=4094).contains(&vlan) {
        return fail(400, format!("Invalid sub-interface VLAN tag ID: {vlan}"));
    }
    let given = body
        .get(MACS)
        .map(|macs| &macs["mac_address"])
        .filter(|macs| truthy(macs));
    let macs: Vec<String> = match given.and_then(Value::as_array) {
        Some(macs) => macs
            .iter()
            .map(|mac| python_repr::str(mac).replace('-', ":"))
            .collect(),
        None => vec![mac(uuid)],
    };
    body.insert(MACS.to_owned(), json!({ "mac_address": macs }));
    if let Some(bindings) = body
        .get_mut(BINDINGS)
        .and_then(|b| b["key_value_pair"].as_array_mut())
    {
        if !bindings.iter().any(|binding| binding["key"] == "vnic_type") {
            bindings.push(json!({"key": "vnic_type", "value": "normal"}));
        }
        let normal =
            |binding: &Value| binding["key"] == "vnic_type" && binding["value"] == "normal";
        if bindings.iter().any(normal) {
            // The vRouter agent decides how an interface is plugged, unless it is a DPDK interface.
            bindings.retain(|binding| binding["key"] != "vif_type");
        }
    }
    check_pairs(body, None)
}

/// The MAC address of an interface that does not request one.
fn mac(uuid: Uuid) -> String {
    let id = uuid.simple().to_string();
    let parts = [0, 2, 4, 6, 8].map(|at| &id[at..at + 2]);
    format!("02:{}", parts.join(":"))
}

fn check_pairs(body: &Body, old: Option<&Object>) -> Outcome<()> {
    let field = |name: &str| {
        body.get(name)
            .or_else(|| old.and_then(|old| old.props.get(name)))
    };
    let pairs = field(PAIRS)
        .map(|pairs| &pairs["allowed_address_pair"])
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    for pair in pairs {
        let prefix = python_repr::str(&pair["ip"]["ip_prefix"]);
        if prefix.parse::<IpAddr>().is_err() {
            return fail(
                400,
                format!("failed to detect a valid IP address from '{prefix}'"),
            );
        }
    }
    if field("port_security_enabled") == Some(&Value::Bool(false)) && !pairs.is_empty() {
        return fail(
            400,
            "Allowed address pairs are not allowed when port security is disabled",
        );
    }
    Ok(())
}

/// Adds the interface to the routing instance of its network.
pub(super) fn interface_after_create(db: &mut Db, object: &Object) -> Outcome<()> {
    let (networks, instances) = (
        Db::kind(Some("virtual-network"))?,
        Db::kind(Some("routing-instance"))?,
    );
    let Some((network, _)) = db.store.targets(object, networks).next() else {
        return Ok(());
    };
    let mut name = network.fq_name.clone();
    name.push(network.name().to_owned());
    let Some(instance) = db.store.by_name(instances, &name) else {
        return Ok(());
    };
    let attr = json!({
        "direction": "both", "vlan_tag": null, "src_mac": null, "dst_mac": null,
        "mpls_label": null, "service_chain_address": null, "ipv6_service_chain_address": null,
        "protocol": null
    });
    let to = instance.uuid;
    db.set_refs(object.uuid, instances, vec![Ref { to, attr }]);
    db.touch(object.uuid);
    Ok(())
}

pub(super) fn interface_before_update(db: &Db, object: &Object, body: &mut Body) -> Outcome<()> {
    if body.get("virtual_machine_refs").is_some_and(truthy) {
        for instance in db
            .store
            .referrers(object.uuid, Db::kind(Some("instance-ip"))?)
        {
            let network = network_of(db, instance)?;
            let address = instance.text("instance_ip_address").unwrap_or_default();
            if network.is_some_and(|network| pool::is_gateway(db, network, address)) {
                return fail(400, "Gateway IP cannot be used by VM port");
            }
        }
    }
    let vlan = |value: Option<&Value>| {
        value
            .and_then(|value| value["sub_interface_vlan_tag"].as_i64())
            .unwrap_or_default()
    };
    let properties = "virtual_machine_interface_properties";
    if let Some(new) = body.get(properties) {
        let is_sub = db.store.targets(object, object.kind).next().is_some();
        if is_sub && vlan(Some(new)) != vlan(object.props.get(properties)) {
            return fail(400, "Cannot change sub-interface VLAN tag ID");
        }
    }
    if body.contains_key("port_security_enabled") || body.contains_key(PAIRS) {
        check_pairs(body, Some(object))?;
    }
    Ok(())
}

fn network_of<'a>(db: &'a Db, instance: &'a Object) -> Outcome<Option<&'a Object>> {
    let kind = Db::kind(Some("virtual-network"))?;
    let network = db.store.targets(instance, kind).next();
    Ok(network
        .map(|(network, _)| network)
        .filter(|network| !is_underlay(&network.fq_name)))
}

/// The virtual network in a body's references.
fn requested_network(db: &Db, body: &Body) -> Outcome<Option<Object>> {
    let refs = array(body.get("virtual_network_refs"))?;
    let Some(first) = refs.first() else {
        return Ok(None);
    };
    let to = first.get("to").ok_or(ApiError::key_error("to"))?;
    let network = db.store.named("virtual-network", &names(Some(to)));
    network.cloned().map(Some).ok_or_else(|| {
        let name = python_repr::names(&names(Some(to)));
        ApiError::new(
            500,
            format!("cfgm_common.exceptions.NoIdError: Unknown id: {name}"),
        )
    })
}

pub(super) fn instance_before_create(db: &Db, body: &mut Body) -> Outcome<()> {
    let has = |name: &str| body.get(name).is_some_and(truthy);
    if has("virtual_router_refs") && has("network_ipam_refs") {
        return fail(400, "virtual_router_refs and ipam_refs are not allowed");
    }
    if has("virtual_router_refs") && has("virtual_network_refs") {
        return fail(400, "router_refs and network_refs are not allowed");
    }
    if has("network_ipam_refs") && has("instance_ip_address") && !has("virtual_network_refs") {
        return fail(
            400,
            "allocation for requested IP from a network_ipam is not supported",
        );
    }
    if requested_network(db, body)?.is_none() && !has("network_ipam_refs") {
        // Python's message for joining the parts of a missing name.
        return fail(400, "can only join an iterable");
    }
    Ok(())
}

pub(super) fn instance_allocate(db: &mut Db, uuid: Uuid, body: &mut Body) -> Outcome<()> {
    let Some(network) = requested_network(db, body)? else {
        return ipam_allocate(db, uuid, body);
    };
    if is_underlay(&network.fq_name) {
        return Ok(());
    }
    let text = |name: &str| {
        let text = body.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let requested = text("instance_ip_address");
    let address = match &requested {
        None => None,
        Some(requested) => Some(requested.parse::<IpAddr>().map_err(|_| {
            let problem = format!("failed to detect a valid IP address from '{requested}'");
            ApiError::new(500, format!("netaddr.core.AddrFormatError: {problem}"))
        })?),
    };
    if let Some(address) = address
        && pool::is_unavailable(db, &network, address)?
    {
        if !pool::is_gateway(db, &network, &address.to_string()) {
            return fail(409, "IP address already in use");
        }
        if is_of_machine(db, body)? {
            return fail(400, "Gateway IP cannot be used by VM port");
        }
    }
    let version = match text("instance_ip_family").as_deref() {
        Some("v4") => Some(4),
        Some("v6") => Some(6),
        _ => None,
    };
    let subnet = text("subnet_uuid");
    let request = AddressRequest {
        address,
        subnet: subnet.as_deref(),
        version,
        mode: network.text("address_allocation_mode"),
    };
    let allocation = pool::allocate(db, &network, request, &uuid.to_string())
        .map_err(|problem| ApiError::new(400, problem.text(&network.fq_name)))?;
    body.insert(
        "instance_ip_address".to_owned(),
        allocation.address.map(|address| address.to_string()).into(),
    );
    body.insert("subnet_uuid".to_owned(), allocation.subnet_uuid.into());
    Ok(())
}

/// Allocates an address from an ipam, without a network.
fn ipam_allocate(db: &mut Db, uuid: Uuid, body: &mut Body) -> Outcome<()> {
    let refs = array(body.get("network_ipam_refs"))?;
    let to = refs.first().and_then(|first| first.get("to"));
    let ipam = db
        .store
        .named("network-ipam", &names(to))
        .map(|ipam| ipam.uuid);
    let mut subnets = ipam.map(|ipam| db.pools.of_mut(ipam)).into_iter().flatten();
    let address = subnets
        .find_map(|subnet| subnet.allocate(&uuid.to_string()))
        .map(|address| address.to_string());
    body.insert("instance_ip_address".to_owned(), address.into());
    Ok(())
}

/// Whether a body refers to an interface of a virtual machine. Like the real server, it fails for a
/// reference without a uuid.
fn is_of_machine(db: &Db, body: &Body) -> Outcome<bool> {
    let machines = Db::kind(Some("virtual-machine"))?;
    for interface in array(body.get("virtual_machine_interface_refs"))? {
        let uuid = interface.get("uuid").ok_or(ApiError::key_error("uuid"))?;
        let interface = uuid
            .as_str()
            .and_then(canonical)
            .and_then(|uuid| db.store.get(uuid));
        if interface.is_some_and(|interface| db.store.targets(interface, machines).next().is_some())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn instance_before_update(db: &Db, object: &Object, body: &mut Body) -> Outcome<()> {
    let Some(network) = network_of(db, object)? else {
        return Ok(());
    };
    let address = object.text("instance_ip_address").unwrap_or_default();
    if body
        .get("instance_ip_address")
        .is_some_and(|requested| truthy(requested) && requested != address)
    {
        return fail(400, "Instance IP Address can not be changed");
    }
    if pool::is_gateway(db, network, address) && is_of_machine(db, body)? {
        return fail(400, "Gateway IP cannot be used by VM port");
    }
    Ok(())
}

pub(super) fn instance_after_delete(db: &mut Db, object: &Object) {
    let Some(address) = object.text("instance_ip_address") else {
        return;
    };
    let holder = object.uuid.to_string();
    let target = |kind: &str| {
        let (target, _) = db.store.targets(object, schema().id(kind)?).next()?;
        Some(target.clone())
    };
    if let Some(network) = target("virtual-network") {
        pool::release(db, &network, address, Some(&holder));
    } else if let (Some(ipam), Ok(address)) = (target("network-ipam"), address.parse()) {
        for subnet in db.pools.of_mut(ipam.uuid) {
            subnet.free(address, Some(&holder));
        }
    }
}
