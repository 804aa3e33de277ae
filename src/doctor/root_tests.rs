use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::*;
use crate::net::testing::{isolated, isolated_async, link_names, nft_ruleset, run};

/// The most serious outcome of each check.
fn severities(report: &Report) -> BTreeMap<&'static str, Severity> {
    let mut severities = BTreeMap::new();
    for check in &report.checks {
        let severity = severities.entry(check.name).or_insert(Severity::Ok);
        *severity = check.severity.max(*severity);
        assert_eq!(
            check.remedy.is_some(),
            check.severity != Severity::Ok,
            "{check:?}"
        );
    }
    severities
}

fn doctor(config: &Path) -> Doctor {
    Doctor {
        source: Source::file(config),
        library: None,
        mesos: None,
        agent: None,
    }
}

/// The checks of the kernel that do not depend on the configuration.
const KERNEL: [&str; 6] = [
    "kernel-namespace",
    "kernel-bridge",
    "kernel-veth",
    "kernel-vxlan",
    "kernel-nftables",
    "kernel-conntrack",
];

/// The kernel has the settings in `default` in its first network namespace only.
const NEIGHBOURS: &str = "/proc/sys/net/ipv4/neigh";

/// A host with a configuration.
struct Operator {
    directory: tempfile::TempDir,
}

