//! Projects: their default objects and their quotas.

use serde_json::{Value, json};

use super::Body;
use crate::vnc::create::internal;
use crate::vnc::db::{Db, names};
use crate::vnc::response::{Outcome, fail};
use crate::vnc::schema::{KindId, schema};
use crate::vnc::store::{Object, Ref, canonical};

const DEFAULT_POLICY_SET: &str = "default-application-policy-set";

fn default_policy_set(object: &Object) -> Vec<String> {
    let mut name = object.fq_name.clone();
    name.push(DEFAULT_POLICY_SET.to_owned());
    name
}

pub(super) fn after_create(db: &mut Db, object: &Object) -> Outcome<()> {
    let body = json!({
        "fq_name": default_policy_set(object), "parent_type": "project", "all_applications": true
    });
    let to = internal(db, "application-policy-set", body)?;
    let kind = Db::kind(Some("application-policy-set"))?;
    let attr = Value::Null;
    db.set_refs(object.uuid, kind, vec![Ref { to, attr }]);
    db.touch(object.uuid);
    Ok(())
}

pub(super) fn before_delete(db: &mut Db, object: &Object) -> Outcome<()> {
    let kind = Db::kind(Some("application-policy-set"))?;
    let set = db.store.by_name(kind, &default_policy_set(object));
    if let Some(uuid) = set.map(|set| set.uuid) {
        db.set_refs(object.uuid, kind, Vec::new());
        db.remove(uuid);
    }
    Ok(())
}

/// Checks that there is no other object of this type.
pub(super) fn check_single(db: &Db, kind: KindId) -> Outcome<()> {
    match db.store.of_kind(kind).next() {
        None => Ok(()),
        Some(existing) => fail(
            400,
            format!(
                "Global System Config already exists with name {} ({})",
                existing.name(),
                existing.uuid
            ),
        ),
    }
}

/// Checks the quota of the project.
pub(super) fn check_quota(db: &Db, kind: KindId, body: &Body) -> Outcome<()> {
    let object = &schema().kind(kind).object;
    let known = schema().complex("QuotaType").unwrap_or_default();
    let projects = Db::kind(Some("project"))?;
    let by_ref = body
        .get("project_refs")
        .map(|refs| names(refs[0].get("to")));
    let project = match by_ref {
        Some(name) => db.store.by_name(projects, &name),
        None => body
            .get("parent_uuid")
            .and_then(Value::as_str)
            .and_then(canonical)
            .and_then(|uuid| db.store.get(uuid))
            .filter(|parent| parent.kind == projects),
    };
    let Some(project) = project.filter(|_| known.iter().any(|field| field.name == *object)) else {
        return Ok(());
    };
    let Some(limit) = project
        .props
        .get("quota")
        .and_then(|quota| quota[object].as_i64())
    else {
        return Ok(());
    };
    let have = db.store.children(project.uuid, kind).count()
        + db.store.referrers(project.uuid, kind).count();
    if limit >= 0 && i64::try_from(have).is_ok_and(|have| have >= limit) {
        return fail(
            412,
            format!("quota limit ({limit}) exceeded for resource {object}"),
        );
    }
    Ok(())
}
