//! The status page in Chromium: hostile names are shown as text, the console is empty, the page
//! fits.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use mesos_module_tests::testbed::chromium;
use mesos_module_tests::testbed::manager::request;

use super::task;
use crate::fixture::Fixture;

/// A task id with markup that would run if it were not escaped.
const HOSTILE: &str = "<img src=x onerror=document.title=1>\"'&<script>alert(1)<";

#[test]
fn status_page_in_chromium_escapes_names_and_fits() -> Result<()> {
    let fixture = Fixture::start()?;
    let leader = fixture.managers.leader()?;
    fixture.register_router()?;
    fixture.wait_for_metrics(leader, &["virtual_routers_known 1"])?;
    let tasks: Vec<String> = (1..=6).map(task).collect();
    for id in &tasks {
        let container = fixture.run_task(id)?;
        fixture.managers.put(&container, &[])?;
    }
    let ids: Vec<&str> = tasks.iter().map(String::as_str).collect();
    fixture.marathon.app("/shop/web", &ids, &json!({}));
    fixture.wait_for_json(leader, "/v1/containers?app=shop", |page| page["total"] == 6)?;
    fixture.wait_for_json(leader, "/v1/problems", |page| page["problems"] == json!([]))?;
    check_healthy(&fixture, leader)?;
    check_hostile(fixture, leader, &ids)
}

#[test]
fn failures_of_an_app_are_one_card_until_the_app_is_gone() -> Result<()> {
    let fixture = Fixture::start()?;
    let leader = fixture.managers.leader()?;
    fixture.register_router()?;
    fixture.wait_for_metrics(leader, &["virtual_routers_known 1"])?;
    fixture.marathon.app("/shop/web", &[], &json!({}));
    fixture.wait_for_metrics(leader, &["apps 1"])?;
    let mesos = fixture.get_json(leader, "/v1/mesos")?;
    let framework = mesos["frameworks"][0]["id"].as_str().context("no id")?;
    for number in 1..=25 {
        let container = format!("11111111-2222-3333-4444-{number:012}");
        let mut request = request(&container, &[("networks", "nowhere")]);
        request.annotations = [("framework-id", framework), ("executor", &task(number))]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let response = fixture.managers.manager(leader).put(&request)?;
        assert_eq!(response.status, 400, "{}", response.body);
    }
    let problems = fixture.get_json(leader, "/v1/problems")?["problems"].clone();
    ensure!(problems.as_array().map(Vec::len) == Some(1), "{problems}");
    let problem = &problems[0];
    assert_eq!(
        (&problem["app"], &problem["count"]),
        (&json!("/shop/web"), &json!(25)),
        "{problem}"
    );
    ensure!(problem["first"].is_string() && problem["last"].is_string());
    let open = |index: usize, name: &str| {
        let url = fixture.managers.manager(index).admin_url("/?refresh=off");
        let rendered = chromium::open(&fixture.host, &url, "1280,1500", name)?;
        ensure!(rendered.console.is_empty(), "{:?}", rendered.console);
        println!("{}", rendered.screenshot.display());
        anyhow::Ok(rendered.dom)
    };
    let page = open(leader, "one-cause")?;
    assert_eq!(page.matches("data-kind=\"container-failed\"").count(), 1);
    ensure!(page.contains("app /shop/web, 25 containers"), "{page}");
    ensure!(!page.contains("11111111-2222"), "{page}");

    // The standby gives no verdict, and says who does.
    let page = open(1 - leader, "standby")?;
    let link = fixture.managers.manager(leader).admin_url("/");
    ensure!(
        page.contains(&format!("id=\"leader\" href=\"{link}\"")),
        "{page}"
    );
    ensure!(!page.contains("class=\"all-well\"") && !page.contains("id=\"problems\""));
    let problems = fixture.get_json(1 - leader, "/v1/problems")?;
    assert_eq!(problems["complete"], false, "{problems}");
    assert_eq!(problems["leader"]["page"], link, "{problems}");

    fixture.marathon.remove("/shop/web");
    fixture.wait_for_json(leader, "/v1/problems", |page| {
        page["problems"] == json!([]) && page["complete"] == true
    })?;
    fixture.wait_for(leader, "/", |page| page.contains("class=\"all-well\""))?;
    fixture.stop()
}

fn check_healthy(fixture: &Fixture, leader: usize) -> Result<()> {
    for (size, name) in [
        ("1280,1500", "healthy-wide"),
        ("500,2600", "healthy-narrow"),
    ] {
        let rendered = chromium::open(
            &fixture.host,
            &fixture.managers.manager(leader).admin_url("/?refresh=off"),
            size,
            name,
        )?;
        ensure!(rendered.console.is_empty(), "{:?}", rendered.console);
        for part in [
            "class=\"all-well\"",
            "id=\"networks\"",
            "id=\"containers\"",
            "id=\"agents\"",
            "id=\"managers\"",
            "id=\"sources\"",
        ] {
            ensure!(
                rendered.dom.contains(part),
                "{part} is not in {}",
                rendered.dom
            );
        }
        println!("{}", rendered.screenshot.display());
    }
    Ok(())
}

fn check_hostile(fixture: Fixture, leader: usize, ids: &[&str]) -> Result<()> {
    // With a hostile task, labels without sense, a request that fails.
    let container = fixture.run_task(HOSTILE)?;
    fixture.managers.put(&container, &[])?;
    let labels = json!({"floating-ips": "<script>alert(2)</script>("});
    fixture.marathon.app("/shop/web", ids, &labels);
    let response = fixture.put_at(
        leader,
        "11111111-2222-3333-4444-555555555555",
        &[("networks", "no<b>where")],
    )?;
    assert_eq!(response.status, 400);
    fixture.wait_for(leader, "/?refresh=off", |page| {
        page.contains("&lt;img src=x")
            && page.contains("data-kind=\"labels\"")
            && page.contains("no&lt;b&gt;where")
    })?;
    for (size, name) in [
        ("1280,2400", "problems-wide"),
        ("500,4200", "problems-narrow"),
    ] {
        let rendered = chromium::open(
            &fixture.host,
            &fixture.managers.manager(leader).admin_url("/?refresh=off"),
            size,
            name,
        )?;
        ensure!(rendered.console.is_empty(), "{:?}", rendered.console);
        // As text, and never as an element.
        ensure!(
            rendered.dom.contains("&lt;img src=x onerror"),
            "{}",
            rendered.dom
        );
        ensure!(
            !rendered.dom.contains("<img") && !rendered.dom.contains("<script"),
            "{}",
            rendered.dom
        );
        ensure!(
            rendered.dom.contains("data-kind=\"labels\"")
                && !rendered.dom.contains("class=\"all-well\""),
            "{}",
            rendered.dom
        );
        println!("{}", rendered.screenshot.display());
    }
    let page = fixture.get(leader, "/?refresh=off")?.body;
    for width in [1280, 400] {
        let (needed, given) = chromium::width(&fixture.host, &page, width)?;
        ensure!(
            needed <= given,
            "at {width} it is {needed} wide, and has {given}"
        );
    }

    // The filter is a plain form.
    let found = fixture
        .get(leader, "/?app=shop&network=&agent=&refresh=off")?
        .body;
    let table = found
        .split("id=\"containers\"")
        .nth(1)
        .context("no containers")?;
    ensure!(
        table.contains("<small>6") && !table.contains("&lt;img"),
        "{table}"
    );
    fixture.stop()
}
