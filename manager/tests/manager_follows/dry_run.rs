//! A dry run prints what a manager then writes.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::fixture::{Fixture, TEST_TIMEOUT};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json(fixture: &Fixture) -> (Option<i32>, Value) {
    let output = fixture.dry_run(&["--output", "json"]).await;
    let result = serde_json::from_slice(&output.stdout);
    let result = result.unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (output.status.code(), result)
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_prints_what_the_manager_then_writes() {
    let fixture = Fixture::start().await;
    let reconcile =
        "stabilization_window = \"1s\"\ngrace_period = \"60m\"\nagent_gone_after = \"120m\"";
    fixture.configure("", reconcile);
    // With an empty API server, everything must be provisioned.
    let before = fixture.changes();
    let (code, result) = json(&fixture).await;
    assert_eq!(code, Some(3), "{result}");
    let provision = result["provision"].as_array().unwrap().len();
    assert!(provision >= 5, "{result}");
    assert_eq!(fixture.changes(), before);
    let manager = fixture.spawn_manager();
    manager.wait_for_line("ready", 1).await;
    drop(manager);
    let (code, result) = json(&fixture).await;
    assert_eq!(
        (code, result["provision"].as_array().unwrap().len()),
        (Some(0), 0),
        "{result}"
    );

    // One container has a task but not its name; the other has no task.
    let live = fixture.make(1).await;
    let dead = fixture.make(2).await;
    let id = "shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac100001._app.1".to_owned();
    fixture.tasks.lock().unwrap().push((id.clone(), live));
    let before = fixture.changes();
    let (code, result) = json(&fixture).await;
    assert_eq!(code, Some(3));
    let containers = result["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "{result}");
    let of = |uuid: uuid::Uuid| {
        let mut found = containers.iter();
        found.find(|one| one["uuid"] == uuid.to_string()).unwrap()
    };
    assert_eq!(of(live)["schedule"], "now");
    assert_eq!(of(live)["task"], id);
    assert_eq!(
        of(live)["differences"][0],
        "set display name and annotations"
    );
    // The deletion is announced, but the grace period has not passed.
    assert_eq!(
        (&of(dead)["schedule"], &of(dead)["seconds"]),
        (&"after".into(), &3600.into())
    );
    let output = fixture.dry_run(&[]).await;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    // Nothing is written by intention, which is no reason for an alarm.
    assert!(!stderr.contains("no leader is known"), "{stderr}");
    for line in [
        format!("{live} {id} at node1: set display name and annotations"),
        format!(
            "{dead} at node1: in at most 3600s, if unused: delete the container: no task on its agent \
             uses it"
        ),
        "0 to provision; containers: 1 to change now, 1 later, 0 deferred".to_owned(),
    ] {
        assert!(
            stdout.lines().any(|found| found == line),
            "{line} is not in\n{stdout}"
        );
    }
    assert_eq!(fixture.changes(), before);

    // The manager updates one container and defers the other; a concurrent dry run writes nothing.
    let manager = fixture.spawn_manager();
    manager.wait_for_line(&format!("machine={live}"), 1).await;
    let written = manager
        .log()
        .into_iter()
        .filter(|line| line.contains("container: "));
    let written: Vec<_> = written.collect();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(
        written[0].contains("set display name and annotations"),
        "{written:?}"
    );
    let before = fixture.changes();
    let (code, result) = json(&fixture).await;
    assert_eq!(
        (code, result["containers"].as_array().unwrap().len()),
        (Some(3), 1),
        "{result}"
    );
    assert_eq!(fixture.changes(), before);
    drop(manager);

    // After the grace period the manager deletes the container.
    fixture.configure(
        "",
        "stabilization_window = \"1ms\"\ngrace_period = \"1ms\"\nagent_gone_after = \"1ms\"",
    );
    let manager = fixture.spawn_manager();
    let started = Instant::now();
    while fixture.server.object(&dead.to_string()).is_some() {
        assert!(started.elapsed() < TEST_TIMEOUT, "{:#?}", manager.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fixture.server.object(&live.to_string()).is_some());
    let (code, result) = json(&fixture).await;
    assert_eq!(code, Some(0), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_fails_if_mesos_is_unavailable() {
    let fixture = Fixture::start().await;
    fixture.configure("", "");
    let config = std::fs::read_to_string(fixture.path("manager.toml")).unwrap();
    let start = config.find("masters").unwrap();
    let wrong = format!("{}masters = \"127.0.0.1:1\"\n", &config[..start]);
    std::fs::write(fixture.path("manager.toml"), wrong).unwrap();
    let output = fixture.dry_run(&[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("cannot read the state of Mesos"),
        "{output:?}"
    );
    assert!(output.stdout.is_empty());
    // Wrong arguments are no differences.
    let output = fixture.dry_run(&["--nothing-of-the-kind"]).await;
    assert_eq!(output.status.code(), Some(2));
}
