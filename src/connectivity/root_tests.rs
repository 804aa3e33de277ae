//! The whole test on a host of a test's own, whole and broken.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::config::Source;
use crate::net::testing::{isolated_async, link_names, run};

struct Lab {
    config: Config,
    _directory: TempDir,
}

impl Lab {
    fn new(octet: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let toml = format!(
            "state_dir = '{0}/state'\nnetns_dir = '{0}/netns'\n[ports]\nallow = ['any']\n\
             [node]\nsocket = '{0}/node.sock'\n\
             [[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'cmb-blue'\n\
             subnet = '10.{octet}.1.0/24'\nsubnet6 = 'fd00:{octet}::/64'\nmtu = 1400\n\
             [[network]]\nname = 'closed'\nprovider = 'bridge'\nsubnet = '10.{octet}.3.0/24'\ngroups = true\n\
             [[network]]\nname = 'none'\nprovider = 'none'\n",
            directory.path().display()
        );
        std::fs::write(&path, toml).unwrap();
        Self {
            config: Source::file(path).load().unwrap(),
            _directory: directory,
        }
    }

    /// A test that does not wait for long.
    fn connectivity(&self) -> Connectivity<'_> {
        Connectivity {
            answer_time_limit: Duration::from_millis(150),
            rules_time_limit: Duration::ZERO,
            ..Connectivity::new(&self.config).unwrap()
        }
    }

    fn network(&self, name: &str) -> &Network {
        self.config.network(name).unwrap()
    }
}

type Results = BTreeMap<(&'static str, Option<&'static str>), CheckResult>;

fn results(checks: &[ConnectivityCheck]) -> Results {
    let result = |check: &ConnectivityCheck| ((check.check, check.family), check.result);
    checks.iter().map(result).collect()
}

fn failed(checks: &[ConnectivityCheck]) -> Vec<(&'static str, Option<&str>)> {
    let failed = checks
        .iter()
        .filter(|check| check.result == CheckResult::Failed);
    failed
        .map(|check| (check.check, check.cause.as_deref()))
        .collect()
}

const V4: Option<&str> = Some("ipv4");
const V6: Option<&str> = Some("ipv6");

#[test]
fn whole_network_passes_and_nothing_is_left() {
    isolated_async(|| async {
        let lab = Lab::new(221);
        let connectivity = Connectivity::new(&lab.config).unwrap();
        let report = connectivity
            .run(&[lab.network("blue"), lab.network("none")])
            .await;
        assert!(report.is_good(), "{report:#?}");
        let found = results(&report.checks[..report.checks.len() - 1]);
        for check in [
            "tcp",
            "ping",
            "udp",
            "mtu",
            "host-to-container",
            "mapped-port-outside",
            "mapped-port-host",
            "mapped-port-neighbour",
            "mapped-port-hairpin",
        ] {
            for family in [V4, V6] {
                assert_eq!(
                    found.get(&(check, family)),
                    Some(&CheckResult::Ok),
                    "{report:#?}"
                );
            }
        }
        let skipped = ["dns", "service", "isolation-groups", "isolation-overlays"];
        for check in skipped {
            assert_eq!(found[&(check, V4)], CheckResult::Skipped, "{check}");
        }
        let none = report.checks.last().unwrap();
        assert_eq!(
            (none.network.as_str(), none.result),
            ("none", CheckResult::Skipped)
        );
        // Its namespace has just ended.
        let deadline = Instant::now() + RULES_TIME_LIMIT;
        while !link_names().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", link_names());
            sleep(RETRY_INTERVAL).await;
        }
        let attacher = connectivity.attacher().unwrap();
        assert!(attacher.checkpoints().load_all().unwrap().is_empty());
    });
}

#[test]
fn what_is_broken_fails_in_its_line() {
    isolated_async(|| async {
        let lab = Lab::new(222);
        let connectivity = lab.connectivity();
        let scratch = connectivity.prepare(lab.network("blue")).await.unwrap();
        let check = async || connectivity.check(&scratch).await;
        assert_eq!(failed(&check().await), []);
        let port = scratch.host_port.unwrap();
        let address = scratch.first.address(true).unwrap();

        // Longer packets get lost on their way.
        let intent = &scratch.second.checkpoint.networks[0].intent;
        let host_interface = match &intent.provider {
            ProviderIntent::Bridge(bridge) => bridge.host_interface.clone(),
            other => panic!("{other:?}"),
        };
        let mtu_fails = async || {
            let checks = check().await;
            let found = results(&checks);
            for family in [V4, V6] {
                assert_eq!(found[&("mtu", family)], CheckResult::Failed, "{checks:#?}");
                assert_eq!(found[&("ping", family)], CheckResult::Ok, "{checks:#?}");
            }
        };
        run("ip", &format!("link set {host_interface} mtu 1300"));
        mtu_fails().await;
        run("ip", &format!("link set {host_interface} mtu 1400"));
        // They can be sent, though they are too long.
        let set_mtu = async |mtu: u32| {
            let set = move || run("ip", &format!("link set eth0 mtu {mtu}"));
            inside(&scratch.second.namespace, set).await.unwrap();
        };
        set_mtu(1500).await;
        mtu_fails().await;
        set_mtu(1400).await;

        for command in [
            "add table inet fw",
            "add chain inet fw forward { type filter hook forward priority 0 ; }",
            "add rule inet fw forward iifname cmt* drop",
        ] {
            run("nft", command);
        }
        let outside = ("mapped-port-outside", Some("firewall-drop"));
        assert_eq!(failed(&check().await), [outside, outside]);
        run("nft", "delete table inet fw");

        let rule = format!("tcp . {port} : {address} . {SERVER_PORT}");
        run(
            "nft",
            &format!("delete element inet contrail_mesos ports4 {{ {rule} }}"),
        );
        let checks = check().await;
        let by_mapped_port = failed(&checks);
        let codes: Vec<_> = by_mapped_port.iter().map(|(code, _)| *code).collect();
        let expected = [
            "mapped-port-outside",
            "mapped-port-host",
            "mapped-port-neighbour",
            "mapped-port-hairpin",
        ];
        assert_eq!(codes, expected);
        let cause = Some("port-mapping-missing");
        assert!(
            by_mapped_port.iter().all(|(_, found)| *found == cause),
            "{by_mapped_port:?}"
        );

        run("ip", "link set cmb-blue down");
        let down = check().await;
        let found = results(&down);
        for check in ["tcp", "ping", "udp", "host-to-container"] {
            assert_eq!(found[&(check, V4)], CheckResult::Failed, "{down:#?}");
        }
        assert_eq!(failed(&down)[0], ("tcp", Some("bridge-down")));
        drop(scratch);
        assert_eq!(connectivity.remove_containers().await, [""; 0]);
    });
}

#[test]
fn network_that_isolates_groups_is_closed_to_the_other_group() {
    isolated_async(|| async {
        let lab = Lab::new(223);
        let connectivity = lab.connectivity();
        let scratch = connectivity.prepare(lab.network("closed")).await.unwrap();
        // Nobody has made rules, so nothing passes but what the host sends.
        let checks = connectivity.check(&scratch).await;
        let found = results(&checks);
        assert_eq!(found[&("tcp", V4)], CheckResult::Failed, "{checks:#?}");
        assert_eq!(failed(&checks)[0], ("tcp", Some("group-rules-missing")));
        assert_eq!(found[&("host-to-container", V4)], CheckResult::Ok);
        assert_eq!(found[&("isolation-groups", V4)], CheckResult::Ok);
        drop(scratch);
        assert_eq!(connectivity.remove_containers().await, [""; 0]);
    });
}
