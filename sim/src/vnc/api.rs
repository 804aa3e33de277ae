//! From a request to its answer: which address means what.

use serde_json::{Map, Value, json};

use super::actions;
use super::answer::{Outcome, Refusal, Reply, refuse};
use super::auth::Identity;
use super::change;
use super::create;
use super::db::{Db, names};
use super::home;
use super::list::{self, Question, bad_filter, commas, limit, marker};
use super::python::truthy;
use super::render::{self, Wanted};
use super::schema::{KindId, schema};
use super::tags;

/// A request, read.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query, decoded.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    /// The body, if it is JSON and said to be.
    pub(crate) json: Option<Value>,
    /// `http://host:port`, as the client calls the server.
    pub(crate) base: String,
    /// Who asks, where that is known.
    pub(crate) identity: Option<Identity>,
    /// The time in an If-None-Match header.
    pub(crate) if_none_match: Option<String>,
}

impl Request {
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        let mut found = self.query.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as an object; without one the real server's code fails on None.
    pub(crate) fn body(&self) -> Outcome<&Map<String, Value>> {
        self.json
            .as_ref()
            .and_then(Value::as_object)
            .ok_or_else(Refusal::internal)
    }

    fn base(&self) -> Option<&str> {
        (self.argument("exclude_hrefs").is_none()).then_some(&*self.base)
    }
}

/// Answers a request.
pub(crate) fn answer(db: &mut Db, request: &Request) -> Outcome<Reply> {
    let path = request.path.as_str();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let method = request.method.as_str();
    match (method, parts.as_slice()) {
        ("GET" | "HEAD", [""]) => Ok(Reply::Json(home::links(&request.base))),
        (_, ["documentation", ..]) => refuse(404, "File does not exist."),
        ("POST", ["virtual-network", id, action]) => {
            match actions::of_network(db, id, action, request) {
                Some(outcome) => outcome,
                None => not_found(path),
            }
        }
        (_, [one]) => match actions::known(one) {
            Some(methods) if methods.contains(&method) => actions::answer(db, one, request),
            Some(_) => refuse(405, "Method not allowed."),
            None => collection(db, one, request),
        },
        (_, [kind, id]) => object(db, kind, id, request),
        _ => not_found(path),
    }
}

fn not_found(path: &str) -> Outcome<Reply> {
    refuse(404, format!("Not found: {}", super::python::repr_str(path)))
}

/// Addresses are written with dashes only.
fn kind_of(name: &str) -> Option<KindId> {
    let id = schema().id(name)?;
    schema().kind(id).is(name).then_some(id)
}

fn collection(db: &mut Db, plural: &str, request: &Request) -> Outcome<Reply> {
    let Some(kind) = plural.strip_suffix('s').and_then(kind_of) else {
        return not_found(&request.path);
    };
    match request.method.as_str() {
        "GET" | "HEAD" => question(db, kind, request)?.map_or_else(
            || Ok(Reply::Json(json!({ plural: [] }))),
            |question| Ok(question.answer(db, &request.base)),
        ),
        "POST" => {
            let body = request.body()?.get(&schema().kind(kind).name);
            let body = body.and_then(Value::as_object);
            let body = body.cloned().ok_or_else(Refusal::internal)?;
            let project = request.identity.as_ref().map(|who| who.project_id.as_str());
            create::create(db, kind, body, project, &request.base)
        }
        _ => refuse(405, "Method not allowed."),
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
                Some(body) if truthy(body) => body.get(name).ok_or_else(Refusal::internal)?,
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
        _ => refuse(405, "Method not allowed."),
    }
}

fn read(db: &Db, kind: KindId, id: &str, request: &Request) -> Outcome<Reply> {
    let object = db.store.find(id).ok_or_else(|| Refusal::unknown_id(id))?;
    if object.kind != kind {
        let name = &schema().kind(kind).name;
        return refuse(404, format!("No {name} object found for id {id}"));
    }
    let perms = object.props.get("id_perms");
    let modified = perms.and_then(|perms| perms["last_modified"].as_str());
    let modified = modified.unwrap_or_default().to_owned();
    if request.if_none_match.as_ref() == Some(&modified) {
        return Ok(Reply::Unchanged);
    }
    let wanted = match request.argument("fields") {
        Some(fields) => Wanted {
            own: false,
            named: fields.split(',').chain(["id_perms", "perms2"]).collect(),
            ..Wanted::own()
        },
        None => Wanted {
            back_refs: request.argument("exclude_back_refs").is_none(),
            children: request.argument("exclude_children").is_none(),
            ..Wanted::own()
        },
    };
    let value = render::whole(db, object, &wanted, request.base());
    Ok(Reply::Object(value, modified))
}

