//! The networks that Docker has, and has not.

use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::*;
use crate::overlay::OverlaySubsystem;
use crate::overlay::root_tests::data_path::{cluster, node, overlay};

struct Lab {
    dockerd: Dockerd,
    cluster: ClusterState,
}

impl Lab {
    fn new() -> Self {
        run("ip", "link add eth0 type veth peer name wire");
        run("ip", "link set wire up");
        run("ip", "link set eth0 up");
        run("ip", "addr add 192.0.2.1/24 dev eth0");
        Self {
            dockerd: Dockerd::start(),
            cluster: cluster([node(1), node(2)]),
        }
    }

    fn subsystem(&self) -> DockerSubsystem {
        DockerSubsystem::new(self.dockerd.socket()).unwrap()
    }

    /// Compares as a daemon that has just started.
    fn reconcile(&self) -> Outcome {
        let mut subsystem = self.subsystem();
        subsystem.reconcile(&self.cluster, Mode::Apply).unwrap()
    }

    /// What a daemon that has just started would change.
    fn due(&self) -> Vec<String> {
        let mut subsystem = self.subsystem();
        changes(subsystem.reconcile(&self.cluster, Mode::DryRun).unwrap())
    }

    fn set_mtu(&mut self, mtu: u32) {
        self.cluster.overlays.get_mut("blue").unwrap().mtu = Some(mtu);
    }

    /// A field of a network, as Docker shows it.
    fn show(&self, network: &str, format: &str) -> String {
        self.dockerd.docker(&format!(
            "network inspect --format {{{{{format}}}}} {network}"
        ))
    }

