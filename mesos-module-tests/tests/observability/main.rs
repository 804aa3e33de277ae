//! The metrics, the JSON and the status page of real managers show what happened.

mod alerts;
mod browser;
mod fixture;
mod marathon;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::{FqName, InstanceIp, KeyValues, Object as _, Ref};
use contrail_mesos_sim::vnc::{Effect, Fault};
use serde_json::{Value, json};

use fixture::Fixture;
use mesos_module_tests::testbed::manager::vm_uuid;

/// The id that Marathon gives a task of `/shop/web`.
fn task(number: u32) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

/// The problem of that kind in `/v1/problems`.
fn problem<'a>(problems: &'a Value, kind: &str) -> Option<&'a Value> {
    problems["problems"]
        .as_array()?
        .iter()
        .find(|problem| problem["kind"] == kind)
}

/// Whether the text of the page's element with that id begins so.
fn element_begins(page: &str, id: &str, text: &str) -> bool {
    page.split_once(&format!("id=\"{id}\""))
        .and_then(|(_, rest)| rest.split_once('>'))
        .is_some_and(|(_, content)| content.starts_with(text))
}

/// Waits until the page's tiles have these numbers.
fn wait_for_tiles(fixture: &Fixture, leader: usize, tiles: &[(&str, usize)]) -> Result<()> {
    let has_all = |page: &str| {
        tiles.iter().all(|(name, number)| {
            element_begins(page, &format!("count-{name}"), &format!("{number}<"))
        })
    };
    fixture
        .wait_for(leader, "/", has_all)
        .map(drop)
        .with_context(|| format!("{tiles:?}"))
}

/// The entries of a container's history as (actor, action), oldest first.
fn actions(history: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    history["history"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| (text(&entry["actor"]), text(&entry["action"])))
        .collect()
}

#[test]
fn metrics_json_and_page_show_a_container() -> Result<()> {
    let fixture = Fixture::start()?;
    let leader = fixture.managers.leader()?;
    check_empty_cluster(&fixture, leader)?;
    let container = run_web(&fixture, leader)?;
    check_container_json(&fixture, leader, &container)?;
    check_container_metrics(&fixture, leader)?;
    check_page(&fixture, leader, &container)?;
    check_log_lines(&fixture, leader, &container)?;
    check_standby(&fixture, leader)?;
    fixture.stop()
}

fn check_empty_cluster(fixture: &Fixture, leader: usize) -> Result<()> {
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
    let lists = fixture.metric(
        leader,
        "source_updates_total{source=\"contrail\",update=\"list\"}",
    )?;
    ensure!(fixture.metric(leader, "contrail_reading_seconds_count")? >= lists);
    ensure!(fixture.metric(leader, "comparison_seconds_count")? >= 1.0);

    let problems = fixture.wait_for_json(leader, "/v1/problems", |problems| {
        problem(problems, "agent-without-virtual-router").is_some()
    })?;
    ensure!(problem(&problems, "source").is_none(), "{problems}");
    fixture.register_router()?;
    fixture.wait_for_metrics(leader, &["virtual_routers_known 1"])?;
    let agents = fixture.wait_for_json(leader, "/v1/agents", |agents| {
        agents["agents"][0]["virtual_router"] == "node1"
    })?;
    assert_eq!(agents["agents"][0]["connected"], true);
    fixture.wait_for(leader, "/", |page| page.contains("class=\"all-well\""))?;
    Ok(())
}

/// The container of a task of `/shop/web`.
struct WebContainer {
    id: String,
    task: String,
    address: String,
}

fn run_web(fixture: &Fixture, leader: usize) -> Result<WebContainer> {
    let task = task(1);
    let id = fixture.run_task(&task)?;
    fixture.marathon.app("/shop/web", &[&task], &json!({}));
    let ports = fixture.managers.put(&id, &[])?;
    let address = ports.ports[0].addresses[0].address.addr().to_string();
    fixture.wait_for_json(leader, &format!("/v1/containers/{id}"), |container| {
        container["contrail"]["app"] == "/shop/web" && container["decision"] == "in-sync"
    })?;
    Ok(WebContainer { id, task, address })
}

