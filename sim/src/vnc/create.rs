//! `POST /<type>s`: creates an object from a request body, with the real server's order of checks.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::db::{Db, array, fq_name, names};
use super::hooks;
use super::python_repr::{self, pformat_names, truthy};
use super::render::href;
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::{KindId, schema};
use super::store::{Object, Ref, canonical};
use super::validate;

/// Creates an object for a request.
pub(crate) fn create(
    db: &mut Db,
    kind: KindId,
    mut body: Map<String, Value>,
    project: Option<&str>,
    base: &str,
) -> Outcome<Reply> {
    let uuid = prepare(db, kind, &mut body, project)?;
    let answer = finish(db, kind, uuid, body)?;
    Ok(Reply::Json(describe(db, kind, answer, base)))
}

/// Creates an object for the server itself, and returns its uuid.
pub(crate) fn internal(db: &mut Db, kind: &str, body: Value) -> Outcome<Uuid> {
    let kind = Db::kind(Some(kind))?;
    let Value::Object(mut body) = body else {
        return Err(ApiError::internal());
    };
    let uuid = prepare(db, kind, &mut body, None)?;
    Ok(finish(db, kind, uuid, body)?.0)
}

/// Runs all checks that precede the uuid of the object.
fn prepare(
    db: &Db,
    kind: KindId,
    body: &mut Map<String, Value>,
    project: Option<&str>,
) -> Outcome<Uuid> {
    let of = schema().kind(kind);
    if !body.get("fq_name").is_some_and(truthy) {
        return fail(400, "Bad Request, no fq_name in POST body");
    }
    if names(body.get("fq_name")).len() != body["fq_name"].as_array().map_or(0, Vec::len) {
        return Err(ApiError::internal());
    }
    check_name(body, of.is("route-target"))?;
    validate::body(of, body, "create")?;
    hooks::before_name(kind, body)?;
    let name = fq_name(body);
    if let Some(existing) = db.store.by_name(kind, &name) {
        return fail(
            409,
            format!(
                "{} already exists with uuid: {}",
                pformat_names(&name),
                existing.uuid
            ),
        );
    }
    check_parent(kind, body, &name)?;
    if !body.get("id_perms").is_some_and(Value::is_object) {
        body.insert("id_perms".to_owned(), Value::Null);
    }
    let requested = body["id_perms"].take();
    let mut perms = default_id_perms();
    for field in ["enable", "description", "user_visible", "creator"] {
        if let Some(value) = requested.get(field) {
            perms[field] = value.clone();
        }
    }
    body.insert("id_perms".to_owned(), perms);
    let owner = owner(db, kind, body, &name, project)?;
    let mut perms = default_perms2(&owner);
    if let Some(Value::Object(requested)) = body.get("perms2") {
        for (key, value) in requested.clone() {
            perms[key] = value;
        }
    }
    body.insert("perms2".to_owned(), perms);
    if body.get("display_name").is_none_or(Value::is_null) {
        let last = name.last().cloned().unwrap_or_default();
        body.insert("display_name".to_owned(), last.into());
    }
    let uuid = requested_uuid(db, body)?;
    place(db, body, &name)?;
    check_refs_exist(db, kind, body, "create")?;
    let uuid = uuid.unwrap_or_else(Uuid::new_v4);
    body.insert("uuid".to_owned(), uuid.to_string().into());
    Ok(uuid)
}

fn check_name(body: &Map<String, Value>, may_have_colons: bool) -> Outcome<()> {
    let name = fq_name(body);
    let last = name.last().map_or("", String::as_str);
    let illegal = |character: char| {
        (character.is_control()
            && !['\t', '\n', '\r'].contains(&character)
            && (character as u32) < 0x20)
            || (0x7f..=0x84).contains(&(character as u32))
            || (0x86..=0x9f).contains(&(character as u32))
            || [0xfffe, 0xffff].contains(&(character as u32 & 0xffff))
    };
    if last.contains(illegal) {
        return fail(400, "Bad Request, name has illegal xml characters");
    }
    if last.contains(':') && !may_have_colons {
        return fail(400, "Bad Request, name has one of invalid chars {':'}");
    }
    Ok(())
}

