//! Security groups, network policies and tags.

use ipnet::IpNet;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Body;
use crate::vnc::create::internal;
use crate::vnc::db::{Db, fq_name};
use crate::vnc::python_repr::{self, truthy};
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::store::Object;

/// Checks the rules in a field, and assigns each a uuid.
pub(super) fn rules(body: &mut Body, field: &str, policy: bool) -> Outcome<()> {
    let Some(rules) = body
        .get_mut(field)
        .and_then(|entries| entries.get_mut("policy_rule"))
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    let plain: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let mut rule = rule.clone();
            if let Some(fields) = rule.as_object_mut() {
                for name in ["rule_uuid", "created", "last_modified"] {
                    fields.shift_remove(name);
                }
            }
            rule
        })
        .collect();
    for (index, rule) in plain.iter().enumerate() {
        if plain[index + 1..].contains(rule) {
            let uuid = python_repr::str(&rules[index]["rule_uuid"]);
            return fail(409, format!("Rule already exists : {uuid}"));
        }
    }
    for rule in rules {
        check_rule(rule, policy)?;
    }
    Ok(())
}

fn check_rule(rule: &mut Value, policy: bool) -> Outcome<()> {
    let Some(fields) = rule.as_object_mut() else {
        return Err(ApiError::internal());
    };
    if !fields.get("rule_uuid").is_some_and(truthy) {
        fields.insert("rule_uuid".to_owned(), Uuid::new_v4().to_string().into());
    }
    let protocol = fields
        .get("protocol")
        .ok_or(ApiError::key_error("protocol"))?;
    let protocol = python_repr::str(protocol);
    let known = ["any", "icmp", "tcp", "udp", "icmp6"].contains(&protocol.as_str());
    if !known && protocol.parse::<u8>().is_err() {
        return fail(400, format!("Rule with invalid protocol : {protocol}"));
    }
    let addresses = || {
        ["src_addresses", "dst_addresses"]
            .into_iter()
            .filter_map(|side| rule[side].as_array())
            .flatten()
    };
    let groups = || {
        addresses()
            .map(|address| &address["security_group"])
            .filter(|group| !group.is_null())
    };
    if policy {
        if rule["action_list"].is_null() {
            return fail(400, "Action is required");
        }
        if groups().next().is_some() {
            return fail(
                400,
                "Config Error: policy rule refering to security group is not allowed",
            );
        }
        return Ok(());
    }
    if let Some(ethertype) = rule["ethertype"].as_str() {
        for subnet in addresses()
            .map(|address| &address["subnet"])
            .filter(|net| !net.is_null())
        {
            let (prefix, length) = (&subnet["ip_prefix"], &subnet["ip_prefix_len"]);
            let text = format!("{}/{}", python_repr::str(prefix), python_repr::str(length));
            let net: IpNet = text.parse().map_err(|_| ApiError::internal())?;
            let version = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            if ethertype != version {
                return fail(
                    400,
                    format!("Rule subnet {net} doesn't match ethertype {ethertype}"),
                );
            }
        }
    }
    if !groups().any(|group| group == "local") {
        return fail(
            400,
            "At least one of source or destination addresses must be 'local'",
        );
    }
    Ok(())
}

const GROUP_ID: &str = "security_group_id";

pub(super) fn group_before_create(body: &mut Body) -> Outcome<()> {
    rules(body, "security_group_entries", false)?;
    if body.get(GROUP_ID).is_some_and(|id| !id.is_null()) {
        return fail(403, "Cannot set the security group ID");
    }
    if !body.contains_key("parent_uuid") {
        return Err(ApiError::key_error("parent_uuid"));
    }
    Ok(())
}

pub(super) fn group_allocate(db: &mut Db, body: &mut Body) {
    let configured = body
        .get("configured_security_group_id")
        .filter(|id| truthy(id));
    let id = match configured {
        Some(id) => id.clone(),
        None => db.numbers.security_group(&fq_name(body).join(":")).into(),
    };
    body.insert(GROUP_ID.to_owned(), id);
}

