//! The list of links at `/`, from which the Python client learns all URLs.

use serde_json::{Value, json};

use super::schema::schema;

/// The paths of actions, their names in the Python client, and their methods.
pub(crate) const ACTIONS: [(&str, &str, &str); 17] = [
    ("/prop-collection-get", "prop-collection-get", "GET"),
    ("/prop-collection-update", "prop-collection-update", "POST"),
    ("/ref-update", "ref-update", "POST"),
    ("/ref-relax-for-delete", "ref-relax-for-delete", "POST"),
    ("/fqname-to-id", "name-to-id", "POST"),
    ("/id-to-fqname", "id-to-name", "POST"),
    ("/useragent-kv", "useragent-keyvalue", "POST"),
    ("/list-bulk-collection", "list-bulk-collection", "POST"),
    ("/obj-perms", "obj-perms", "GET"),
    ("/chown", "chown", "POST"),
    ("/chmod", "chmod", "POST"),
    ("/aaa-mode", "aaa-mode", "PUT"),
    ("/documentation/index.html", "documentation", "GET"),
    (
        "/virtual-network/%s/ip-alloc",
        "virtual-network-ip-alloc",
        "POST",
    ),
    (
        "/virtual-network/%s/ip-free",
        "virtual-network-ip-free",
        "POST",
    ),
    (
        "/virtual-network/%s/subnet-ip-count",
        "virtual-network-subnet-ip-count",
        "POST",
    ),
    ("/set-tag", "set-tag", "POST"),
];

/// All links.
pub(crate) fn links(base: &str) -> Value {
    let link = |rel: &str, path: &str, name: &str, method: Value| {
        let href = format!("{base}{path}");
        json!({"link": {"href": href, "name": name, "rel": rel, "method": method}})
    };
    let mut links = vec![link("root", "/config-root", "config-root", Value::Null)];
    for kind in schema().kinds() {
        let name = &kind.name;
        links.push(link("collection", &format!("/{name}s"), name, Value::Null));
        links.push(link(
            "resource-base",
            &format!("/{name}"),
            name,
            Value::Null,
        ));
    }
    for (path, name, method) in ACTIONS {
        links.push(link("action", path, name, method.into()));
    }
    json!({"href": base, "links": links})
}
