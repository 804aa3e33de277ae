//! The objects of a new server.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::create::{default_id_perms, default_perms2};
use super::db::{Db, TAG_TYPES};
use super::schema::schema;
use super::store::Ref;

const PROJECT: [&str; 2] = ["default-domain", "default-project"];
const SYSTEM: &str = "default-global-system-config";

/// The state of a new server.
pub(crate) fn db() -> Db {
    let mut db = Db::new();
    fill(&mut db);
    db.changes.clear();
    db
}

fn fill(db: &mut Db) {
    add(db, "config-root", &["config-root"], json!({}));
    add(
        db,
        "global-system-config",
        &[SYSTEM],
        json!({"autonomous_system": 64512}),
    );
    let vrouters = [SYSTEM, "default-global-vrouter-config"];
    let vrouters = add(db, "global-vrouter-config", &vrouters, json!({}));
    add(db, "domain", &PROJECT[..1], json!({}));
    add(db, "project", &PROJECT, json!({}));
    network(db, "default-virtual-network", &[]);
    let mut open = default_perms2("cloud-admin");
    open["global_access"] = 5.into();
    ipam(db, "default-network-ipam", json!({ "perms2": open }));
    add(db, "fabric", &["default-fabric"], json!({}));
    add(
        db,
        "policy-management",
        &["default-policy-management"],
        json!({}),
    );
    let set = [
        "default-policy-management",
        "default-application-policy-set",
    ];
    let set = add(
        db,
        "application-policy-set",
        &set,
        json!({"all_applications": true}),
    );
    if let (Some(set), Some(to), Some(kind)) = (set, vrouters, schema().id("global-vrouter-config"))
    {
        let attr = Value::Null;
        db.set_refs(set, kind, vec![Ref { to, attr }]);
    }
    network(db, "ip-fabric", &["__default__"]);
    network(db, "__link_local__", &[]);
    network(db, "dci-network", &["__default__"]);
    let number = db
        .numbers
        .security_group("default-domain:default-project:__no_rule__");
    let group = [PROJECT[0], PROJECT[1], "__no_rule__"];
    let mut readable = default_perms2("cloud-admin");
    readable["global_access"] = 5.into();
    let group_props = json!({
        "security_group_id": number, "perms2": readable,
        "security_group_entries": {"policy_rule": []}
    });
    add(db, "security-group", &group, group_props);
    let discovery = ["default-discovery-service-assignment"];
    add(db, "discovery-service-assignment", &discovery, json!({}));
    add(
        db,
        "global-qos-config",
        &[SYSTEM, "default-global-qos-config"],
        json!({}),
    );
    ipam(
        db,
        "service-chain-flat-ipam",
        json!({"ipam_subnet_method": "flat-subnet", "ipam_subnets": {"subnets": [
            {"subnet": {"ip_prefix": "0.0.0.0", "ip_prefix_len": 8}},
            {"subnet": {"ip_prefix": "::ffff", "ip_prefix_len": 104}}
        ]}}),
    );
    for (number, name) in TAG_TYPES.iter().enumerate() {
        let mut perms = default_id_perms();
        perms["user_visible"] = false.into();
        let props = json!({
            "tag_type_id": format!("0x{number:04x}"), "display_name": name, "id_perms": perms
        });
        add(db, "tag-type", &[name], props);
    }
}

fn ipam(db: &mut Db, name: &str, props: Value) {
    add(db, "network-ipam", &[PROJECT[0], PROJECT[1], name], props);
}

fn network(db: &mut Db, name: &str, more_instances: &[&str]) {
    let fq_name = [PROJECT[0], PROJECT[1], name];
    let number = db.numbers.network(&fq_name.join(":"));
    if name == "default-virtual-network" {
        // The server creates it as the child of its project, and then sets no defaults.
        let props = json!({ "virtual_network_network_id": number });
        add_bare(db, "virtual-network", &fq_name, props);
    } else {
        let props = json!({
            "virtual_network_network_id": number, "is_provider_network": name == "ip-fabric"
        });
        add(db, "virtual-network", &fq_name, props);
    }
    let own = json!({"routing_instance_is_default": true});
    let instance = [PROJECT[0], PROJECT[1], name, name];
    add(db, "routing-instance", &instance, own);
    for more in more_instances {
        let instance = [PROJECT[0], PROJECT[1], name, more];
        add(db, "routing-instance", &instance, json!({}));
    }
}

/// An object as the server itself creates it: with all defaults, and without a display name.
fn add(db: &mut Db, kind: &str, fq_name: &[&str], props: Value) -> Option<Uuid> {
    let mut all = Map::new();
    for prop in &schema().kind(schema().id(kind)?).props {
        if let Some(value) = &prop.default {
            all.insert(prop.name.clone(), value.clone());
        }
    }
    if let Value::Object(props) = props {
        all.extend(props);
    }
    add_bare(db, kind, fq_name, all.into())
}

/// An object with these properties only.
fn add_bare(db: &mut Db, kind: &str, fq_name: &[&str], props: Value) -> Option<Uuid> {
    let id = schema().id(kind)?;
    let kind = schema().kind(id);
    let mut body = Map::new();
    body.insert("fq_name".to_owned(), fq_name.into());
    body.insert("id_perms".to_owned(), default_id_perms());
    body.insert("perms2".to_owned(), default_perms2("cloud-admin"));
    if let Value::Object(props) = props {
        body.extend(props);
    }
    let names: Vec<_> = fq_name[..fq_name.len() - 1]
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut parents = kind.parents.iter();
    let parent = parents
        .find_map(|parent| db.store.named(parent, &names))
        .map(|parent| parent.uuid);
    let uuid = Uuid::new_v4();
    db.insert(id, uuid, parent, &body, Vec::new());
    Some(uuid)
}