/// The question that a query asks; none when it cannot have an answer.
fn question(db: &Db, kind: KindId, request: &Request) -> Outcome<Option<Question>> {
    let argument = |name: &str| request.argument(name);
    let list = |name: &str| argument(name).map(commas);
    let truth =
        |name: &str| argument(name).is_some_and(|value| value.to_lowercase().contains("true"));
    let mut parents = list("parent_id");
    if let Some(name) = argument("parent_fq_name_str") {
        let name: Vec<_> = name.split(':').map(str::to_owned).collect();
        let allowed = match argument("parent_type") {
            Some(parent) => {
                Db::kind(Some(parent))?;
                vec![parent.to_owned()]
            }
            None => schema().kind(kind).parents.clone(),
        };
        let found = allowed
            .iter()
            .filter_map(|parent| db.store.named(parent, &name));
        parents = Some(found.map(|parent| parent.uuid.to_string()).collect());
    }
    let mut uuids = list("obj_uuids");
    if let Some(fq_names) = argument("fq_names") {
        for name in fq_names.split(',') {
            let name: Vec<_> = name.split(':').map(str::to_owned).collect();
            if let Some(found) = db.store.by_name(kind, &name) {
                uuids.get_or_insert_default().push(found.uuid.to_string());
            }
        }
        if uuids.is_none() {
            return Ok(None);
        }
    }
    let filters = argument("filters").unwrap_or_default();
    let question = Question {
        kind,
        page: argument("page_marker").map(marker).transpose()?,
        limit: argument("page_limit").map(limit).transpose()?,
        back_refs: list("back_ref_id"),
        filters: list::filters(filters).ok_or_else(|| bad_filter(filters))?,
        fields: list("fields").unwrap_or_default(),
        count: truth("count"),
        detail: truth("detail"),
        exclude_hrefs: argument("exclude_hrefs").is_some(),
        parents,
        uuids,
    };
    let nothing = question.uuids.is_none()
        && question.back_refs.is_none()
        && question.parents.as_ref().is_some_and(Vec::is_empty);
    Ok((!nothing).then_some(question))
}

/// The question that a body asks, for lists of ids that do not fit into an address.
pub(crate) fn bulk(db: &Db, request: &Request) -> Outcome<Reply> {
    let body = request.body()?;
    let kind = Db::kind(body.get("type").and_then(Value::as_str))?;
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let list = |name: &str| match body.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(commas(text))),
        Some(_) => Err(Refusal::internal()),
    };
    let truth = |name: &str| body.get(name).is_some_and(truthy);
    let filters = text("filters").unwrap_or_default();
    let number = body.get("page_limit").map(super::python::str);
    let question = Question {
        kind,
        page: body
            .get("page_marker")
            .map(|page| marker(page.as_str().unwrap_or_default()))
            .transpose()?,
        limit: number.as_deref().map(limit).transpose()?,
        parents: list("parent_id")?,
        back_refs: list("back_ref_id")?,
        uuids: list("obj_uuids")?,
        filters: list::filters(filters).ok_or_else(|| bad_filter(filters))?,
        fields: text("fields")
            .filter(|fields| !fields.is_empty())
            .map(commas)
            .unwrap_or_default(),
        count: truth("count"),
        detail: truth("detail"),
        exclude_hrefs: truth("exclude_hrefs"),
    };
    Ok(question.answer(db, &request.base))
}

/// `set-tag` needs the type with underscores, which no other request does.
pub(crate) fn set_tag(db: &mut Db, request: &Request) -> Outcome<Reply> {
    tags::set(db, request.body()?)
}

/// A name in a body.
pub(crate) fn name_in(body: &Map<String, Value>, field: &str) -> Vec<String> {
    names(body.get(field))
}
