//! What groups say about a packet: from checkpoints, what the node knows of the cluster, and the kernel's
//! sets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use contrail_mesos_api::cluster::Membership;

use super::{Packet, TraceError, Tracer};
use crate::endpoints::{policy, read_groups};
use crate::net::nft::groups::{ContainerRules, MemberSet, enforced};
use crate::trace::host::{Host, LocalInterface};
use crate::trace::path::PolicyFacts;

impl Tracer<'_> {
    /// What groups say at a container of this host.
    pub(super) fn policy_here(
        &self,
        host: &Host,
        sender: Option<LocalInterface<'_>>,
        packet: Packet,
        receiver: LocalInterface<'_>,
        is_translated: bool,
    ) -> Result<Option<PolicyFacts>, TraceError> {
        let (Some(bridge), Some(source)) = (receiver.bridge(), packet.source) else {
            return Ok(None);
        };
        let checkpoints = self.attacher.checkpoints();
        let changed = read_groups(checkpoints, &receiver.container.checkpoint.container);
        let changed = changed.ok().flatten();
        let container_policy = policy(receiver.intent, changed.as_ref());
        let own_overlay = bridge.overlay.as_ref().map(|overlay| overlay.name.as_str());
        let isolated_overlay = own_overlay
            .and_then(|name| host.cluster.overlays.get(name))
            .filter(|overlay| overlay.isolated)
            .filter(|overlay| {
                let other = host.cluster.overlay_of(source);
                other.is_some_and(|other| other.name != overlay.name)
            })
            .map(|overlay| overlay.name.clone());
        if container_policy.is_none() && isolated_overlay.is_none() {
            return Ok(None);
        }
        let is_spoofed = sender.is_some_and(|sender| {
            let isolates = sender
                .bridge()
                .is_some_and(|bridge| bridge.policy.is_some());
            isolates && !sender.has(source)
        });
        let mut facts = PolicyFacts {
            is_from_host: host.is_own(source),
            is_translated,
            is_spoofed,
            isolated_overlay,
            isolates_groups: container_policy.is_some(),
            ..PolicyFacts::default()
        };
        if let Some(container_policy) = container_policy {
            let admission = container_policy.admission;
            facts.admits_own_host = admission.hosts;
            self.add_groups(host, &mut facts, &container_policy.membership, source);
            facts.rules.admits_nodes = own_overlay.is_some() && admission.hosts;
            facts.rules.admits_mapped_ports = admission.mapped_ports;
        }
        let sets: BTreeSet<MemberSet> = facts.rules.member_sets().collect();
        facts.enforced = Some(enforced(source, packet.destination, &sets)?);
        Ok(Some(facts))
    }

    /// What groups say at a container of another node, as far as the managers know them.
    pub(super) fn policy_there(&self, host: &Host, packet: Packet) -> Option<PolicyFacts> {
        let source = packet.source?;
        let overlay = host.cluster.overlay_of(packet.destination)?;
        let from = host.cluster.overlay_of(source);
        let is_other = from.is_some_and(|from| from.name != overlay.name);
        let endpoint = host.cluster.endpoint(packet.destination);
        let mut facts = PolicyFacts {
            isolated_overlay: (overlay.isolated && is_other).then(|| overlay.name.clone()),
            isolates_groups: overlay.groups.is_some() && endpoint.is_some(),
            ..PolicyFacts::default()
        };
        if facts.isolated_overlay.is_none() && !facts.isolates_groups {
            return None;
        }
        if let Some(endpoint) = endpoint {
            self.add_groups(host, &mut facts, &endpoint.membership, source);
        }
        // Of the admission of hosts, each node decides for itself.
        let admits_nodes = overlay.groups.is_some_and(|admission| admission.hosts);
        (!(admits_nodes && host.is_own(source))).then_some(facts)
    }

    /// Adds what reaches a container of these groups, and what the source should be a member of.
    fn add_groups(
        &self,
        host: &Host,
        facts: &mut PolicyFacts,
        membership: &Membership,
        source: IpAddr,
    ) {
        facts.rules = ContainerRules {
            sources: if membership.is_empty() {
                [MemberSet::Ungrouped].into()
            } else {
                let groups = membership.groups.iter().cloned();
                groups.map(MemberSet::Group).collect()
            },
            ..ContainerRules::default()
        };
        for name in &membership.security_groups {
            match host.cluster.security_groups.get(name) {
                Some(group) => facts.rules.rules.extend(group.rules.iter().cloned()),
                None => facts.unknown_security_groups.push(name.clone()),
            }
        }
        let all = |membership: &Membership| {
            let groups = membership.groups.iter();
            groups.chain(&membership.security_groups).cloned().collect()
        };
        facts.destination_groups = all(membership);
        if let Some(groups) = host.groups_of(self.attacher, source) {
            if groups.is_empty() {
                facts.expected.insert(MemberSet::Ungrouped);
            }
            let named = groups.groups.iter().chain(&groups.security_groups);
            facts.expected.extend(named.cloned().map(MemberSet::Named));
            let members = groups.groups.iter().cloned();
            facts.expected.extend(members.map(MemberSet::Group));
            facts.source_groups = Some(all(&groups));
        }
    }
}
