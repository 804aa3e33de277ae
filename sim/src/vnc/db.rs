//! The server's whole state: objects, addresses, numbers and keys.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::addresses::Pools;
use super::changes::{Change, Operation, routers};
use super::python_repr::truthy;
use super::response::{ApiError, Outcome};
use super::schema::{Collection, KindId, Prop, schema};
use super::store::{Object, Ref, Store};
use crate::harness::clock;

/// Security group ids of users start here.
const FIRST_SECURITY_GROUP: u64 = 8_000_000;
/// Predefined tag types, by id.
pub(crate) const TAG_TYPES: [&str; 6] = [
    "label",
    "application",
    "tier",
    "deployment",
    "site",
    "neutron_fwaas",
];
/// Tag type ids of users start here.
const FIRST_TAG_TYPE: u64 = 256;

/// The state.
pub(crate) struct Db {
    pub(crate) store: Store,
    pub(crate) pools: Pools,
    pub(crate) numbers: Numbers,
    pub(crate) useragent: BTreeMap<String, Value>,
    pub(crate) aaa_mode: String,
    /// The changes that the present request has made.
    pub(crate) changes: Vec<Change>,
}

/// Numbers that the server allocates by pool, always the lowest free one, with their owners.
#[derive(Default)]
pub(crate) struct Numbers(HashMap<String, BTreeMap<u64, String>>);

impl Numbers {
    pub(crate) fn allocate(&mut self, pool: &str, owner: &str, first: u64) -> u64 {
        let taken = self.0.entry(pool.to_owned()).or_default();
        let mut number = first;
        while taken.contains_key(&number) {
            number += 1;
        }
        taken.insert(number, owner.to_owned());
        number
    }

    pub(crate) fn free(&mut self, pool: &str, number: u64) {
        if let Some(taken) = self.0.get_mut(pool) {
            taken.remove(&number);
        }
    }

    pub(crate) fn network(&mut self, owner: &str) -> u64 {
        self.allocate("virtual-network", owner, 1)
    }

    pub(crate) fn security_group(&mut self, owner: &str) -> u64 {
        self.allocate("security-group", owner, FIRST_SECURITY_GROUP + 1)
    }

    pub(crate) fn tag_type(&mut self, name: &str) -> u64 {
        TAG_TYPES
            .iter()
            .position(|known| *known == name)
            .and_then(|index| u64::try_from(index).ok())
            .unwrap_or_else(|| self.allocate("tag-type", name, FIRST_TAG_TYPE))
    }
}

impl Db {
    pub(crate) fn new() -> Self {
        Self {
            store: Store::default(),
            pools: Pools::default(),
            numbers: Numbers::default(),
            useragent: BTreeMap::new(),
            aaa_mode: "cloud-admin".to_owned(),
            changes: Vec::new(),
        }
    }

    /// The type of this name, or the server's error if there is none.
    pub(crate) fn kind(name: Option<&str>) -> Outcome<KindId> {
        name.and_then(|name| schema().id(name)).ok_or_else(|| {
            let name = name.unwrap_or("None");
            ApiError::new(404, format!("Resource type '{name}' not found"))
        })
    }

    /// Stores a complete object. The body is that of the request, as completed by the hooks.
    pub(crate) fn insert(
        &mut self,
        kind: KindId,
        uuid: Uuid,
        parent: Option<Uuid>,
        body: &Map<String, Value>,
        refs: Vec<Ref>,
    ) {
        let mut props = Map::new();
        for prop in &schema().kind(kind).props {
            let value = body.get(&prop.name).filter(|value| !value.is_null());
            if let Some(value) = value.and_then(|value| normal(prop, value.clone())) {
                props.insert(prop.name.clone(), value);
            }
        }
        self.store.insert(Object {
            kind,
            uuid,
            fq_name: fq_name(body),
            parent,
            props,
            refs,
            stamp: 0,
        });
        self.stamp_perms(uuid);
        self.changed(uuid, Operation::Create);
    }

