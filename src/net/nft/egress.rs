//! The nftables table `inet contrail_mesos_cni`: which packets of containers on CNI bridges leave an
//! overlay with the host's address.
//!
//! ```text
//! chain postrouting  nat, srcnat: masquerades the packets whose source and destination are in
//!                                 @masquerade4
//! ```
//! The rule is constant: a new overlay changes only elements. It is added after the elements. The
//! elements are replaced as a whole and in one transaction, because intervals of old and new ones may
//! overlap.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};
use netlink_bindings::nftables::{OpGetsetelemDump, OpNewsetelemDo};
use netlink_packet_core::NLM_F_CREATE;
use nix::errno::Errno;

use super::batch::{self, Message, header, request};
use super::element::{Element, MAX_ELEMENTS_PER_MESSAGE, Set};
use super::expressions::NFPROTO_IPV4;
use super::read::{has_rules, read_elements};
use super::ruleset::{self, Chain, Rule, SetDefinition};
use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

/// The table's name; its family is `inet`.
pub const TABLE: &str = "contrail_mesos_cni";

/// The set of the table.
const SET: Set = Set::Masquerade4;

const CHAINS: [Chain; 1] = [Chain {
    name: "postrouting",
    kind: "nat",
    hook: 4,
    priority: 100,
    rules: &[Rule {
        comment: "IPv4 leaves an overlay with the host's address",
        expressions: |rule| {
            rule.family(NFPROTO_IPV4);
            rule.addresses_in(SET);
            rule.masquerade();
        },
    }],
}];

/// How the table differs from what it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressDifference {
    lacks_rules: bool,
    surplus: Vec<Element>,
    missing: Vec<Element>,
}

impl EgressDifference {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.lacks_rules && self.surplus.is_empty() && self.missing.is_empty()
    }
}

/// The table, in the network namespace where this was opened.
#[derive(Debug)]
pub struct EgressTable {
    socket: NetlinkSocket,
}

impl EgressTable {
    /// Opens the table of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::netfilter()?;
        Ok(Self { socket })
    }

    /// Compares the table with what masquerades packets of `overlays` to addresses outside of
    /// `inside`. Without overlays there must be no table.
    pub fn compare(
        &mut self,
        overlays: &[Ipv4Net],
        inside: &[IpNet],
    ) -> Result<EgressDifference, NetlinkError> {
        let desired: BTreeSet<Element> = overlays
            .iter()
            .flat_map(|overlay| Element::masquerade(IpNet::V4(*overlay), inside, "overlay"))
            .collect();
        let present: BTreeSet<Element> = self.elements()?.into_iter().collect();
        let has_rules = has_rules(&mut self.socket, TABLE, &CHAINS)?;
        Ok(EgressDifference {
            lacks_rules: !desired.is_empty() && !has_rules,
            surplus: present.difference(&desired).cloned().collect(),
            missing: desired.difference(&present).cloned().collect(),
        })
    }

    fn elements(&mut self) -> Result<Vec<Element>, NetlinkError> {
        let action = format!("list the elements of {}", SET.name());
        let list = request(Message::GetElement, 0, action, |buffer| {
            OpGetsetelemDump::encode_request(buffer, &header())
                .push_table_bytes(TABLE.as_bytes())
                .push_set_bytes(SET.name().as_bytes());
        });
        let mut elements = Vec::new();
        let result = self
            .socket
            .dump(&list, |bytes| read_elements(SET, bytes, &mut elements));
        match result {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
            other => other.and(Ok(elements)),
        }
    }

    /// Corrects the difference, in one transaction.
    pub fn apply(&mut self, difference: &EgressDifference) -> Result<(), NetlinkError> {
        let mut changes = Vec::new();
        if difference.lacks_rules {
            changes.push(ruleset::new_table(
                TABLE,
                "contrail-mesos-node: what leaves overlays by CNI bridges; rebuilt if changed",
            ));
            let definition = SetDefinition::of(SET);
            changes.push(ruleset::new_set(TABLE, SET.name(), 1, &definition));
        }
        changes.extend(messages(Message::DelElement, 0, &difference.surplus));
        let additions = messages(Message::NewElement, NLM_F_CREATE, &difference.missing);
        changes.extend(additions);
        if difference.lacks_rules {
            changes.extend(ruleset::rules(TABLE, &CHAINS));
        }
        self.commit(changes)
    }

    /// Removes the table with all of its elements. Returns whether there was one.
    pub fn remove(&mut self) -> Result<bool, NetlinkError> {
        match self.commit(vec![ruleset::delete_table(TABLE, 0)]) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            other => other.and(Ok(true)),
        }
    }

    /// Whether the table has rules or elements.
    pub fn is_there(&mut self) -> Result<bool, NetlinkError> {
        Ok(has_rules(&mut self.socket, TABLE, &CHAINS)? || !self.elements()?.is_empty())
    }

    fn commit(&mut self, changes: Vec<Request>) -> Result<(), NetlinkError> {
        let subject = format!("the table inet {TABLE}");
        batch::commit_if_any(&mut self.socket, changes, &subject)
    }
}

