//! Requests that do not concern one type: names, references, keys, access rights.

use serde_json::{Map, Value, json};

use super::change;
use super::collections;
use super::db::{Db, names};
use super::hooks;
use super::list::ListQuery;
use super::python_repr::{self, pformat_names, truthy};
use super::request::Request;
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::schema;
use super::store::{Object, canonical};
use super::tags;

/// The methods of an action; none if there is no such action.
pub(crate) fn methods(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "fqname-to-id"
        | "id-to-fqname"
        | "ref-update"
        | "ref-relax-for-delete"
        | "prop-collection-update"
        | "useragent-kv"
        | "list-bulk-collection"
        | "set-tag"
        | "chown"
        | "chmod" => &["POST"],
        "prop-collection-get" | "obj-perms" => &["GET", "HEAD"],
        "aaa-mode" => &["GET", "HEAD", "PUT"],
        _ => return None,
    })
}

/// Handles an action.
pub(crate) fn handle(db: &mut Db, name: &str, request: &Request) -> Outcome<Reply> {
    match name {
        "fqname-to-id" => to_id(db, request.body()?),
        "id-to-fqname" => to_name(db, request.body()?),
        "ref-update" => ref_update(db, request.body()?),
        "ref-relax-for-delete" => relax(db, request.body()?),
        "prop-collection-update" => collections::update(db, request.body()?),
        "prop-collection-get" => collections::get(db, request),
        "useragent-kv" => useragent(db, request.body()?),
        "list-bulk-collection" => {
            ListQuery::from_body(request).map(|query| query.execute(db, &request.base))
        }
        "set-tag" => tags::set(db, request.body()?),
        "obj-perms" => Ok(Reply::Json(permissions(request))),
        "aaa-mode" => aaa_mode(db, request),
        _ => rights(db, name, request.body()?),
    }
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str)
}

fn to_id(db: &Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let kind = Db::kind(text(body, "type"))?;
    if !body.contains_key("fq_name") {
        return Err(ApiError::internal());
    }
    let name = names(body.get("fq_name"));
    match db.store.by_name(kind, &name) {
        Some(object) => Ok(Reply::Json(json!({ "uuid": object.uuid }))),
        None => fail(404, format!("Name {} not found", pformat_names(&name))),
    }
}

fn to_name(db: &Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let uuid = text(body, "uuid").ok_or_else(ApiError::internal)?;
    match db.store.find(uuid) {
        Some(object) => {
            let kind = &schema().kind(object.kind).name;
            Ok(Reply::Json(
                json!({"fq_name": object.fq_name, "type": kind}),
            ))
        }
        None => fail(404, format!("UUID {uuid} not found")),
    }
}

