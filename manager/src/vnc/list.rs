//! Object lists: selection, fields, pages and bulk requests.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use hyper::Method;
use hyper::body::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::FqName;
use super::client::{Call, VncClient};
use super::error::VncError;
use super::object::Object;

/// Maximum number of ids in a URL; more go into a body, as in the Python client.
const MAX_IDS_IN_URL: usize = 25;
/// Maximum number of ids in one request; the server limits a request to 1 MB.
const MAX_IDS_IN_BODY: usize = 1000;
/// Objects per page of an unfiltered list.
const DEFAULT_PAGE_SIZE: u32 = 1000;

/// How much of each object to list.
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

/// Objects selected by uuid or by name. The server accepts both at once, but combines them with
/// *or*.
#[derive(Clone, Debug)]
enum Selection {
    Uuids(Vec<Uuid>),
    Names(Vec<FqName>),
}

/// Which objects to list. All conditions must match; an empty list of ids matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Query {
    parents: Option<Vec<Uuid>>,
    referring_to: Option<Vec<Uuid>>,
    selection: Option<Selection>,
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

    /// Only children of these objects.
    #[must_use]
    pub fn children_of(mut self, parents: impl IntoIterator<Item = Uuid>) -> Self {
        self.parents = Some(parents.into_iter().collect());
        self
    }

    /// Only objects that refer to one of these.
    #[must_use]
    pub fn referring_to(mut self, uuids: impl IntoIterator<Item = Uuid>) -> Self {
        self.referring_to = Some(uuids.into_iter().collect());
        self
    }

    /// Only these objects. Replaces [`Query::names`].
    #[must_use]
    pub fn uuids(mut self, uuids: impl IntoIterator<Item = Uuid>) -> Self {
        self.selection = Some(Selection::Uuids(uuids.into_iter().collect()));
        self
    }

    /// Only objects with these names, which must not contain a comma. Replaces [`Query::uuids`].
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = FqName>) -> Self {
        self.selection = Some(Selection::Names(names.into_iter().collect()));
        self
    }

    /// Only objects whose property has this value, which must not contain a comma.
    #[must_use]
    pub fn filter(mut self, property: impl Into<String>, value: impl Into<Value>) -> Self {
        self.filters.push((property.into(), value.into()));
        self
    }

    /// How much of each object to list.
    #[must_use]
    pub fn detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }

    /// The page size. By default only a list without a selection is paginated.
    #[must_use]
    pub fn page(mut self, objects: u32) -> Self {
        self.page = Some(objects.max(1));
        self
    }

    fn matches_nothing(&self) -> bool {
        let empty = |uuids: &Option<Vec<Uuid>>| uuids.as_ref().is_some_and(Vec::is_empty);
        empty(&self.parents)
            || empty(&self.referring_to)
            || match &self.selection {
                None => false,
                Some(Selection::Uuids(uuids)) => uuids.is_empty(),
                Some(Selection::Names(names)) => names.is_empty(),
            }
    }

    fn is_selective(&self) -> bool {
        self.parents.is_some() || self.referring_to.is_some() || self.selection.is_some()
    }

    /// Whether there are too many ids for a URL. The server ignores names in a body and would list
    /// everything.
    fn is_long(&self) -> bool {
        let selected = match &self.selection {
            None => 0,
            Some(Selection::Uuids(uuids)) => uuids.len(),
            Some(Selection::Names(_)) => return false,
        };
        let ids: usize = [&self.parents, &self.referring_to]
            .into_iter()
            .flatten()
            .map(Vec::len)
            .sum();
        ids + selected > MAX_IDS_IN_URL
    }

    /// The query split into parts that fit into one request.
    fn parts(&self) -> Vec<Self> {
        let chunks = |ids: Option<&Vec<Uuid>>| {
            let ids = ids.filter(|ids| ids.len() > MAX_IDS_IN_BODY)?;
            Some(
                ids.chunks(MAX_IDS_IN_BODY)
                    .map(<[_]>::to_vec)
                    .collect::<Vec<_>>(),
            )
        };
        let uuids = match &self.selection {
            Some(Selection::Names(names)) => {
                let part = |names: &[FqName]| self.clone().names(names.to_vec());
                return names.chunks(MAX_IDS_IN_URL).map(part).collect();
            }
            Some(Selection::Uuids(uuids)) => Some(uuids),
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

    /// The parameters, for a URL or a body.
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
        match &self.selection {
            None => {}
            Some(Selection::Uuids(uuids)) => ids("obj_uuids", uuids),
            Some(Selection::Names(names)) => {
                let names: Vec<String> = names.iter().map(FqName::to_string).collect();
                parameters.push(("fq_names", join_values(&names)?));
            }
        }
        if !self.filters.is_empty() {
            let filters: Vec<String> = self
                .filters
                .iter()
                .map(|(property, value)| format!("{property}=={value}"))
                .collect();
            parameters.push(("filters", join_values(&filters)?));
        }
        Ok(parameters)
    }
}

fn join_values(values: &[String]) -> Result<String, String> {
    match values.iter().find(|value| value.contains(',')) {
        Some(value) => Err(format!(
            "{value:?} contains a comma, which the API uses as separator; list all objects and filter them"
        )),
        None => Ok(values.join(",")),
    }
}

