//! Chains of other programs that drop packets which the host forwards.
//!
//! A packet passes only if every chain of the hook accepts it, so an accept in a table of ours does not
//! overrule a drop in another one. Only reads.

use std::collections::HashMap;

use netlink_bindings::nftables::{ExprOps, OpGetchainDump, OpGetruleDump};

use super::TABLE;
use super::batch::{Message, NFPROTO_BRIDGE, NFPROTO_INET, header_of, request};
use super::expressions::{NFPROTO_IPV4, NFPROTO_IPV6};
use super::read::only_expression;
use crate::net::netlink::{NetlinkError, NetlinkSocket};

/// All families.
const NFPROTO_UNSPEC: u8 = 0;
/// The hook for packets that are forwarded, in all of these families.
const FORWARD_HOOK: u32 = 2;
const DROP: u32 = 0;

/// A chain that drops forwarded packets unless one of its rules accepts them before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppingChain {
    /// The family of its table, as `nft` prints it.
    pub family: &'static str,
    /// The name of its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// What drops the packets.
    pub drop: ForwardDrop,
    /// How many rules come before.
    pub rules: usize,
}

/// What drops packets in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardDrop {
    /// The policy of the chain.
    Policy,
    /// A rule for every packet, which drops or rejects it.
    Rule,
}

/// A chain, while its rules are read.
#[derive(Debug)]
struct ForwardChain {
    has_drop_policy: bool,
    rules: usize,
    /// How many rules come before the first one that drops every packet.
    before_drop: Option<usize>,
}

/// Lists the chains of the calling thread's network namespace that drop forwarded packets of IPv4, IPv6
/// or of bridges, without those of tables of ours.
pub fn dropping_chains() -> Result<Vec<DroppingChain>, NetlinkError> {
    let mut socket = NetlinkSocket::netfilter()?;
    let mut names = Vec::new();
    let mut chains = HashMap::new();
    let list = request(Message::GetChain, 0, "list the chains", |buffer| {
        drop(OpGetchainDump::encode_request(
            buffer,
            &header_of(NFPROTO_UNSPEC),
        ));
    });
    socket.dump(&list, |bytes| {
        let (header, chain) = OpGetchainDump::decode_request(bytes);
        let is_forward = chain
            .get_hook()
            .is_ok_and(|hook| hook.get_num() == Ok(FORWARD_HOOK));
        let is_filter = chain.get_type().map(std::ffi::CStr::to_bytes) == Ok(b"filter");
        let (Ok(table), Ok(name)) = (chain.get_table(), chain.get_name()) else {
            return;
        };
        let Some(family) = family_name(header.nfgen_family).filter(|_| is_forward && is_filter)
        else {
            return;
        };
        let table = table.to_string_lossy().into_owned();
        if table.starts_with(TABLE) {
            return;
        }
        let key = (family, table, name.to_string_lossy().into_owned());
        names.push(key.clone());
        let chain = ForwardChain {
            has_drop_policy: chain.get_policy() == Ok(DROP),
            rules: 0,
            before_drop: None,
        };
        chains.insert(key, chain);
    })?;
    let list = request(Message::GetRule, 0, "list the rules", |buffer| {
        drop(OpGetruleDump::encode_request(
            buffer,
            &header_of(NFPROTO_UNSPEC),
        ));
    });
    socket.dump(&list, |bytes| {
        let (header, rule) = OpGetruleDump::decode_request(bytes);
        let (Ok(table), Ok(chain)) = (rule.get_table(), rule.get_chain()) else {
            return;
        };
        let Some(family) = family_name(header.nfgen_family) else {
            return;
        };
        let key = (
            family,
            table.to_string_lossy().into_owned(),
            chain.to_string_lossy().into_owned(),
        );
        let Some(chain) = chains.get_mut(&key) else {
            return;
        };
        let drops = rule.get_expressions().is_ok_and(|list| {
            let data = list.get_elem().map(|expression| expression.get_data().ok());
            drops_everything(&data.collect::<Vec<_>>())
        });
        if drops && chain.before_drop.is_none() {
            chain.before_drop = Some(chain.rules);
        }
        chain.rules += 1;
    })?;
    let mut dropping = Vec::new();
    for key in names {
        let Some(chain) = chains.remove(&key) else {
            continue;
        };
        let (drop, rules) = match chain.before_drop {
            Some(rules) => (ForwardDrop::Rule, rules),
            None if chain.has_drop_policy => (ForwardDrop::Policy, chain.rules),
            None => continue,
        };
        let (family, table, chain) = key;
        dropping.push(DroppingChain {
            family,
            table,
            chain,
            drop,
            rules,
        });
    }
    Ok(dropping)
}

fn family_name(family: u8) -> Option<&'static str> {
    match family {
        NFPROTO_INET => Some("inet"),
        NFPROTO_IPV4 => Some("ip"),
        NFPROTO_IPV6 => Some("ip6"),
        NFPROTO_BRIDGE => Some("bridge"),
        _ => None,
    }
}

/// Whether a rule with these expressions drops or rejects every packet.
fn drops_everything(expressions: &[Option<ExprOps<'_>>]) -> bool {
    match only_expression(expressions) {
        Some(ExprOps::Reject(_)) => true,
        // As the programs of iptables write it.
        Some(ExprOps::Target(target)) => target.get_name() == Ok(c"REJECT"),
        Some(ExprOps::Immediate(immediate)) => immediate
            .get_data()
            .and_then(|data| data.get_verdict())
            .is_ok_and(|verdict| verdict.get_code() == Ok(DROP)),
        _ => false,
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, run};

    #[test]
    fn chains_that_drop_are_found_and_others_are_not() {
        isolated(|| {
            assert_eq!(dropping_chains().unwrap(), []);
            for command in [
                "add table inet open",
                "add chain inet open forward { type filter hook forward priority 0 ; }",
                "add rule inet open forward ip saddr 192.0.2.1 drop",
                "add chain inet open input { type filter hook input priority 0 ; policy drop ; }",
                "add table inet contrail_mesos_x",
                "add chain inet contrail_mesos_x c { type filter hook forward priority 0 ; policy drop ; }",
                "add table ip filter",
                "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
                "add table inet strict",
                "add chain inet strict fw { type filter hook forward priority 5 ; }",
                "add rule inet strict fw ct state established accept",
                "add rule inet strict fw counter reject",
            ] {
                run("nft", command);
            }
            let mut chains = dropping_chains().unwrap();
            chains.sort_by(|one, other| one.table.cmp(&other.table));
            let [filter, strict] = chains.as_slice() else {
                panic!("{chains:#?}");
            };
            assert_eq!((filter.family, filter.table.as_str()), ("ip", "filter"));
            assert_eq!((filter.drop, filter.rules), (ForwardDrop::Policy, 0));
            assert_eq!((strict.family, strict.chain.as_str()), ("inet", "fw"));
            assert_eq!((strict.drop, strict.rules), (ForwardDrop::Rule, 1));
        });
    }
}
