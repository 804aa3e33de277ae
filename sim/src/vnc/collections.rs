//! List and map properties, which clients can read and change element by element.

use serde_json::{Map, Value, json};

use super::change;
use super::db::{Db, key_of};
use super::python_repr;
use super::request::Request;
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::{Collection, Prop, schema};
use super::store::Object;
use super::validate;

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str)
}

fn collection<'a>(object: &Object, field: &str) -> Outcome<&'a Prop> {
    let prop = schema().kind(object.kind).prop(field);
    prop.filter(|prop| prop.collection.is_some())
        .ok_or_else(|| {
            let text = format!("{field} neither \"ListProperty\" nor \"MapProperty\"");
            ApiError::new(400, text)
        })
}

fn found<'a>(db: &'a Db, uuid: &str) -> Outcome<&'a Object> {
    let found = db.store.find(uuid);
    found.ok_or_else(|| ApiError::new(404, format!("Object Not Found: {uuid}")))
}

/// The elements of a collection.
fn elements(object: &Object, prop: &Prop) -> Vec<Value> {
    let wrapper = schema()
        .wrapper(&prop.value_type)
        .map_or("", |field| &field.name);
    let value = object.props.get(&prop.name).map(|value| &value[wrapper]);
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// `prop-collection-update`
pub(crate) fn update(db: &mut Db, body: &Map<String, Value>) -> Outcome<Reply> {
    let Some(uuid) = text(body, "uuid").filter(|uuid| !uuid.is_empty()) else {
        return fail(400, "Error: prop_collection_update needs obj_uuid");
    };
    let object = found(db, uuid)?.clone();
    let mut fields: Map<String, Value> = Map::new();
    for update in body
        .get("updates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let field = text(update.as_object().ok_or_else(ApiError::internal)?, "field");
        let prop = collection(&object, field.unwrap_or("None"))?;
        let wrapper = schema()
            .wrapper(&prop.value_type)
            .ok_or_else(ApiError::internal)?;
        let current = fields
            .get(&prop.name)
            .map(|value| &value[&wrapper.name])
            .and_then(Value::as_array)
            .cloned();
        let mut items = current.unwrap_or_else(|| elements(&object, prop));
        apply(&mut items, prop, update)?;
        fields.insert(prop.name.clone(), json!({ wrapper.name.clone(): items }));
    }
    change::update(db, object.kind, uuid, fields, "prop-collection-update")?;
    Ok(Reply::Done)
}

fn apply(items: &mut Vec<Value>, prop: &Prop, update: &Value) -> Outcome<()> {
    let operation = update["operation"]
        .as_str()
        .ok_or_else(ApiError::internal)?
        .to_lowercase();
    let mut value = update["value"].clone();
    let position = python_repr::str(&update["position"]);
    if let Some(super::schema::ValueType::Complex(name)) = schema()
        .wrapper(&prop.value_type)
        .map(|field| &field.value_type)
    {
        validate::complex_value(name, &mut value).map_err(|text| ApiError::new(400, text))?;
    }
    let index = position
        .parse::<usize>()
        .ok()
        .filter(|index| *index < items.len());
    match (prop.collection, operation.as_str()) {
        (Some(Collection::List), "add" | "modify") | (Some(Collection::Map), "set")
            if value.is_null() =>
        {
            let (verb, shown) = (capital(&operation), update.to_string());
            return fail(400, format!("{verb} needs field value in request {shown}"));
        }
        (Some(Collection::List), "modify") => match index {
            Some(index) => items[index] = value,
            None => items.push(value),
        },
        (Some(Collection::List), "add") => items.push(value),
        (Some(Collection::List), "delete") => {
            if let Some(index) = index {
                items.remove(index);
            }
        }
        (Some(Collection::Map), "set") => {
            items.retain(|item| key_of(item) != key_of(&value));
            items.push(value);
        }
        (Some(Collection::Map), "delete") => items.retain(|item| key_of(item) != position),
        _ => {
            return fail(
                400,
                format!("Unsupported operation {operation} in request {update}"),
            );
        }
    }
    Ok(())
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    format!("{}{rest}", first.to_uppercase())
}

/// `prop-collection-get`
pub(crate) fn get(db: &Db, request: &Request) -> Outcome<Reply> {
    let Some(uuid) = request.argument("uuid") else {
        return fail(400, "Object uuid needed for property collection get");
    };
    let Some(fields) = request.argument("fields") else {
        return fail(400, "Object fields needed for property collection get");
    };
    let object = found(db, uuid)?;
    let mut out = Map::new();
    for field in fields.split(',') {
        let prop = collection(object, field)?;
        let elements = elements(object, prop).into_iter().enumerate();
        let with_positions = elements.map(|(index, item)| {
            let position = match prop.collection {
                Some(Collection::Map) => key_of(&item),
                _ => index.to_string(),
            };
            (position, item)
        });
        let requested = request.argument("position");
        let chosen =
            with_positions.filter(|(at, _)| requested.is_none_or(|requested| at == requested));
        let chosen: Vec<_> = chosen.map(|(at, item)| json!([item, at])).collect();
        out.insert(field.to_owned(), chosen.into());
    }
    Ok(Reply::Json(out.into()))
}
