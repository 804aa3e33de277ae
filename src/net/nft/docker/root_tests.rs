//! The rules in namespaces, read by the real programs of iptables.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::net::docker_watch::DockerEvents;
use crate::net::testing::{isolated, nft_ruleset, run};

/// The chains as Docker makes them when it starts.
fn docker_chains(program: &str) {
    for arguments in [
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-I FORWARD -j DOCKER-USER",
    ] {
        run(program, arguments);
    }
}

fn set<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    values.into_iter().collect()
}

fn desired() -> DesiredRules {
    let net = |net: &str| net.parse().unwrap();
    DesiredRules {
        bridges: set(["blue0".to_owned(), "m-vxlan-1".to_owned()]),
        overlay_bridges: set(["m-vxlan-1".to_owned()]),
        other_interfaces: set(["br-ex".to_owned()]),
        overlays: set(["d-vxlan-1".to_owned(), "vtep1024".to_owned()]),
        masquerade: Some(Masquerade {
            sources: set([net("9.0.1.128/25"), net("fd09:0:0:1:8000::/65")]),
            cluster: set([net("9.0.0.0/8"), net("fd09::/48")]),
        }),
    }
}

/// The rules of the chains of a table, as `iptables-save` prints them.
fn saved(program: &str) -> Vec<String> {
    let rules = run(program, "-t filter");
    assert!(!rules.contains("incompatible"), "{rules}");
    let lines = rules.lines().filter(|line| line.starts_with("-A"));
    lines.map(str::to_owned).collect()
}

/// Gives `input` to a program in this thread's namespace.
#[expect(
    clippy::disallowed_methods,
    reason = "the programs of iptables are run as an operator does"
)]
fn pipe(program: &str, input: &str) {
    let mut child = Command::new(program).stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{program}");
}

fn apply(rules: &mut DockerRules, desired: &DesiredRules) -> Vec<String> {
    let done = rules.apply(desired).unwrap();
    assert!(done.failures.is_empty(), "{done:?}");
    assert_eq!(rules.compare(desired).unwrap().changes, [""; 0]);
    done.changes
}

#[test]
fn iptables_reads_the_rules_and_writes_them_back() {
    isolated(|| {
        docker_chains("iptables");
        let mut rules = DockerRules::open().unwrap();
        assert_eq!(apply(&mut rules, &desired()).len(), 2);
        let saved_rules = saved("iptables-save");
        let ours = saved_rules
            .iter()
            .filter(|rule| rule.starts_with("-A CONTRAIL-MESOS"));
        let ours: Vec<_> = ours
            .map(|rule| {
                let (condition, rest) = rule.split_once(" -m comment --comment ").unwrap();
                let (comment, target) = rest.rsplit_once(" -j ").unwrap();
                assert!(comment.starts_with("\"contrail-mesos-node: "), "{rule}");
                format!("{} {target}", condition.strip_prefix("-A ").unwrap())
            })
            .collect();
        assert_eq!(
            ours,
            [
                "CONTRAIL-MESOS -o blue0 ACCEPT",
                "CONTRAIL-MESOS -o m-vxlan-1 ACCEPT",
                "CONTRAIL-MESOS -i d-vxlan-1 CONTRAIL-MESOS-OVERLAY",
                "CONTRAIL-MESOS -i vtep1024 CONTRAIL-MESOS-OVERLAY",
                "CONTRAIL-MESOS -i m-vxlan-1 CONTRAIL-MESOS-OVERLAY",
                "CONTRAIL-MESOS -i blue0 CONTRAIL-MESOS-FROM",
                "CONTRAIL-MESOS -i m-vxlan-1 CONTRAIL-MESOS-FROM",
                "CONTRAIL-MESOS-FROM -o br-ex ACCEPT",
                "CONTRAIL-MESOS-FROM -o docker+ RETURN",
                "CONTRAIL-MESOS-FROM -o br-+ RETURN",
                "CONTRAIL-MESOS-FROM -o d-+ RETURN",
                "CONTRAIL-MESOS-FROM ACCEPT",
                "CONTRAIL-MESOS-OVERLAY -o d-vxlan-1 ACCEPT",
                "CONTRAIL-MESOS-OVERLAY -o vtep1024 ACCEPT",
            ]
        );
        // The jump stands before the RETURN, so after what an operator inserts.
        let users: Vec<_> = saved_rules
            .iter()
            .filter(|rule| rule.starts_with("-A DOCKER-USER"))
            .collect();
        assert_eq!(users.len(), 2, "{users:?}");
        assert!(users[0].ends_with("-j CONTRAIL-MESOS"), "{users:?}");
        assert_eq!(users[1], "-A DOCKER-USER -j RETURN");
        // What an operator saves and restores works, and is written as it was.
        let file = run("iptables-save", "-t filter");
        run("iptables", "-F");
        run("iptables", "-X");
        pipe("iptables-restore", &file);
        assert_eq!(saved("iptables-save"), saved_rules);
        apply(&mut rules, &desired());
        assert_eq!(saved("iptables-save"), saved_rules);
        // There is no chain of ip6tables.
        assert_eq!(saved("ip6tables-save"), [""; 0]);
        docker_chains("ip6tables");
        assert_eq!(apply(&mut rules, &desired()).len(), 1);
        assert_eq!(saved("ip6tables-save").len(), saved_rules.len());
    });
}

