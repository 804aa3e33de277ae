//! More containers than a page holds, and an agent that is not connected.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::bed::{Bed, PATIENCE};

/// How many containers are on a page.
const PAGE: usize = 50;

/// Waits until there is a text in what is said there, and returns all of it.
pub(crate) async fn until(url: &str, text: &str) -> String {
    let http = reqwest::Client::new();
    let started = Instant::now();
    loop {
        let said = http.get(url).send().await.unwrap().text().await.unwrap();
        if said.contains(text) {
            return said;
        }
        assert!(started.elapsed() < PATIENCE, "{text} is not in\n{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The rows of containers, by their machines.
fn rows(page: &str) -> Vec<String> {
    let rows = page.split("<tr id=\"c-").skip(1);
    rows.filter_map(|row| Some(row.split_once('"')?.0.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_a_page_is_on_the_next_one() {
    let bed = Bed::start().await;
    bed.configure("", "stabilization_window = \"60m\"\ngrace_period = \"60m\"");
    let run = bed.run();
    let admin = run.address("operators ask at").await;
    run.said("ready", 1).await;
    let mut machines = vec![];
    for number in 1..=PAGE as u128 + 1 {
        let machine = bed.make(number).await;
        let task = format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1");
        bed.tasks.lock().unwrap().push((task, machine));
        machines.push(machine.to_string());
    }
    let all = format!(
        "contrail_mesos_manager_containers_known {}\n",
        machines.len()
    );
    until(&format!("{admin}/metrics"), &all).await;

    let first = until(&admin, "id=\"next\"").await;
    let shown = rows(&first);
    assert_eq!(shown, machines[..PAGE]);
    let next = first.split_once("id=\"next\" href=\"").unwrap().1;
    let next = next.split_once('"').unwrap().0.replace("&amp;", "&");
    let next = next.split_once('#').unwrap().0;
    let second = until(&format!("{admin}{next}"), "first page").await;
    assert_eq!(rows(&second), machines[PAGE..]);
    assert!(!second.contains("id=\"next\""), "{second}");

    let connected = |yes, no| {
        format!(
            "contrail_mesos_manager_agents{{connected=\"true\"}} {yes}\n\
             contrail_mesos_manager_agents{{connected=\"false\"}} {no}\n"
        )
    };
    until(&format!("{admin}/metrics"), &connected(1, 0)).await;
    bed.connected.store(false, Ordering::Relaxed);
    until(&format!("{admin}/metrics"), &connected(0, 1)).await;
    until(&format!("{admin}/v1/agents"), "\"connected\":false").await;
}