    /// The names of the networks of overlays.
    fn networks(&self) -> Vec<String> {
        let names = self
            .dockerd
            .docker("network ls --filter label=contrail-mesos --format {{.Name}}");
        let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Adds an overlay with a subnet on this node.
    fn add_overlay(&mut self, name: &str, number: u8) {
        let mut added = overlay(name, 2000 + u32::from(number));
        added.subnet = Some(format!("10.{number}.0.0/16").parse().unwrap());
        added.subnet6 = None;
        self.cluster.overlays.insert(name.to_owned(), added);
        let own = self.cluster.nodes.get_mut("agent-1").unwrap();
        let mut subnets = own.subnets[0].clone();
        subnets.overlay = name.to_owned();
        subnets.subnet = Some(format!("10.{number}.1.0/24").parse().unwrap());
        subnets.subnet6 = None;
        own.subnets.push(subnets);
    }
}

#[test]
fn networks_follow_the_overlays_and_others_stay() {
    isolated(|| {
        let mut lab = Lab::new();
        // A network of somebody else with the name.
        lab.dockerd.docker("network create blue");
        let foreign = lab.show("blue", ".Id");
        let outcome = lab.reconcile();
        assert!(outcome.changes.is_empty(), "{outcome:?}");
        assert!(
            outcome.problems[0].contains("docker network rm"),
            "{outcome:?}"
        );
        assert_eq!(lab.show("blue", ".Id"), foreign);
        lab.dockerd.docker("network rm blue");

        assert_eq!(lab.due().len(), 1);
        assert_eq!(lab.networks(), [""; 0], "a dry run");
        assert_eq!(changes(lab.reconcile()).len(), 1);
        assert_eq!(changes(lab.reconcile()), [""; 0]);
        assert_eq!(lab.networks(), ["blue"]);
        let link = run("ip", "addr show d-blue");
        for address in ["9.0.1.129/25", "fd09::1:8000:0:0:1/65"] {
            assert!(link.contains(address), "{link}");
        }
        let options = lab.show("blue", ".Options");
        for option in [
            "driver.mtu:1450",
            "enable_ip_masquerade:false",
            "name:d-blue",
        ] {
            assert!(options.contains(option), "{options}");
        }

        // It is replaced if it differs, unless a container runs on it.
        let first = lab.show("blue", ".Id");
        lab.set_mtu(1400);
        assert_eq!(changes(lab.reconcile()).len(), 2);
        let second = lab.show("blue", ".Id");
        assert_ne!(first, second);
        lab.dockerd.run_container("one", "blue");
        lab.set_mtu(1300);
        let outcome = lab.reconcile();
        assert!(outcome.changes.is_empty(), "{outcome:?}");
        assert!(outcome.problems[0].contains("\"one\""), "{outcome:?}");
        assert_eq!(lab.show("blue", ".Id"), second);
        // With the overlay disabled, the container goes on, and that is no problem.
        lab.cluster.overlays.get_mut("blue").unwrap().enabled = false;
        assert_eq!(changes(lab.reconcile()), [""; 0]);
        assert_eq!(lab.networks(), ["blue"]);
        lab.dockerd.docker("rm --force one");
        assert_eq!(changes(lab.reconcile()).len(), 1);
        assert_eq!(lab.networks(), [""; 0]);
        assert!(lab.dockerd.succeeds("network inspect bridge"));

        // Another network has the addresses.
        lab.cluster.overlays.get_mut("blue").unwrap().enabled = true;
        lab.dockerd
            .docker("network create --subnet 9.0.1.192/26 other");
        let outcome = lab.reconcile();
        assert!(outcome.problems[0].contains("\"other\""), "{outcome:?}");
        lab.dockerd.docker("network rm other");
        assert_eq!(changes(lab.reconcile()).len(), 1);

        daemon_may_end_between_any_two_changes(&mut lab);
        docker_that_hangs_or_is_away_is_a_problem_of_this_subsystem_only(&mut lab);
    });
}

/// Three networks, of which one is to be removed, one to be replaced and one to be created.
fn daemon_may_end_between_any_two_changes(lab: &mut Lab) {
    for steps in 0..=4 {
        lab.add_overlay("old", 20);
        lab.set_mtu(1450);
        changes(lab.reconcile());
        lab.cluster.overlays.remove("old");
        lab.set_mtu(1400);
        lab.add_overlay("new", 21);
        let mut subsystem = lab.subsystem();
        subsystem.remaining = Some(steps);
        let done = changes(subsystem.reconcile(&lab.cluster, Mode::Apply).unwrap());
        assert_eq!(done.len(), steps, "{done:?}");
        drop(subsystem);
        assert_eq!(changes(lab.reconcile()).len(), 4 - steps);
        assert_eq!(lab.due(), [""; 0]);
        assert_eq!(lab.networks(), ["blue", "new"]);
        assert!(lab.show("blue", ".Options").contains("driver.mtu:1400"));
        lab.cluster.overlays.remove("new");
        let own = lab.cluster.nodes.get_mut("agent-1").unwrap();
        own.subnets.truncate(1);
        changes(lab.reconcile());
    }
}

fn docker_that_hangs_or_is_away_is_a_problem_of_this_subsystem_only(lab: &mut Lab) {
    let mut subsystem = lab.subsystem();
    // A network that an operator removes is noticed.
    assert!(!subsystem.receive());
    lab.dockerd.docker("network rm blue");
    let mut files = [PollFd::new(
        subsystem.notifications().unwrap(),
        PollFlags::POLLIN,
    )];
    let timeout = PollTimeout::try_from(WAIT).unwrap();
    assert_eq!(poll(&mut files, timeout), Ok(1));
    assert!(subsystem.receive());

    lab.dockerd.signal(Signal::SIGSTOP);
    subsystem.limit = Duration::from_secs(1);
    let cluster = lab.cluster.clone();
    let hung = thread::scope(|scope| {
        let hung = scope.spawn(|| subsystem.reconcile(&cluster, Mode::Apply).unwrap_err());
        // Meanwhile the others go on.
        let mut overlay = OverlaySubsystem::new(std::path::Path::new("/nonexistent")).unwrap();
        assert!(!changes(overlay.reconcile(&lab.cluster, Mode::Apply).unwrap()).is_empty());
        assert!(!changes(rules().reconcile(&lab.cluster, Mode::Apply).unwrap()).is_empty());
        hung.join().unwrap()
    });
    assert!(
        matches!(hung.downcast_ref(), Some(DockerError::Hangs { .. })),
        "{hung}"
    );
    lab.dockerd.signal(Signal::SIGCONT);
    subsystem.limit = CALL_LIMIT;
    let outcome = subsystem.reconcile(&lab.cluster, Mode::Apply).unwrap();
    assert_eq!(changes(outcome).len(), 1);

    lab.dockerd.stop();
    let away = subsystem.reconcile(&lab.cluster, Mode::Apply).unwrap_err();
    assert!(
        matches!(
            away.downcast_ref(),
            Some(DockerError::Missing(_) | DockerError::Failed { .. })
        ),
        "{away}"
    );
    lab.dockerd.resume();
    let outcome = subsystem.reconcile(&lab.cluster, Mode::Apply).unwrap();
    assert_eq!(changes(outcome), [""; 0], "Docker keeps its networks");
}
