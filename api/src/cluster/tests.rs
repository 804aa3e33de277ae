use serde_json::json;

use super::*;
use crate::container::Mac;

fn revision(text: &str) -> Revision {
    text.parse().unwrap()
}

#[test]
fn revisions_are_ordered_by_term_first() {
    assert!(revision("2.1") > revision("1.99"));
    assert!(revision("2.10") > revision("2.9"));
    assert_eq!(revision("3.41").to_string(), "3.41");
    for text in [
        "",
        "3",
        "3.",
        ".1",
        "3.4.1",
        "+3.1",
        "3.-1",
        "3. 1",
        "99999999999999999999.0",
    ] {
        assert_eq!(text.parse::<Revision>(), Err(InvalidRevision), "{text:?}");
    }
}

#[test]
fn items_have_this_form_on_the_wire() {
    let node = Node {
        name: "agent-1".to_owned(),
        address: "192.0.2.1".parse().unwrap(),
        vtep: Vtep {
            address: "44.128.0.1".parse().unwrap(),
            address6: None,
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, 1]),
        },
        subnets: vec![NodeSubnets {
            overlay: "vxlan-1".to_owned(),
            subnet: Some("192.168.0.0/26".parse().unwrap()),
            subnet6: None,
            blocks: vec![],
            returned: 0,
        }],
    };
    let put = WatchItem::Put {
        revision: revision("3.42"),
        object: Object::Node(node),
    };
    let delete = WatchItem::Delete {
        revision: revision("3.43"),
        key: ObjectKey::Node {
            name: "agent-1".to_owned(),
        },
    };
    let expected = [
        (
            put,
            json!({"type": "put", "revision": "3.42", "object": {
                "kind": "node", "name": "agent-1", "address": "192.0.2.1",
                "vtep": {"address": "44.128.0.1", "mac": "70:b3:d5:80:00:01"},
                "subnets": [{"overlay": "vxlan-1", "subnet": "192.168.0.0/26"}],
            }}),
        ),
        (
            delete,
            json!({"type": "delete", "revision": "3.43", "key": {"kind": "node", "name": "agent-1"}}),
        ),
        (
            WatchItem::Synced {
                revision: revision("3.41"),
            },
            json!({"type": "synced", "revision": "3.41"}),
        ),
    ];
    for (item, json) in expected {
        assert_eq!(serde_json::to_value(&item).unwrap(), json);
        assert_eq!(serde_json::from_value::<WatchItem>(json).unwrap(), item);
    }
}

#[test]
fn items_of_later_versions_are_read() {
    let items = [
        json!({"type": "bookmark", "revision": "1.1", "more": 1}),
        json!({"type": "put", "revision": "1.1", "object": {"kind": "ingress", "name": "web"}}),
        json!({"type": "delete", "revision": "1.1", "key": {"kind": "ingress", "name": "web"}}),
        json!({"type": "synced", "revision": "1.1", "more": 1}),
    ];
    for item in items {
        let read = serde_json::from_value::<WatchItem>(item.clone());
        assert!(read.is_ok(), "{item}: {read:?}");
    }
}

#[test]
fn subnets_without_blocks_are_as_before_on_the_wire() {
    let json = json!({"overlay": "vxlan-1", "subnet": "192.168.0.0/26"});
    let mut subnets: NodeSubnets = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(&subnets).unwrap(), json);
    subnets.blocks = vec![
        "192.168.1.16/28".parse().unwrap(),
        "fd09::10/124".parse().unwrap(),
    ];
    subnets.returned = 2;
    let all: Vec<String> = subnets.subnets().map(|net| net.to_string()).collect();
    assert_eq!(all, ["192.168.0.0/26", "192.168.1.16/28", "fd09::10/124"]);
    let json = serde_json::to_value(&subnets).unwrap();
    assert_eq!(
        serde_json::from_value::<NodeSubnets>(json).unwrap(),
        subnets
    );
}

#[test]
fn subnets_are_divided_in_halves() {
    let half = |text: &str| halves(text.parse().unwrap());
    let pair = |lower: &str, upper: &str| Some((lower.parse().unwrap(), upper.parse().unwrap()));
    assert_eq!(half("9.0.1.0/24"), pair("9.0.1.0/25", "9.0.1.128/25"));
    assert_eq!(half("fd09::/64"), pair("fd09::/65", "fd09:0:0:0:8000::/65"));
    assert_eq!(half("9.0.1.1/32"), None);
    assert_eq!(half("::1/128"), None);
}