impl Operator {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let operator = Self { directory };
        let text = format!(
            "state_dir = '{}'\nnetns_dir = '{}'\n[node]\nmanagers = ['192.0.2.77']\ntoken_file = '{}'\n\
             [[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\nsubnet = '10.32.0.0/22'\n\
             mtu = 1500\n[dns]\nnameservers = ['192.0.2.53']\n",
            operator.path("state").display(),
            operator.path("netns").display(),
            operator.path("token").display()
        );
        fs::write(operator.path("agent.toml"), text).unwrap();
        fs::write(operator.path("token"), "0123456789abcdef\n").unwrap();
        let none: Option<&str> = None;
        mount(none, NEIGHBOURS, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::create_dir(format!("{NEIGHBOURS}/default")).unwrap();
        operator
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn set_modes(&self, token: u32, config: u32) {
        for (name, mode) in [("token", token), ("agent.toml", config)] {
            fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
        }
    }

    fn plant(&self) {
        self.set_modes(0o644, 0o666);
        fs::write(format!("{NEIGHBOURS}/default/gc_thresh3"), "128").unwrap();
        for command in [
            "link add uplink0 mtu 1400 type veth peer name uplink1",
            "address add 198.51.100.2/24 dev uplink0",
            "link set uplink1 up",
            "link set uplink0 up",
            "route add default via 198.51.100.1",
            "route add 10.32.0.0/22 dev uplink0",
            "link add blue0 type veth peer name blue1",
        ] {
            run("ip", command);
        }
        run("sysctl", "-qw net.ipv4.ip_forward=1");
        run("sysctl", "-qw net.ipv4.conf.default.forwarding=0");
        run("nft", "add table ip filter");
        let hook = "type filter hook forward priority 0 ; policy drop ;";
        run("nft", &format!("add chain ip filter FORWARD {{ {hook} }}"));
    }

    fn repair(&self) {
        self.set_modes(0o600, 0o644);
        fs::write(format!("{NEIGHBOURS}/default/gc_thresh3"), "4096").unwrap();
        for command in [
            "link delete blue0",
            "route delete 10.32.0.0/22",
            "link set uplink0 mtu 1500",
        ] {
            run("ip", command);
        }
        run("nft", "delete table ip filter");
        run("sysctl", "-qw net.ipv4.conf.default.forwarding=1");
    }
}

/// What [`Operator::plant`] causes.
const FAULTS: [(&str, Severity); 7] = [
    ("file-configuration", Severity::Warning),
    ("file-node", Severity::Warning),
    ("neighbour-table", Severity::Warning),
    ("mtu", Severity::Warning),
    ("sysctl-forwarding", Severity::Warning),
    ("firewall", Severity::Failure),
    ("network", Severity::Failure),
];

#[test]
fn planted_faults_are_named_and_gone_after_their_repair() {
    isolated_async(|| async {
        let operator = Operator::new();
        operator.plant();
        let before = (link_names(), nft_ruleset());
        let report = doctor(&operator.path("agent.toml")).examine().await;
        assert_eq!(report.severity, Severity::Failure);
        let outcomes = severities(&report);
        let daemon = ("service-node-daemon", Severity::Failure);
        let kernel = KERNEL.map(|name| (name, Severity::Ok));
        for (name, severity) in FAULTS.into_iter().chain([daemon]).chain(kernel) {
            assert_eq!(outcomes.get(name), Some(&severity), "{name}: {report:#?}");
        }
        let has = |name: &str, part: &str| {
            let mut checks = report.checks.iter().filter(|check| check.name == name);
            checks.any(|check| check.text.contains(part))
        };
        // The route, and the interface in place of the bridge.
        assert!(has("network", "uplink0"), "{report:#?}");
        assert!(has("network", "is no bridge"), "{report:#?}");
        assert!(has("neighbour-table", "128"), "{report:#?}");
        let remedies = report
            .checks
            .iter()
            .filter_map(|check| check.remedy.as_deref());
        let remedies: String = remedies.collect::<Vec<_>>().join("\n");
        for part in [
            "gc_thresh3=",
            "iifname \"blue0\" accept",
            "mtu = 1400",
            "chmod 600",
        ] {
            assert!(remedies.contains(part), "{part}: {remedies}");
        }
        // Nothing is left of what was tried.
        assert_eq!((link_names(), nft_ruleset()), before);
        assert!(!operator.path("state").exists());

        operator.repair();
        let mut report = doctor(&operator.path("agent.toml")).examine().await;
        // That of the test may be gone after a reboot, of which `config check` warns.
        let is_lost = |check: &Check| check.text.contains(": state_dir: ");
        report.checks.retain(|check| !is_lost(check));
        let outcomes = severities(&report);
        for (name, _) in FAULTS {
            let severity = outcomes.get(name).copied().unwrap_or(Severity::Ok);
            assert_eq!(severity, Severity::Ok, "{name}: {report:#?}");
        }
    });
}

#[test]
fn missing_configuration_is_one_failure_and_the_rest_is_checked() {
    isolated_async(|| async {
        let directory = tempfile::tempdir().unwrap();
        let report = doctor(&directory.path().join("missing.toml"))
            .examine()
            .await;
        let failures = report.checks.iter();
        let failures: Vec<_> = failures
            .filter(|check| check.severity == Severity::Failure)
            .map(|check| check.name)
            .collect();
        assert_eq!(failures, ["configuration"], "{report:#?}");
        let found = severities(&report);
        for name in KERNEL.into_iter().chain(["firewall", "sysctl-rp-filter"]) {
            assert_eq!(found.get(name), Some(&Severity::Ok), "{name}: {report:#?}");
        }
        assert_eq!(found.get("agent"), Some(&Severity::Warning));
    });
}

#[test]
fn feature_that_fails_is_named_beside_those_that_work() {
    isolated(|| {
        // No end of a veth pair can be put there.
        let no_namespace = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let needs = Needs {
            macvlan: true,
            ..Needs::default()
        };
        let checks = kernel::try_all(&no_namespace, needs);
        for (name, severity) in [
            ("kernel-bridge", Severity::Ok),
            ("kernel-veth", Severity::Failure),
            ("kernel-macvlan", Severity::Failure),
            ("kernel-nftables", Severity::Ok),
        ] {
            let check = checks.iter().find(|check| check.name == name).unwrap();
            assert_eq!(check.severity, severity, "{check:?}");
            assert_eq!(check.remedy.is_some(), severity == Severity::Failure);
        }
    });
}
