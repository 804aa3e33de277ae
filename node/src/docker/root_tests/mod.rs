//! Tests with the real Docker, in namespaces of their own.

mod dockerd;
mod networks;
mod traffic;

use std::time::{Duration, Instant};

use contrail_mesos::config::Config;
use contrail_mesos::net::testing::{isolated, run};

use self::dockerd::Dockerd;
use super::*;

/// How long a test waits for anything before it fails.
const WAIT: Duration = Duration::from_secs(30);

/// Waits until the condition holds. `what` completes "gave up waiting until".
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The rules' subsystem of a host whose Docker gets networks.
fn rules() -> DockerRulesSubsystem {
    let mut config = Config::default();
    config.node.docker = Some("/nonexistent".into());
    DockerRulesSubsystem::new(&config).unwrap()
}

/// What a comparison changed. It must have no problems.
fn changes(outcome: Outcome) -> Vec<String> {
    assert_eq!(outcome.problems, [""; 0]);
    outcome.changes.into_iter().map(|change| change.0).collect()
}

#[test]
fn filter_of_iptables_legacy_is_a_problem_if_docker_is_there() {
    isolated(|| {
        let mut rules = rules();
        let mut problems = || rules.reconcile_alone(Mode::Apply).unwrap().problems;
        run("iptables-legacy", "-t filter -N DOCKER-USER");
        assert_eq!(problems(), [""; 0], "no Docker");
        run("ip", "link add docker0 type bridge");
        let problems_with_docker = problems();
        assert!(
            problems_with_docker[0].contains("iptables-legacy"),
            "{problems_with_docker:?}"
        );
        run("iptables", "-N DOCKER-USER");
        assert_eq!(problems(), [""; 0], "Docker uses the others");
    });
}
