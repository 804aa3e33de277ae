//! The schema: types, their parents, properties and references.
//!
//! It is read from two data files, `types.txt` and `complex.txt`; children and back references are
//! derived from parents and references. Lines that cannot be parsed are ignored, and a test checks
//! that there are none.

mod value_type;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub(crate) use value_type::{SimpleType, ValueType};

/// The index of a type in the table.
pub(crate) type KindId = usize;

/// Types whose objects the server itself creates as children; they never block a delete.
const DERIVED_CHILDREN: [&str; 3] = ["access-control-list", "port-tuple", "routing-instance"];
/// The real server iterates over sets in no defined order; its recorded responses begin with these.
const CHECKED_FIRST: [&str; 4] = [
    "instance-ip",
    "virtual-network",
    "virtual-router",
    "virtual-machine-interface",
];

static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::read(include_str!("types.txt"), include_str!("complex.txt")));

/// The table.
pub(crate) struct Schema {
    kinds: Vec<Kind>,
    by_name: HashMap<String, KindId>,
    complexes: HashMap<String, Vec<Field>>,
}

/// One type of object.
#[derive(Default)]
pub(crate) struct Kind {
    /// As in URLs and bodies: `virtual-network`.
    pub(crate) name: String,
    /// As in field names: `virtual_network`.
    pub(crate) object: String,
    /// The types that may be a parent.
    pub(crate) parents: Vec<String>,
    pub(crate) props: Vec<Prop>,
    pub(crate) refs: Vec<RefField>,
    /// The types that can be a child.
    pub(crate) children: Vec<Link>,
    /// The types that can refer to this one.
    pub(crate) referrers: Vec<Link>,
}

/// A property.
pub(crate) struct Prop {
    pub(crate) name: String,
    pub(crate) value_type: ValueType,
    /// The value in objects that the server itself creates.
    pub(crate) default: Option<Value>,
    pub(crate) collection: Option<Collection>,
}

/// How `prop-collection-update` changes a property.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    List,
    Map,
}

/// A reference field.
pub(crate) struct RefField {
    /// `virtual_network_refs`
    pub(crate) name: String,
    pub(crate) kind: KindId,
    /// The complex type of the reference's attribute.
    pub(crate) attr: Option<String>,
    derived: bool,
}

/// A type at the other end of a link.
pub(crate) struct Link {
    pub(crate) kind: KindId,
    /// `virtual_networks` or `virtual_network_back_refs`
    pub(crate) field: String,
    /// Never blocks a delete.
    pub(crate) derived: bool,
}

/// A field of a complex type.
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value_type: ValueType,
    pub(crate) list: bool,
}

/// The table.
pub(crate) fn schema() -> &'static Schema {
    &SCHEMA
}

impl Schema {
    fn read(types: &str, complexes: &str) -> Self {
        let mut schema = Self {
            kinds: Vec::new(),
            by_name: HashMap::new(),
            complexes: complexes.lines().filter_map(complex).collect(),
        };
        let mut refs = Vec::new();
        for line in lines(types) {
            if let Some(kind) = line.strip_prefix("type ").and_then(kind) {
                let id = schema.kinds.len();
                schema.by_name.insert(kind.name.clone(), id);
                schema.by_name.insert(kind.object.clone(), id);
                schema.kinds.push(kind);
            } else if let Some(target) = line.strip_prefix("  -> ") {
                refs.push((schema.kinds.len().saturating_sub(1), target));
            } else if let (Some(kind), Some(prop)) = (schema.kinds.last_mut(), prop(line)) {
                kind.props.push(prop);
            }
        }
        for (id, target) in refs {
            schema.add_ref(id, target);
        }
        for id in 0..schema.kinds.len() {
            if !["config-root", "tag", "tag-type"].contains(&schema.kinds[id].name.as_str()) {
                schema.add_ref(id, "tag");
            }
        }
        schema.link();
        schema
    }

    fn add_ref(&mut self, id: KindId, target: &str) {
        let mut words = target.split(' ');
        let name = words.next().unwrap_or_default();
        let Some(&kind) = self.by_name.get(name) else {
            return;
        };
        let rest: Vec<_> = words.collect();
        let field = RefField {
            name: format!("{}_refs", self.kinds[kind].object),
            kind,
            attr: rest
                .first()
                .filter(|word| **word != "derived")
                .map(ToString::to_string),
            derived: rest.contains(&"derived"),
        };
        self.kinds[id].refs.push(field);
    }

    /// Fills in children and referrers, in the order in which a delete checks them.
    fn link(&mut self) {
        let mut order: Vec<KindId> = (0..self.kinds.len()).collect();
        order.sort_by_key(|id| {
            let name = self.kinds[*id].name.clone();
            let first = CHECKED_FIRST.iter().position(|first| *first == name);
            (first.unwrap_or(CHECKED_FIRST.len()), name)
        });
        for kind in order {
            let Kind { object, name, .. } = &self.kinds[kind];
            let (object, name) = (object.clone(), name.clone());
            let parents: Vec<_> = self.kinds[kind]
                .parents
                .iter()
                .filter_map(|name| self.id(name))
                .collect();
            for parent in parents {
                self.kinds[parent].children.push(Link {
                    kind,
                    field: format!("{object}s"),
                    derived: DERIVED_CHILDREN.contains(&name.as_str()),
                });
            }
            let targets: Vec<_> = self.kinds[kind]
                .refs
                .iter()
                .map(|field| (field.kind, field.derived))
                .collect();
            for (target, derived) in targets {
                self.kinds[target].referrers.push(Link {
                    kind,
                    field: format!("{object}_back_refs"),
                    derived,
                });
            }
        }
    }

