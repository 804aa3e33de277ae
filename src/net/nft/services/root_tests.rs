//! The table as `nft` shows it. What it does to packets is tested by the node daemon.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::*;
use crate::net::nft::watch::TableEvents;
use crate::net::testing::{isolated, nft_ruleset, run};

fn frontend(address: &str, protocol: u8, port: u16) -> Frontend {
    Frontend {
        address: address.parse().unwrap(),
        protocol,
        port,
    }
}

fn balance(backends: &[&str]) -> Balance {
    Balance {
        backends: backends.iter().map(|text| text.parse().unwrap()).collect(),
        has_affinity: false,
    }
}

fn policy() -> ServicePolicy {
    let mut policy = ServicePolicy {
        ranges: ["198.18.0.0/16", "fd4a::/112"]
            .map(|net| net.parse().unwrap())
            .into(),
        dns: ["198.18.0.1", "fd4a::1"]
            .map(|address| address.parse().unwrap())
            .into(),
        vips: [[10, 0, 0, 1].into()].into(),
        own: ["9.0.1.2", "fd09::2"]
            .map(|address| address.parse().unwrap())
            .into(),
        bridges: ["blue0".to_owned()].into(),
        inside: ["blue0".to_owned(), "vtep1024".to_owned()].into(),
        frontends: BTreeMap::new(),
    };
    let affinity = Balance {
        has_affinity: true,
        ..balance(&["9.0.1.2:80", "9.0.2.2:80"])
    };
    policy.frontends = [
        (
            frontend("198.18.0.5", TCP, 80),
            balance(&["9.0.1.2:8080", "9.0.2.2:8080", "9.0.3.2:81"]),
        ),
        (frontend("198.18.0.6", UDP, 53), affinity),
        (frontend("fd4a::5", TCP, 80), balance(&["[fd09::2]:8080"])),
        (frontend("10.0.0.1", 132, 90), balance(&["9.0.1.2:1"])),
        (frontend("10.0.0.1", TCP, 80), balance(&[])),
    ]
    .into();
    policy
}

const ALL: Scope<'_> = Scope::All { removes: true };

/// Applies as a daemon that has just started.
fn apply(policy: &ServicePolicy) -> Vec<String> {
    ServiceTable::open()
        .unwrap()
        .apply(Some(policy), ALL)
        .unwrap()
}

fn assert_complete(policy: &ServicePolicy) {
    let plan = ServiceTable::open().unwrap().plan(Some(policy)).unwrap();
    assert_eq!(plan, [""; 0]);
}

#[test]
fn table_is_built_as_nft_shows_it_and_removed() {
    isolated(|| {
        let policy = policy();
        let plan = ServiceTable::open().unwrap().plan(Some(&policy)).unwrap();
        assert!(
            plan.contains(&"add the service 198.18.0.5:80/tcp with 3 ready backends".to_owned())
        );
        assert_eq!(nft_ruleset(), "");
        apply(&policy);
        let rules = nft_ruleset();
        for part in [
            "table inet contrail_mesos_services",
            "type nat hook prerouting priority dstnat - 10; policy accept;",
            "type nat hook output priority -110; policy accept;",
            "type filter hook input priority -50; policy accept;",
            "ip daddr . meta l4proto . th dport vmap @services4",
            "ip6 daddr . meta l4proto . th dport vmap @services6",
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @backends4",
            "jhash ip saddr mod 2",
            "ct original ip daddr @ranges4 goto masquerade4",
            "iifname . oifname @same_bridge masquerade fully-random",
            "meta l4proto tcp counter packets 0 bytes 0 reject with tcp reset",
            "ip saddr . ip daddr @own4 masquerade fully-random",
            "counter packets 0 bytes 0 reject comment",
            "198.18.0.5 . tcp . 80 counter packets 0 bytes 0 : goto random4_3",
            "198.18.0.6 . udp . 53 counter packets 0 bytes 0 : goto affinity4_2",
            "10.0.0.1 . sctp . 90 counter packets 0 bytes 0 : goto random4_1",
            "10.0.0.1 . tcp . 80 counter packets 0 bytes 0 : goto keep",
            "198.18.0.1 . udp . 53",
            "\"blue0\" . \"blue0\"",
            "9.0.1.2 . 9.0.1.2",
        ] {
            assert!(rules.contains(part), "no {part:?} in:\n{rules}");
        }
        assert_complete(&policy);
        assert_eq!(apply(&policy), [""; 0]);
        assert_eq!(connections().unwrap().len(), 5);
        run("nft", "add table inet other");
        let mut table = ServiceTable::open().unwrap();
        assert_eq!(table.plan(None).unwrap().len(), 1);
        assert_eq!(table.apply(None, ALL).unwrap().len(), 1);
        assert_eq!(table.apply(None, ALL).unwrap(), [""; 0]);
        assert_eq!(nft_ruleset().trim(), "table inet other {\n}");
    });
}

