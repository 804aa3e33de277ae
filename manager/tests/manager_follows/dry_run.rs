//! What a dry run says is what a manager then writes.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::bed::{Bed, PATIENCE};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json(bed: &Bed) -> (Option<i32>, Value) {
    let output = bed.dry_run(&["--output", "json"]).await;
    let told = serde_json::from_slice(&output.stdout);
    let told = told.unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (output.status.code(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_is_what_is_then_written() {
    let bed = Bed::start().await;
    let patient =
        "stabilization_window = \"1s\"\ngrace_period = \"60m\"\nagent_gone_after = \"120m\"";
    bed.configure("", patient);
    // Of an empty API server, all that has to be provisioned.
    let before = bed.changes();
    let (code, told) = json(&bed).await;
    assert_eq!(code, Some(2), "{told}");
    let provision = told["provision"].as_array().unwrap().len();
    assert!(provision >= 5, "{told}");
    assert_eq!(bed.changes(), before);
    let run = bed.run();
    run.said("ready", 1).await;
    drop(run);
    let (code, told) = json(&bed).await;
    assert_eq!(
        (code, told["provision"].as_array().unwrap().len()),
        (Some(0), 0),
        "{told}"
    );

    // One lives and is not called by its name; one is dead.
    let live = bed.make(1).await;
    let dead = bed.make(2).await;
    let id = "shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac100001._app.1".to_owned();
    bed.tasks.lock().unwrap().push((id.clone(), live));
    let before = bed.changes();
    let (code, told) = json(&bed).await;
    assert_eq!(code, Some(2));
    let containers = told["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "{told}");
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
    // The unused one is deleted after the waiting time.
    assert_eq!(
        (&of(dead)["schedule"], &of(dead)["seconds"]),
        (&"after".into(), &3600.into())
    );
    let people = text(&bed.dry_run(&[]).await.stdout);
    for line in [
        format!("{live} {id} at node1: set display name and annotations"),
        format!(
            "{dead} at node1: in at most 3600s, if unused: delete the container: no task on its agent \
             uses it"
        ),
        "0 to provision; of containers 1 to change now, 1 later, 0 in doubt".to_owned(),
    ] {
        assert!(
            people.lines().any(|found| found == line),
            "{line} is not in\n{people}"
        );
    }
    assert_eq!(bed.changes(), before);

    // A manager writes the one and waits with the other; a dry run beside it writes nothing.
    let run = bed.run();
    run.said(&format!("machine={live}"), 1).await;
    let written = run
        .log()
        .into_iter()
        .filter(|line| line.contains("container: "));
    let written: Vec<_> = written.collect();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(
        written[0].contains("set display name and annotations"),
        "{written:?}"
    );
    let before = bed.changes();
    let (code, told) = json(&bed).await;
    assert_eq!(
        (code, told["containers"].as_array().unwrap().len()),
        (Some(2), 1),
        "{told}"
    );
    assert_eq!(bed.changes(), before);
    drop(run);

    // When its time has come, it is what is written.
    bed.configure(
        "",
        "stabilization_window = \"1ms\"\ngrace_period = \"1ms\"\nagent_gone_after = \"1ms\"",
    );
    let run = bed.run();
    let started = Instant::now();
    while bed.server.object(&dead.to_string()).is_some() {
        assert!(started.elapsed() < PATIENCE, "{:#?}", run.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bed.server.object(&live.to_string()).is_some());
    let (code, told) = json(&bed).await;
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_an_error() {
    let bed = Bed::start().await;
    bed.configure("", "");
    let config = std::fs::read_to_string(bed.path("manager.toml")).unwrap();
    let start = config.find("masters").unwrap();
    let wrong = format!("{}masters = \"127.0.0.1:1\"\n", &config[..start]);
    std::fs::write(bed.path("manager.toml"), wrong).unwrap();
    let output = bed.dry_run(&[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("cannot read the state of Mesos"),
        "{output:?}"
    );
    assert!(output.stdout.is_empty());
    // 2 says that there are differences, and nothing else.
    let output = bed.dry_run(&["--nothing-of-the-kind"]).await;
    assert_eq!(output.status.code(), Some(1));
}
