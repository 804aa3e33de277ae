//! SIGHUP applies a new configuration, or rejects it as a whole.

use contrail_mesos_api::agent_api::AGENT_HEADER;
use nix::sys::signal::Signal;

use super::fixture::Fixture;

const ONE: &str = "the-first-token-of-this-test";
const TWO: &str = "the-second-token-of-this-test";

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_a_valid_configuration_and_rejects_an_invalid_one() {
    let fixture = Fixture::start().await;
    let token = fixture.path("token");
    let write = |text: &str| std::fs::write(&token, text).unwrap();
    write(ONE);
    let line = format!("token_file = {:?}", token.display().to_string());
    let reconcile = "grace_period = \"60m\"";
    fixture.configure(&line, reconcile);
    let manager = fixture.spawn_manager();
    let url = manager.address("listening for agents at ").await;
    let admin = manager.address("admin listener at ").await;
    manager.wait_for_line("ready", 1).await;
    let http = reqwest::Client::new();
    let ask = async |token: &str| {
        let ask = http.get(format!("{url}/v1/ports")).bearer_auth(token);
        let answer = ask.header(AGENT_HEADER, "node1").send().await.unwrap();
        // Only authentication matters here.
        answer.status() != 401
    };
    let level = async || {
        let answer = http.get(format!("{admin}/log-level")).send().await.unwrap();
        answer.text().await.unwrap()
    };
    assert_eq!((ask(ONE).await, ask(TWO).await), (true, false));

    // Only the content of the token file changes.
    write(TWO);
    manager.signal(Signal::SIGHUP);
    manager.wait_for_line("configuration reloaded", 1).await;
    assert_eq!((ask(ONE).await, ask(TWO).await), (false, true));

    // All problems are logged, and nothing is applied.
    write(ONE);
    let dead = fixture.make(1).await;
    fixture.configure(
        &format!("{line}\nlog_level = \"loud\"\nlistn = 1"),
        "grace_period = \"1ms\"\nstabilization_window = \"2ms\"",
    );
    manager.signal(Signal::SIGHUP);
    let refused = manager.wait_for_line("configuration rejected", 1).await;
    assert!(refused.contains("problems=3"), "{refused}");
    for problem in [
        "log_level: \"loud\" is not a log filter",
        "listn: unknown key",
        "grace_period",
    ] {
        manager.wait_for_line(problem, 1).await;
    }
    assert_eq!((ask(ONE).await, ask(TWO).await), (false, true));
    assert_eq!(level().await, "info\n");

    // The log level and the times are applied; keys that need a restart are named.
    let level_line = format!("{line}\nlog_level = \"trace\"\ncluster = \"other\"");
    fixture.configure(
        &level_line,
        "grace_period = \"1ms\"\nstabilization_window = \"1ms\"",
    );
    manager.signal(Signal::SIGHUP);
    let reloaded = manager.wait_for_line("configuration reloaded", 2).await;
    assert!(reloaded.contains("keys that need a restart"), "{reloaded}");
    let restart = "needs_restart=cluster, project, network";
    assert!(reloaded.contains(restart), "{reloaded}");
    assert_eq!((ask(ONE).await, ask(TWO).await), (true, false));
    assert_eq!(level().await, "trace\n");
    manager.wait_for_line("TRACE", 1).await;
    // The new times apply, but the cluster is still the old one.
    manager.wait_for_line("deleted: no task", 1).await;
    assert!(fixture.server.object(&dead.to_string()).is_none());
    let secrets = manager.log().join("\n");
    assert!(!secrets.contains(ONE) && !secrets.contains(TWO));

    manager.signal(Signal::SIGTERM);
    manager.wait_for_line("stopping", 1).await;
}
