//! SIGHUP: a new configuration is taken over, or refused as a whole.

use contrail_mesos_api::agent_api::AGENT_HEADER;
use nix::sys::signal::Signal;

use super::bed::Bed;

const ONE: &str = "the-first-token-of-this-test";
const TWO: &str = "the-second-token-of-this-test";

#[tokio::test(flavor = "multi_thread")]
async fn what_can_change_changes_and_what_is_wrong_is_refused() {
    let bed = Bed::start().await;
    let token = bed.path("token");
    let write = |text: &str| std::fs::write(&token, text).unwrap();
    write(ONE);
    let line = format!("token_file = {:?}", token.display().to_string());
    let careful = "grace_period = \"60m\"";
    bed.configure(&line, careful);
    let run = bed.run();
    let url = run.address("agents ask at ").await;
    let admin = run.address("operators ask at ").await;
    run.said("ready", 1).await;
    let http = reqwest::Client::new();
    let ask = async |token: &str| {
        let ask = http.get(format!("{url}/v1/ports")).bearer_auth(token);
        let answer = ask.header(AGENT_HEADER, "node1").send().await.unwrap();
        // What it finds makes no difference here.
        answer.status() != 401
    };
    let level = async || {
        let answer = http.get(format!("{admin}/log-level")).send().await.unwrap();
        answer.text().await.unwrap()
    };
    assert_eq!((ask(ONE).await, ask(TWO).await), (true, false));

    // The token alone, in its file.
    write(TWO);
    run.signal(Signal::SIGHUP);
    run.said("configuration reloaded", 1).await;
    assert_eq!((ask(ONE).await, ask(TWO).await), (false, true));

    // All that is wrong is said, and nothing of it taken over.
    write(ONE);
    let dead = bed.make(1).await;
    bed.configure(
        &format!("{line}\nlog_level = \"loud\"\nlistn = 1"),
        "grace_period = \"1ms\"\nstabilization_window = \"2ms\"",
    );
    run.signal(Signal::SIGHUP);
    let refused = run
        .said("configuration refused, the old one stays", 1)
        .await;
    assert!(refused.contains("problems=3"), "{refused}");
    for problem in [
        "log_level: \"loud\" is not what to log",
        "listn: unknown key",
        "grace_period",
    ] {
        run.said(problem, 1).await;
    }
    assert_eq!((ask(ONE).await, ask(TWO).await), (false, true));
    assert_eq!(level().await, "info\n");

    // The level, the times, and what needs a restart, which is named.
    let level_line = format!("{line}\nlog_level = \"trace\"\ncluster = \"other\"");
    bed.configure(
        &level_line,
        "grace_period = \"1ms\"\nstabilization_window = \"1ms\"",
    );
    run.signal(Signal::SIGHUP);
    let reloaded = run.said("configuration reloaded", 2).await;
    assert!(reloaded.contains("what needs a restart"), "{reloaded}");
    let restart = "restart=cluster, project, network";
    assert!(reloaded.contains(restart), "{reloaded}");
    assert_eq!((ask(ONE).await, ask(TWO).await), (true, false));
    assert_eq!(level().await, "trace\n");
    run.said("TRACE", 1).await;
    // By the new times, and still as the same cluster.
    run.said("removed, because no task", 1).await;
    assert!(bed.server.object(&dead.to_string()).is_none());
    let secrets = run.log().join("\n");
    assert!(!secrets.contains(ONE) && !secrets.contains(TWO));

    run.signal(Signal::SIGTERM);
    run.said("stopping", 1).await;
}
