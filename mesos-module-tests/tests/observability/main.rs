//! What is seen of a manager from outside says what happened: each metric, the JSON and the page.

mod browser;
mod fixture;
mod marathon;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::{FqName, InstanceIp, KeyValues, Object as _};
use contrail_mesos_sim::vnc::{Effect, Fault};
use serde_json::{Value, json};
use uuid::Uuid;

use fixture::Fixture;
use mesos_module_tests::testbed::manager::vm_uuid;

/// A name that Marathon gives to a task of `/shop/web`.
fn task(number: u32) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

fn problem<'a>(said: &'a Value, kind: &str) -> Option<&'a Value> {
    let problems = said["problems"].as_array()?;
    problems.iter().find(|one| one["kind"] == kind)
}

/// Waits until the page has these numbers in its tiles.
fn tiles(fixture: &Fixture, leader: usize, wanted: &[(&str, usize)]) -> Result<()> {
    let shown = |page: &str, (name, number): &(&str, usize)| {
        let tile = page.split_once(&format!("id=\"count-{name}\""));
        let tile = tile.and_then(|(_, rest)| rest.split_once('>'));
        tile.is_some_and(|(_, rest)| rest.starts_with(&format!("{number}<")))
    };
    let all = |page: &str| wanted.iter().all(|one| shown(page, one));
    let page = fixture.wait_for(leader, "/", all);
    page.map(drop).with_context(|| format!("{wanted:?}"))
}

/// The kinds of what happened, with who asked, oldest first.
fn outcomes(history: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = history["history"].as_array().into_iter().flatten();
    entries
        .map(|one| (text(&one["actor"]), text(&one["action"])))
        .collect()
}

#[test]
fn metrics_json_and_page_show_a_container() -> Result<()> {
    let fixture = Fixture::start()?;
    let leader = fixture.managers.leader()?;
    before_there_is_anything(&fixture, leader)?;
    let network = a_container_is_shown(&fixture, leader)?;
    ensure!(!network.is_empty());
    a_standby_knows_who_leads(&fixture, leader)?;
    fixture.stop()
}

fn before_there_is_anything(fixture: &Fixture, leader: usize) -> Result<()> {
    fixture.wait_for_metrics(
        leader,
        &[
            "leading 1",
            "leader_known 1",
            "serving 1",
            "term 1",
            "source_fresh{source=\"contrail\"} 1",
            "source_fresh{source=\"mesos\"} 1",
            "source_fresh{source=\"marathon\"} 1",
            "source_trusted{source=\"mesos\"} 1",
            "agents{connected=\"true\"} 1",
            "agents{connected=\"false\"} 0",
            "frameworks 1",
            "tasks 0",
            "apps 0",
            "containers_known 0",
            "virtual_routers_known 0",
            "orphans 0",
            "queue_length 0",
            "queue_failing 0",
            "container_histories 0",
            "containers_unfinished 0",
        ],
    )?;
    ensure!(fixture.metric(leader, "provisioned_timestamp_seconds")? > 1_700_000_000.0);
    ensure!(fixture.metric(leader, "source_age_seconds{source=\"mesos\"}")? >= 0.0);
    let seen = fixture.metric(
        leader,
        "source_updates_total{source=\"contrail\",update=\"list\"}",
    )?;
    ensure!(fixture.metric(leader, "contrail_reading_seconds_count")? >= seen);
    ensure!(fixture.metric(leader, "comparison_seconds_count")? >= 1.0);

    // An agent without a virtual-router is said to have none; then it has one.
    let said = fixture.wait_for_json(leader, "/v1/problems", |said| {
        problem(said, "agent-without-virtual-router").is_some()
    })?;
    ensure!(problem(&said, "source").is_none(), "{said}");
    fixture.register_router()?;
    fixture.wait_for_metrics(leader, &["virtual_routers_known 1"])?;
    let said = fixture.wait_for_json(leader, "/v1/agents", |said| {
        said["agents"][0]["virtual_router"] == "node1"
    })?;
    assert_eq!(said["agents"][0]["connected"], true);
    fixture.wait_for(leader, "/", |page| page.contains("All is well"))?;
    Ok(())
}

