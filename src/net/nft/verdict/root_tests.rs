//! Rules as `nft` and `iptables` write them. Each test has a network namespace of its own.

use super::*;
use crate::net::testing::{isolated, run};

fn packet(port: u16) -> FirstPacket {
    FirstPacket {
        source: [10, 1, 0, 2].into(),
        destination: [10, 1, 0, 3].into(),
        protocol: 6,
        port,
        input: Some("lo".to_owned()),
        output: Some("cmb-blue".to_owned()),
    }
}

/// The chain and number of the rule that drops a packet to that port.
fn dropped(port: u16) -> Option<(String, Option<usize>)> {
    let verdict = judge(PacketHook::Forward, &packet(port)).unwrap();
    verdict.drop.map(|drop| (drop.chain, drop.rule))
}

#[test]
fn rules_are_followed_as_the_kernel_does() {
    isolated(|| {
        assert_eq!(dropped(80), None);
        for command in [
            "add table inet fw",
            "add chain inet fw forward { type filter hook forward priority 0 ; }",
            "add chain inet fw ports",
            "add chain inet fw other { type filter hook input priority 0 ; policy drop ; }",
            "add rule inet fw forward ct state established,related accept",
            "add rule inet fw forward ip saddr 10.2.0.0/16 drop",
            "add rule inet fw forward ip6 daddr fd00::/8 drop",
            "add rule inet fw forward udp dport 80 drop",
            "add rule inet fw forward oifname \"cmb-red\" drop",
            "add rule inet fw forward iifname \"lo\" ip daddr 10.1.0.0/24 jump ports",
            "add rule inet fw forward tcp dport 1000-1999 reject",
            "add rule inet fw forward tcp dport != { 443, 8000-8999 } meta length > 100 drop",
            "add rule inet fw ports tcp dport 5433 return",
            "add rule inet fw ports tcp dport { 5432, 6000-6999 } counter drop",
            "add rule inet fw ports tcp dport 1500 accept",
        ] {
            run("nft", command);
        }
        let rule = |chain: &str, number| Some((chain.to_owned(), Some(number)));
        assert_eq!(dropped(80), None);
        assert_eq!(dropped(5432), rule("ports", 2));
        assert_eq!(dropped(6500), rule("ports", 2));
        assert_eq!(dropped(5433), None);
        assert_eq!(dropped(1500), None);
        assert_eq!(dropped(1501), rule("forward", 7));
        let verdict = judge(PacketHook::Forward, &packet(80)).unwrap();
        // The length of the packet is not known; for a port of the set it does not matter.
        assert_eq!(verdict.not_understood, 1);
        let verdict = judge(PacketHook::Forward, &packet(443)).unwrap();
        assert_eq!(verdict.not_understood, 0);
        let input = judge(PacketHook::Input, &packet(80)).unwrap().drop.unwrap();
        assert_eq!((input.chain.as_str(), input.rule), ("other", None));
        assert_eq!((input.family, input.table.as_str()), ("inet", "fw"));
    });
}

#[test]
fn rules_of_iptables_and_policies_are_understood() {
    isolated(|| {
        for command in [
            "-A FORWARD -p tcp --dport 5432 -m comment --comment database -j REJECT",
            "-A FORWARD -s 10.1.0.0/24 -o cmb-blue -p tcp --dport 80 -j ACCEPT",
            "-P FORWARD DROP",
        ] {
            run("iptables-nft", command);
        }
        assert_eq!(dropped(5432), Some(("FORWARD".to_owned(), Some(1))));
        assert_eq!(dropped(80), None);
        assert_eq!(dropped(81), Some(("FORWARD".to_owned(), None)));
        // Our own tables are no other firewall.
        run("nft", "add table inet contrail_mesos_x");
        run(
            "nft",
            "add chain inet contrail_mesos_x c { type filter hook forward priority -5 ; policy drop ; }",
        );
        assert_eq!(dropped(80), None);
    });
}