    /// The type of this name, with dashes or underscores.
    pub(crate) fn id(&self, name: &str) -> Option<KindId> {
        self.by_name.get(name).copied()
    }

    /// A type. Every [`KindId`] is an index of this table.
    pub(crate) fn kind(&self, id: KindId) -> &Kind {
        &self.kinds[id]
    }

    /// All types.
    pub(crate) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The fields of a complex type.
    pub(crate) fn complex(&self, name: &str) -> Option<&[Field]> {
        self.complexes.get(name).map(Vec::as_slice)
    }

    /// The single field of a complex type that wraps a collection, such as `key_value_pair`.
    pub(crate) fn wrapper(&self, value_type: &ValueType) -> Option<&Field> {
        match value_type {
            ValueType::Complex(name) => self.complex(name)?.first(),
            ValueType::Simple(_) => None,
        }
    }
}

impl Kind {
    /// Whether this is the type of this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    pub(crate) fn prop(&self, name: &str) -> Option<&Prop> {
        self.props.iter().find(|prop| prop.name == name)
    }

    pub(crate) fn reference(&self, name: &str) -> Option<&RefField> {
        self.refs.iter().find(|field| field.name == name)
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
}

fn kind(line: &str) -> Option<Kind> {
    let (name, parents) = line.split_once(" <")?;
    let everywhere = [
        "annotations KeyValuePairs map",
        "display_name string",
        "id_perms IdPermsType",
        "perms2 PermType2",
    ];
    Some(Kind {
        name: name.to_owned(),
        object: name.replace('-', "_"),
        parents: parents.split_whitespace().map(str::to_owned).collect(),
        props: everywhere.into_iter().filter_map(prop).collect(),
        ..Kind::default()
    })
}

fn prop(line: &str) -> Option<Prop> {
    let (declared, default) = match line.split_once(" = ") {
        Some((declared, default)) => (declared, Some(default)),
        None => (line, None),
    };
    let mut words = declared.split_whitespace();
    let name = words.next()?.to_owned();
    let value_type = ValueType::read(words.next()?)?;
    let collection = match words.next() {
        Some("map") => Some(Collection::Map),
        Some("list") => Some(Collection::List),
        Some(_) => return None,
        None => None,
    };
    Some(Prop {
        name,
        default: default.map(|text| value_type.default(text)),
        value_type,
        collection,
    })
}

fn complex(line: &str) -> Option<(String, Vec<Field>)> {
    let mut words = line.strip_prefix("complex ")?.split(' ');
    let name = words.next()?.to_owned();
    let fields = words.filter_map(|word| {
        let (name, value_type) = word.split_once(':')?;
        let list = value_type.ends_with('*');
        Some(Field {
            name: name.to_owned(),
            value_type: ValueType::read(value_type.trim_end_matches('*'))?,
            list,
        })
    });
    Some((name, fields.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_files_parse_completely() {
        let types = include_str!("types.txt");
        let kinds = types.lines().filter(|line| line.starts_with("type "));
        assert_eq!(schema().kinds().len(), kinds.count());
        let props = lines(types).filter(|line| line.starts_with("  ") && !line.contains("->"));
        let known: usize = schema()
            .kinds()
            .iter()
            .map(|kind| kind.props.len() - 4)
            .sum();
        assert_eq!(known, props.count());
        for kind in schema().kinds() {
            for parent in &kind.parents {
                assert!(schema().id(parent).is_some(), "{}: {parent}", kind.name);
            }
            let value_types = kind.props.iter().map(|prop| &prop.value_type);
            for value_type in value_types.chain(
                schema()
                    .complexes
                    .values()
                    .flatten()
                    .map(|field| &field.value_type),
            ) {
                if let ValueType::Complex(name) = value_type {
                    assert!(schema().complex(name).is_some(), "{}: {name}", kind.name);
                }
            }
        }
        for line in lines(include_str!("complex.txt")) {
            let (name, fields) = complex(line).unwrap();
            assert_eq!(fields.len(), line.split(' ').count() - 2, "{name}");
        }
    }

    #[test]
    fn schema_derives_children_and_referrers() {
        let network = schema().kind(schema().id("virtual_network").unwrap());
        let children: Vec<_> = network.children.iter().map(|link| &*link.field).collect();
        assert!(children.contains(&"routing_instances"), "{children:?}");
        assert!(children.contains(&"floating_ip_pools"), "{children:?}");
        assert_eq!(network.referrers[0].field, "instance_ip_back_refs");
        assert!(network.reference("network_ipam_refs").is_some());
        assert!(network.reference("tag_refs").is_some());
    }
}
