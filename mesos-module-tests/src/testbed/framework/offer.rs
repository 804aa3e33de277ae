//! The resources of an offer, and how launches are allocated parts of it.
//!
//! Invariant: an allocation is part of what was offered, and nothing is allocated twice.

use serde_json::{Value, json};

/// Resources of an offer that one task or executor uses.
#[derive(Debug, Default)]
pub(super) struct Allocation {
    pub(super) resources: Vec<Value>,
    pub(super) ports: Vec<u16>,
}

/// The resources of an offer that are not allocated yet.
#[derive(Clone, Debug)]
pub(super) struct RemainingOffer {
    role: String,
    pub(super) hostname: String,
    scalars: [(&'static str, f64); 3],
    ports: Vec<(u16, u16)>,
}

impl RemainingOffer {
    pub(super) fn of(offer: &Value, role: &str) -> Self {
        let mut remaining = Self {
            role: role.to_owned(),
            hostname: offer["hostname"].as_str().unwrap_or_default().to_owned(),
            scalars: [("cpus", 0.0), ("mem", 0.0), ("disk", 0.0)],
            ports: Vec::new(),
        };
        for resource in offer["resources"].as_array().into_iter().flatten() {
            // Reserved, revocable and shared resources have rules of their own.
            let reserved = resource["reservations"]
                .as_array()
                .is_some_and(|r| !r.is_empty());
            if reserved || !resource["revocable"].is_null() || !resource["disk"].is_null() {
                continue;
            }
            for (name, value) in &mut remaining.scalars {
                if resource["name"] == *name {
                    *value += resource["scalar"]["value"].as_f64().unwrap_or(0.0);
                }
            }
            if resource["name"] == "ports" {
                let port = |value: &Value| value.as_u64().and_then(|port| port.try_into().ok());
                let ranges = resource["ranges"]["range"].as_array().into_iter().flatten();
                remaining.ports.extend(
                    ranges.filter_map(|range| Some((port(&range["begin"])?, port(&range["end"])?))),
                );
            }
        }
        remaining
    }

    /// Allocates cpus, memory, disk and ports (zero means any). After `None`, part of the resources
    /// may be allocated already: discard the offer.
    pub(super) fn take(
        &mut self,
        (cpus, mem, disk): (f64, f64, f64),
        ports: &[u16],
    ) -> Option<Allocation> {
        let mut taken = Allocation::default();
        let allocation = json!({"role": self.role});
        for ((name, remaining), requested) in self.scalars.iter_mut().zip([cpus, mem, disk]) {
            if requested <= 0.0 {
                continue;
            }
            // Mesos rounds to thousandths.
            if *remaining + 0.0005 < requested {
                return None;
            }
            *remaining -= requested;
            taken.resources.push(json!({"name": name, "type": "SCALAR",
                "scalar": {"value": requested}, "allocation_info": allocation}));
        }
        for requested in ports {
            taken.ports.push(self.take_port(*requested)?);
        }
        if !taken.ports.is_empty() {
            let ranges: Vec<Value> = taken
                .ports
                .iter()
                .map(|port| json!({"begin": port, "end": port}))
                .collect();
            taken
                .resources
                .push(json!({"name": "ports", "type": "RANGES",
                "ranges": {"range": ranges}, "allocation_info": allocation}));
        }
        Some(taken)
    }

    fn take_port(&mut self, requested: u16) -> Option<u16> {
        let fits =
            |&(begin, end): &(u16, u16)| requested == 0 || (begin..=end).contains(&requested);
        let range = self.ports.iter().position(fits)?;
        let (begin, end) = self.ports.remove(range);
        let port = if requested == 0 { begin } else { requested };
        if begin < port {
            self.ports.push((begin, port - 1));
        }
        if port < end {
            self.ports.push((port + 1, end));
        }
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> RemainingOffer {
        let offer = json!({"hostname": "here", "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 1.0}},
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 1.0}},
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 8.0},
             "reservations": [{"role": "others", "type": "STATIC"}]},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 64.0}},
            {"name": "ports", "type": "RANGES",
             "ranges": {"range": [{"begin": 10, "end": 12}, {"begin": 20, "end": 20}]}},
        ]});
        RemainingOffer::of(&offer, "*")
    }

    #[test]
    fn allocation_takes_each_port_once() {
        let mut offer = offer();
        let taken = offer
            .take((1.5, 32.0, 0.0), &[11, 0, 0, 0])
            .expect("it fits");
        let mut ports = taken.ports.clone();
        ports.sort_unstable();
        assert_eq!(ports, [10, 11, 12, 20]);
        assert_eq!(taken.resources.len(), 3);
        assert!(offer.clone().take((0.5, 32.0, 0.0), &[]).is_some());
        assert!(offer.clone().take((0.6, 32.0, 0.0), &[]).is_none());
        assert!(offer.take((0.1, 1.0, 0.0), &[0]).is_none());
    }

    #[test]
    fn allocation_beyond_the_offer_fails() {
        assert!(offer().take((3.0, 1.0, 0.0), &[]).is_none());
        assert!(offer().take((1.0, 1.0, 1.0), &[]).is_none());
        assert!(offer().take((1.0, 1.0, 0.0), &[13]).is_none());
    }
}