impl VncClient {
    /// The objects that match a query, in no particular order, without duplicates.
    pub async fn list<T: Object>(&self, query: &Query) -> Result<Vec<T>, VncError> {
        if query.matches_nothing() {
            return Ok(vec![]);
        }
        let operation = format!("list the {}", T::collection());
        let mut objects: Vec<T> = vec![];
        let mut listed_uuids = HashSet::new();
        for part in query.parts() {
            let parameters = part
                .parameters()
                .map_err(|problem| self.invalid(operation.clone(), problem))?;
            let page = part
                .page
                .or((!part.is_selective()).then_some(DEFAULT_PAGE_SIZE));
            let mut marker = page.map(|_| "none".to_owned());
            loop {
                let call = if part.is_long() {
                    bulk_list_call::<T>(operation.clone(), &parameters, page, marker.as_deref())
                } else {
                    list_call::<T>(operation.clone(), &parameters, page, marker.as_deref())
                };
                let (values, next) = self.page::<T>(&call).await?;
                for value in values {
                    let object: T = self.decode(&call, value)?;
                    if object
                        .common()
                        .uuid
                        .is_none_or(|uuid| listed_uuids.insert(uuid))
                    {
                        objects.push(object);
                    }
                }
                // A server without pagination returns everything, and no marker.
                let Some(next) = next.filter(|_| page.is_some()) else {
                    break;
                };
                if marker.as_deref() == Some(&next) {
                    let problem = "the next page is the same page".to_owned();
                    return Err(self.invalid_response(&call, problem));
                }
                marker = Some(next);
            }
        }
        Ok(objects)
    }

    /// One page of all objects of a type, starting at `marker`, and the marker of the next page;
    /// `None` after the last. Conditions of the query are ignored.
    pub async fn list_page<T: Object>(
        &self,
        query: &Query,
        marker: Option<&str>,
    ) -> Result<(Vec<T>, Option<String>), VncError> {
        let operation = format!("list the {}", T::collection());
        let all = Query {
            detail: query.detail.clone(),
            page: query.page,
            ..Query::default()
        };
        let parameters = all
            .parameters()
            .map_err(|problem| self.invalid(operation.clone(), problem))?;
        let marker = marker.unwrap_or("none");
        let page = all.page.unwrap_or(DEFAULT_PAGE_SIZE);
        let call = list_call::<T>(operation, &parameters, Some(page), Some(marker));
        let response = self.execute(&call).await?;
        let (objects, next) = match serde_json::from_slice::<Page<T>>(&response) {
            Ok(Page {
                objects: Some(objects),
                marker,
            }) if objects.iter().all(|object| object.common().uuid.is_some()) => (objects, marker),
            // Slower, but accepts wrapped objects and reports the path of an error.
            _ => {
                let (values, next) = self.values::<T>(&call, &response)?;
                let objects = values.into_iter().map(|value| self.decode(&call, value));
                (objects.collect::<Result<_, _>>()?, next)
            }
        };
        if next.as_deref() == Some(marker) {
            let problem = "the next page is the same page".to_owned();
            return Err(self.invalid_response(&call, problem));
        }
        Ok((objects, next))
    }

    /// The number of objects of a type.
    pub async fn count<T: Object>(&self) -> Result<u64, VncError> {
        let collection = T::collection();
        let call = Call::new(
            format!("count the {collection}"),
            Method::GET,
            format!("/{collection}?count=true"),
        );
        let response = self.execute(&call).await?;
        self.json(&call, &response)?[&collection]["count"]
            .as_u64()
            .ok_or_else(|| self.invalid_response(&call, "it has no count".to_owned()))
    }

    /// The unwrapped objects of one page, and the marker of the next.
    async fn page<T: Object>(&self, call: &Call) -> Result<(Vec<Value>, Option<String>), VncError> {
        let response = self.execute(call).await?;
        self.values::<T>(call, &response)
    }

    fn values<T: Object>(
        &self,
        call: &Call,
        response: &Bytes,
    ) -> Result<(Vec<Value>, Option<String>), VncError> {
        let mut response = self.json(call, response)?;
        let collection = T::collection();
        let Some(Value::Array(values)) = response.get_mut(&collection).map(Value::take) else {
            return Err(self.invalid_response(call, format!("it has no list of {collection}")));
        };
        let unwrap_object = |mut value: Value| match value.get_mut(T::TYPE) {
            Some(inner @ Value::Object(_)) => inner.take(),
            _ => value,
        };
        let marker = response["marker"].as_str().map(str::to_owned);
        Ok((values.into_iter().map(unwrap_object).collect(), marker))
    }
}

/// A page whose objects are not wrapped, decoded without an intermediate value: a large cluster
/// has thousands of objects.
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

fn list_call<T: Object>(
    operation: String,
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
    Call::new(operation, Method::GET, path)
}

fn bulk_list_call<T: Object>(
    operation: String,
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
    Call::new(operation, Method::POST, "/list-bulk-collection").with_body(Value::Object(body))
}
