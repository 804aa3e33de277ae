//! What groups say about a packet: what the rules that the node daemon makes of them decide.

use std::net::IpAddr;

use contrail_mesos_api::cluster::{IngressRule, RuleSource};

use super::path::PolicyFacts;
use crate::net::nft::groups::{DropReason, MemberSet};

/// What groups say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyVerdict {
    /// The packet passes, because of this.
    Allowed(String),
    /// It is dropped.
    Dropped(DropReason),
    /// It would pass, but the kernel's rules do not have it yet.
    NotApplied(String),
    /// There are no rules, so nothing passes.
    NoRules,
}

/// A packet, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct JudgedPacket {
    pub(super) source: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

pub(super) fn judge(policy: &PolicyFacts, packet: JudgedPacket) -> PolicyVerdict {
    if policy.is_spoofed {
        return PolicyVerdict::Dropped(DropReason::SpoofedSource);
    }
    if policy.isolates_groups && policy.is_from_host && policy.admits_own_host {
        return PolicyVerdict::Allowed("the container admits its host".to_owned());
    }
    let Some(enforced) = &policy.enforced else {
        return judge_expected(policy, packet);
    };
    if !enforced.is_active {
        return PolicyVerdict::NoRules;
    }
    if policy.isolated_overlay.is_some() && !enforced.is_node {
        return PolicyVerdict::Dropped(DropReason::IsolatedOverlay);
    }
    if !policy.isolates_groups {
        return PolicyVerdict::Allowed("its network does not isolate groups".to_owned());
    }
    if !enforced.is_known {
        return match judge_expected(policy, packet) {
            PolicyVerdict::Allowed(reason) => PolicyVerdict::NotApplied(reason),
            _ => PolicyVerdict::Dropped(DropReason::UnknownContainer),
        };
    }
    let is_member = |set: &MemberSet| enforced.members.contains(set);
    if let Some(reason) = allowed_by(policy, packet, is_member) {
        return PolicyVerdict::Allowed(reason);
    }
    if policy.rules.admits_nodes && enforced.is_node {
        return PolicyVerdict::Allowed("the container admits the nodes of the cluster".to_owned());
    }
    if policy.rules.admits_mapped_ports && policy.is_translated && !enforced.is_isolating {
        return PolicyVerdict::Allowed("the container admits clients of mapped ports".to_owned());
    }
    if let PolicyVerdict::Allowed(reason) = judge_expected(policy, packet) {
        return PolicyVerdict::NotApplied(reason);
    }
    if enforced.is_isolating && !enforced.is_node {
        PolicyVerdict::Dropped(DropReason::NoSharedGroup)
    } else {
        PolicyVerdict::Dropped(DropReason::Outside)
    }
}

/// The same by what is known of the groups alone.
fn judge_expected(policy: &PolicyFacts, packet: JudgedPacket) -> PolicyVerdict {
    if policy.isolated_overlay.is_some() {
        return PolicyVerdict::Dropped(DropReason::IsolatedOverlay);
    }
    if !policy.isolates_groups {
        return PolicyVerdict::Allowed("its network does not isolate groups".to_owned());
    }
    match allowed_by(policy, packet, |set| policy.expected.contains(set)) {
        Some(reason) => PolicyVerdict::Allowed(reason),
        None if policy.source_groups.is_none() => PolicyVerdict::Dropped(DropReason::Outside),
        None => PolicyVerdict::Dropped(DropReason::NoSharedGroup),
    }
}

fn allowed_by(
    policy: &PolicyFacts,
    packet: JudgedPacket,
    is_member: impl Fn(&MemberSet) -> bool,
) -> Option<String> {
    let rules = &policy.rules;
    if let Some(set) = rules.sources.iter().find(|set| is_member(set)) {
        return Some(format!("the source is among {}", set.label()));
    }
    let matches = |rule: &&IngressRule| {
        let has_protocol = rule.protocol.is_none_or(|number| number == packet.protocol);
        let has_port = rule
            .ports
            .is_none_or(|(first, last)| (first..=last).contains(&packet.port));
        let has_source = match &rule.source {
            RuleSource::Group(name) => is_member(&MemberSet::Named(name.clone())),
            RuleSource::Subnet(subnet) => subnet.contains(&packet.source),
        };
        has_protocol && has_port && has_source
    };
    let rule = rules.rules.iter().find(matches)?;
    let source = match &rule.source {
        RuleSource::Group(name) => format!("the containers that name {name}"),
        RuleSource::Subnet(subnet) => subnet.to_string(),
    };
    Some(format!("a rule of a security group admits {source}"))
}
