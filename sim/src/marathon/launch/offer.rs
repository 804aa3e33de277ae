//! Offers, and taking resources from them.
//!
//! Invariant: resources are returned in the form in which they were offered (reservation,
//! allocation), with only the amount changed, so that the master finds them in the offer.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// First and last ports, inclusive.
type Ranges = Vec<(u64, u64)>;

/// An agent's offer, or the rest of it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named and documented by Mesos' Offer")]
pub struct Offer {
    pub id: String,
    pub agent_id: String,
    pub framework_id: String,
    pub hostname: String,
    pub region: Option<String>,
    pub zone: Option<String>,
    pub attributes: BTreeMap<String, String>,
    resources: Vec<Resource>,
}

#[derive(Clone, Debug)]
struct Resource {
    offered: Value,
    name: String,
    role: String,
    amount: Amount,
}

#[derive(Clone, Debug)]
enum Amount {
    Scalar(f64),
    Ranges(Ranges),
}

impl Offer {
    /// Reads an offer of the v1 scheduler API; none if it is invalid.
    #[must_use]
    pub fn from_json(offer: &Value) -> Option<Self> {
        let text = |pointer: &str| Some(offer.pointer(pointer)?.as_str()?.to_owned());
        let resources = offer["resources"].as_array().map(Vec::as_slice);
        Some(Self {
            id: text("/id/value")?,
            agent_id: text("/agent_id/value")?,
            framework_id: text("/framework_id/value")?,
            hostname: text("/hostname")?,
            region: text("/domain/fault_domain/region/name"),
            zone: text("/domain/fault_domain/zone/name"),
            attributes: attributes(&offer["attributes"]),
            resources: resources
                .unwrap_or_default()
                .iter()
                .filter_map(Resource::from_json)
                .collect(),
        })
    }

    /// The value of a field of constraints.
    #[must_use]
    pub fn value(&self, field: &str) -> Option<String> {
        match field {
            "hostname" | "@hostname" => Some(self.hostname.clone()),
            "@region" => self.region.clone(),
            "@zone" => self.zone.clone(),
            attribute => self.attributes.get(attribute).cloned(),
        }
    }

    /// Takes an amount of a scalar resource from the reservations of these roles, or nothing if
    /// there is not enough.
    pub fn take_scalar(&mut self, name: &str, amount: f64, roles: &[&str]) -> Option<Vec<Value>> {
        let mut missing = thousandths(amount);
        let mut taken = Vec::new();
        let mut rest = self.resources.clone();
        for resource in rest.iter_mut().filter(|own| own.is(name, roles)) {
            if let Amount::Scalar(left) = &mut resource.amount {
                let part = missing.min(*left);
                if part > 0.0 {
                    missing = thousandths(missing - part);
                    *left = thousandths(*left - part);
                    taken.push(resource.taken(&Amount::Scalar(part)));
                }
            }
        }
        if missing > 0.0 {
            return None;
        }
        self.resources = rest;
        Some(taken)
    }

    /// Takes a port for each entry of `wanted` that is one: that port, or for 0 the lowest free
    /// one. Returns the ports in the same order, and the resources.
    pub fn take_ports(
        &mut self,
        wanted: &[Option<u16>],
        roles: &[&str],
    ) -> Option<(Vec<Option<u16>>, Vec<Value>)> {
        let mut rest = self.resources.clone();
        let mut ports = vec![None; wanted.len()];
        let mut taken = Vec::new();
        // Fixed ports first, as a dynamic one could otherwise take a port that a later entry
        // requests.
        let fixed = wanted
            .iter()
            .enumerate()
            .filter(|(_, port)| **port > Some(0));
        let dynamic = wanted
            .iter()
            .enumerate()
            .filter(|(_, port)| **port == Some(0));
        for (index, port) in fixed.chain(dynamic) {
            let port = port.filter(|port| *port != 0).map(u64::from);
            let (number, resource) = rest
                .iter_mut()
                .filter(|own| own.is("ports", roles))
                .find_map(|own| own.take_port(port))?;
            ports[index] = Some(number);
            taken.push(resource);
        }
        self.resources = rest;
        Some((ports, taken))
    }
}

/// The attributes with a text or a number.
fn attributes(all: &Value) -> BTreeMap<String, String> {
    let attribute = |own: &Value| {
        let name = own["name"].as_str()?.to_owned();
        let text = own.pointer("/text/value").and_then(Value::as_str);
        let number = own.pointer("/scalar/value").and_then(Value::as_f64);
        let value = text.map(str::to_owned);
        Some((
            name,
            value.or_else(|| number.map(|number| number.to_string()))?,
        ))
    };
    let all = all.as_array().into_iter().flatten();
    all.filter_map(attribute).collect()
}

