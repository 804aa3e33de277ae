//! Pagination of the status page, and an agent that is not connected.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fixture::{Fixture, TEST_TIMEOUT};

const CONTAINERS_PER_PAGE: usize = 50;

/// Waits until the body contains a text, and returns the body.
pub(crate) async fn until(url: &str, text: &str) -> String {
    let http = reqwest::Client::new();
    let started = Instant::now();
    loop {
        let body = http.get(url).send().await.unwrap().text().await.unwrap();
        if body.contains(text) {
            return body;
        }
        assert!(started.elapsed() < TEST_TIMEOUT, "{text} is not in\n{body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The uuids of the containers on the page.
fn rows(page: &str) -> Vec<String> {
    let rows = page.split("<tr id=\"c-").skip(1);
    rows.filter_map(|row| Some(row.split_once('"')?.0.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_beyond_the_page_size_are_on_the_next_page() {
    let fixture = Fixture::start().await;
    fixture.configure("", "stabilization_window = \"60m\"\ngrace_period = \"60m\"");
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("ready", 1).await;
    let mut machines = vec![];
    for number in 1..=CONTAINERS_PER_PAGE as u128 + 1 {
        let machine = fixture.make(number).await;
        let task = format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1");
        fixture.tasks.lock().unwrap().push((task, machine));
        machines.push(machine.to_string());
    }
    let all = format!(
        "contrail_mesos_manager_containers_known {}\n",
        machines.len()
    );
    until(&format!("{admin}/metrics"), &all).await;

    let first = until(&admin, "id=\"next\"").await;
    let shown = rows(&first);
    assert_eq!(shown, machines[..CONTAINERS_PER_PAGE]);
    let next = first.split_once("id=\"next\" href=\"").unwrap().1;
    let next = next.split_once('"').unwrap().0.replace("&amp;", "&");
    let next = next.split_once('#').unwrap().0;
    let second = until(&format!("{admin}{next}"), "first page").await;
    assert_eq!(rows(&second), machines[CONTAINERS_PER_PAGE..]);
    assert!(!second.contains("id=\"next\""), "{second}");

    let connected = |yes, no| {
        format!(
            "contrail_mesos_manager_agents{{connected=\"true\"}} {yes}\n\
             contrail_mesos_manager_agents{{connected=\"false\"}} {no}\n"
        )
    };
    until(&format!("{admin}/metrics"), &connected(1, 0)).await;
    fixture.connected.store(false, Ordering::Relaxed);
    until(&format!("{admin}/metrics"), &connected(0, 1)).await;
    until(&format!("{admin}/v1/agents"), "\"connected\":false").await;
}