fn ref_update(db: &mut Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let kind = Db::kind(text(body, "type"))?;
    let target = text(body, "ref-type").ok_or_else(ApiError::internal)?;
    let target = Db::kind(Some(target))?;
    let (kind_name, target_name) = (&schema().kind(kind).name, &schema().kind(target).name);
    let shown = |name: &str| body.get(name).map_or("None".to_owned(), python_repr::str);
    let (uuid, operation) = (text(body, "uuid"), text(body, "operation"));
    let (Some(uuid), Some(operation)) = (uuid, operation) else {
        return fail(
            400,
            format!(
                "Bad Request: type/uuid/ref-type/operation is null: {kind_name}, {}, \
                 {target_name}, {}.",
                shown("uuid"),
                shown("operation")
            ),
        );
    };
    let operation = operation.to_uppercase();
    if !["ADD", "DELETE"].contains(&operation.as_str()) {
        return fail(
            400,
            format!("Bad Request: operation should be add or delete: {operation}"),
        );
    }
    let by_uuid = text(body, "ref-uuid").filter(|uuid| !uuid.is_empty());
    let by_name = names(body.get("ref-fq-name"));
    let to = match by_uuid {
        None if by_name.is_empty() => {
            return fail(
                400,
                "Bad Request: ref-uuid or ref-fq-name must be specified",
            );
        }
        None => match db.store.by_name(target, &by_name) {
            Some(object) => Some(object.clone()),
            None => {
                return fail(404, format!("Name {} not found", pformat_names(&by_name)));
            }
        },
        Some(uuid) => match db.store.find(uuid).cloned() {
            None if operation == "ADD" => return Err(ApiError::unknown_id(uuid)),
            found => found,
        },
    };
    let object = db
        .store
        .find_kind(kind, uuid)
        .cloned()
        .ok_or_else(|| ApiError::unknown_id(uuid))?;
    let field = format!("{}_refs", schema().kind(target).object);
    // A reference to a type that cannot be referred to is accepted and ignored.
    let known = schema().kind(kind).reference(&field);
    match (to.filter(|to| to.kind == target), known) {
        (Some(to), Some(known)) => {
            let attr = body.get("attr").cloned().unwrap_or_default();
            let add = operation == "ADD";
            if known.attr.is_none() && !hooks::cares_for_refs(kind) {
                // A virtual-router has too many references to copy them for each change.
                db.set_ref(object.uuid, to.uuid, add.then_some(attr));
                db.touch(object.uuid);
            } else {
                let mut body = Map::new();
                body.insert(field, ref_change(db, &object, &to, &attr, add));
                change::update(db, kind, uuid, body, "ref-update")?;
            }
        }
        _ => change::update(db, kind, uuid, Map::new(), "ref-update")?,
    }
    if let Some(to) = by_uuid.and_then(canonical)
        && body.get("relax_ref_for_delete").is_some_and(truthy)
    {
        db.store.relax(object.uuid, to);
    }
    Ok(Reply::Json(json!({ "uuid": uuid })))
}

/// An object's references with one added or removed.
fn ref_change(db: &Db, object: &Object, to: &Object, attr: &Value, add: bool) -> Value {
    let mut refs: Vec<Value> = db
        .store
        .targets(object, to.kind)
        .filter(|(target, _)| target.uuid != to.uuid)
        .map(|(target, attr)| json!({"to": target.fq_name, "uuid": target.uuid, "attr": attr}))
        .collect();
    if add {
        refs.push(json!({"to": to.fq_name, "uuid": to.uuid, "attr": attr}));
    }
    refs.into()
}

fn relax(db: &mut Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let shown = |name: &str| body.get(name).map_or("None".to_owned(), python_repr::str);
    let (Some(from), Some(to)) = (text(body, "uuid"), text(body, "ref-uuid")) else {
        return fail(
            400,
            format!(
                "Bad Request: Both uuid and ref-uuid should be specified: {}, {}.",
                shown("uuid"),
                shown("ref-uuid")
            ),
        );
    };
    let Some(object) = db.store.find(from).map(|object| object.uuid) else {
        return fail(404, format!("uuid {from} not found"));
    };
    if let Some(to) = canonical(to) {
        db.store.relax(object, to);
    }
    Ok(Reply::Json(json!({ "uuid": from })))
}

fn useragent(db: &mut Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let Some(operation) = body
        .get("operation")
        .filter(|operation| !operation.is_null())
    else {
        return fail(
            400,
            "Error: Key/value store API needs 'operation' parameter",
        );
    };
    let Some(key) = body.get("key") else {
        return fail(400, "Error: Key/value store API needs 'key' parameter");
    };
    let key = python_repr::str(key);
    match operation.as_str() {
        Some("STORE") => {
            let value = body.get("value").cloned().unwrap_or_else(|| "".into());
            db.useragent.insert(key, value);
            Ok(Reply::Done)
        }
        Some("RETRIEVE") => match db.useragent.get(&key) {
            Some(value) => Ok(Reply::Json(json!({ "value": value }))),
            None => fail(404, format!("Unknown User-Agent key {key}")),
        },
        Some("DELETE") => {
            db.useragent.remove(&key);
            Ok(Reply::Done)
        }
        _ => fail(
            404,
            format!("Invalid Operation {}", python_repr::str(operation)),
        ),
    }
}

