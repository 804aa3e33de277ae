//! `set-tag`: references to tags by type and value.

use serde_json::{Map, Value, json};

use super::answer::{Outcome, Refusal, Reply, refuse};
use super::change;
use super::db::Db;
use super::python_repr::{self, pformat_names};
use super::schema::schema;
use super::store::Object;

/// The only type of which an object can have several tags.
const MANY: &str = "label";

/// Sets an object's tags.
pub(crate) fn set(db: &mut Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let text = |name: &str| {
        body.get(name)
            .filter(|value| !value.is_null())
            .map(python_repr::str)
    };
    let (Some(kind_name), Some(uuid)) = (text("obj_type"), text("obj_uuid")) else {
        return refuse(400, "Object type and UUID must be specified");
    };
    let Some(kind) = schema().id(&kind_name) else {
        return refuse(400, format!("Invalid Contrail resource type: {kind_name}"));
    };
    let object = db.store.find_kind(kind, &uuid).cloned();
    let object = object.ok_or_else(|| Refusal::unknown_id(&uuid))?;
    let tags = Db::kind(Some("tag"))?;
    let mut have: Vec<Vec<String>> = db
        .store
        .targets(&object, tags)
        .map(|(tag, _)| tag.fq_name.clone())
        .collect();
    let before = have.clone();
    for (name, wish) in body {
        if ["obj_type", "obj_uuid"].contains(&name.as_str()) {
            continue;
        }
        let sort = name.to_lowercase();
        if wish.is_null() {
            have.retain(|tag| !is_of(tag, &sort));
            continue;
        }
        let wish = wish.as_object().ok_or_else(Refusal::internal)?;
        one(db, &object, &sort, wish, &mut have)?;
    }
    if have != before {
        let refs: Vec<_> = have
            .iter()
            .map(|tag| json!({"to": tag, "attr": null}))
            .collect();
        let mut change = Map::new();
        change.insert("tag_refs".to_owned(), refs.into());
        change::update(db, kind, &uuid, change, "http_put")?;
    }
    Ok(Reply::Json(json!({})))
}

fn is_of(tag: &[String], sort: &str) -> bool {
    let parts = tag.last().and_then(|name| name.split_once('='));
    parts.is_some_and(|(of, _)| of == sort)
}

fn one(
    db: &Db,
    object: &Object,
    sort: &str,
    wish: &Map<String, Value>,
    have: &mut Vec<Vec<String>>,
) -> Outcome<()> {
    let global = wish.get("is_global").is_some_and(python_repr::truthy);
    let values = |name: &str| super::db::names(wish.get(name));
    let (mut add, delete) = (values("add_values"), values("delete_values"));
    let value = wish
        .get("value")
        .filter(|value| !value.is_null() && !value.is_array());
    let value = value.map(python_repr::str);
    let is_that = |value: &String| {
        let name = format!("{sort}={value}");
        move |tag: &Vec<String>| tag.last() == Some(&name)
    };
    if sort == MANY {
        add.extend(value);
        for value in &add {
            if !have.iter().any(is_that(value)) {
                have.push(locate(db, object, sort, value, global)?);
            }
        }
        for value in &delete {
            have.retain(|tag| !is_that(value)(tag));
        }
        return Ok(());
    }
    if !add.is_empty() || !delete.is_empty() {
        return refuse(
            400,
            format!("Tag type {sort} cannot be set multiple times on a same object."),
        );
    }
    let Some(value) = value else {
        return refuse(400, format!("No valid value provided for tag type {sort}"));
    };
    if !have.iter().any(is_that(&value)) {
        have.retain(|tag| !is_of(tag, sort));
        have.push(locate(db, object, sort, &value, global)?);
    }
    Ok(())
}

/// Finds a global tag, or one of the object's project.
fn locate(db: &Db, object: &Object, sort: &str, value: &str, global: bool) -> Outcome<Vec<String>> {
    let name = format!("{sort}={value}");
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
        return refuse(
            404,
            format!("Not able to determine the scope of the tag '{name}'"),
        );
    };
    fq_name.push(name);
    if db.store.named("tag", &fq_name).is_none() {
        return refuse(
            404,
            format!("Tag with FQName {} not found", pformat_names(&fq_name)),
        );
    }
    Ok(fq_name)
}