/// A task with a container, which is given the names of its task; says its network.
fn a_container_is_shown(fixture: &Fixture, leader: usize) -> Result<String> {
    let web = task(1);
    let container = fixture.run_task(&web)?;
    fixture.marathon.app("/shop/web", &[&web], &json!({}));
    let made = fixture.managers.put(&container, &[])?;
    let address = made.ports[0].addresses[0].address.addr().to_string();
    let id = vm_uuid(&container);
    let said = fixture.wait_for_json(leader, &format!("/v1/containers/{container}"), |said| {
        said["contrail"]["app"] == "/shop/web" && said["decision"] == "in-sync"
    })?;
    assert_eq!(said["machine"], id.to_string());
    let interface = &said["contrail"]["interfaces"][0];
    assert_eq!(interface["addresses"], json!([address]), "{said}");
    assert_eq!(said["contrail"]["virtual_routers"], json!(["node1"]));
    assert_eq!(said["contrail"]["complete"], true);
    assert_eq!(said["mesos"]["id"], web);
    assert_eq!(
        outcomes(&said),
        [
            ("agent".into(), "created".into()),
            ("reconciler".into(), "updated".into())
        ]
    );
    fixture.wait_for_metrics(
        leader,
        &[
            "tasks 1",
            "apps 1",
            "containers_known 1",
            "container_histories 1",
            "queue_length 0",
            "containers_made_total 1",
            "reconciled_total{outcome=\"kept\"} 1",
            "write_lag_seconds_count 1",
        ],
    )?;
    ensure!(
        fixture.metric(
            leader,
            "source_updates_total{source=\"mesos\",update=\"event\"}"
        )? >= 1.0
    );
    ensure!(
        fixture.metric(
            leader,
            "source_updates_total{source=\"marathon\",update=\"event\"}"
        )? >= 1.0
    );
    let network = fixture.wait_for_json(leader, "/v1/networks", |said| {
        said["networks"][0]["containers"] == 1
            && said["networks"][0]["subnets"] == json!(["10.32.0.0/12"])
    })?;
    let network = network["networks"][0]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let page = fixture.get(leader, "/")?;
    for part in [
        &web,
        &address,
        &network,
        "/shop/web",
        "10.32.0.0/12",
        "node1",
    ] {
        ensure!(page.body.contains(part), "{part} is not in\n{}", page.body);
    }
    let policy = &page.headers["content-security-policy"];
    ensure!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["cache-control"], "no-store");
    ensure!(!page.body.contains("<script"), "{}", page.body);

    let numbers = [("containers", 1), ("tasks", 1), ("differences", 0)];
    let nothing = ["queue", "failing", "orphans", "unfinished"].map(|name| (name, 0));
    tiles(fixture, leader, &numbers)?;
    tiles(fixture, leader, &nothing)?;

    one_line_an_outcome(fixture, leader, id, &web)?;
    Ok(network)
}

fn one_line_an_outcome(fixture: &Fixture, leader: usize, id: Uuid, web: &str) -> Result<()> {
    let lines = fixture.log_lines_of(leader, id)?;
    let messages: Vec<_> = lines
        .iter()
        .filter_map(|line| line["message"].as_str())
        .collect();
    assert_eq!(lines.len(), 2, "{messages:?}");
    for line in &lines {
        assert_eq!(line["agent"], "node1", "{line}");
        ensure!(line["elapsed"].is_string(), "{line}");
    }
    assert_eq!(
        (&lines[1]["app"], &lines[1]["task"]),
        (&json!("/shop/web"), &json!(web))
    );

    Ok(())
}

fn a_standby_knows_who_leads(fixture: &Fixture, leader: usize) -> Result<()> {
    let standby = 1 - leader;
    let said = fixture.get_json(standby, "/v1/managers")?;
    assert_eq!(
        (&said["leading"], &said["leader"]),
        (
            &json!(false),
            &json!(fixture.managers.manager(leader).agents_url())
        )
    );
    assert_eq!(said["managers"].as_array().map(Vec::len), Some(2), "{said}");
    let page = fixture.get(standby, "/")?.body;
    ensure!(
        page.contains("standby") && page.contains("Only the leader follows"),
        "{page}"
    );
    assert_eq!(fixture.get(leader, "/v1/containers/nobody")?.status, 404);
    assert_eq!(fixture.get(leader, "/v1/containers?limit=0")?.status, 400);
    Ok(())
}

#[test]
fn problems_are_reported_until_they_are_resolved() -> Result<()> {
    let mut fixture = Fixture::start()?;
    let leader = fixture.managers.leader()?;
    fixture.register_router()?;
    fixture.wait_for_metrics(leader, &["virtual_routers_known 1"])?;
    let web = task(1);
    let container = fixture.run_task(&web)?;
    fixture.marathon.app("/shop/web", &[&web], &json!({}));
    fixture.managers.put(&container, &[])?;

    what_makes_no_sense_is_said(&fixture, leader, &web)?;
    let half = the_api_server_fails(&fixture, leader)?;
    leftovers_are_removed(&fixture, leader, &container)?;
    what_is_dead_is_removed(&fixture, leader, (&web, &container), &half)?;
    the_leader_dies(&mut fixture, leader)?;
    fixture.stop()
}