/// The access rights of the user: all, if there is no authentication.
fn permissions(request: &Request) -> Value {
    match &request.identity {
        None => json!({
            "token_info": null, "is_cloud_admin_role": false,
            "is_global_read_only_role": false, "permissions": "RWX"
        }),
        Some(who) => json!({
            "token_info": who.token_info(), "is_cloud_admin_role": who.is_admin(),
            "is_global_read_only_role": false,
            "permissions": if who.is_admin() { "RWX" } else { "" }
        }),
    }
}

fn aaa_mode(db: &mut Db, request: &Request) -> Outcome<Reply> {
    if request.method == "PUT" {
        let mode = text(request.body()?, "aaa-mode").ok_or_else(ApiError::internal)?;
        if !["no-auth", "cloud-admin", "rbac"].contains(&mode) {
            return Err(ApiError::internal());
        }
        mode.clone_into(&mut db.aaa_mode);
    }
    Ok(Reply::Json(json!({ "aaa-mode": db.aaa_mode })))
}

/// `chown` and `chmod`.
fn rights(db: &mut Db, action: &str, body: &Map<String, Value>) -> Outcome<Reply> {
    let uuid = text(body, "uuid").and_then(canonical);
    let Some(object) = uuid.and_then(|uuid| db.store.get(uuid)).cloned() else {
        return fail(400, "Bad Request, invalid object id");
    };
    let mut perms = object.props.get("perms2").cloned().unwrap_or_default();
    let fields: &[&str] = match action {
        "chown" => &["owner"],
        _ => &["owner", "owner_access", "share", "global_access"],
    };
    for field in fields {
        if let Some(value) = body.get(*field) {
            perms[*field] = value.clone();
        }
    }
    let mut change = Map::new();
    change.insert("perms2".to_owned(), perms);
    change::update(db, object.kind, &object.uuid.to_string(), change, action)?;
    Ok(Reply::Json(json!({})))
}

/// `ip-alloc`, `ip-free` and `subnet-ip-count` of a network; none for any other action.
pub(crate) fn of_network(
    db: &mut Db,
    id: &str,
    action: &str,
    request: &Request,
) -> Option<Outcome<Reply>> {
    if !["ip-alloc", "ip-free", "subnet-ip-count"].contains(&action) {
        return None;
    }
    Some(network_action(db, id, action, request))
}

fn network_action(db: &mut Db, id: &str, action: &str, request: &Request) -> Outcome<Reply> {
    let Some(network) = db.store.find(id).cloned() else {
        return fail(404, format!("Virtual Network {id} not found!"));
    };
    let body = request.body()?;
    let items = |name: &str| names(body.get(name));
    match action {
        "ip-alloc" => {
            let count = body
                .get("count")
                .map_or(Some(1), Value::as_u64)
                .ok_or_else(ApiError::internal)?;
            let version = match text(body, "family") {
                None | Some("") => None,
                Some("v6") => Some(6),
                Some(_) => Some(4),
            };
            let mut addresses = Vec::new();
            for _ in 0..count {
                let subnet = text(body, "subnet").filter(|subnet| !subnet.is_empty());
                match hooks::allocate_for_network(db, &network, subnet, version) {
                    Ok(allocation) => addresses.push(allocation.address),
                    Err(problem) => return Err(problem.error(&network.fq_name)),
                }
            }
            Ok(Reply::Json(json!({ "ip_addr": addresses })))
        }
        "ip-free" => {
            for address in items("ip_addr") {
                hooks::release_for_network(db, &network, &address);
            }
            Ok(Reply::Done)
        }
        _ => {
            let subnets = items("subnet_list").into_iter();
            let counts: Vec<_> = subnets
                .map(|subnet| hooks::count(db, &network, &subnet))
                .collect();
            Ok(Reply::Json(json!({ "ip_count_list": counts })))
        }
    }
}
