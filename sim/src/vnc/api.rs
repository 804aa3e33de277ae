//! Routes requests to their handlers.

use serde_json::{Value, json};

use super::actions;
use super::change;
use super::create;
use super::db::Db;
use super::discovery_root;
use super::list::ListQuery;
use super::python_repr::truthy;
use super::render::{self, FieldSelection};
use super::request::Request;
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::{KindId, schema};

/// Handles a request.
pub(crate) fn handle(db: &mut Db, request: &Request) -> Outcome<Reply> {
    let path = request.path.as_str();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let method = request.method.as_str();
    match (method, parts.as_slice()) {
        ("GET" | "HEAD", [""]) => Ok(Reply::Json(discovery_root::links(&request.base))),
        (_, ["documentation", ..]) => fail(404, "File does not exist."),
        ("POST", ["virtual-network", id, action]) => {
            match actions::of_network(db, id, action, request) {
                Some(outcome) => outcome,
                None => not_found(path),
            }
        }
        (_, [action]) => match actions::methods(action) {
            Some(methods) if methods.contains(&method) => actions::handle(db, action, request),
            Some(_) => fail(405, "Method not allowed."),
            None => collection(db, action, request),
        },
        (_, [kind, id]) => object(db, kind, id, request),
        _ => not_found(path),
    }
}

fn not_found(path: &str) -> Outcome<Reply> {
    fail(
        404,
        format!("Not found: {}", super::python_repr::repr_str(path)),
    )
}

/// URLs accept type names with dashes only.
fn kind_of(name: &str) -> Option<KindId> {
    let id = schema().id(name)?;
    schema().kind(id).is(name).then_some(id)
}

fn collection(db: &mut Db, plural: &str, request: &Request) -> Outcome<Reply> {
    let Some(kind) = plural.strip_suffix('s').and_then(kind_of) else {
        return not_found(&request.path);
    };
    match request.method.as_str() {
        "GET" | "HEAD" => ListQuery::from_query(db, kind, request)?.map_or_else(
            || Ok(Reply::Json(json!({ plural: [] }))),
            |query| Ok(query.execute(db, &request.base)),
        ),
        "POST" => {
            let body = request
                .body()?
                .get(&schema().kind(kind).name)
                .and_then(Value::as_object)
                .cloned()
                .ok_or_else(ApiError::internal)?;
            let project = request.identity.as_ref().map(|who| who.project_id.as_str());
            create::create(db, kind, body, project, &request.base)
        }
        _ => fail(405, "Method not allowed."),
    }
}

fn object(db: &mut Db, name: &str, id: &str, request: &Request) -> Outcome<Reply> {
    let Some(kind) = kind_of(name) else {
        return not_found(&request.path);
    };
    match request.method.as_str() {
        "GET" | "HEAD" => read(db, kind, id, request),
        "PUT" => {
            let body = match &request.json {
                Some(body) if truthy(body) => body.get(name).ok_or_else(ApiError::internal)?,
                _ => return Ok(Reply::Done),
            };
            if !truthy(body) {
                return Ok(Reply::Done);
            }
            let body = change::object_of(Some(body.clone()))?;
            change::update(db, kind, id, body, "http_put")?;
            Ok(change::updated(kind, id, &request.base))
        }
        "DELETE" => change::delete(db, kind, id, &request.base),
        _ => fail(405, "Method not allowed."),
    }
}

fn read(db: &Db, kind: KindId, id: &str, request: &Request) -> Outcome<Reply> {
    let object = db.store.find(id).ok_or_else(|| ApiError::unknown_id(id))?;
    if object.kind != kind {
        let name = &schema().kind(kind).name;
        return fail(404, format!("No {name} object found for id {id}"));
    }
    let perms = object.props.get("id_perms");
    let modified = perms
        .and_then(|perms| perms["last_modified"].as_str())
        .unwrap_or_default()
        .to_owned();
    if request.if_none_match.as_ref() == Some(&modified) {
        return Ok(Reply::Unchanged);
    }
    let selection = match request.argument("fields") {
        Some(fields) => FieldSelection {
            own: false,
            named: fields.split(',').chain(["id_perms", "perms2"]).collect(),
            ..FieldSelection::own()
        },
        None => FieldSelection {
            back_refs: request.argument("exclude_back_refs").is_none(),
            children: request.argument("exclude_children").is_none(),
            ..FieldSelection::own()
        },
    };
    let value = render::whole(db, object, &selection, request.base());
    Ok(Reply::Object(value, modified))
}