impl Resource {
    fn from_json(offered: &Value) -> Option<Self> {
        // Neither volumes nor revocable resources: Marathon does not use them here.
        let special = ["disk", "revocable", "shared"];
        if special.iter().any(|field| !offered[field].is_null()) {
            return None;
        }
        let amount = if let Some(value) = offered.pointer("/scalar/value") {
            Amount::Scalar(value.as_f64()?)
        } else {
            let ranges = offered.pointer("/ranges/range")?.as_array()?.iter();
            let range = |range: &Value| Some((range["begin"].as_u64()?, range["end"].as_u64()?));
            Amount::Ranges(ranges.filter_map(range).collect())
        };
        let reservations = offered["reservations"].as_array();
        let refined = reservations.and_then(|all| all.last()?["role"].as_str());
        let role = refined.or_else(|| offered["role"].as_str());
        Some(Self {
            name: offered["name"].as_str()?.to_owned(),
            role: role.unwrap_or("*").to_owned(),
            amount,
            offered: offered.clone(),
        })
    }

    fn is(&self, name: &str, roles: &[&str]) -> bool {
        self.name == name && roles.contains(&self.role.as_str())
    }

    fn taken(&self, amount: &Amount) -> Value {
        let mut resource = self.offered.clone();
        match amount {
            Amount::Scalar(value) => resource["scalar"] = json!({"value": value}),
            Amount::Ranges(ranges) => {
                let range = |(begin, end): &(u64, u64)| json!({"begin": begin, "end": end});
                resource["ranges"] = json!({"range": ranges.iter().map(range).collect::<Value>()});
            }
        }
        resource
    }

    fn take_port(&mut self, wanted: Option<u64>) -> Option<(u16, Value)> {
        let Amount::Ranges(ranges) = &mut self.amount else {
            return None;
        };
        let holds = |(begin, end): &(u64, u64)| {
            wanted.map_or(begin <= end, |port| (*begin..=*end).contains(&port))
        };
        let index = ranges.iter().position(holds)?;
        let (begin, end) = ranges.remove(index);
        let port = wanted.unwrap_or(begin);
        let left = [(begin, port.saturating_sub(1)), (port + 1, end)];
        ranges.extend(left.into_iter().filter(|(begin, end)| begin <= end));
        let number = u16::try_from(port).ok()?;
        Some((number, self.taken(&Amount::Ranges(vec![(port, port)]))))
    }
}

/// Mesos counts scalars in thousandths.
fn thousandths(amount: f64) -> f64 {
    (amount * 1000.0).round() / 1000.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An offer with unreserved and reserved resources.
    pub(crate) fn sample() -> Offer {
        let resource = |name: &str, role: &str, amount: f64| {
            json!({"name": name, "type": "SCALAR", "scalar": {"value": amount}, "role": role,
                   "allocation_info": {"role": "slave_public"}})
        };
        let ports = json!({"name": "ports", "type": "RANGES", "role": "*",
            "ranges": {"range": [{"begin": 31000, "end": 31005}]},
            "allocation_info": {"role": "slave_public"}});
        Offer::from_json(&json!({
            "id": {"value": "o1"}, "agent_id": {"value": "S4"}, "framework_id": {"value": "F1"},
            "hostname": "10.0.0.5",
            "resources": [resource("cpus", "*", 1.0), resource("mem", "*", 1024.0),
                resource("disk", "*", 1000.0), resource("cpus", "slave_public", 0.3),
                resource("mem", "slave_public", 256.0), ports],
        }))
        .unwrap()
    }

    #[test]
    fn take_scalar_uses_accepted_reservations_only() {
        let mut offer = sample();
        assert!(offer.take_scalar("cpus", 0.4, &["slave_public"]).is_none());
        for _ in 0..3 {
            let taken = offer.take_scalar("cpus", 0.1, &["slave_public"]).unwrap();
            assert_eq!(taken.len(), 1);
            assert_eq!(taken[0]["role"], "slave_public");
            assert_eq!(taken[0]["allocation_info"]["role"], "slave_public");
            assert_eq!(taken[0]["scalar"]["value"], 0.1);
        }
        assert!(offer.take_scalar("cpus", 0.1, &["slave_public"]).is_none());
        assert!(offer.take_scalar("cpus", 1.0, &["*", "x"]).is_some());
        assert!(offer.take_scalar("gpus", 0.0, &["*"]).unwrap().is_empty());
    }

    #[test]
    fn take_scalar_combines_reservations() {
        let mut offer = sample();
        let taken = offer
            .take_scalar("cpus", 1.2, &["*", "slave_public"])
            .unwrap();
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[1]["scalar"]["value"], 0.2);
    }

    #[test]
    fn take_ports_never_returns_a_port_twice() {
        let mut offer = sample();
        let wanted = [Some(0), None, Some(31000), Some(0)];
        let (ports, taken) = offer.take_ports(&wanted, &["*"]).unwrap();
        assert_eq!(ports, [Some(31001), None, Some(31000), Some(31002)]);
        assert_eq!(taken.len(), 3);
        assert!(offer.take_ports(&[Some(31000)], &["*"]).is_none());
        assert!(offer.take_ports(&[Some(80)], &["*"]).is_none());
        assert!(offer.take_ports(&[Some(0); 4], &["*"]).is_none());
        let (ports, _) = offer.take_ports(&[Some(0); 3], &["*"]).unwrap();
        assert_eq!(ports, [Some(31003), Some(31004), Some(31005)]);
    }
}