fn messages(kind: Message, flags: u16, elements: &[Element]) -> Vec<Request> {
    let (verb, with_data) = match kind {
        Message::NewElement => ("add", true),
        _ => ("remove", false),
    };
    elements
        .chunks(MAX_ELEMENTS_PER_MESSAGE)
        .map(|elements| {
            let action = format!("{verb} {} elements of {}", elements.len(), SET.name());
            request(kind, flags, action, |buffer| {
                let mut list = OpNewsetelemDo::encode_request(buffer, &header())
                    .push_table_bytes(TABLE.as_bytes())
                    .push_set_bytes(SET.name().as_bytes())
                    .nested_elements();
                for element in elements {
                    list = element.encode(list, with_data);
                }
            })
        })
        .collect()
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, nft_ruleset, run};

    fn nets<N: std::str::FromStr>(texts: &[&str]) -> Vec<N>
    where
        N::Err: std::fmt::Debug,
    {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn table_is_built_changed_repaired_and_removed() {
        isolated(|| {
            let mut table = EgressTable::open().unwrap();
            let apply = |table: &mut EgressTable, overlays: &[&str]| {
                let (overlays, inside) = (nets::<Ipv4Net>(overlays), nets::<IpNet>(overlays));
                let difference = table.compare(&overlays, &inside).unwrap();
                table.apply(&difference).unwrap();
                assert!(table.compare(&overlays, &inside).unwrap().is_empty());
                difference
            };
            assert!(!table.is_there().unwrap());
            apply(&mut table, &["192.168.0.0/17"]);
            let rules = nft_ruleset();
            for part in [
                "ip saddr . ip daddr @masquerade4 masquerade",
                "type nat hook postrouting priority srcnat",
                "192.168.0.0/17 . 0.0.0.0-192.167.255.255",
                "192.168.0.0/17 . 192.168.128.0-223.255.255.255",
            ] {
                assert!(rules.contains(part), "{part}: {rules}");
            }
            // Intervals of before overlap with those of now.
            let difference = apply(&mut table, &["192.168.0.0/17", "192.168.128.0/17"]);
            assert!(!difference.lacks_rules && !difference.surplus.is_empty());
            assert!(!nft_ruleset().contains("192.168.0.0/17 . 192.168.128.0"));
            run("nft", "flush chain inet contrail_mesos_cni postrouting");
            assert!(apply(&mut table, &["192.168.0.0/17", "192.168.128.0/17"]).lacks_rules);
            run("nft", "flush ruleset");
            apply(&mut table, &["9.0.0.0/8"]);
            run("nft", "add table inet other");
            assert!(table.is_there().unwrap());
            assert!(table.remove().unwrap());
            assert!(!table.remove().unwrap());
            assert_eq!(nft_ruleset().trim(), "table inet other {\n}");
        });
    }
}
