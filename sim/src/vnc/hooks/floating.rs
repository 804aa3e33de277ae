//! Floating IPs and alias IPs.

use std::net::IpAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Body;
use super::pool::{self, Problem, Wish};
use crate::vnc::answer::{Outcome, Refusal, refuse};
use crate::vnc::db::{Db, array, fq_name, names};
use crate::vnc::store::Object;

pub(super) fn before_create(body: &mut Body) -> Outcome<()> {
    if body.get("parent_type").is_none() {
        return Err(Refusal::key_error("parent_type"));
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

pub(super) fn allocate(db: &mut Db, uuid: Uuid, body: &mut Body, sort: &str) -> Outcome<()> {
    if body["parent_type"] == "instance-ip" {
        return Ok(());
    }
    let name = fq_name(body);
    let pool_name = &name[..name.len().saturating_sub(1)];
    let network = &name[..name.len().saturating_sub(2)];
    let network = db.store.named("virtual-network", network).cloned();
    let network = network.ok_or_else(Refusal::internal)?;
    let field = format!("{sort}_ip_address");
    let asked = body
        .get(&field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    let address = match asked {
        None => None,
        Some(asked) => Some(asked.parse::<IpAddr>().map_err(|_| {
            Refusal::new(
                500,
                format!("failed to detect a valid IP address from '{asked}'"),
            )
        })?),
    };
    if let Some(address) = address
        && pool::is_taken(db, &network, address)?
    {
        return refuse(409, "IP address already in use");
    }
    let wanted = db
        .store
        .named(&format!("{sort}-ip-pool"), pool_name)
        .and_then(|pool| pool.props.get("floating_ip_pool_subnets"))
        .map(|subnets| names(subnets.get("subnet_uuid")))
        .unwrap_or_default();
    let any = Wish {
        address,
        subnet: None,
        version: Some(4),
    };
    let holder = uuid.to_string();
    let taken = if wanted.is_empty() {
        pool::take(db, &network, any, &holder)
    } else {
        let subnets = wanted.iter();
        subnets
            .filter(|subnet| pool::is_subnet(db, &network, subnet))
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .find_map(|subnet| {
                let subnet = Some(subnet.as_str());
                pool::take(db, &network, Wish { subnet, ..any }, &holder).ok()
            })
            .ok_or(Problem::Exhausted(wanted))
    };
    let taken = taken.map_err(|problem| Refusal::new(500, problem.text(&network.fq_name)))?;
    body.insert(field, taken.address.to_string().into());
    Ok(())
}

pub(super) fn after_delete(db: &mut Db, object: &Object, field: &str) {
    let network = object.fq_name.len().saturating_sub(2);
    let network = db
        .store
        .named("virtual-network", &object.fq_name[..network])
        .cloned();
    if let (Some(network), Some(address)) = (network, object.text(field)) {
        pool::give_back(db, &network, address, Some(&object.uuid.to_string()));
    }
}
