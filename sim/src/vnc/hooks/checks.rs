//! Checks of subnets, whether they are of a network or of an ipam.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use uuid::Uuid;

use crate::vnc::addresses::network;
use crate::vnc::db::Db;
use crate::vnc::python_repr;
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::store::Object;

/// Checks each subnet by itself.
pub(super) fn check_each(subnets: &[Value]) -> Outcome<()> {
    for subnet in subnets {
        let Some(net) = network(subnet.get("subnet")) else {
            return Err(ApiError::key_error("subnet"));
        };
        if let Some(uuid) = subnet["subnet_uuid"]
            .as_str()
            .filter(|uuid| !uuid.is_empty())
            && Uuid::parse_str(uuid).is_err()
        {
            return fail(409, format!("Invalid subnet-uuid {uuid} in subnet:{net}"));
        }
        for pool in subnet["allocation_pools"].as_array().into_iter().flatten() {
            let text = |end: &str| python_repr::str(&pool[end]);
            let (start, end) = (text("start"), text("end"));
            let (Ok(first), Ok(last)) = (start.parse::<IpAddr>(), end.parse::<IpAddr>()) else {
                return fail(
                    409,
                    format!("Invalid allocation Pool start:{start}, end:{end} in subnet:{net}"),
                );
            };
            if !net.contains(&first) || !net.contains(&last) {
                return fail(
                    409,
                    format!("allocation pool start:{start}, end:{end} out of cidr:{net}"),
                );
            }
        }
        let given = |name: &str| {
            let text = subnet[name].as_str();
            text.filter(|text| !text.is_empty() && *text != "None")
                .map(str::to_owned)
        };
        if let Some(text) = given("default_gateway") {
            let Ok(gateway) = text.parse::<IpAddr>() else {
                return fail(409, format!("Invalid gateway Ip address:{text}"));
            };
            let inside =
                net.contains(&gateway) && gateway != net.network() && gateway != net.broadcast();
            if !gateway.is_unspecified() && !inside {
                return fail(409, format!("gateway Ip {text} out of cidr: {net}"));
            }
        }
        if let Some(text) = given("dns_server_address")
            && text.parse::<IpAddr>().is_err()
        {
            return fail(409, format!("Invalid Dns Server Ip address:{text}"));
        }
    }
    Ok(())
}

/// Checks that no two subnets overlap.
pub(super) fn check_overlap(nets: &[IpNet]) -> Outcome<()> {
    for (index, one) in nets.iter().enumerate() {
        for other in &nets[index + 1..] {
            if one.contains(other) || other.contains(one) {
                return fail(
                    400,
                    format!("Overlapping addresses: [IPNetwork('{one}'), IPNetwork('{other}')]"),
                );
            }
        }
    }
    Ok(())
}

/// Checks that no address of these subnets is in use in this network.
pub(super) fn check_unused(db: &Db, network: &Object, gone: &[IpNet]) -> Outcome<()> {
    let inside = |address: Option<&str>| {
        let address = address?.parse::<IpAddr>().ok()?;
        gone.iter()
            .any(|net| net.contains(&address))
            .then_some(address)
    };
    let kind = Db::kind(Some("instance-ip"))?;
    for instance in db.store.referrers(network.uuid, kind) {
        if let Some(address) = inside(instance.text("instance_ip_address")) {
            return fail(
                409,
                format!("Cannot Delete IP Block, IP({address}) is in use"),
            );
        }
    }
    let (pool, floating) = (
        Db::kind(Some("floating-ip-pool"))?,
        Db::kind(Some("floating-ip"))?,
    );
    for pool in db.store.children(network.uuid, pool) {
        for floating in db.store.children(pool.uuid, floating) {
            if let Some(address) = inside(floating.text("floating_ip_address")) {
                return fail(
                    409,
                    format!("Cannot Delete IP Block, Floating IP({address}) is in use"),
                );
            }
        }
    }
    Ok(())
}
