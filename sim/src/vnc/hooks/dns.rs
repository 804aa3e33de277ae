//! Virtual DNS servers and their records.
//!
//! Like the real server, an update is checked as if it were the whole object, so one without the data
//! fails.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::Body;
use crate::vnc::db::{Db, fq_name};
use crate::vnc::python_repr::{self, truthy};
use crate::vnc::response::{ApiError, Outcome, fail};
use crate::vnc::schema::KindId;
use crate::vnc::store::Object;

const MAX_NAME_BYTES: usize = 255;
const MAX_LABEL_BYTES: usize = 63;
const TTLS: std::ops::RangeInclusive<i64> = 0..=2_147_483_647;
const ORDERS: [&str; 3] = ["fixed", "random", "round-robin"];
const RECORD_TYPES: [&str; 6] = ["a", "cname", "ptr", "ns", "mx", "aaaa"];

fn is_dns_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let stripped = name.strip_suffix('.').unwrap_or(name);
    name.len() <= MAX_NAME_BYTES && stripped.split('.').all(is_label)
}

/// A field that the real server takes without asking whether it is there.
fn field<'a>(data: &'a Value, name: &str) -> Outcome<&'a Value> {
    data.get(name).ok_or_else(|| ApiError::key_error(name))
}

fn text(data: &Value, name: &str) -> Outcome<String> {
    Ok(python_repr::str(field(data, name)?))
}

fn is_in(data: &Value, name: &str, range: &std::ops::RangeInclusive<i64>) -> Outcome<bool> {
    let number = field(data, name)?.as_i64();
    Ok(number.is_some_and(|number| range.contains(&number)))
}

/// Checks a new virtual DNS server.
pub(super) fn server_before_create(db: &Db, body: &Body) -> Outcome<()> {
    let own = fq_name(body);
    let name = own.get(1).cloned().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !name.bytes().all(plain) || name.starts_with('-') {
        return fail(
            403,
            "Special characters are not allowed in Virtual DNS server name",
        );
    }
    server(db, body, Some(&own))
}

/// Checks an update of a virtual DNS server.
pub(super) fn server_before_update(db: &Db, body: &Body) -> Outcome<()> {
    server(db, body, None)
}

fn server(db: &Db, body: &Body, own: Option<&[String]>) -> Outcome<()> {
    let data = body
        .get("virtual_DNS_data")
        .ok_or_else(|| ApiError::key_error("virtual_DNS_data"))?;
    if !is_dns_name(&text(data, "domain_name")?) {
        return fail(403, "Domain name does not adhere to DNS name requirements");
    }
    let order = text(data, "record_order")?.to_lowercase();
    if !ORDERS.contains(&order.as_str()) {
        return fail(403, "Invalid value for record order");
    }
    if !is_in(data, "default_ttl_seconds", &TTLS)? {
        return fail(400, "Invalid value for TTL");
    }
    let Some(next) = data
        .get("next_virtual_DNS")
        .filter(|next| truthy(next))
        .map(python_repr::str)
    else {
        return Ok(());
    };
    let next_name: Vec<String> = next.split(':').map(str::to_owned).collect();
    let Some(found) = db.store.named("virtual-DNS", &next_name) else {
        return if next.parse::<Ipv4Addr>().is_ok() {
            Ok(())
        } else {
            fail(400, "Invalid Virtual Forwarder(next virtual dns server)")
        };
    };
    let Some(back) = found
        .props
        .get("virtual_DNS_data")
        .and_then(|data| data.get("next_virtual_DNS"))
    else {
        return Ok(());
    };
    let own = own.ok_or_else(|| ApiError::key_error("fq_name"))?;
    if *back == own.join(":").as_str() {
        return fail(
            403,
            "Cannot have Virtual DNS Servers referring to each other",
        );
    }
    Ok(())
}

/// Checks that no other server forwards to this one.
pub(super) fn server_before_delete(db: &Db, kind: KindId, object: &Object) -> Outcome<()> {
    let name = object.fq_name.join(":");
    let is_next = |other: &Object| {
        let data = other.props.get("virtual_DNS_data");
        data.and_then(|data| data.get("next_virtual_DNS"))
            .is_some_and(|next| *next == name.as_str())
    };
    let mut siblings = db
        .store
        .of_kind(kind)
        .filter(|other| other.parent == object.parent);
    if siblings.any(is_next) {
        return fail(
            403,
            "Virtual DNS server is referred by other virtual DNS servers",
        );
    }
    Ok(())
}