fn check_parent(kind: KindId, body: &Map<String, Value>, name: &[String]) -> Outcome<()> {
    let allowed = &schema().kind(kind).parents;
    let requested = body
        .get("parent_type")
        .filter(|requested| truthy(requested))
        .map(python_repr::str);
    let parent = match &requested {
        Some(parent) if !allowed.contains(parent) => {
            return fail(
                400,
                format!(
                    "Invalid parent type: {parent}. Allowed types: {}",
                    python_repr::names(allowed)
                ),
            );
        }
        Some(parent) => Some(parent),
        None if allowed.len() > 1 && !allowed.iter().any(|parent| parent == "config-root") => {
            return fail(
                400,
                format!(
                    "Missing parent type: None. Allowed types: {}",
                    python_repr::names(allowed)
                ),
            );
        }
        None if allowed.len() == 1 => allowed.first(),
        None => None,
    };
    match parent.map(String::as_str) {
        None | Some("config-root") if name.len() != 1 => fail(
            400,
            format!(
                "Invalid fq-name of an object with no parent: {}",
                python_repr::names(name)
            ),
        ),
        Some(parent) if parent != "config-root" && name.len() < 2 => fail(
            400,
            format!(
                "Invalid fq-name for object with parent_type {parent}: {}",
                python_repr::names(name)
            ),
        ),
        _ => Ok(()),
    }
}

/// The owner of a new object: that of its parent, the project of the client, or the administrator.
fn owner(
    db: &Db,
    kind: KindId,
    body: &Map<String, Value>,
    name: &[String],
    project: Option<&str>,
) -> Outcome<String> {
    let of = schema().kind(kind);
    if of.is("project")
        && let Some(uuid) = body.get("uuid").filter(|uuid| truthy(uuid))
    {
        return Ok(python_repr::str(uuid).replace('-', ""));
    }
    let asking = project.unwrap_or("cloud-admin").to_owned();
    let parent_name = &name[..name.len().saturating_sub(1)];
    if parent_name.is_empty() {
        return Ok(asking);
    }
    let parent = match body.get("parent_type").and_then(Value::as_str) {
        Some(parent) => parent,
        None if of.parents.len() == 1 => &of.parents[0],
        None => {
            return fail(
                400,
                format!(
                    "Ambiguous parent to ensure permissiosn of {}, please choose one parent \
                     type: {}",
                    of.object,
                    pformat_names(&of.parents)
                ),
            );
        }
    };
    if parent == "domain" {
        return Ok(asking);
    }
    let Some(parent) = db.store.named(parent, parent_name) else {
        return fail(404, format!("Name{} not found", pformat_names(parent_name)));
    };
    let owner = parent.props.get("perms2").map(|perms| &perms["owner"]);
    Ok(owner.map_or(asking, python_repr::str))
}

fn requested_uuid(db: &Db, body: &Map<String, Value>) -> Outcome<Option<Uuid>> {
    let Some(requested) = body.get("uuid").filter(|requested| truthy(requested)) else {
        return Ok(None);
    };
    let text = requested.as_str().ok_or_else(ApiError::internal)?;
    if Uuid::parse_str(text).is_err() {
        return Err(ApiError::internal());
    }
    let Some(uuid) = canonical(text) else {
        return fail(400, format!("Invalid UUID format: {text}"));
    };
    match db.store.get(uuid) {
        None => Ok(Some(uuid)),
        Some(existing) => fail(
            409,
            format!(
                "{uuid} already exists with fq_name: {}",
                pformat_names(&existing.fq_name)
            ),
        ),
    }
}

/// Finds the parent. An object without `parent_type` has no parent, whatever its name is.
fn place(db: &Db, body: &mut Map<String, Value>, name: &[String]) -> Outcome<()> {
    if body
        .get("parent_type")
        .is_some_and(|parent| parent == "config-root")
    {
        body.shift_remove("parent_type");
    }
    let Some(parent) = body.get("parent_type") else {
        return Ok(());
    };
    let parent_kind = Db::kind(parent.as_str())?;
    let parent_name = &name[..name.len().saturating_sub(1)];
    let Some(parent) = db.store.by_name(parent_kind, parent_name) else {
        return fail(
            400,
            format!(
                "Parent {} type {} does not exist",
                pformat_names(parent_name),
                schema().kind(parent_kind).name
            ),
        );
    };
    body.insert("parent_uuid".to_owned(), parent.uuid.to_string().into());
    Ok(())
}

