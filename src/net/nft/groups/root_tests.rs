//! The tables as `nft` shows them. What they do to packets is tested by the node daemon.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use contrail_mesos_api::cluster::{IngressRule, RuleSource};

use super::*;
use crate::net::nft::watch::TableEvents;
use crate::net::testing::{isolated, nft_ruleset, run};

fn subnets(all: &[&str]) -> BTreeSet<IpNet> {
    all.iter().map(|subnet| subnet.parse().unwrap()).collect()
}

fn container(sources: &[&str]) -> ProtectedAddress {
    let groups = sources.iter();
    ProtectedAddress {
        rules: ContainerRules {
            sources: groups
                .map(|name| MemberSet::Group((*name).to_owned()))
                .collect(),
            rules: BTreeSet::new(),
            admits_nodes: true,
            admits_mapped_ports: true,
        },
        admits_own_host: true,
    }
}

/// A policy with one container in a group that has `members` remote members.
fn policy(members: u32) -> GroupPolicy {
    let own: [IpAddr; 2] = [[9, 0, 1, 2].into(), "fd09:0:0:1::2".parse().unwrap()];
    let remote = (0..members).flat_map(|number| {
        let v4 = Ipv4Addr::from(0x0900_0202 + number);
        let v6 = Ipv6Addr::from((0xfd09_0000_0000_0002_u128 << 64) + u128::from(number));
        [IpAddr::V4(v4), IpAddr::V6(v6)]
    });
    GroupPolicy {
        protected: subnets(&["9.0.1.0/25", "fd09:0:0:1::/65"]),
        guarded: subnets(&["9.0.0.0/8", "9.0.1.0/25", "fd09::/32", "44.128.0.0/20"]),
        isolating: subnets(&["9.0.0.0/8", "fd09::/32"]),
        overlays: subnets(&["9.0.0.0/8", "fd09::/32"]),
        isolated: BTreeSet::new(),
        nodes: [[44, 128, 0, 2].into()].into(),
        tunnels: ["vtep1024".to_owned()].into(),
        members: [(
            MemberSet::Group("web".to_owned()),
            own.into_iter().chain(remote).collect(),
        )]
        .into(),
        containers: own.map(|address| (address, container(&["web"]))).into(),
        ports: [(
            "cm1".to_owned(),
            GuardedPort {
                mac: Mac([2, 0, 0, 0, 0, 1]),
                addresses: own.into(),
            },
        )]
        .into(),
    }
}

/// Applies as a daemon that has just started.
fn apply(policy: &GroupPolicy) -> Vec<String> {
    GroupTables::open().unwrap().apply(policy).unwrap()
}

fn assert_complete(policy: &GroupPolicy) {
    let plan = GroupTables::open().unwrap().plan(policy).unwrap();
    assert_eq!(plan, [""; 0]);
}

#[test]
fn tables_are_built_as_nft_shows_them_and_removed() {
    isolated(|| {
        let policy = policy(2);
        let plan = GroupTables::open().unwrap().plan(&policy).unwrap();
        assert_eq!(nft_ruleset(), "");
        assert_eq!(apply(&policy), plan);
        let rules = nft_ruleset();
        for part in [
            "table inet contrail_mesos_groups",
            "table bridge contrail_mesos_groups",
            "type filter hook prerouting priority dstnat + 10; policy accept;",
            "ip daddr @guarded4 goto guarded4",
            "ip saddr @protected4 iifname != @tunnels fib saddr . iif oif 0 goto drop_spoofed_source",
            "ip6 saddr @protected6 iifname != @tunnels fib saddr . iif oif 0 goto drop_spoofed_source",
            "iifname != @tunnels ip saddr @guarded4 fib saddr . iif oif 0 goto drop_spoofed_source",
            "ct direction reply ct state established,related meta mark set meta mark | 0x00002000 accept",
            "ip6 daddr vmap @containers6",
            "9.0.1.2 : goto container4_",
            "comment \"the members of group web\"",
            "9.0.2.3",
            "44.128.0.0/20",
            "iifname . ether saddr != @macs",
            "meta protocol 8021q goto frames_tagged",
            "meta protocol 8021ad goto frames_tagged",
            "update @dropped4 { ip saddr . ip daddr . meta l4proto . th dport . 0x00000001 counter }",
            "\"vtep1024\"",
        ] {
            assert!(rules.contains(part), "no {part:?} in:\n{rules}");
        }
        assert_complete(&policy);
        assert_eq!(apply(&policy), [""; 0]);
        run("nft", "add table inet other");
        let changes = apply(&GroupPolicy::default());
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(nft_ruleset().trim(), "table inet other {\n}");
        assert_eq!(apply(&GroupPolicy::default()), [""; 0]);
    });
}