/// Checks a new record or an update of one.
pub(super) fn record(db: &Db, body: &Body) -> Outcome<()> {
    let data = body
        .get("virtual_DNS_record_data")
        .ok_or_else(|| ApiError::key_error("virtual_DNS_record_data"))?;
    let kind = text(data, "record_type")?.to_lowercase();
    if !RECORD_TYPES.contains(&kind.as_str()) {
        return fail(403, "Invalid record type");
    }
    if text(data, "record_class")?.to_lowercase() != "in" {
        return fail(403, "Invalid record class");
    }
    let (name, value) = (text(data, "record_name")?, text(data, "record_data")?);
    if kind == "ptr" {
        let lower = name.to_lowercase();
        let is_reverse = ["in-addr.arpa", "ip6.arpa"]
            .iter()
            .any(|zone| lower.contains(zone));
        if !is_reverse && name.parse::<std::net::IpAddr>().is_err() {
            return fail(
                403,
                "PTR Record name has to be IP address or reverse.ip.in-addr.arpa",
            );
        }
    } else if !is_dns_name(&name) {
        return fail(403, "Record name does not adhere to DNS name requirements");
    }
    match kind.as_str() {
        "a" if value.parse::<Ipv4Addr>().is_err() => return fail(403, "Invalid IP address"),
        "aaaa" if value.parse::<Ipv6Addr>().is_err() => {
            return fail(403, "Invalid IPv6 address");
        }
        "cname" | "ptr" | "mx" if !is_dns_name(&value) => {
            return fail(403, "Record data does not adhere to DNS name requirements");
        }
        "ns" => {
            let server: Vec<String> = value.split(':').map(str::to_owned).collect();
            let exists = db.store.named("virtual-DNS", &server).is_some();
            if !exists && value.parse::<Ipv4Addr>().is_err() && !is_dns_name(&value) {
                return fail(403, "Invalid virtual dns server in record data");
            }
        }
        _ => {}
    }
    if !is_in(data, "record_ttl_seconds", &TTLS)? {
        return fail(403, "Invalid value for TTL");
    }
    if kind == "mx" && !is_in(data, "record_mx_preference", &(0..=65_535))? {
        return fail(403, "Invalid value for MX record preference");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vnc::create::internal;

    fn body(value: Value) -> Body {
        let Value::Object(body) = value else {
            panic!("{value}")
        };
        body
    }

    fn server_body(name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut data = json!({
            "domain_name": "l4lb.thisdcos.directory", "record_order": "random",
            "default_ttl_seconds": 30,
        });
        change(&mut data);
        json!({"fq_name": ["d", name], "parent_type": "domain", "virtual_DNS_data": data})
    }

    fn db() -> Db {
        let mut db = Db::new();
        internal(&mut db, "domain", json!({"fq_name": ["d"]})).unwrap();
        db
    }

    #[test]
    fn servers_are_checked() {
        let mut db = db();
        internal(&mut db, "virtual-DNS", server_body("a", |_| {})).unwrap();
        let next = |name: &str| {
            let name = name.to_owned();
            move |data: &mut Value| data["next_virtual_DNS"] = name.clone().into()
        };
        internal(&mut db, "virtual-DNS", server_body("b", next("d:a"))).unwrap();
        let mut refused = |name: &str, change: &dyn Fn(&mut Value)| {
            internal(&mut db, "virtual-DNS", server_body(name, change))
                .unwrap_err()
                .status
        };
        assert_eq!(refused("a_b", &|_| {}), 403);
        assert_eq!(
            refused("c", &|data| data["domain_name"] = "a_b".into()),
            403
        );
        assert_eq!(
            refused("c", &|data| {
                data.as_object_mut().unwrap().remove("record_order");
            }),
            500
        );
        assert_eq!(
            refused("c", &|data| data["default_ttl_seconds"] = (-1).into()),
            400
        );
        assert_eq!(refused("c", &next("d:none")), 400);
        internal(&mut db, "virtual-DNS", server_body("c", next("10.0.0.1"))).unwrap();
        // An update without the data fails, and one server may not be deleted before another.
        assert_eq!(
            server_before_update(&db, &Body::new()).unwrap_err().status,
            500
        );
        let kind = Db::kind(Some("virtual-DNS")).unwrap();
        let named = |name: &str| {
            let name = ["d", name].map(str::to_owned);
            db.store.named("virtual-DNS", &name).unwrap()
        };
        let status =
            |name| server_before_delete(&db, kind, named(name)).map_err(|error| error.status);
        assert_eq!(status("a"), Err(403));
        assert_eq!(status("b"), Ok(()));
    }

    #[test]
    fn records_are_checked() {
        let db = db();
        let check = |kind: &str, name: &str, data: &str| {
            let body = body(json!({"virtual_DNS_record_data": {
                "record_name": name, "record_type": kind, "record_class": "IN",
                "record_data": data, "record_ttl_seconds": 30,
            }}));
            record(&db, &body).map_err(|error| error.status)
        };
        assert_eq!(check("A", "web.marathon", "198.18.0.9"), Ok(()));
        assert_eq!(check("AAAA", "web", "fd00::1"), Ok(()));
        assert_eq!(check("CNAME", "web", "other.example."), Ok(()));
        for (kind, name, data) in [
            ("SRV", "web", "198.18.0.9"),
            ("A", "_http._tcp.web", "198.18.0.9"),
            ("A", "-web", "198.18.0.9"),
            ("A", "", "198.18.0.9"),
            ("A", "web", "fd00::1"),
            ("AAAA", "web", "198.18.0.9"),
            ("PTR", "web", "name"),
        ] {
            assert_eq!(check(kind, name, data), Err(403), "{kind} {name} {data}");
        }
        assert_eq!(check("A", &"a".repeat(64), "198.18.0.9"), Err(403));
        assert_eq!(record(&db, &Body::new()).unwrap_err().status, 500);
    }
}