fn what_makes_no_sense_is_said(fixture: &Fixture, leader: usize, web: &str) -> Result<()> {
    // A request.
    let response = fixture.put_at(
        leader,
        "11111111-2222-3333-4444-555555555555",
        &[("networks", "nowhere")],
    )?;
    assert_eq!(response.status, 400, "{}", response.body);
    fixture.wait_for_metrics(leader, &["containers_failed_total 1"])?;
    let said = fixture.wait_for_json(leader, "/v1/problems", |said| {
        problem(said, "container-failed").is_some()
    })?;
    let failed = problem(&said, "container-failed").context("no problem")?;
    ensure!(
        failed["problem"]
            .as_str()
            .is_some_and(|text| text.contains("nowhere")),
        "{failed}"
    );
    fixture.wait_for(leader, "/", |page| {
        page.contains("data-kind=\"container-failed\"") && page.contains("nowhere")
    })?;

    // Labels that make no sense, and then do.
    fixture.marathon.app(
        "/shop/web",
        &[web],
        &json!({"floating-ips": "nonsense(1.2.3)"}),
    );
    let said = fixture.wait_for_json(leader, "/v1/problems", |said| {
        problem(said, "labels").is_some()
    })?;
    ensure!(said.to_string().contains("/shop/web"), "{said}");
    fixture.wait_for(leader, "/", |page| page.contains("data-kind=\"labels\""))?;

    // Floating addresses of a pool that is not there: what fails waits, and says why.
    let pool = "default-domain:nobody:nothing:pool";
    fixture
        .marathon
        .app("/shop/web", &[web], &json!({"floating-ips": pool}));
    fixture.wait_for_metrics(leader, &["queue_failing 1"])?;
    ensure!(fixture.metric(leader, "reconciled_total{outcome=\"failed\"}")? >= 1.0);
    let said = fixture.wait_for_json(leader, "/v1/queue", |said| said["failing"] == 1)?;
    ensure!(
        said["queue"][0]["error"]
            .as_str()
            .is_some_and(|error| error.contains("nobody")),
        "{said}"
    );
    fixture.wait_for_json(leader, "/v1/differences", |said| said["total"] == 1)?;
    fixture.wait_for(leader, "/", |page| {
        page.contains("data-kind=\"reconcile-failed\"")
    })?;
    tiles(
        fixture,
        leader,
        &[("differences", 1), ("queue", 1), ("failing", 1)],
    )?;
    fixture.marathon.app("/shop/web", &[web], &json!({}));
    fixture.wait_for_metrics(leader, &["queue_failing 0", "queue_length 0"])?;
    fixture.wait_for_json(leader, "/v1/differences", |said| said["total"] == 0)?;

    Ok(())
}

/// It is said, and what is half made is unfinished until it is made; says which container that is.
fn the_api_server_fails(fixture: &Fixture, leader: usize) -> Result<String> {
    fixture
        .api
        .fault(Fault::new(Effect::Status(500, "broken".to_owned())).on("POST", "/instance-ips"));
    let half = fixture.run_task(&task(2))?;
    let response = fixture.put_at(leader, &half, &[])?;
    ensure!(response.status >= 500, "{}", response.body);
    fixture.wait_for_metrics(
        leader,
        &["containers_unfinished 1", "containers_failed_total 2"],
    )?;
    fixture.wait_for(leader, "/", |page| {
        page.contains("data-kind=\"unfinished\"")
    })?;
    tiles(fixture, leader, &[("unfinished", 1)])?;
    fixture
        .api
        .fault(Fault::new(Effect::Status(503, "away".to_owned())));
    fixture.wait_for_metrics(
        leader,
        &[
            "source_fresh{source=\"contrail\"} 0",
            "source_trusted{source=\"contrail\"} 0",
        ],
    )?;
    ensure!(
        fixture.metric(
            leader,
            "source_updates_total{source=\"contrail\",update=\"loss\"}"
        )? >= 1.0
    );
    let said = fixture.wait_for_json(leader, "/v1/problems", |said| {
        problem(said, "source").is_some() && problem(said, "api-server").is_some()
    })?;
    assert_eq!(said["problems"][0]["severe"], true);
    fixture.api.clear_faults();
    fixture.managers.put(&half, &[])?;
    fixture.wait_for_metrics(
        leader,
        &[
            "containers_unfinished 0",
            "source_fresh{source=\"contrail\"} 1",
        ],
    )?;
    fixture.wait_for_json(leader, "/v1/problems", |said| {
        problem(said, "source").is_none() && problem(said, "api-server").is_none()
    })?;
    let history = fixture.get_json(leader, &format!("/v1/containers/{half}/history"))?;
    let outcomes = outcomes(&history);
    assert_eq!(outcomes[0], ("agent".into(), "failed".into()), "{history}");
    ensure!(
        outcomes.contains(&("agent".into(), "created".into())),
        "{history}"
    );

    Ok(half)
}

