//! `set-tag`: references to tags by type and value.

use serde_json::{Map, Value, json};

use super::change;
use super::db::Db;
use super::python_repr::{self, pformat_names};
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::schema;
use super::store::Object;

/// The only type of which an object can have several tags.
const MULTI_VALUE_TYPE: &str = "label";

/// Sets an object's tags.
pub(crate) fn set(db: &mut Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let text = |name: &str| {
        body.get(name)
            .filter(|value| !value.is_null())
            .map(python_repr::str)
    };
    let (Some(kind_name), Some(uuid)) = (text("obj_type"), text("obj_uuid")) else {
        return fail(400, "Object type and UUID must be specified");
    };
    let Some(kind) = schema().id(&kind_name) else {
        return fail(400, format!("Invalid Contrail resource type: {kind_name}"));
    };
    let object = db
        .store
        .find_kind(kind, &uuid)
        .cloned()
        .ok_or_else(|| ApiError::unknown_id(&uuid))?;
    let tag_kind = Db::kind(Some("tag"))?;
    let mut tags: Vec<Vec<String>> = db
        .store
        .targets(&object, tag_kind)
        .map(|(tag, _)| tag.fq_name.clone())
        .collect();
    let before = tags.clone();
    for (name, change) in body {
        if ["obj_type", "obj_uuid"].contains(&name.as_str()) {
            continue;
        }
        let tag_type = name.to_lowercase();
        if change.is_null() {
            tags.retain(|tag| !has_type(tag, &tag_type));
            continue;
        }
        let change = change.as_object().ok_or_else(ApiError::internal)?;
        set_type(db, &object, &tag_type, change, &mut tags)?;
    }
    if tags != before {
        let refs: Vec<_> = tags
            .iter()
            .map(|tag| json!({"to": tag, "attr": null}))
            .collect();
        let mut update = Map::new();
        update.insert("tag_refs".to_owned(), refs.into());
        change::update(db, kind, &uuid, update, "http_put")?;
    }
    Ok(Reply::Json(json!({})))
}

fn has_type(tag: &[String], tag_type: &str) -> bool {
    let parts = tag.last().and_then(|name| name.split_once('='));
    parts.is_some_and(|(of, _)| of == tag_type)
}

fn set_type(
    db: &Db,
    object: &Object,
    tag_type: &str,
    change: &Map<String, Value>,
    tags: &mut Vec<Vec<String>>,
) -> Outcome<()> {
    let global = change.get("is_global").is_some_and(python_repr::truthy);
    let values = |name: &str| super::db::names(change.get(name));
    let (mut add, delete) = (values("add_values"), values("delete_values"));
    let value = change
        .get("value")
        .filter(|value| !value.is_null() && !value.is_array())
        .map(python_repr::str);
    let is_that = |value: &String| {
        let name = format!("{tag_type}={value}");
        move |tag: &Vec<String>| tag.last() == Some(&name)
    };
    if tag_type == MULTI_VALUE_TYPE {
        add.extend(value);
        for value in &add {
            if !tags.iter().any(is_that(value)) {
                tags.push(locate(db, object, tag_type, value, global)?);
            }
        }
        for value in &delete {
            tags.retain(|tag| !is_that(value)(tag));
        }
        return Ok(());
    }
    if !add.is_empty() || !delete.is_empty() {
        return fail(
            400,
            format!("Tag type {tag_type} cannot be set multiple times on a same object."),
        );
    }
    let Some(value) = value else {
        return fail(
            400,
            format!("No valid value provided for tag type {tag_type}"),
        );
    };
    if !tags.iter().any(is_that(&value)) {
        tags.retain(|tag| !has_type(tag, tag_type));
        tags.push(locate(db, object, tag_type, &value, global)?);
    }
    Ok(())
}

/// Finds a global tag, or one of the object's project.
fn locate(
    db: &Db,
    object: &Object,
    tag_type: &str,
    value: &str,
    global: bool,
) -> Outcome<Vec<String>> {
    let name = format!("{tag_type}={value}");
    let in_project = object
        .parent
        .and_then(|parent| db.store.get(parent))
        .is_some_and(|parent| parent.is("project"));
    let mut fq_name = if global {
        Vec::new()
    } else if object.is("project") {
        object.fq_name.clone()
    } else if in_project {
        object.parent_name().to_vec()
    } else {
        return fail(
            404,
            format!("Not able to determine the scope of the tag '{name}'"),
        );
    };
    fq_name.push(name);
    if db.store.named("tag", &fq_name).is_none() {
        return fail(
            404,
            format!("Tag with FQName {} not found", pformat_names(&fq_name)),
        );
    }
    Ok(fq_name)
}