#[test]
fn changes_are_elements_alone_and_keep_the_rules() {
    isolated(|| {
        let mut table = ServiceTable::open().unwrap();
        let mut policy = policy();
        table.apply(Some(&policy), ALL).unwrap();
        let handles = || {
            let rules = run("nft", "-a list table inet contrail_mesos_services");
            let lines = rules.lines().filter(|line| line.contains("comment"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let change = |table: &mut ServiceTable, policy: &ServicePolicy, frontend: Frontend| {
            let scope = [frontend].into();
            let changes = table.apply(Some(policy), Scope::Changed(&scope)).unwrap();
            assert_complete(policy);
            changes
        };
        let web = frontend("198.18.0.5", TCP, 80);
        // The number of backends needs a chain that is there afterwards.
        policy
            .frontends
            .insert(web, balance(&["9.0.1.2:8080", "9.0.3.2:81"]));
        let changes = change(&mut table, &policy, web);
        assert!(
            changes
                .contains(&"change the service 198.18.0.5:80/tcp with 2 ready backends".to_owned()),
            "{changes:?}"
        );
        let rules = handles();
        policy.frontends.insert(
            web,
            balance(&["9.0.1.2:8080", "9.0.2.2:8080", "9.0.9.2:81"]),
        );
        let sent = table.sent();
        let changes = change(&mut table, &policy, web);
        assert_eq!(
            changes,
            ["change the service 198.18.0.5:80/tcp with 3 ready backends"]
        );
        // The transaction's begin and end, and a message a set for what goes and what comes.
        assert_eq!(table.sent() - sent, 2 + 4);
        policy.frontends.insert(web, balance(&[]));
        change(&mut table, &policy, web);
        policy.frontends.remove(&web);
        let changes = change(&mut table, &policy, web);
        assert_eq!(changes, ["remove the service 198.18.0.5:80/tcp"]);
        assert_eq!(handles(), rules);
        // Without a removal, what nobody knows stays.
        let mut fewer = policy.clone();
        fewer.frontends.clear();
        table
            .apply(Some(&fewer), Scope::All { removes: false })
            .unwrap();
        assert_complete(&policy);
        table.forget();
        table
            .apply(Some(&fewer), Scope::All { removes: false })
            .unwrap();
        assert_complete(&policy);
        assert_eq!(
            table.apply(Some(&fewer), ALL).unwrap(),
            [""; 0],
            "it does not know them"
        );
        table.forget();
        assert_eq!(table.apply(Some(&fewer), ALL).unwrap().len(), 4);
        assert_complete(&fewer);
    });
}

#[test]
fn whatever_somebody_does_to_the_table_is_made_up_for() {
    isolated(|| {
        let policy = policy();
        let mut table = ServiceTable::open().unwrap();
        let mut events = TableEvents::subscribe(TABLE, table.port()).unwrap();
        table.apply(Some(&policy), ALL).unwrap();
        assert!(!events.receive().unwrap(), "own changes are reported");
        let complete = nft_ruleset();
        for damage in [
            "flush ruleset",
            "delete table inet contrail_mesos_services",
            "flush table inet contrail_mesos_services",
            "flush chain inet contrail_mesos_services random4_3",
            "flush chain inet contrail_mesos_services refuse_output",
            "flush map inet contrail_mesos_services services4",
            "flush map inet contrail_mesos_services backends6",
            "flush set inet contrail_mesos_services refused4",
            "flush set inet contrail_mesos_services ranges6",
            "insert rule inet contrail_mesos_services prerouting accept",
            "add chain inet contrail_mesos_services other",
            "add set inet contrail_mesos_services other { type mark ; }",
            "add element inet contrail_mesos_services services4 { 198.18.0.9 . tcp . 80 : accept }",
            "add element inet contrail_mesos_services services4 { 198.18.0.9 . tcp . 80 : goto random4_3 }",
            "add element inet contrail_mesos_services backends4 { 198.18.0.5 . tcp . 80 . 7 : 9.9.9.9 . 80 }",
            "delete element inet contrail_mesos_services backends4 { 198.18.0.5 . tcp . 80 . 1 }",
            "add element inet contrail_mesos_services refused4 { 198.18.0.5 . tcp . 80 }",
            "add table inet contrail_mesos_services { flags dormant ; }",
        ] {
            run("nft", damage);
            assert!(events.receive().unwrap(), "{damage} is not reported");
            table.forget();
            let changes = table
                .apply(Some(&policy), Scope::Changed(&BTreeSet::new()))
                .unwrap();
            assert!(!changes.is_empty(), "{damage}");
            assert_eq!(nft_ruleset().len(), complete.len(), "{damage}: {changes:?}");
            assert_complete(&policy);
            assert!(!events.receive().unwrap(), "own changes after {damage}");
        }
        // A change that is not noticed yet does no harm.
        run("nft", "flush ruleset");
        let mut more = policy.clone();
        let new = frontend("198.18.0.7", TCP, 80);
        more.frontends.insert(new, balance(&["9.0.1.2:80"]));
        table
            .apply(Some(&more), Scope::Changed(&[new].into()))
            .unwrap();
        assert_complete(&more);
    });
}

fn many(services: u32, backends: u32) -> ServicePolicy {
    let mut policy = policy();
    for number in 0..services {
        let address = IpAddr::from(Ipv4Addr::from(0xc612_1000 + number));
        let backend = |slot| {
            let host = Ipv4Addr::from(0x0900_0000 + number * 16 + slot);
            SocketAddr::new(host.into(), 80)
        };
        let balance = Balance {
            backends: (0..backends).map(backend).collect(),
            has_affinity: false,
        };
        let frontend = Frontend {
            address,
            protocol: TCP,
            port: 80,
        };
        policy.frontends.insert(frontend, balance);
    }
    policy
}

#[test]
fn change_costs_its_own_elements_with_many_services() {
    isolated(|| {
        for services in [10, 10_000] {
            let mut table = ServiceTable::open().unwrap();
            let mut policy = many(services, 3);
            let begun = Instant::now();
            table.apply(Some(&policy), ALL).unwrap();
            let built = begun.elapsed();
            let (frontend, balance) = policy.frontends.iter_mut().nth(7).unwrap();
            let frontend = *frontend;
            balance.backends.pop();
            let sent = table.sent();
            let begun = Instant::now();
            let scope = [frontend].into();
            table.apply(Some(&policy), Scope::Changed(&scope)).unwrap();
            println!(
                "{services} services: built in {built:?}, one changed in {:?}",
                begun.elapsed()
            );
            assert!(table.sent() - sent < 20);
            let begun = Instant::now();
            assert_complete(&policy);
            println!("listed and compared in {:?}", begun.elapsed());
            table.apply(None, ALL).unwrap();
        }
    });
}
