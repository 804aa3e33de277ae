//! The status page in Chromium: hostile names are shown as text, the console is empty, the page
//! fits.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use mesos_module_tests::testbed::chromium;

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
