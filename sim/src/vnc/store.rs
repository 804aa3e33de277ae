//! The objects, by uuid, name, parent and reference.
//!
//! Invariants: a name is unique within its type; `listed` has the same objects as `names`, in the
//! order of pages; `children` and `referrers` mirror `parent` and `refs`; the targets of references
//! exist. The store does not check whether a change is allowed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::schema::{KindId, schema};

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) kind: KindId,
    pub(crate) uuid: Uuid,
    pub(crate) fq_name: Vec<String>,
    pub(crate) parent: Option<Uuid>,
    /// In the order of insertion.
    pub(crate) props: Map<String, Value>,
    pub(crate) refs: Vec<Ref>,
    /// The sequence number of its insertion.
    pub(crate) stamp: u64,
}

/// A reference from one object to another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ref {
    pub(crate) to: Uuid,
    pub(crate) attr: Value,
}

/// Objects at the other end of a link, by type, oldest first.
type Links = HashMap<Uuid, BTreeSet<(KindId, u64, Uuid)>>;

/// All objects.
#[derive(Default)]
pub(crate) struct Store {
    objects: HashMap<Uuid, Object>,
    names: BTreeMap<(KindId, Vec<String>), Uuid>,
    /// By name and uuid in one string, which is the sort key of the real server's database.
    listed: BTreeMap<(KindId, String), Uuid>,
    children: Links,
    referrers: Links,
    relaxed: HashSet<(Uuid, Uuid)>,
    stamp: u64,
}

/// Reads a uuid in the only form that the API accepts: with dashes and in lower case.
pub(crate) fn canonical(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text)
        .ok()
        .filter(|uuid| uuid.to_string() == text)
}

impl Object {
    /// The last part of the name.
    pub(crate) fn name(&self) -> &str {
        self.fq_name.last().map_or("", String::as_str)
    }

    /// The parts of the name before the last.
    pub(crate) fn parent_name(&self) -> &[String] {
        &self.fq_name[..self.fq_name.len().saturating_sub(1)]
    }

    /// The sort key in a list of its type.
    fn key(&self) -> (KindId, String) {
        (
            self.kind,
            format!("{}:{}", self.fq_name.join(":"), self.uuid),
        )
    }

    pub(crate) fn text(&self, prop: &str) -> Option<&str> {
        self.props.get(prop).and_then(Value::as_str)
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        schema().kind(self.kind).is(kind)
    }
}

impl Store {
    pub(crate) fn get(&self, uuid: Uuid) -> Option<&Object> {
        self.objects.get(&uuid)
    }

    pub(crate) fn get_mut(&mut self, uuid: Uuid) -> Option<&mut Object> {
        self.objects.get_mut(&uuid)
    }

    /// The object of a uuid as requests write it.
    pub(crate) fn find(&self, uuid: &str) -> Option<&Object> {
        self.get(canonical(uuid)?)
    }

    /// The object of this uuid, if it has this type.
    pub(crate) fn find_kind(&self, kind: KindId, uuid: &str) -> Option<&Object> {
        self.find(uuid).filter(|object| object.kind == kind)
    }

    pub(crate) fn by_name(&self, kind: KindId, fq_name: &[String]) -> Option<&Object> {
        // The key has to be owned: a tuple of borrowed parts is another type.
        let uuid = self.names.get(&(kind, fq_name.to_vec()))?;
        self.get(*uuid)
    }

    /// The object of this name and this type name.
    pub(crate) fn named(&self, kind: &str, fq_name: &[String]) -> Option<&Object> {
        self.by_name(schema().id(kind)?, fq_name)
    }

    /// All objects of a type, ordered by name.
    pub(crate) fn of_kind(&self, kind: KindId) -> impl Iterator<Item = &Object> {
        self.names
            .range((kind, Vec::new())..(kind + 1, Vec::new()))
            .filter_map(|(_, uuid)| self.get(*uuid))
    }

    /// The objects of a type after this sort key, in the order of pages, with their sort keys.
    pub(crate) fn listed(
        &self,
        kind: KindId,
        after: &str,
    ) -> impl Iterator<Item = (&str, &Object)> {
        let after = Bound::Excluded((kind, after.to_owned()));
        let end = Bound::Excluded((kind + 1, String::new()));
        self.listed
            .range((after, end))
            .filter_map(|((_, key), uuid)| Some((key.as_str(), self.get(*uuid)?)))
    }

    pub(crate) fn children(&self, parent: Uuid, kind: KindId) -> impl Iterator<Item = &Object> {
        self.linked(&self.children, parent, kind)
    }

    pub(crate) fn referrers(&self, target: Uuid, kind: KindId) -> impl Iterator<Item = &Object> {
        self.linked(&self.referrers, target, kind)
    }