#[test]
fn container_without_rules_is_named() {
    isolated(|| {
        let own: [IpAddr; 2] = [[9, 0, 1, 2].into(), "fd09:0:0:1::2".parse().unwrap()];
        let other = [9, 0, 1, 3].into();
        let missing = || {
            let addresses = [own[0], own[1], other];
            GroupTables::open().unwrap().missing(&addresses).unwrap()
        };
        assert_eq!(missing(), [own[0], own[1], other]);
        apply(&policy(2));
        assert_eq!(missing(), [other]);
        run("nft", "flush chain inet contrail_mesos_groups prerouting");
        assert_eq!(missing(), [own[0], own[1], other]);
    });
}

#[test]
fn members_and_containers_change_elements_alone() {
    isolated(|| {
        let mut tables = GroupTables::open().unwrap();
        let before = policy(3);
        tables.apply(&before).unwrap();
        let handles = || {
            let rules = run("nft", "-a list table inet contrail_mesos_groups");
            rules
                .lines()
                .filter(|line| line.contains(" # handle ") && line.contains("comment"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let rules = handles();
        let mut after = before.clone();
        let members = after.members.values_mut().next().unwrap();
        members.remove(&IpAddr::from([9, 0, 2, 2]));
        members.insert([9, 0, 3, 3].into());
        let second: IpAddr = [9, 0, 1, 3].into();
        members.insert(second);
        after.containers.insert(second, container(&["web"]));
        let changes = tables.apply(&after).unwrap();
        assert_eq!(
            changes,
            [
                "add 9.0.1.3 to the members of group web",
                "add 9.0.3.3 to the members of group web",
                "add 9.0.1.3 to the containers",
                "remove 9.0.2.2 from the members of group web",
            ]
        );
        assert_eq!(handles(), rules);
        assert_complete(&after);
        // Another combination is one more chain, and a subnet replaces the intervals of a set.
        let mut third = after.clone();
        third.containers.insert(second, container(&["db", "web"]));
        third.guarded.remove(&"9.0.0.0/8".parse().unwrap());
        third.guarded.insert("9.0.0.0/9".parse().unwrap());
        tables.apply(&third).unwrap();
        assert_complete(&third);
        tables.apply(&before).unwrap();
        assert_complete(&before);
        let rules = handles();
        assert!(
            !rules.iter().any(|rule| rule.contains("group db")),
            "{rules:#?}"
        );
    });
}

#[test]
fn whatever_somebody_does_to_the_tables_is_made_up_for() {
    isolated(|| {
        let policy = policy(3);
        let mut tables = GroupTables::open().unwrap();
        let mut events = TableEvents::subscribe(TABLE, tables.port()).unwrap();
        tables.apply(&policy).unwrap();
        assert!(!events.receive().unwrap(), "own changes are reported");
        let complete = nft_ruleset();
        for damage in [
            "flush ruleset",
            "flush table inet contrail_mesos_groups",
            "delete table inet contrail_mesos_groups",
            "delete table bridge contrail_mesos_groups",
            "flush chain inet contrail_mesos_groups guarded4",
            "flush chain bridge contrail_mesos_groups frames_arp",
            "flush set inet contrail_mesos_groups guarded6",
            "flush map inet contrail_mesos_groups containers4",
            "add rule inet contrail_mesos_groups filter4 accept",
            "insert rule inet contrail_mesos_groups guarded6 accept",
            "add chain inet contrail_mesos_groups other",
            "add set inet contrail_mesos_groups other { type mark ; }",
            "add element inet contrail_mesos_groups nodes4 { 192.0.2.9 }",
            "add element inet contrail_mesos_groups guarded4 { 10.0.0.0/8 }",
            "add element inet contrail_mesos_groups containers4 { 9.0.1.9 : accept }",
            "add table inet contrail_mesos_groups { flags dormant ; }",
        ] {
            run("nft", damage);
            assert!(events.receive().unwrap(), "{damage} is not reported");
            tables.forget();
            let changes = tables.apply(&policy).unwrap();
            assert!(!changes.is_empty(), "{damage}");
            assert_eq!(nft_ruleset().len(), complete.len(), "{damage}: {changes:?}");
            assert_complete(&policy);
            assert!(!events.receive().unwrap(), "own changes after {damage}");
        }
        // Elements of other tables wake nobody, and a change that is not noticed yet does no harm.
        run("nft", "add table inet other");
        run("nft", "add set inet other hosts { type ipv4_addr ; }");
        events.receive().unwrap();
        run("nft", "add element inet other hosts { 192.0.2.9 }");
        assert!(!events.receive().unwrap());
        run("nft", "delete table inet contrail_mesos_groups");
        let mut more = policy.clone();
        more.nodes.insert([44, 128, 0, 9].into());
        tables.apply(&more).unwrap();
        assert_complete(&more);
    });
}

#[test]
fn rules_of_security_groups_and_isolated_overlays_are_written() {
    isolated(|| {
        let rule = |protocol, ports, source| IngressRule {
            protocol,
            ports,
            source,
        };
        let subnet = |text: &str| RuleSource::Subnet(text.parse().unwrap());
        let mut policy = policy(1);
        let rules = [
            rule(Some(6), Some((80, 80)), RuleSource::Group("lb".to_owned())),
            rule(None, Some((8000, 8010)), subnet("10.0.0.0/8")),
            rule(Some(1), None, subnet("0.0.0.0/0")),
            rule(Some(58), None, subnet("2001:db8::/32")),
            // It has no ports, so nothing is allowed.
            rule(Some(1), Some((1, 2)), subnet("172.16.0.0/12")),
        ];
        for container in policy.containers.values_mut() {
            container.rules.rules = rules.clone().into();
            container.admits_own_host = false;
        }
        policy.isolated = [IsolatedOverlay {
            name: "blue".to_owned(),
            subnet: "9.0.0.0/8".parse().unwrap(),
            local_subnet: "9.0.1.0/24".parse().unwrap(),
        }]
        .into();
        apply(&policy);
        let rules = nft_ruleset();
        let named = MemberSet::Named("lb".to_owned()).set_name(NFPROTO_IPV4);
        for part in [
            format!("ip saddr @{named} tcp dport 80 meta mark set"),
            "ip saddr 10.0.0.0/8 udp dport 8000-8010 meta mark set".to_owned(),
            "ip6 saddr 2001:db8::/32 meta l4proto ipv6-icmp meta mark set".to_owned(),
            "ip daddr 9.0.1.0/24 ip saddr @overlays4 ip saddr != 9.0.0.0/8 ip saddr != @nodes4 goto drop_isolated_overlay".to_owned(),
            "type filter hook output priority -90; policy accept;".to_owned(),
            "ip6 daddr vmap @closed6".to_owned(),
        ] {
            assert!(rules.contains(&part), "no {part:?} in:\n{rules}");
        }
        assert!(!rules.contains("172.16.0.0"), "{rules}");
        assert_complete(&policy);
    });
}

#[test]
fn change_costs_its_own_elements_with_many_members() {
    isolated(|| {
        let mut tables = GroupTables::open().unwrap();
        let mut changes = Vec::new();
        for members in [10, 10_000] {
            let before = policy(members);
            let begun = Instant::now();
            tables.apply(&before).unwrap();
            let built = begun.elapsed();
            let after = policy(members + 1);
            let sent = tables.socket.sent();
            let begun = Instant::now();
            changes.push(tables.apply(&after).unwrap().len());
            println!(
                "{members} members: built in {built:?}, one more in {:?}",
                begun.elapsed()
            );
            // The transaction's begin and end, and a message for each family.
            assert_eq!(tables.socket.sent() - sent, 4);
            assert_complete(&after);
        }
        assert_eq!(changes, [2, 2]);
    });
}

/// One of many policies, by its bits.
fn variant(bits: u16) -> GroupPolicy {
    let has = |bit: u16| bits & (1 << bit) != 0;
    let mut policy = policy(u32::from(bits & 7));
    if has(3) {
        policy.guarded.insert("9.0.0.0/7".parse().unwrap());
        policy.guarded.insert("255.0.0.0/8".parse().unwrap());
        policy.isolating.insert("9.1.0.0/16".parse().unwrap());
    }
    if has(4) {
        // Two subnets side by side, which are no larger one together.
        policy.overlays = subnets(&["9.0.1.0/24", "9.0.2.0/24", "fd09::/33"]);
    }
    if has(5) {
        let other = MemberSet::Group("db".to_owned());
        policy.members.insert(other, [[9, 0, 2, 99].into()].into());
        for container in policy.containers.values_mut() {
            *container = self::container(&["db", "none"]);
        }
    }
    if has(6) {
        for container in policy.containers.values_mut() {
            container.admits_own_host = false;
            container.rules.rules.insert(IngressRule {
                protocol: None,
                ports: Some((1, 9)),
                source: RuleSource::Group("lb".to_owned()),
            });
        }
    }
    if has(7) {
        policy.ports.clear();
    }
    if has(8) {
        policy.isolated.insert(IsolatedOverlay {
            name: "blue".to_owned(),
            subnet: "fd09::/32".parse().unwrap(),
            local_subnet: "fd09:0:0:1::/64".parse().unwrap(),
        });
    }
    if has(9) {
        policy.containers.clear();
        policy.members.clear();
    }
    if has(10) && has(11) {
        return GroupPolicy::default();
    }
    policy
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 24, ..Default::default() })]

    /// Whatever follows on one another, the tables are what the last policy says.
    #[test]
    fn any_policy_follows_on_any_other(all in proptest::collection::vec(proptest::prelude::any::<u16>(), 2..6)) {
        isolated(move || {
            let mut tables = GroupTables::open().unwrap();
            for bits in &all {
                let policy = variant(*bits);
                tables.apply(&policy).unwrap();
                assert_complete(&policy);
            }
        });
    }
}
