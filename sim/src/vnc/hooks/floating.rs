//! Floating IPs and alias IPs.

use std::net::IpAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Body;
use super::pool::{self, AddressRequest, AllocationError};
use crate::vnc::db::{Db, array, fq_name, names};
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::store::Object;

pub(super) fn before_create(body: &mut Body) -> Outcome<()> {
    if body.get("parent_type").is_none() {
        return Err(ApiError::key_error("parent_type"));
    }
    if body["parent_type"] != "instance-ip" && array(body.get("project_refs"))?.is_empty() {
        let project: Vec<_> = fq_name(body).into_iter().take(2).collect();
        body.insert(
            "project_refs".to_owned(),
            json!([{"to": project, "attr": null}]),
        );
    }
    Ok(())
}

pub(super) fn allocate(db: &mut Db, uuid: Uuid, body: &mut Body, kind: &str) -> Outcome<()> {
    if body["parent_type"] == "instance-ip" {
        return Ok(());
    }
    let name = fq_name(body);
    let pool_name = &name[..name.len().saturating_sub(1)];
    let network = &name[..name.len().saturating_sub(2)];
    let network = db
        .store
        .named("virtual-network", network)
        .cloned()
        .ok_or_else(ApiError::internal)?;
    let field = format!("{kind}_ip_address");
    let requested = body
        .get(&field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    let address = match requested {
        None => None,
        Some(requested) => Some(requested.parse::<IpAddr>().map_err(|_| {
            ApiError::new(
                500,
                format!("failed to detect a valid IP address from '{requested}'"),
            )
        })?),
    };
    if let Some(address) = address
        && pool::is_unavailable(db, &network, address)?
    {
        return fail(409, "IP address already in use");
    }
    let wanted = db
        .store
        .named(&format!("{kind}-ip-pool"), pool_name)
        .and_then(|pool| pool.props.get("floating_ip_pool_subnets"))
        .map(|subnets| names(subnets.get("subnet_uuid")))
        .unwrap_or_default();
    let any = AddressRequest {
        address,
        version: Some(4),
        ..AddressRequest::default()
    };
    let address = allocate_address(db, &network, any, wanted, &uuid.to_string())
        .map_err(|problem| ApiError::new(500, problem.text(&network.fq_name)))?;
    body.insert(field, address.map(|address| address.to_string()).into());
    Ok(())
}

/// Allocates an address of these subnets, or of any if there are none. Like the real server, it
/// goes on after a subnet that has given an address, and the last one decides.
fn allocate_address(
    db: &mut Db,
    network: &Object,
    any: AddressRequest<'_>,
    subnets: Vec<String>,
    holder: &str,
) -> Result<Option<IpAddr>, AllocationError> {
    if subnets.is_empty() {
        return Ok(pool::allocate(db, network, any, holder)?.address);
    }
    let mut address = None;
    for subnet in &subnets {
        let subnet = Some(subnet.as_str());
        match pool::allocate(db, network, AddressRequest { subnet, ..any }, holder) {
            Ok(allocation) => address = allocation.address,
            Err(AllocationError::Exhausted(_)) => {}
            Err(problem) => return Err(problem),
        }
    }
    match address {
        None => Err(AllocationError::Exhausted(subnets)),
        address => Ok(address),
    }
}

pub(super) fn after_delete(db: &mut Db, object: &Object, field: &str) {
    let network = object.fq_name.len().saturating_sub(2);
    let network = db
        .store
        .named("virtual-network", &object.fq_name[..network])
        .cloned();
    if let (Some(network), Some(address)) = (network, object.text(field)) {
        pool::release(db, &network, address, Some(&object.uuid.to_string()));
    }
}
