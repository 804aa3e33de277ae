//! Lists of objects: which ones, with which fields, in pages and in bulk.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use hyper::Method;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::FqName;
use super::client::{Answer, Call, VncClient};
use super::error::VncError;
use super::object::Object;

/// Up to so many ids go into a URL; more into a body, as the Python client does it.
const IDS_IN_URL: usize = 25;
/// Up to so many ids go into one request, which the server limits to a megabyte.
const IDS_IN_BODY: usize = 1000;
/// Objects in a page, when all objects of a type are asked for.
const PAGE: u32 = 1000;

/// What of each object to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Name and uuid.
    Names,
    /// Name, uuid and these fields.
    Fields(Vec<String>),
    /// All properties and references.
    #[default]
    Full,
}

/// Objects by themselves. The server takes both at once, but for *either* rather than *both*.
#[derive(Clone, Debug)]
enum Chosen {
    Uuids(Vec<Uuid>),
    Names(Vec<FqName>),
}

/// Which objects to list. Every condition narrows; an empty list of ids matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Query {
    parents: Option<Vec<Uuid>>,
    referring_to: Option<Vec<Uuid>>,
    chosen: Option<Chosen>,
    filters: Vec<(String, Value)>,
    detail: Detail,
    page: Option<u32>,
}

impl Query {
    /// All objects of a type, with all their fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Children of these.
    #[must_use]
    pub fn children_of(mut self, parents: impl IntoIterator<Item = Uuid>) -> Self {
        self.parents = Some(parents.into_iter().collect());
        self
    }

    /// Objects that refer to one of these.
    #[must_use]
    pub fn referring_to(mut self, uuids: impl IntoIterator<Item = Uuid>) -> Self {
        self.referring_to = Some(uuids.into_iter().collect());
        self
    }

    /// These objects, in place of chosen names.
    #[must_use]
    pub fn uuids(mut self, uuids: impl IntoIterator<Item = Uuid>) -> Self {
        self.chosen = Some(Chosen::Uuids(uuids.into_iter().collect()));
        self
    }

    /// Objects of these names, in place of chosen uuids. A name with a comma cannot be asked for.
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = FqName>) -> Self {
        self.chosen = Some(Chosen::Names(names.into_iter().collect()));
        self
    }

    /// Objects whose property has this value, which must not contain a comma.
    #[must_use]
    pub fn filter(mut self, property: impl Into<String>, value: impl Into<Value>) -> Self {
        self.filters.push((property.into(), value.into()));
        self
    }

    /// How much of each to list.
    #[must_use]
    pub fn detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }

    /// Asks for so many at a time. By default a list is in pages when nothing narrows it.
    #[must_use]
    pub fn page(mut self, objects: u32) -> Self {
        self.page = Some(objects.max(1));
        self
    }

    fn matches_nothing(&self) -> bool {
        let empty = |uuids: &Option<Vec<Uuid>>| uuids.as_ref().is_some_and(Vec::is_empty);
        empty(&self.parents)
            || empty(&self.referring_to)
            || match &self.chosen {
                None => false,
                Some(Chosen::Uuids(uuids)) => uuids.is_empty(),
                Some(Chosen::Names(names)) => names.is_empty(),
            }
    }

    fn is_narrow(&self) -> bool {
        self.parents.is_some() || self.referring_to.is_some() || self.chosen.is_some()
    }

    /// Whether there are too many ids for a URL. In a body the server overlooks names, and would
    /// list everything.
    fn is_long(&self) -> bool {
        let chosen = match &self.chosen {
            None => 0,
            Some(Chosen::Uuids(uuids)) => uuids.len(),
            Some(Chosen::Names(_)) => return false,
        };
        let ids = [&self.parents, &self.referring_to].into_iter().flatten();
        ids.map(Vec::len).sum::<usize>() + chosen > IDS_IN_URL
    }

    /// The same query in parts that a request has room for.
    fn parts(&self) -> Vec<Self> {
        let chunks = |ids: Option<&Vec<Uuid>>| {
            let ids = ids.filter(|ids| ids.len() > IDS_IN_BODY)?;
            Some(
                ids.chunks(IDS_IN_BODY)
                    .map(<[_]>::to_vec)
                    .collect::<Vec<_>>(),
            )
        };
        let uuids = match &self.chosen {
            Some(Chosen::Names(names)) => {
                let part = |names: &[FqName]| self.clone().names(names.to_vec());
                return names.chunks(IDS_IN_URL).map(part).collect();
            }
            Some(Chosen::Uuids(uuids)) => Some(uuids),
            None => None,
        };
        if let Some(chunks) = chunks(uuids) {
            let part = |chunk| self.clone().uuids(chunk);
            chunks.into_iter().map(part).collect()
        } else if let Some(chunks) = chunks(self.referring_to.as_ref()) {
            let part = |chunk| self.clone().referring_to(chunk);
            chunks.into_iter().map(part).collect()
        } else if let Some(chunks) = chunks(self.parents.as_ref()) {
            let part = |chunk| self.clone().children_of(chunk);
            chunks.into_iter().map(part).collect()
        } else {
            vec![self.clone()]
        }
    }

    /// The parameters, the same in a URL and in a body.
    fn parameters(&self) -> Result<Vec<(&'static str, String)>, String> {
        let mut parameters = vec![("exclude_hrefs", "true".to_owned())];
        match &self.detail {
            Detail::Names => {}
            Detail::Fields(fields) => parameters.push(("fields", fields.join(","))),
            Detail::Full => parameters.push(("detail", "true".to_owned())),
        }
        let mut ids = |key, uuids: &[Uuid]| {
            let uuids: Vec<String> = uuids.iter().map(Uuid::to_string).collect();
            parameters.push((key, uuids.join(",")));
        };
        if let Some(parents) = &self.parents {
            ids("parent_id", parents);
        }
        if let Some(referred) = &self.referring_to {
            ids("back_ref_id", referred);
        }
        match &self.chosen {
            None => {}
            Some(Chosen::Uuids(uuids)) => ids("obj_uuids", uuids),
            Some(Chosen::Names(names)) => {
                let names: Vec<String> = names.iter().map(FqName::to_string).collect();
                parameters.push(("fq_names", joined(&names)?));
            }
        }
        if !self.filters.is_empty() {
            let filters: Vec<String> = self
                .filters
                .iter()
                .map(|(property, value)| format!("{property}=={value}"))
                .collect();
            parameters.push(("filters", joined(&filters)?));
        }
        Ok(parameters)
    }
}