fn leftovers_are_removed(fixture: &Fixture, leader: usize, container: &str) -> Result<()> {
    let ours = fixture
        .api
        .object(&vm_uuid(container).to_string())
        .context("it is gone")?;
    let pairs = ours["annotations"]["key_value_pair"]
        .as_array()
        .into_iter()
        .flatten();
    let cluster = pairs
        .filter(|pair| pair["key"] == "cluster")
        .find_map(|pair| pair["value"].as_str());
    let mut left = InstanceIp::named(FqName::new(["left"]));
    let owner = [
        ("owner", "contrail-mesos"),
        ("cluster", cluster.context("no cluster")?),
    ];
    let owner = owner.map(|(key, value)| (key.to_owned(), value.to_owned()));
    left.common.annotations = owner.into_iter().collect::<KeyValues>();
    let networks = fixture.api.objects("virtual-network");
    let network = networks
        .iter()
        .find(|one| one["fq_name"][2] == "mesos-default-pod-task-network")
        .context("no network")?;
    let network: FqName = serde_json::from_value(network["fq_name"].clone())?;
    left.virtual_network_refs = vec![contrail_mesos_manager::vnc::Ref::to(network)];
    fixture.host.block_on(fixture.vnc.create(&left))?;
    fixture.wait_for_metrics(leader, &["orphans 1"])?;
    fixture.wait_for_metrics(
        leader,
        &[
            "orphans 0",
            "reconciled_total{outcome=\"orphan_removed\"} 1",
        ],
    )?;

    Ok(())
}

fn what_is_dead_is_removed(
    fixture: &Fixture,
    leader: usize,
    (web, container): (&str, &str),
    half: &str,
) -> Result<()> {
    // Its agent removes one; the other's task ends, and nobody removes it.
    fixture.kill_task(&task(2))?;
    // It is looked at, and it is not time to remove it.
    let unchanged = "reconciled_total{outcome=\"unchanged\"}";
    fixture.wait_for(leader, "/metrics", |text| text.contains(unchanged))?;
    ensure!(fixture.metric(leader, unchanged)? >= 1.0);
    fixture.managers.delete(half)?;
    fixture.wait_for_metrics(leader, &["containers_removed_total 1"])?;
    fixture.kill_task(web)?;
    // As long as Marathon lists it, it may live.
    fixture.marathon.app("/shop/web", &[], &json!({}));
    fixture.wait_for_metrics(
        leader,
        &[
            "reconciled_total{outcome=\"removed\"} 1",
            "containers_known 0",
            "tasks 0",
        ],
    )?;
    let path = format!("/v1/containers/{container}/history");
    let history = fixture.get_json(leader, &path)?;
    let last = history["history"].as_array().and_then(|all| all.last());
    let last = last.context("no history")?;
    assert_eq!(
        (&last["actor"], &last["action"]),
        (&json!("reconciler"), &json!("deleted")),
        "{history}"
    );

    Ok(())
}

/// The other one says so, and then knows what there is.
fn the_leader_dies(fixture: &mut Fixture, leader: usize) -> Result<()> {
    fixture.managers.manager_mut(leader).kill()?;
    let other = fixture.managers.leader()?;
    ensure!(other != leader);
    let said = fixture.wait_for_json(other, "/v1/managers", |said| {
        said["managers"].as_array().map(Vec::len) == Some(1)
    })?;
    assert_eq!(
        (&said["leading"], &said["leader"]),
        (
            &json!(true),
            &json!(fixture.managers.manager(other).agents_url())
        )
    );
    ensure!(said["term"].as_u64() >= Some(2), "{said}");
    ensure!(said["lease_seconds"].as_f64() > Some(0.0), "{said}");
    fixture.wait_for_metrics(
        other,
        &[
            "leading 1",
            "term 2",
            "source_trusted{source=\"mesos\"} 1",
            "containers_known 0",
        ],
    )?;
    Ok(())
}