/// Checks that every reference without a uuid names an existing object.
pub(crate) fn check_refs_exist(
    db: &Db,
    kind: KindId,
    body: &Map<String, Value>,
    when: &str,
) -> Outcome<()> {
    for field in &schema().kind(kind).refs {
        for reference in array(body.get(&field.name))? {
            let reference = reference.as_object().ok_or_else(ApiError::internal)?;
            if reference.contains_key("uuid") {
                continue;
            }
            let to = reference.get("to").ok_or_else(ApiError::internal)?;
            if db.store.by_name(field.kind, &names(Some(to))).is_none() {
                let shown = python_repr::repr(&Value::Object(body.clone()));
                let object = match when {
                    "create" => String::new(),
                    _ => format!("{} ", schema().kind(kind).object),
                };
                return fail(
                    400,
                    format!("Unknown reference in resource {when} {object}{shown}."),
                );
            }
        }
    }
    Ok(())
}

/// Resolves references by name. As in the real server, a uuid beside the name is ignored.
pub(crate) fn resolve(db: &Db, target: KindId, refs: &[Value]) -> Outcome<Vec<Ref>> {
    let mut resolved: Vec<Ref> = Vec::new();
    for reference in refs {
        let Some(to) = reference.get("to") else {
            return Err(ApiError::key_error("to"));
        };
        let name = names(Some(to));
        let Some(object) = db.store.by_name(target, &name) else {
            return fail(
                500,
                format!(
                    "cfgm_common.exceptions.NoIdError: Unknown id: {}",
                    python_repr::names(&name)
                ),
            );
        };
        let attr = reference.get("attr").cloned().unwrap_or_default();
        resolved.retain(|known| known.to != object.uuid);
        resolved.push(Ref {
            to: object.uuid,
            attr,
        });
    }
    Ok(resolved)
}

/// The stateful part: checks of the type, the object itself, and dependent objects.
fn finish(
    db: &mut Db,
    kind: KindId,
    uuid: Uuid,
    mut body: Map<String, Value>,
) -> Outcome<(Uuid, Map<String, Value>)> {
    hooks::before_create(db, kind, uuid, &mut body)?;
    let mut refs = Vec::new();
    for field in &schema().kind(kind).refs {
        refs.extend(resolve(db, field.kind, array(body.get(&field.name))?)?);
    }
    let parent = body
        .get("parent_uuid")
        .filter(|_| body.contains_key("parent_type"))
        .and_then(Value::as_str)
        .and_then(canonical);
    hooks::allocate(db, kind, uuid, &mut body)?;
    db.insert(kind, uuid, parent, &body, refs);
    hooks::after_create(db, uuid)?;
    Ok((uuid, body))
}

fn describe(db: &Db, kind: KindId, made: (Uuid, Map<String, Value>), base: &str) -> Value {
    let of = schema().kind(kind);
    let (uuid, body) = made;
    let name = fq_name(&body);
    let mut out = Map::new();
    out.insert("name".to_owned(), name.last().cloned().into());
    out.insert("fq_name".to_owned(), name.into());
    out.insert("uuid".to_owned(), uuid.to_string().into());
    out.insert("href".to_owned(), href(base, of, uuid).into());
    let parent = db.store.get(uuid).and_then(|object| object.parent);
    if let Some(parent) = parent.and_then(|parent| db.store.get(parent)) {
        let parent_kind = schema().kind(parent.kind);
        out.insert("parent_type".to_owned(), parent_kind.name.clone().into());
        out.insert("parent_uuid".to_owned(), parent.uuid.to_string().into());
        let parent_href = href(base, parent_kind, parent.uuid);
        out.insert("parent_href".to_owned(), parent_href.into());
    }
    json!({ of.name.clone(): out })
}

/// The default of `id_perms`.
pub(crate) fn default_id_perms() -> Value {
    json!({
        "permissions": {
            "owner": "cloud-admin", "owner_access": 7,
            "group": "cloud-admin-group", "group_access": 7, "other_access": 7
        },
        "uuid": null, "enable": true, "created": null, "last_modified": null,
        "description": null, "user_visible": true, "creator": null
    })
}

/// The default of `perms2`.
pub(crate) fn default_perms2(owner: &str) -> Value {
    json!({"owner": owner, "owner_access": 7, "global_access": 0, "share": []})
}

/// Whether this is a default object that the server creates with its parent.
pub(crate) fn is_default(object: &Object) -> bool {
    object.name() == format!("default-{}", schema().kind(object.kind).name)
}
