//! Collections: filters, counts, details and pages.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::db::Db;
use super::python_repr::{self, truthy};
use super::render::{self, FieldSelection, href};
use super::request::Request;
use super::response::{ApiError, Outcome, Reply, fail};
use super::schema::{KindId, schema};
use super::store::{Object, canonical};

/// The page size if the client does not request one.
const DEFAULT_PAGE_SIZE: usize = 256;

/// A query for objects of one type.
#[derive(Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) kind: KindId,
    pub(crate) parents: Option<Vec<String>>,
    pub(crate) back_refs: Option<Vec<String>>,
    pub(crate) uuids: Option<Vec<String>>,
    pub(crate) filters: Vec<(String, Vec<Value>)>,
    pub(crate) fields: Vec<String>,
    pub(crate) count: bool,
    pub(crate) detail: bool,
    pub(crate) exclude_hrefs: bool,
    /// The marker of the previous page; empty for the first page.
    pub(crate) page: Option<String>,
    pub(crate) limit: Option<usize>,
}

/// Parses `a==1,b=="x"` into names with their accepted values.
fn read_filters(text: &str) -> Option<Vec<(String, Vec<Value>)>> {
    let mut filters: Vec<(String, Vec<Value>)> = Vec::new();
    for filter in text.split(',').filter(|_| !text.is_empty()) {
        let mut parts = filter.split("==");
        let (Some(key), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        match filters.iter_mut().find(|(known, _)| known == key) {
            Some((_, values)) => values.push(value),
            None => filters.push((key.to_owned(), vec![value])),
        }
    }
    Some(filters)
}

/// Parses a page marker.
fn marker(text: &str) -> Outcome<String> {
    if text.is_empty() || text.eq_ignore_ascii_case("none") {
        return Ok(String::new());
    }
    let uuid = text.rsplit(':').next().unwrap_or_default();
    if Uuid::parse_str(uuid).is_err() {
        return fail(
            400,
            format!("Invalid page_marker {text}: badly formed hexadecimal UUID string"),
        );
    }
    Ok(text.to_owned())
}

/// Parses a page limit.
fn limit(text: &str) -> Outcome<usize> {
    let problem = match text.trim().parse::<i64>() {
        Ok(number) if number > 0 => return Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        Ok(_) => "page_limit has to be greater than zero".to_owned(),
        Err(_) => format!(
            "invalid literal for int() with base 10: {}",
            python_repr::repr_str(text)
        ),
    };
    fail(400, format!("Invalid page_limit {text}: {problem}"))
}

impl ListQuery {
    /// Reads a query; none when nothing can match it.
    pub(crate) fn from_query(db: &Db, kind: KindId, request: &Request) -> Outcome<Option<Self>> {
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
        let query = Self {
            kind,
            page: argument("page_marker").map(marker).transpose()?,
            limit: argument("page_limit").map(limit).transpose()?,
            back_refs: list("back_ref_id"),
            filters: read_filters(filters).ok_or_else(|| bad_filter(filters))?,
            fields: list("fields").unwrap_or_default(),
            count: truth("count"),
            detail: truth("detail"),
            exclude_hrefs: argument("exclude_hrefs").is_some(),
            parents,
            uuids,
        };
        let nothing = query.uuids.is_none()
            && query.back_refs.is_none()
            && query.parents.as_ref().is_some_and(Vec::is_empty);
        Ok((!nothing).then_some(query))
    }

    /// Reads a body, for lists of ids that do not fit into a URL.
    pub(crate) fn from_body(request: &Request) -> Outcome<Self> {
        let body = request.body()?;
        let kind = Db::kind(body.get("type").and_then(Value::as_str))?;
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let list = |name: &str| match body.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(commas(text))),
            Some(_) => Err(ApiError::internal()),
        };
        let truth = |name: &str| body.get(name).is_some_and(truthy);
        let filters = text("filters").unwrap_or_default();
        let number = body.get("page_limit").map(super::python_repr::str);
        Ok(Self {
            kind,
            page: body
                .get("page_marker")
                .map(|page| marker(page.as_str().unwrap_or_default()))
                .transpose()?,
            limit: number.as_deref().map(limit).transpose()?,
            parents: list("parent_id")?,
            back_refs: list("back_ref_id")?,
            uuids: list("obj_uuids")?,
            filters: read_filters(filters).ok_or_else(|| bad_filter(filters))?,
            fields: text("fields")
                .filter(|fields| !fields.is_empty())
                .map(commas)
                .unwrap_or_default(),
            count: truth("count"),
            detail: truth("detail"),
            exclude_hrefs: truth("exclude_hrefs"),
        })
    }

    /// Executes the query.
    pub(crate) fn execute(&self, db: &Db, base: &str) -> Reply {
        let plural = format!("{}s", schema().kind(self.kind).name);
        let (found, next) = if self.has_selectors() {
            self.selected(db)
        } else {
            self.all(db)
        };
        let items: Value = if self.count {
            json!({ "count": found.len() })
        } else {
            let items = found.into_iter();
            items.map(|object| self.item(db, object, base)).collect()
        };
        let mut out = Map::new();
        out.insert(plural, items);
        if self.page.is_some() && !self.count {
            out.insert("marker".to_owned(), next);
        }
        Reply::Json(out.into())
    }

    fn has_selectors(&self) -> bool {
        self.parents.is_some() || self.back_refs.is_some() || self.uuids.is_some()
    }

    /// All objects of the type or one page of them, and the marker of the next page.
    fn all<'a>(&self, db: &'a Db) -> (Vec<&'a Object>, Value) {
        let after = self.page.as_deref().unwrap_or_default();
        let found = db
            .store
            .listed(self.kind, after)
            .filter(|(_, object)| self.matches(object));
        let limit = match &self.page {
            Some(_) => self.limit.unwrap_or(DEFAULT_PAGE_SIZE),
            None => usize::MAX,
        };
        let mut next = Value::Null;
        let mut page = vec![];
        for (key, object) in found.take(limit) {
            page.push(object);
            if page.len() == limit {
                next = key.into();
            }
        }
        (page, next)
    }

    /// The selected objects or one page of them, and the marker of the next page.
    fn selected<'a>(&self, db: &'a Db) -> (Vec<&'a Object>, Value) {
        let anchored = self.parents.is_some() || self.back_refs.is_some();
        let mut found: Vec<(&Object, String)> = self
            .candidates(db)
            .into_iter()
            .map(|object| (object, object.uuid.to_string()))
            .collect();
        let mut next = Value::Null;
        if let Some(page) = &self.page {
            if anchored {
                found.sort_by(|(_, one), (_, other)| one.cmp(other));
            }
            if !page.is_empty() {
                if anchored {
                    found.retain(|(_, key)| key > page);
                } else {
                    let start = found.iter().position(|(_, key)| key == page);
                    found.drain(..start.map_or(found.len(), |start| start + 1));
                }
            }
            found.retain(|(object, _)| self.matches(object));
            let limit = self.limit.unwrap_or(DEFAULT_PAGE_SIZE);
            if found.len() >= limit {
                found.truncate(limit);
                next = found
                    .last()
                    .map_or(Value::Null, |(_, key)| key.clone().into());
            }
        } else {
            found.retain(|(object, _)| self.matches(object));
        }
        (found.into_iter().map(|(object, _)| object).collect(), next)
    }

    fn candidates<'a>(&self, db: &'a Db) -> Vec<&'a Object> {
        let store = &db.store;
        let ids = |texts: &[String]| -> Vec<Uuid> {
            texts.iter().filter_map(|text| canonical(text)).collect()
        };
        let chosen = |object: &&Object| {
            self.uuids
                .as_ref()
                .is_none_or(|uuids| uuids.contains(&object.uuid.to_string()))
        };
        if let Some(parents) = self.parents.as_ref().filter(|parents| !parents.is_empty()) {
            let targets = self.back_refs.as_ref().map(|uuids| ids(uuids));
            let mut children: Vec<_> = ids(parents)
                .into_iter()
                .flat_map(|parent| store.children(parent, self.kind))
                .filter(chosen)
                .filter(|object| {
                    targets.as_ref().is_none_or(|targets| {
                        let mut refs = object.refs.iter();
                        refs.any(|reference| targets.contains(&reference.to))
                    })
                })
                .collect();
            children.sort_by_key(|object| object.stamp);
            return children;
        }
        if let Some(targets) = &self.back_refs {
            let mut seen = HashSet::new();
            return ids(targets)
                .into_iter()
                .flat_map(|target| store.referrers(target, self.kind))
                .filter(chosen)
                .filter(|object| seen.insert(object.uuid))
                .collect();
        }
        if let Some(uuids) = &self.uuids {
            let mut seen = HashSet::new();
            return ids(uuids)
                .into_iter()
                .filter_map(|uuid| store.get(uuid))
                .filter(|object| object.kind == self.kind && seen.insert(object.uuid))
                .collect();
        }
        store.of_kind(self.kind).collect()
    }

    fn matches(&self, object: &Object) -> bool {
        let kind = schema().kind(object.kind);
        // Filters of unknown properties are ignored, but only if no filter is of a known one.
        if !self
            .filters
            .iter()
            .any(|(name, _)| kind.prop(name).is_some())
        {
            return true;
        }
        self.filters.iter().all(|(name, values)| {
            let Some(value) = object.props.get(name).filter(|_| kind.prop(name).is_some()) else {
                return false;
            };
            match value {
                Value::Object(fields) => values.iter().any(|wanted| {
                    wanted.as_object().is_some_and(|wanted| {
                        let mut wanted = wanted.iter();
                        wanted.all(|(key, value)| fields.get(key) == Some(value))
                    })
                }),
                value => values.contains(value),
            }
        })
    }

    fn item(&self, db: &Db, object: &Object, base: &str) -> Value {
        let kind = schema().kind(object.kind);
        let wanted = FieldSelection {
            own: self.detail,
            named: self.fields.iter().map(String::as_str).collect(),
            ..FieldSelection::own()
        };
        let mut out = render::object(db, object, &wanted, None);
        if !self.detail {
            // The real server leaves them out where the parent is given.
            let with_parent = !self.fields.is_empty() && self.parents.is_none();
            out.retain(|name, _| {
                ["uuid", "fq_name"].contains(&name.as_str())
                    || (with_parent && ["parent_type", "parent_uuid"].contains(&name.as_str()))
                    || self.fields.contains(name)
            });
        }
        if !self.exclude_hrefs {
            out.insert("href".to_owned(), href(base, kind, object.uuid).into());
        }
        if self.detail {
            out.insert("name".to_owned(), object.name().into());
            return json!({ kind.name.clone(): out });
        }
        out.into()
    }
}

/// Splits a list at commas.
fn commas(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// The error for filters that cannot be parsed.
fn bad_filter(text: &str) -> ApiError {
    ApiError::new(400, format!("Invalid filter {text}"))
}