    /// The referrers of all types.
    pub(crate) fn all_referrers(&self, target: Uuid) -> impl Iterator<Item = &Object> {
        self.referrers
            .get(&target)
            .into_iter()
            .flatten()
            .filter_map(|(_, _, uuid)| self.get(*uuid))
    }

    fn linked<'a>(
        &'a self,
        links: &'a Links,
        uuid: Uuid,
        kind: KindId,
    ) -> impl Iterator<Item = &'a Object> {
        links
            .get(&uuid)
            .into_iter()
            .flat_map(move |links| links.range((kind, 0, Uuid::nil())..(kind + 1, 0, Uuid::nil())))
            .filter_map(|(_, _, uuid)| self.get(*uuid))
    }

    /// The targets of an object's references to one type.
    pub(crate) fn targets<'a>(
        &'a self,
        object: &'a Object,
        kind: KindId,
    ) -> impl Iterator<Item = (&'a Object, &'a Value)> {
        object.refs.iter().filter_map(move |reference| {
            let target = self.get(reference.to)?;
            (target.kind == kind).then_some((target, &reference.attr))
        })
    }

    /// Adds an object whose name and uuid are unused.
    pub(crate) fn insert(&mut self, mut object: Object) {
        self.stamp += 1;
        object.stamp = self.stamp;
        let key = (object.kind, object.stamp, object.uuid);
        if let Some(parent) = object.parent {
            self.children.entry(parent).or_default().insert(key);
        }
        for reference in &object.refs {
            self.referrers.entry(reference.to).or_default().insert(key);
        }
        self.names
            .insert((object.kind, object.fq_name.clone()), object.uuid);
        self.listed.insert(object.key(), object.uuid);
        self.objects.insert(object.uuid, object);
    }

    /// Removes an object and its references.
    pub(crate) fn remove(&mut self, uuid: Uuid) -> Option<Object> {
        let object = self.objects.remove(&uuid)?;
        let key = (object.kind, object.stamp, object.uuid);
        self.names.remove(&(object.kind, object.fq_name.clone()));
        self.listed.remove(&object.key());
        if let Some(parent) = object.parent {
            unlink(&mut self.children, parent, key);
        }
        for reference in &object.refs {
            unlink(&mut self.referrers, reference.to, key);
        }
        self.referrers.remove(&uuid);
        self.children.remove(&uuid);
        self.relaxed
            .retain(|(referrer, target)| *referrer != uuid && *target != uuid);
        Some(object)
    }

    /// Replaces an object's references to objects of one type.
    pub(crate) fn set_refs(&mut self, uuid: Uuid, kind: KindId, refs: Vec<Ref>) {
        let Some(object) = self.objects.get(&uuid) else {
            return;
        };
        let key = (object.kind, object.stamp, object.uuid);
        let (old, mut kept): (Vec<_>, Vec<_>) =
            object.refs.clone().into_iter().partition(|reference| {
                self.objects
                    .get(&reference.to)
                    .is_some_and(|target| target.kind == kind)
            });
        for reference in &old {
            unlink(&mut self.referrers, reference.to, key);
            if !refs.iter().any(|new| new.to == reference.to) {
                self.relaxed.remove(&(uuid, reference.to));
            }
        }
        for reference in &refs {
            self.referrers.entry(reference.to).or_default().insert(key);
        }
        kept.extend(refs);
        if let Some(object) = self.objects.get_mut(&uuid) {
            object.refs = kept;
        }
    }

    /// Sets an object's reference to another, or removes it.
    pub(crate) fn set_ref(&mut self, uuid: Uuid, to: Uuid, attr: Option<Value>) {
        let Some(object) = self.objects.get_mut(&uuid) else {
            return;
        };
        let key = (object.kind, object.stamp, object.uuid);
        object.refs.retain(|reference| reference.to != to);
        if let Some(attr) = attr {
            object.refs.push(Ref { to, attr });
            self.referrers.entry(to).or_default().insert(key);
        } else {
            unlink(&mut self.referrers, to, key);
            self.relaxed.remove(&(uuid, to));
        }
    }

    /// Lets the target be deleted although this object refers to it.
    pub(crate) fn relax(&mut self, referrer: Uuid, target: Uuid) {
        self.relaxed.insert((referrer, target));
    }

    pub(crate) fn is_relaxed(&self, referrer: Uuid, target: Uuid) -> bool {
        self.relaxed.contains(&(referrer, target))
    }
}

fn unlink(links: &mut Links, from: Uuid, key: (KindId, u64, Uuid)) {
    if let Some(set) = links.get_mut(&from) {
        set.remove(&key);
        if set.is_empty() {
            links.remove(&from);
        }
    }
}