fn joined(texts: &[String]) -> Result<String, String> {
    match texts.iter().find(|text| text.contains(',')) {
        Some(text) => Err(format!(
            "{text:?} has a comma, which separates; ask for all, and choose"
        )),
        None => Ok(texts.join(",")),
    }
}

impl VncClient {
    /// The objects that a query matches, in no order, each once.
    pub async fn list<T: Object>(&self, query: &Query) -> Result<Vec<T>, VncError> {
        if query.matches_nothing() {
            return Ok(vec![]);
        }
        let what = format!("list the {}", T::collection());
        let mut objects: Vec<T> = vec![];
        let mut seen = HashSet::new();
        for part in query.parts() {
            let parameters = part
                .parameters()
                .map_err(|problem| self.invalid(what.clone(), problem))?;
            let page = part.page.or((!part.is_narrow()).then_some(PAGE));
            let mut marker = page.map(|_| "none".to_owned());
            loop {
                let call = if part.is_long() {
                    bulk::<T>(what.clone(), &parameters, page, marker.as_deref())
                } else {
                    plain::<T>(what.clone(), &parameters, page, marker.as_deref())
                };
                let (values, next) = self.page::<T>(&call).await?;
                for value in values {
                    let object: T = self.decode(&call, value)?;
                    if object.common().uuid.is_none_or(|uuid| seen.insert(uuid)) {
                        objects.push(object);
                    }
                }
                // Servers that know no pages give everything, and no marker.
                let Some(next) = next.filter(|_| page.is_some()) else {
                    break;
                };
                if marker.as_deref() == Some(&next) {
                    let problem = "the page after this one is this one".to_owned();
                    return Err(self.invalid_response(&call, problem));
                }
                marker = Some(next);
            }
        }
        Ok(objects)
    }