fn check_container_json(fixture: &Fixture, leader: usize, web: &WebContainer) -> Result<()> {
    let container = fixture.get_json(leader, &format!("/v1/containers/{}", web.id))?;
    assert_eq!(container["machine"], vm_uuid(&web.id).to_string());
    let contrail = &container["contrail"];
    assert_eq!(
        contrail["interfaces"][0]["addresses"],
        json!([web.address]),
        "{container}"
    );
    assert_eq!(contrail["virtual_routers"], json!(["node1"]));
    assert_eq!(contrail["complete"], true);
    assert_eq!(container["mesos"]["id"], web.task);
    assert_eq!(
        actions(&container),
        [
            ("agent".into(), "created".into()),
            ("reconciler".into(), "updated".into())
        ]
    );
    Ok(())
}

fn check_container_metrics(fixture: &Fixture, leader: usize) -> Result<()> {
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
    for source in ["mesos", "marathon"] {
        let events = format!("source_updates_total{{source=\"{source}\",update=\"event\"}}");
        ensure!(fixture.metric(leader, &events)? >= 1.0);
    }
    Ok(())
}

fn check_page(fixture: &Fixture, leader: usize, web: &WebContainer) -> Result<()> {
    let networks = fixture.wait_for_json(leader, "/v1/networks", |networks| {
        networks["networks"][0]["containers"] == 1
            && networks["networks"][0]["subnets"] == json!(["10.32.0.0/12"])
    })?;
    let network = networks["networks"][0]["name"]
        .as_str()
        .context("no name")?;
    ensure!(!network.is_empty());
    let page = fixture.get(leader, "/")?;
    for part in [
        &web.task,
        &web.address,
        network,
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

    let tiles = [("containers", 1), ("tasks", 1), ("differences", 0)];
    wait_for_tiles(fixture, leader, &tiles)?;
    let tiles = ["queue", "failing", "orphans", "unfinished"].map(|name| (name, 0));
    wait_for_tiles(fixture, leader, &tiles)
}

/// The log has one line for each change of the container.
fn check_log_lines(fixture: &Fixture, leader: usize, web: &WebContainer) -> Result<()> {
    let lines = fixture.log_lines_of(leader, vm_uuid(&web.id))?;
    let messages: Vec<_> = lines
        .iter()
        .filter_map(|line| line["message"].as_str())
        .collect();
    assert_eq!(lines.len(), 2, "{messages:?}");
    for line in &lines {
        assert_eq!(line["agent"], "node1", "{line}");
        ensure!(line["elapsed_ms"].is_number(), "{line}");
    }
    assert_eq!(
        (&lines[1]["app"], &lines[1]["task"]),
        (&json!("/shop/web"), &json!(web.task))
    );
    Ok(())
}

fn check_standby(fixture: &Fixture, leader: usize) -> Result<()> {
    let standby = 1 - leader;
    let status = fixture.get_json(standby, "/v1/managers")?;
    assert_eq!(
        (&status["leading"], &status["leader"]),
        (
            &json!(false),
            &json!(fixture.managers.manager(leader).agents_url())
        )
    );
    assert_eq!(
        status["managers"].as_array().map(Vec::len),
        Some(2),
        "{status}"
    );
    let page = fixture.get(standby, "/")?.body;
    ensure!(element_begins(&page, "role", "standby<"), "{page}");
    // Only the leader's page has the term.
    ensure!(!page.contains("id=\"term\""), "{page}");
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

    invalid_request_is_a_problem(&fixture, leader)?;
    invalid_labels_are_a_problem(&fixture, leader, &web)?;
    unknown_pool_is_retried(&fixture, leader, &web)?;
    let unfinished = half_created_container_is_a_problem(&fixture, leader)?;
    unavailable_api_server_is_a_problem(&fixture, leader, &unfinished)?;
    orphan_is_removed(&fixture, leader, &container)?;
    ended_containers_are_removed(&fixture, leader, (&web, &container), &unfinished)?;
    standby_takes_over(&mut fixture, leader)?;
    fixture.stop()
}

fn invalid_request_is_a_problem(fixture: &Fixture, leader: usize) -> Result<()> {
    let response = fixture.put_at(
        leader,
        "11111111-2222-3333-4444-555555555555",
        &[("networks", "nowhere")],
    )?;
    assert_eq!(response.status, 400, "{}", response.body);
    fixture.wait_for_metrics(
        leader,
        &["containers_failed_total{cause=\"invalid_request\"} 1"],
    )?;
    let problems = fixture.wait_for_json(leader, "/v1/problems", |problems| {
        problem(problems, "container-failed").is_some()
    })?;
    let failed = problem(&problems, "container-failed").context("no problem")?;
    // The name from the request, not the manager's words.
    ensure!(
        failed["message"]
            .as_str()
            .is_some_and(|text| text.contains("nowhere")),
        "{failed}"
    );
    fixture.wait_for(leader, "/", |page| {
        page.contains("data-kind=\"container-failed\"") && page.contains("nowhere")
    })?;
    Ok(())
}

fn invalid_labels_are_a_problem(fixture: &Fixture, leader: usize, web: &str) -> Result<()> {
    let labels = json!({"floating-ips": "nonsense(1.2.3)"});
    fixture.marathon.app("/shop/web", &[web], &labels);
    let problems = fixture.wait_for_json(leader, "/v1/problems", |problems| {
        problem(problems, "labels").is_some()
    })?;
    ensure!(problems.to_string().contains("/shop/web"), "{problems}");
    fixture.wait_for(leader, "/", |page| page.contains("data-kind=\"labels\""))?;
    Ok(())
}

/// A container whose floating IP pool does not exist stays in the queue until its labels change.
fn unknown_pool_is_retried(fixture: &Fixture, leader: usize, web: &str) -> Result<()> {
    let pool = "default-domain:nobody:nothing:pool";
    fixture
        .marathon
        .app("/shop/web", &[web], &json!({"floating-ips": pool}));
    fixture.wait_for_metrics(leader, &["queue_failing 1"])?;
    ensure!(fixture.metric(leader, "reconciled_total{outcome=\"failed\"}")? >= 1.0);
    let queue = fixture.wait_for_json(leader, "/v1/queue", |queue| queue["failing"] == 1)?;
    ensure!(
        queue["queue"][0]["error"]
            .as_str()
            .is_some_and(|error| error.contains("nobody")),
        "{queue}"
    );
    fixture.wait_for_json(leader, "/v1/differences", |found| found["total"] == 1)?;
    fixture.wait_for(leader, "/", |page| {
        page.contains("data-kind=\"reconcile-failed\"")
    })?;
    let tiles = [("differences", 1), ("queue", 1), ("failing", 1)];
    wait_for_tiles(fixture, leader, &tiles)?;

    fixture.marathon.app("/shop/web", &[web], &json!({}));
    fixture.wait_for_metrics(leader, &["queue_failing 0", "queue_length 0"])?;
    fixture.wait_for_json(leader, "/v1/differences", |found| found["total"] == 0)?;
    Ok(())
}

/// Returns the id of the half created container.
fn half_created_container_is_a_problem(fixture: &Fixture, leader: usize) -> Result<String> {
    let broken = Effect::Status(500, "broken".to_owned());
    fixture
        .api
        .fault(Fault::new(broken).on("POST", "/instance-ips"));
    let container = fixture.run_task(&task(2))?;
    let response = fixture.put_at(leader, &container, &[])?;
    ensure!(response.status >= 500, "{}", response.body);
    fixture.wait_for_metrics(
        leader,
        &[
            "containers_unfinished 1",
            "containers_failed_total{cause=\"vnc_server_error\"} 1",
        ],
    )?;
    fixture.wait_for(leader, "/", |page| {
        page.contains("data-kind=\"unfinished\"")
    })?;
    wait_for_tiles(fixture, leader, &[("unfinished", 1)])?;
    Ok(container)
}

/// Afterwards the unfinished container is completed.
fn unavailable_api_server_is_a_problem(
    fixture: &Fixture,
    leader: usize,
    unfinished: &str,
) -> Result<()> {
    let unavailable = Effect::Status(503, "away".to_owned());
    fixture.api.fault(Fault::new(unavailable));
    fixture.wait_for_metrics(
        leader,
        &[
            "source_fresh{source=\"contrail\"} 0",
            "source_trusted{source=\"contrail\"} 0",
        ],
    )?;
    let losses = "source_updates_total{source=\"contrail\",update=\"loss\"}";
    ensure!(fixture.metric(leader, losses)? >= 1.0);
    let problems = fixture.wait_for_json(leader, "/v1/problems", |problems| {
        problem(problems, "source").is_some() && problem(problems, "api-server").is_some()
    })?;
    assert_eq!(problems["problems"][0]["severe"], true);

    fixture.api.clear_faults();
    fixture.managers.put(unfinished, &[])?;
    fixture.wait_for_metrics(
        leader,
        &[
            "containers_unfinished 0",
            "source_fresh{source=\"contrail\"} 1",
        ],
    )?;
    fixture.wait_for_json(leader, "/v1/problems", |problems| {
        problem(problems, "source").is_none() && problem(problems, "api-server").is_none()
    })?;
    let history = fixture.get_json(leader, &format!("/v1/containers/{unfinished}/history"))?;
    let actions = actions(&history);
    assert_eq!(actions[0], ("agent".into(), "failed".into()), "{history}");
    ensure!(
        actions.contains(&("agent".into(), "created".into())),
        "{history}"
    );
    Ok(())
}

fn orphan_is_removed(fixture: &Fixture, leader: usize, container: &str) -> Result<()> {
    let machine = fixture
        .api
        .object(&vm_uuid(container).to_string())
        .context("no virtual-machine")?;
    let cluster = machine["annotations"]["key_value_pair"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pair| pair["key"] == "cluster")
        .find_map(|pair| pair["value"].as_str())
        .context("no cluster")?;
    let mut orphan = InstanceIp::named(FqName::new(["left"]));
    orphan.common.annotations = [("owner", "contrail-mesos"), ("cluster", cluster)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect::<KeyValues>();
    let network = fixture
        .api
        .objects("virtual-network")
        .into_iter()
        .find(|network| network["fq_name"][2] == "mesos-default-pod-task-network")
        .context("no network")?;
    let network: FqName = serde_json::from_value(network["fq_name"].clone())?;
    orphan.virtual_network_refs = vec![Ref::to(network)];
    fixture.host.block_on(fixture.vnc.create(&orphan))?;
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

/// One container is removed by its agent, the other by the manager after its task has ended.
fn ended_containers_are_removed(
    fixture: &Fixture,
    leader: usize,
    (web, container): (&str, &str),
    unfinished: &str,
) -> Result<()> {
    fixture.kill_task(&task(2))?;
    // Within the grace period the manager removes nothing.
    let unchanged = "reconciled_total{outcome=\"unchanged\"}";
    fixture.wait_for(leader, "/metrics", |text| text.contains(unchanged))?;
    ensure!(fixture.metric(leader, unchanged)? >= 1.0);
    fixture.managers.delete(unfinished)?;
    fixture.wait_for_metrics(leader, &["containers_removed_total 1"])?;
    fixture.kill_task(web)?;
    // The manager keeps the container while Marathon lists its task.
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

/// The new leader reports that it leads, and has read its sources.
fn standby_takes_over(fixture: &mut Fixture, leader: usize) -> Result<()> {
    fixture.managers.manager_mut(leader).kill()?;
    let other = fixture.managers.leader()?;
    ensure!(other != leader);
    let status = fixture.wait_for_json(other, "/v1/managers", |status| {
        status["managers"].as_array().map(Vec::len) == Some(1)
    })?;
    let url = fixture.managers.manager(other).agents_url();
    assert_eq!(
        (&status["leading"], &status["leader"]),
        (&json!(true), &json!(url))
    );
    ensure!(status["term"].as_u64() >= Some(2), "{status}");
    ensure!(status["lease_seconds"].as_f64() > Some(0.0), "{status}");
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