pub(super) fn group_before_update(object: &Object, body: &mut Body) -> Outcome<()> {
    if let Some(id) = body.get(GROUP_ID).filter(|id| !id.is_null())
        && object.props.get(GROUP_ID) != Some(id)
    {
        return fail(403, "Cannot update the security group ID");
    }
    if let Some(id) = body
        .get("configured_security_group_id")
        .filter(|id| truthy(id))
    {
        body.insert(GROUP_ID.to_owned(), id.clone());
    }
    rules(body, "security_group_entries", false)
}

/// Derives a tag's name from its type and value.
pub(super) fn name_tag(body: &mut Body) -> Outcome<()> {
    let text = |name: &str| {
        body.get(name)
            .filter(|value| !value.is_null())
            .map(python_repr::str)
    };
    let (Some(kind), Some(value)) = (text("tag_type_name"), text("tag_value")) else {
        return fail(400, "Tag must be created with a type and a value");
    };
    let kind = kind.to_lowercase();
    let name = format!("{kind}={value}");
    body.insert("name".to_owned(), name.clone().into());
    if let Some(last) = body["fq_name"]
        .as_array_mut()
        .and_then(|name| name.last_mut())
    {
        *last = name.clone().into();
    }
    body.insert("display_name".to_owned(), name.into());
    body.insert("tag_type_name".to_owned(), kind.into());
    body.insert("tag_value".to_owned(), value.into());
    Ok(())
}

pub(super) fn tag_before_create(db: &mut Db, body: &mut Body) -> Outcome<()> {
    let given = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    if given("tag_id") {
        return fail(400, "Tag ID is not setable");
    }
    if given("tag_type_refs") {
        return fail(400, "Tag Type reference is not setable");
    }
    let kind = python_repr::str(&body["tag_type_name"]);
    let name = [kind.clone()];
    if db.store.named("tag-type", &name).is_none() {
        let number = db.numbers.tag_type(&kind);
        let id_perms = json!({"user_visible": false});
        let id = format!("0x{number:04x}");
        internal(
            db,
            "tag-type",
            json!({"fq_name": [kind], "tag_type_id": id, "id_perms": id_perms}),
        )?;
    }
    let found = db.store.named("tag-type", &name);
    let id = found
        .and_then(|found| found.text("tag_type_id"))
        .unwrap_or_default()
        .to_owned();
    let value = db
        .numbers
        .allocate(&format!("tag:{kind}"), &fq_name(body).join(":"), 0);
    body.insert("tag_id".to_owned(), format!("{id}{value:04x}").into());
    body.insert("tag_type_refs".to_owned(), json!([{"to": name}]));
    Ok(())
}

pub(super) fn tag_before_update(body: &Body) -> Outcome<()> {
    let given = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    if ["display_name", "tag_type_name", "tag_value", "tag_id"]
        .into_iter()
        .any(given)
    {
        return fail(400, "Tag name, type, value or ID cannot be updated");
    }
    if given("tag_type_refs") {
        return fail(400, "Tag-type reference cannot be updated");
    }
    Ok(())
}

/// Frees the tag's number, and deletes a user's tag type with its last tag.
pub(super) fn tag_after_delete(db: &mut Db, object: &Object) {
    let kind = object.text("tag_type_name").unwrap_or_default().to_owned();
    let id = object.text("tag_id").unwrap_or_default();
    if let Some(value) = id.len().checked_sub(4).and_then(|start| id.get(start..))
        && let Ok(value) = u64::from_str_radix(value, 16)
    {
        db.numbers.free(&format!("tag:{kind}"), value);
    }
    if crate::vnc::db::TAG_TYPES.contains(&kind.as_str()) {
        return;
    }
    let Some(of) = db.store.named("tag-type", &[kind]).cloned() else {
        return;
    };
    if db.store.all_referrers(of.uuid).next().is_none() {
        let id = of.text("tag_type_id").and_then(|id| id.strip_prefix("0x"));
        if let Some(number) = id.and_then(|id| u64::from_str_radix(id, 16).ok()) {
            db.numbers.free("tag-type", number);
        }
        db.remove(of.uuid);
    }
}