#[test]
fn damage_to_the_rules_is_repaired() {
    isolated(|| {
        docker_chains("iptables");
        let mut rules = DockerRules::open().unwrap();
        apply(&mut rules, &desired());
        for damage in [
            "iptables -F DOCKER-USER",
            "iptables -D CONTRAIL-MESOS 2",
            "iptables -F CONTRAIL-MESOS-OVERLAY",
            "iptables -F CONTRAIL-MESOS-FROM",
            "iptables -A CONTRAIL-MESOS -j DROP",
            // What follows an unconditional RETURN is not reached.
            "iptables -I DOCKER-USER -j RETURN",
            "iptables -I DOCKER-USER -j CONTRAIL-MESOS",
            "nft flush chain inet contrail_mesos_docker leaving",
            "nft delete table inet contrail_mesos_docker",
        ] {
            let (program, arguments) = damage.split_once(' ').unwrap();
            run(program, arguments);
            assert_eq!(apply(&mut rules, &desired()).len(), 1, "{damage}");
        }
        let users = saved("iptables-save");
        let users: Vec<_> = users
            .iter()
            .filter(|rule| rule.starts_with("-A DOCKER-USER"))
            .collect();
        // The operator's RETURN stays, and ours is before it.
        assert!(users[0].ends_with("-j CONTRAIL-MESOS"), "{users:?}");
        assert_eq!(users.len(), 2, "{users:?}");
    });
}

#[test]
fn rules_are_removed_and_others_stay() {
    isolated(|| {
        docker_chains("iptables");
        run("iptables", "-I DOCKER-USER -s 203.0.113.0/24 -j DROP");
        run("nft", "add table inet other");
        let before = nft_ruleset();
        let mut rules = DockerRules::open().unwrap();
        let nothing = DesiredRules {
            masquerade: Some(Masquerade::default()),
            ..DesiredRules::default()
        };
        assert_eq!(apply(&mut rules, &nothing), [""; 0]);
        apply(&mut rules, &desired());
        let present = rules.present().unwrap();
        assert_eq!(present.bridges, desired().bridges);
        assert_eq!(present.overlays, desired().overlays);
        assert_eq!(present.overlay_bridges, desired().overlay_bridges);
        // A comparison without the managers' state leaves the masquerading as it is.
        let present = DesiredRules {
            other_interfaces: desired().other_interfaces,
            ..present
        };
        assert_eq!(rules.compare(&present).unwrap().changes, [""; 0]);
        assert_eq!(apply(&mut rules, &nothing).len(), 2);
        assert_eq!(nft_ruleset(), before);
        // Without Docker's chain there is nothing to accept in.
        apply(&mut rules, &desired());
        run("iptables", "-F DOCKER-USER");
        run("iptables", "-F FORWARD");
        run("iptables", "-X DOCKER-USER");
        let done = rules.apply(&desired()).unwrap();
        assert!(!done.has_docker_chain);
        assert!(!nft_ruleset().contains("CONTRAIL-MESOS"));
    });
}

#[test]
fn changes_by_others_are_notified_once_they_have_ended() {
    isolated(|| {
        docker_chains("iptables");
        let mut rules = DockerRules::open().unwrap();
        let mut events = DockerEvents::subscribe(rules.port()).unwrap();
        let mut collected = |timeout: u16| {
            let mut files = [nix::poll::PollFd::new(
                events.descriptor(),
                nix::poll::PollFlags::POLLIN,
            )];
            let is_readable = nix::poll::poll(&mut files, timeout).unwrap() > 0;
            (is_readable, events.receive().unwrap())
        };
        apply(&mut rules, &desired());
        assert_eq!(collected(0), (false, false), "own changes");
        run("iptables", "-N OTHER");
        run("iptables", "-A OTHER -j DROP");
        run("nft", "add table inet other");
        assert!(!collected(0).1, "changes of other chains");
        assert_eq!(collected(0), (false, false));
        for change in ["-F DOCKER-USER", "-D CONTRAIL-MESOS 1", "-F", "-X OTHER"] {
            run("iptables", change);
        }
        let (is_readable, is_complete) = collected(0);
        assert!(is_readable && !is_complete, "they are collected");
        assert_eq!(collected(10_000), (true, true));
        assert_eq!(collected(0), (false, false));
        run("nft", "flush ruleset");
        assert!(!collected(0).1);
        assert_eq!(collected(10_000), (true, true));
    });
}

#[test]
fn many_overlays_fit_into_one_transaction() {
    isolated(|| {
        docker_chains("iptables");
        let mut many = desired();
        for number in 0..400 {
            many.bridges.insert(format!("m-overlay-{number}"));
            many.overlays.insert(format!("d-overlay-{number}"));
            many.overlays.insert(format!("vtep{number}"));
        }
        let mut rules = DockerRules::open().unwrap();
        assert_eq!(apply(&mut rules, &many).len(), 2);
        assert_eq!(apply(&mut rules, &desired()).len(), 1);
    });
}
