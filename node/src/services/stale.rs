//! Which tracked flows go where they should not: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use contrail_mesos::net::conntrack::Flow;
use contrail_mesos::net::nft::services::Frontend;
use ipnet::IpNet;

const TCP: u8 = 6;

/// Where the flows to a frontend may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// The backends, with those that get nothing new.
    alive: BTreeSet<SocketAddr>,
    /// Whether new flows go to any.
    pub(super) is_ready: bool,
}

impl Targets {
    /// Adds a backend. Returns whether it is a new one.
    pub(super) fn insert(&mut self, target: SocketAddr) -> bool {
        self.alive.insert(target)
    }

    /// Whether a change to `new` may leave flows that go where they should not.
    pub(super) fn may_have_stale_flows(&self, new: &Self, protocol: u8) -> bool {
        let begins = !self.is_ready && new.is_ready && protocol != TCP;
        begins || !self.alive.is_subset(&new.alive)
    }
}

/// The flows that are looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct StaleFlows {
    /// The frontends whose flows are looked at.
    pub(super) frontends: BTreeMap<Frontend, Targets>,
    /// The ranges in which there are no other frontends.
    pub(super) ranges: Vec<IpNet>,
}

impl StaleFlows {
    pub(super) fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.ranges.is_empty()
    }

    /// Whether a flow must begin again.
    pub(super) fn has(&self, flow: &Flow) -> bool {
        let is_translated = flow.reply_source != flow.destination;
        let frontend = Frontend {
            address: flow.destination.ip(),
            protocol: flow.protocol,
            port: flow.destination.port(),
        };
        match self.frontends.get(&frontend) {
            // A connection is with whom it was opened to. Datagrams meet the service that came later.
            Some(targets) if !is_translated => targets.is_ready && flow.protocol != TCP,
            Some(targets) => !targets.alive.contains(&flow.reply_source),
            None => {
                let is_in_range = self
                    .ranges
                    .iter()
                    .any(|range| range.contains(&frontend.address));
                is_in_range && is_translated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_to_backends_that_are_gone_are_stale() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let frontend = |protocol| Frontend {
            address: [198, 18, 0, 5].into(),
            protocol,
            port: 80,
        };
        let mut ready = Targets {
            is_ready: true,
            ..Targets::default()
        };
        ready.insert(address("10.0.0.1:80"));
        let mut flows = StaleFlows::default();
        assert!(flows.is_empty());
        flows.frontends = [(frontend(6), ready.clone()), (frontend(17), ready)].into();
        let is_stale = |flows: &StaleFlows, protocol, destination, reply_source| {
            flows.has(&Flow {
                protocol,
                destination: address(destination),
                reply_source: address(reply_source),
            })
        };
        let vip = "198.18.0.5:80";
        for protocol in [6, 17] {
            assert!(!is_stale(&flows, protocol, vip, "10.0.0.1:80"));
            assert!(is_stale(&flows, protocol, vip, "10.0.0.2:80"));
            assert!(is_stale(&flows, protocol, vip, "10.0.0.1:81"));
            assert!(!is_stale(&flows, protocol, "198.18.0.6:80", "10.0.0.2:80"));
            assert!(!is_stale(&flows, protocol, "10.0.0.2:80", "10.0.0.2:80"));
        }
        assert!(!is_stale(&flows, 6, vip, vip), "older than the service");
        assert!(is_stale(&flows, 17, vip, vip));
        flows.frontends.insert(frontend(17), Targets::default());
        assert!(!is_stale(&flows, 17, vip, vip));
        assert!(is_stale(&flows, 17, vip, "10.0.0.1:80"));
        flows.ranges.push("198.18.0.0/16".parse().unwrap());
        assert!(is_stale(&flows, 17, "198.18.0.6:80", "10.0.0.2:80"));
        assert!(!is_stale(&flows, 17, "198.18.0.6:80", "198.18.0.6:80"));
        assert!(!is_stale(&flows, 17, "10.0.0.9:80", "10.0.0.2:80"));
    }
}
