//! Objects as JSON.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::db::Db;
use super::schema::{Kind, schema};
use super::store::Object;

/// The fields that a client requests.
pub(crate) struct FieldSelection<'a> {
    /// All properties and references.
    pub(crate) own: bool,
    pub(crate) back_refs: bool,
    pub(crate) children: bool,
    /// Additional fields.
    pub(crate) named: HashSet<&'a str>,
}

impl FieldSelection<'_> {
    pub(crate) fn own() -> Self {
        Self {
            own: true,
            back_refs: false,
            children: false,
            named: HashSet::new(),
        }
    }

    pub(crate) fn everything() -> Self {
        Self {
            back_refs: true,
            children: true,
            ..Self::own()
        }
    }
}

/// The URL of an object; `base` is that of the server, as the client wrote it.
pub(crate) fn href(base: &str, kind: &Kind, uuid: uuid::Uuid) -> String {
    format!("{base}/{}/{uuid}", kind.name)
}

/// An object's fields. With a base, links have URLs.
pub(crate) fn object(
    db: &Db,
    object: &Object,
    selection: &FieldSelection<'_>,
    base: Option<&str>,
) -> Map<String, Value> {
    let kind = schema().kind(object.kind);
    let mut out = Map::new();
    out.insert("uuid".to_owned(), object.uuid.to_string().into());
    out.insert("fq_name".to_owned(), object.fq_name.clone().into());
    if let Some(parent) = object.parent.and_then(|parent| db.store.get(parent)) {
        let parent_kind = &schema().kind(parent.kind).name;
        out.insert("parent_type".to_owned(), parent_kind.clone().into());
        out.insert("parent_uuid".to_owned(), parent.uuid.to_string().into());
    }
    for (name, value) in &object.props {
        if selection.own || selection.named.contains(name.as_str()) {
            out.insert(name.clone(), value.clone());
        }
    }
    for field in &kind.refs {
        if selection.own || selection.named.contains(field.name.as_str()) {
            let targets = db.store.targets(object, field.kind);
            let links = targets.map(|(target, attr)| link(target, Some(attr), base));
            put(&mut out, &field.name, links.collect());
        }
    }
    for referrer in &kind.referrers {
        if selection.back_refs || selection.named.contains(referrer.field.as_str()) {
            let links = db.store.referrers(object.uuid, referrer.kind).map(|from| {
                let attr = from
                    .refs
                    .iter()
                    .find(|reference| reference.to == object.uuid)
                    .map_or(&Value::Null, |reference| &reference.attr);
                link(from, Some(attr), base)
            });
            put(&mut out, &referrer.field, links.collect());
        }
    }
    for child in &kind.children {
        if selection.children || selection.named.contains(child.field.as_str()) {
            let links = db
                .store
                .children(object.uuid, child.kind)
                .map(|child| link(child, None, base));
            put(&mut out, &child.field, links.collect());
        }
    }
    out
}

/// The response to a `GET` of one object.
pub(crate) fn whole(
    db: &Db,
    of: &Object,
    selection: &FieldSelection<'_>,
    base: Option<&str>,
) -> Value {
    let kind = schema().kind(of.kind);
    let mut out = object(db, of, selection, base);
    out.insert("name".to_owned(), of.name().into());
    if let Some(base) = base {
        out.insert("href".to_owned(), href(base, kind, of.uuid).into());
        if let Some(parent) = of.parent.and_then(|parent| db.store.get(parent)) {
            let parent = href(base, schema().kind(parent.kind), parent.uuid);
            out.insert("parent_href".to_owned(), parent.into());
        }
    }
    json!({ kind.name.clone(): out })
}

fn put(out: &mut Map<String, Value>, name: &str, links: Vec<Value>) {
    if !links.is_empty() {
        out.insert(name.to_owned(), links.into());
    }
}

fn link(object: &Object, attr: Option<&Value>, base: Option<&str>) -> Value {
    let mut out = Map::new();
    out.insert("to".to_owned(), object.fq_name.clone().into());
    if let Some(attr) = attr {
        out.insert("attr".to_owned(), attr.clone());
    }
    out.insert("uuid".to_owned(), object.uuid.to_string().into());
    if let Some(base) = base {
        let kind = schema().kind(object.kind);
        out.insert("href".to_owned(), href(base, kind, object.uuid).into());
    }
    out.into()
}