    /// One page of all objects of a type, from where the last one ended, and where the next one
    /// begins; none after the last. What narrows the query is ignored.
    pub async fn list_page<T: Object>(
        &self,
        query: &Query,
        marker: Option<&str>,
    ) -> Result<(Vec<T>, Option<String>), VncError> {
        let what = format!("list the {}", T::collection());
        let all = Query {
            detail: query.detail.clone(),
            page: query.page,
            ..Query::default()
        };
        let parameters = all
            .parameters()
            .map_err(|problem| self.invalid(what.clone(), problem))?;
        let marker = marker.unwrap_or("none");
        let page = all.page.unwrap_or(PAGE);
        let call = plain::<T>(what, &parameters, Some(page), Some(marker));
        let answer = self.ask(&call).await?;
        let (objects, next) = match serde_json::from_slice::<Page<T>>(&answer.body) {
            Ok(Page {
                objects: Some(objects),
                marker,
            }) if objects.iter().all(|one| one.common().uuid.is_some()) => (objects, marker),
            // In more steps, with what is around each object, and saying what is wrong where.
            _ => {
                let (values, next) = self.values::<T>(&call, &answer)?;
                let objects = values.into_iter().map(|value| self.decode(&call, value));
                (objects.collect::<Result<_, _>>()?, next)
            }
        };
        if next.as_deref() == Some(marker) {
            let problem = "the page after this one is this one".to_owned();
            return Err(self.invalid_response(&call, problem));
        }
        Ok((objects, next))
    }

    /// How many objects of a type there are.
    pub async fn count<T: Object>(&self) -> Result<u64, VncError> {
        let collection = T::collection();
        let call = Call::new(
            format!("count the {collection}"),
            Method::GET,
            format!("/{collection}?count=true"),
        );
        let answer = self.ask(&call).await?;
        self.json(&call, &answer)?[&collection]["count"]
            .as_u64()
            .ok_or_else(|| self.invalid_response(&call, "there is no count in it".to_owned()))
    }

    /// The objects of one page, without what is around each, and the marker of the next.
    async fn page<T: Object>(&self, call: &Call) -> Result<(Vec<Value>, Option<String>), VncError> {
        let answer = self.ask(call).await?;
        self.values::<T>(call, &answer)
    }

    fn values<T: Object>(
        &self,
        call: &Call,
        answer: &Answer,
    ) -> Result<(Vec<Value>, Option<String>), VncError> {
        let mut answer = self.json(call, answer)?;
        let collection = T::collection();
        let Some(Value::Array(values)) = answer.get_mut(&collection).map(Value::take) else {
            return Err(
                self.invalid_response(call, format!("there is no list of {collection} in it"))
            );
        };
        let bare = |mut value: Value| match value.get_mut(T::TYPE) {
            Some(inner @ Value::Object(_)) => inner.take(),
            _ => value,
        };
        let marker = answer["marker"].as_str().map(str::to_owned);
        Ok((values.into_iter().map(bare).collect(), marker))
    }
}

/// A page as it is where nothing is around its objects, read at once: a large cluster has thousands.
struct Page<T> {
    objects: Option<Vec<T>>,
    marker: Option<String>,
}

impl<'de, T: Object> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PageVisitor(PhantomData))
    }
}

struct PageVisitor<T>(PhantomData<T>);

impl<'de, T: Object> Visitor<'de> for PageVisitor<T> {
    type Value = Page<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of {}", T::collection())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page<T>, A::Error> {
        let collection = T::collection();
        let mut page = Page {
            objects: None,
            marker: None,
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == collection {
                page.objects = Some(map.next_value()?);
            } else if key == "marker" {
                page.marker = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(page)
    }
}

type Parameters = [(&'static str, String)];

fn plain<T: Object>(
    what: String,
    parameters: &Parameters,
    page: Option<u32>,
    marker: Option<&str>,
) -> Call {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in parameters {
        query.append_pair(key, value);
    }
    if let (Some(page), Some(marker)) = (page, marker) {
        query.append_pair("page_limit", &page.to_string());
        query.append_pair("page_marker", marker);
    }
    let path = format!("/{}?{}", T::collection(), query.finish());
    Call::new(what, Method::GET, path)
}

fn bulk<T: Object>(
    what: String,
    parameters: &Parameters,
    page: Option<u32>,
    marker: Option<&str>,
) -> Call {
    let mut body: Map<String, Value> = parameters
        .iter()
        .map(|(key, value)| match value.as_str() {
            "true" => ((*key).to_owned(), Value::Bool(true)),
            value => ((*key).to_owned(), value.into()),
        })
        .collect();
    body.insert("type".to_owned(), T::TYPE.into());
    if let (Some(page), Some(marker)) = (page, marker) {
        body.insert("page_limit".to_owned(), json!(page));
        body.insert("page_marker".to_owned(), json!(marker));
    }
    Call::new(what, Method::POST, "/list-bulk-collection").with_body(Value::Object(body))
}