    fn stamp_perms(&mut self, uuid: Uuid) {
        let now = clock::python_now();
        if let Some(perms) = self.perms(uuid) {
            let (high, low) = uuid.as_u64_pair();
            perms.insert(
                "uuid".to_owned(),
                json!({"uuid_mslong": high, "uuid_lslong": low}),
            );
            perms.insert("created".to_owned(), now.clone().into());
            perms.insert("last_modified".to_owned(), now.into());
        }
    }

    fn perms(&mut self, uuid: Uuid) -> Option<&mut Map<String, Value>> {
        self.store
            .get_mut(uuid)?
            .props
            .get_mut("id_perms")?
            .as_object_mut()
    }

    /// Records a change of an object.
    pub(crate) fn touch(&mut self, uuid: Uuid) {
        if let Some(perms) = self.perms(uuid) {
            perms.insert("last_modified".to_owned(), clock::python_now().into());
        }
        self.changed(uuid, Operation::Update);
    }

    /// Publishes a change. A deletion is published before it happens.
    pub(crate) fn changed(&mut self, uuid: Uuid, operation: Operation) {
        if let Some(object) = self.store.get(uuid) {
            let change = Change {
                operation,
                kind: schema().kind(object.kind).name.clone(),
                uuid,
                fq_name: object.fq_name.clone(),
                virtual_routers: routers(&self.store, uuid),
            };
            self.changes.push(change);
        }
    }

    /// Replaces an object's references to one type. Virtual-routers that it no longer concerns are
    /// notified as well.
    pub(crate) fn set_refs(&mut self, uuid: Uuid, kind: KindId, refs: Vec<Ref>) {
        let same = self.store.get(uuid).is_some_and(|object| {
            let old = object.refs.iter().filter(|reference| {
                self.store
                    .get(reference.to)
                    .is_some_and(|target| target.kind == kind)
            });
            old.eq(refs.iter())
        });
        if !same {
            self.changed(uuid, Operation::Update);
            self.store.set_refs(uuid, kind, refs);
        }
    }

    /// Sets an object's reference to another, or removes it.
    pub(crate) fn set_ref(&mut self, uuid: Uuid, to: Uuid, attr: Option<Value>) {
        self.changed(uuid, Operation::Update);
        self.store.set_ref(uuid, to, attr);
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, uuid: Uuid) -> Option<Object> {
        self.changed(uuid, Operation::Delete);
        self.store.remove(uuid)
    }
}

/// The name in a body, which has been checked to be a list of strings.
pub(crate) fn fq_name(body: &Map<String, Value>) -> Vec<String> {
    names(body.get("fq_name"))
}

/// A list of strings.
pub(crate) fn names(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// A list of references; empty if there is none.
pub(crate) fn array(value: Option<&Value>) -> Outcome<&[Value]> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) if !truthy(other) => Ok(&[]),
        Some(_) => Err(ApiError::internal()),
    }
}

/// A property as the database returns it: an empty collection is absent, and a map is sorted by key
/// and has no duplicates.
pub(crate) fn normal(prop: &Prop, mut value: Value) -> Option<Value> {
    let Some(collection) = prop.collection else {
        return Some(value);
    };
    let items = value
        .as_object_mut()
        .and_then(|wrapper| wrapper.values_mut().next())
        .and_then(Value::as_array_mut)?;
    if collection == Collection::Map {
        let mut sorted = BTreeMap::new();
        for item in items.drain(..) {
            sorted.insert(key_of(&item), item);
        }
        items.extend(sorted.into_values());
    }
    (!items.is_empty()).then_some(value)
}

/// The key of an element of a map.
pub(crate) fn key_of(item: &Value) -> String {
    item.get("key")
        .or_else(|| item.as_object().and_then(|item| item.values().next()))
        .map(super::python_repr::str)
        .unwrap_or_default()
}
