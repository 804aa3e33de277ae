//! `PUT` and `DELETE` of an object, in the real server's order of checks.

use serde_json::{Map, Value, json};

use super::create::{check_refs_exist, is_default};
use super::db::{Db, array, names, normal};
use super::hooks;
use super::python_repr::{self, truthy};
use super::render::href;
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::{KindId, schema};
use super::store::{Object, Ref, canonical};
use super::validate;

/// Updates the fields that a body names; `when` is the name of the operation in error messages.
pub(crate) fn update(
    db: &mut Db,
    kind: KindId,
    uuid: &str,
    mut body: Map<String, Value>,
    when: &str,
) -> Outcome<()> {
    if body
        .get("perms2")
        .is_some_and(|perms| perms.get("owner").is_none())
    {
        return fail(400, "owner in perms2 must be present");
    }
    let object = db
        .store
        .find_kind(kind, uuid)
        .cloned()
        .ok_or_else(|| ApiError::unknown_id(uuid))?;
    validate::body(schema().kind(kind), &mut body, when)?;
    id_perms(&object, &mut body);
    check_refs_exist(db, kind, &body, "update")?;
    check_nulls(kind, &body)?;
    // A body whose references cannot be resolved must not take addresses from pools.
    resolve(db, kind, &body)?;
    hooks::before_update(db, &object, &mut body)?;
    let refs = resolve(db, kind, &body)?;
    apply(db, &object, &body);
    for (target, refs) in refs {
        db.set_refs(object.uuid, target, refs);
    }
    db.touch(object.uuid);
    Ok(())
}

/// The response to a `PUT`.
pub(crate) fn updated(kind: KindId, uuid: &str, base: &str) -> Reply {
    let kind = schema().kind(kind);
    let href = canonical(uuid).map(|uuid| href(base, kind, uuid));
    Reply::Json(json!({ kind.name.clone(): {"uuid": uuid, "href": href} }))
}

/// Clients can change only a few fields of `id_perms`.
fn id_perms(object: &Object, body: &mut Map<String, Value>) {
    let Some(requested) = body.shift_remove("id_perms").filter(Value::is_object) else {
        return;
    };
    let mut perms = object.props.get("id_perms").cloned().unwrap_or_default();
    for field in ["enable", "description"] {
        if let Some(value) = requested.get(field) {
            perms[field] = value.clone();
        }
    }
    body.insert("id_perms".to_owned(), perms);
}

/// Unlike in a new object, a reference may have only a uuid here.
fn resolve(db: &Db, kind: KindId, body: &Map<String, Value>) -> Outcome<Vec<(KindId, Vec<Ref>)>> {
    let mut resolved = Vec::new();
    for field in &schema().kind(kind).refs {
        if !body.contains_key(&field.name) {
            continue;
        }
        let mut refs: Vec<Ref> = Vec::new();
        for reference in array(body.get(&field.name))? {
            let target = match reference.get("uuid").map(python_repr::str) {
                Some(uuid) => db.store.find_kind(field.kind, &uuid),
                None => db.store.by_name(field.kind, &names(reference.get("to"))),
            };
            // The real server keeps a reference to nothing, which clients then cannot read.
            let Some(to) = target.map(|target| target.uuid) else {
                continue;
            };
            let attr = reference.get("attr").cloned().unwrap_or_default();
            refs.retain(|known| known.to != to);
            refs.push(Ref { to, attr });
        }
        resolved.push((field.kind, refs));
    }
    Ok(resolved)
}

fn check_nulls(kind: KindId, body: &Map<String, Value>) -> Outcome<()> {
    let mut collections = schema().kind(kind).props.iter();
    if collections
        .any(|prop| prop.collection.is_some() && body.get(&prop.name).is_some_and(Value::is_null))
    {
        return fail(500, "TypeError: 'NoneType' object is not iterable");
    }
    Ok(())
}

fn apply(db: &mut Db, object: &Object, body: &Map<String, Value>) {
    let Some(stored) = db.store.get_mut(object.uuid) else {
        return;
    };
    for prop in &schema().kind(object.kind).props {
        let Some(value) = body.get(&prop.name) else {
            continue;
        };
        // A null removes a value, and is stored where there was none.
        let had = stored.props.shift_remove(&prop.name).is_some();
        if let Some(value) = normal(prop, value.clone())
            && !(had && value.is_null())
        {
            stored.props.insert(prop.name.clone(), value);
        }
    }
}

/// Deletes an object that has neither referrers nor children.
pub(crate) fn delete(db: &mut Db, kind: KindId, uuid: &str, base: &str) -> Outcome<Reply> {
    let of = schema().kind(kind);
    let Some(object) = db.store.find(uuid).cloned() else {
        return fail(404, format!("ID {uuid} does not exist"));
    };
    if object.kind != kind {
        return fail(404, format!("No {} object found for id {uuid}", of.name));
    }
    for child in of.children.iter().filter(|child| !child.derived) {
        let children = db.store.children(object.uuid, child.kind);
        let present: Vec<_> = children
            .filter(|child| !is_default(child) && child.name() != "draft-policy-management")
            .map(|child| href(base, schema().kind(child.kind), child.uuid))
            .collect();
        if !present.is_empty() {
            let present = python_repr::names(&present);
            return fail(
                409,
                format!("Delete when children still present: {present}"),
            );
        }
    }
    for referrer in of.referrers.iter().filter(|referrer| !referrer.derived) {
        let referrers = db.store.referrers(object.uuid, referrer.kind);
        let present: Vec<_> = referrers
            .filter(|from| !db.store.is_relaxed(from.uuid, object.uuid))
            // Default references of a project are deleted with the project.
            .map(|from| href(base, schema().kind(from.kind), from.uuid))
            .collect();
        if !present.is_empty() {
            let present = python_repr::names(&present);
            return fail(
                409,
                format!("Delete when resource still referred: {present}"),
            );
        }
    }
    hooks::before_delete(db, &object)?;
    drop_relaxed(db, &object);
    let children: Vec<_> = of
        .children
        .iter()
        .flat_map(|child| db.store.children(object.uuid, child.kind))
        .filter(|child| is_default(child))
        .map(|child| (child.kind, child.uuid.to_string()))
        .collect();
    for (kind, uuid) in children {
        // A default child that is still in use stays, without a parent.
        let _ = delete(db, kind, &uuid, base);
    }
    let Some(object) = db.remove(object.uuid) else {
        return Ok(Reply::Done);
    };
    hooks::after_delete(db, &object);
    Ok(Reply::Done)
}

/// References that were relaxed are deleted with their target.
fn drop_relaxed(db: &mut Db, object: &Object) {
    let from: Vec<_> = db.store.all_referrers(object.uuid).cloned().collect();
    for referrer in from {
        let refs = db.store.targets(&referrer, object.kind);
        let kept = refs
            .filter(|(target, _)| target.uuid != object.uuid)
            .map(|(target, attr)| Ref {
                to: target.uuid,
                attr: attr.clone(),
            })
            .collect();
        db.set_refs(referrer.uuid, object.kind, kept);
    }
}

/// A body as an object.
pub(crate) fn object_of(value: Option<Value>) -> Outcome<Map<String, Value>> {
    match value {
        Some(Value::Object(object)) => Ok(object),
        Some(value) if !truthy(&value) => Ok(Map::new()),
        _ => Err(ApiError::internal()),
    }
}
