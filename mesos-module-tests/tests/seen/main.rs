//! What is seen of a manager from outside says what happened: each metric, the JSON and the page.

mod bed;
mod browser;
mod marathon;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::{FqName, InstanceIp, KeyValues, Object as _};
use contrail_mesos_sim::vnc::{Effect, Fault};
use serde_json::{Value, json};
use uuid::Uuid;

use bed::{Bed, machine};

/// A name that Marathon gives to a task of `/shop/web`.
fn task(number: u32) -> String {
    format!("shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac1{number:05}._app.1")
}

fn problem<'a>(said: &'a Value, kind: &str) -> Option<&'a Value> {
    let problems = said["problems"].as_array()?;
    problems.iter().find(|one| one["kind"] == kind)
}

/// Waits until the page has these numbers in its tiles.
fn tiles(bed: &Bed, leader: usize, wanted: &[(&str, usize)]) -> Result<()> {
    let shown = |page: &str, (name, number): &(&str, usize)| {
        let tile = page.split_once(&format!("id=\"count-{name}\""));
        let tile = tile.and_then(|(_, rest)| rest.split_once('>'));
        tile.is_some_and(|(_, rest)| rest.starts_with(&format!("{number}<")))
    };
    let all = |page: &str| wanted.iter().all(|one| shown(page, one));
    let page = bed.until(leader, "/", all);
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
fn what_is_seen_is_what_happened() -> Result<()> {
    let bed = Bed::start()?;
    let leader = bed.leader()?;
    before_there_is_anything(&bed, leader)?;
    let network = a_container_is_shown(&bed, leader)?;
    ensure!(!network.is_empty());
    a_standby_knows_who_leads(&bed, leader)?;
    bed.stop()
}

fn before_there_is_anything(bed: &Bed, leader: usize) -> Result<()> {
    bed.until_measured(
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
    ensure!(bed.measured(leader, "provisioned_timestamp_seconds")? > 1_700_000_000.0);
    ensure!(bed.measured(leader, "source_age_seconds{source=\"mesos\"}")? >= 0.0);
    let seen = bed.measured(
        leader,
        "source_updates_total{source=\"contrail\",update=\"list\"}",
    )?;
    ensure!(bed.measured(leader, "contrail_reading_seconds_count")? >= seen);
    ensure!(bed.measured(leader, "comparison_seconds_count")? >= 1.0);

    // An agent without a virtual-router is said to have none; then it has one.
    let said = bed.until_json(leader, "/v1/problems", |said| {
        problem(said, "agent-without-virtual-router").is_some()
    })?;
    ensure!(problem(&said, "source").is_none(), "{said}");
    bed.router()?;
    bed.until_measured(leader, &["virtual_routers_known 1"])?;
    let said = bed.until_json(leader, "/v1/agents", |said| {
        said["agents"][0]["virtual_router"] == "node1"
    })?;
    assert_eq!(said["agents"][0]["connected"], true);
    bed.until(leader, "/", |page| page.contains("All is well"))?;
    Ok(())
}

/// A task with a container, which is given the names of its task; says its network.
fn a_container_is_shown(bed: &Bed, leader: usize) -> Result<String> {
    let web = task(1);
    let container = bed.task(&web)?;
    bed.marathon.app("/shop/web", &[&web], &json!({}));
    let made = bed.make(&container, &[])?;
    let address = made.ports[0].addresses[0].address.addr().to_string();
    let id = machine(&container);
    let said = bed.until_json(leader, &format!("/v1/containers/{container}"), |said| {
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
    bed.until_measured(
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
        bed.measured(
            leader,
            "source_updates_total{source=\"mesos\",update=\"event\"}"
        )? >= 1.0
    );
    ensure!(
        bed.measured(
            leader,
            "source_updates_total{source=\"marathon\",update=\"event\"}"
        )? >= 1.0
    );
    let network = bed.until_json(leader, "/v1/networks", |said| {
        said["networks"][0]["containers"] == 1
            && said["networks"][0]["subnets"] == json!(["10.32.0.0/12"])
    })?;
    let network = network["networks"][0]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let page = bed.get(leader, "/")?;
    for part in [
        &web,
        &address,
        &network,
        "/shop/web",
        "10.32.0.0/12",
        "node1",
    ] {
        ensure!(page.text.contains(part), "{part} is not in\n{}", page.text);
    }
    let policy = &page.headers["content-security-policy"];
    ensure!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["cache-control"], "no-store");
    ensure!(!page.text.contains("<script"), "{}", page.text);

    let numbers = [("containers", 1), ("tasks", 1), ("differences", 0)];
    let nothing = ["queue", "failing", "orphans", "unfinished"].map(|name| (name, 0));
    tiles(bed, leader, &numbers)?;
    tiles(bed, leader, &nothing)?;

    one_line_an_outcome(bed, leader, id, &web)?;
    Ok(network)
}

fn one_line_an_outcome(bed: &Bed, leader: usize, id: Uuid, web: &str) -> Result<()> {
    let lines = bed.lines_of(leader, id)?;
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

fn a_standby_knows_who_leads(bed: &Bed, leader: usize) -> Result<()> {
    let standby = 1 - leader;
    let said: Value = serde_json::from_str(&bed.get(standby, "/v1/managers")?.text)?;
    assert_eq!(
        (&said["leading"], &said["leader"]),
        (&json!(false), &json!(bed.agents_url(leader)))
    );
    assert_eq!(said["managers"].as_array().map(Vec::len), Some(2), "{said}");
    let page = bed.get(standby, "/")?.text;
    ensure!(
        page.contains("standby") && page.contains("Only the leader follows"),
        "{page}"
    );
    assert_eq!(bed.get(leader, "/v1/containers/nobody")?.status, 404);
    assert_eq!(bed.get(leader, "/v1/containers?limit=0")?.status, 400);
    Ok(())
}

#[test]
fn what_is_wrong_is_said_and_taken_back() -> Result<()> {
    let mut bed = Bed::start()?;
    let leader = bed.leader()?;
    bed.router()?;
    bed.until_measured(leader, &["virtual_routers_known 1"])?;
    let web = task(1);
    let container = bed.task(&web)?;
    bed.marathon.app("/shop/web", &[&web], &json!({}));
    bed.make(&container, &[])?;

    what_makes_no_sense_is_said(&bed, leader, &web)?;
    let half = the_api_server_fails(&bed, leader)?;
    leftovers_are_removed(&bed, leader, &container)?;
    what_is_dead_is_removed(&bed, leader, (&web, &container), &half)?;
    the_leader_dies(&mut bed, leader)?;
    bed.stop()
}

fn what_makes_no_sense_is_said(bed: &Bed, leader: usize, web: &str) -> Result<()> {
    // A request.
    let (status, said) = bed.try_make(
        leader,
        "11111111-2222-3333-4444-555555555555",
        &[("networks", "nowhere")],
    )?;
    assert_eq!(status, 400, "{said}");
    bed.until_measured(leader, &["containers_failed_total 1"])?;
    let said = bed.until_json(leader, "/v1/problems", |said| {
        problem(said, "container-failed").is_some()
    })?;
    let failed = problem(&said, "container-failed").context("no problem")?;
    ensure!(
        failed["problem"]
            .as_str()
            .is_some_and(|text| text.contains("nowhere")),
        "{failed}"
    );
    bed.until(leader, "/", |page| {
        page.contains("data-kind=\"container-failed\"") && page.contains("nowhere")
    })?;

    // Labels that make no sense, and then do.
    bed.marathon.app(
        "/shop/web",
        &[web],
        &json!({"floating-ips": "nonsense(1.2.3)"}),
    );
    let said = bed.until_json(leader, "/v1/problems", |said| {
        problem(said, "labels").is_some()
    })?;
    ensure!(said.to_string().contains("/shop/web"), "{said}");
    bed.until(leader, "/", |page| page.contains("data-kind=\"labels\""))?;

    // Floating addresses of a pool that is not there: what fails waits, and says why.
    let pool = "default-domain:nobody:nothing:pool";
    bed.marathon
        .app("/shop/web", &[web], &json!({"floating-ips": pool}));
    bed.until_measured(leader, &["queue_failing 1"])?;
    ensure!(bed.measured(leader, "reconciled_total{outcome=\"failed\"}")? >= 1.0);
    let said = bed.until_json(leader, "/v1/queue", |said| said["failing"] == 1)?;
    ensure!(
        said["queue"][0]["error"]
            .as_str()
            .is_some_and(|error| error.contains("nobody")),
        "{said}"
    );
    bed.until_json(leader, "/v1/differences", |said| said["total"] == 1)?;
    bed.until(leader, "/", |page| {
        page.contains("data-kind=\"reconcile-failed\"")
    })?;
    tiles(
        bed,
        leader,
        &[("differences", 1), ("queue", 1), ("failing", 1)],
    )?;
    bed.marathon.app("/shop/web", &[web], &json!({}));
    bed.until_measured(leader, &["queue_failing 0", "queue_length 0"])?;
    bed.until_json(leader, "/v1/differences", |said| said["total"] == 0)?;

    Ok(())
}

/// It is said, and what is half made is unfinished until it is made; says which container that is.
fn the_api_server_fails(bed: &Bed, leader: usize) -> Result<String> {
    bed.api
        .fault(Fault::new(Effect::Status(500, "broken".to_owned())).on("POST", "/instance-ips"));
    let half = bed.task(&task(2))?;
    let (status, said) = bed.try_make(leader, &half, &[])?;
    ensure!(status >= 500, "{said}");
    bed.until_measured(
        leader,
        &["containers_unfinished 1", "containers_failed_total 2"],
    )?;
    bed.until(leader, "/", |page| {
        page.contains("data-kind=\"unfinished\"")
    })?;
    tiles(bed, leader, &[("unfinished", 1)])?;
    bed.api
        .fault(Fault::new(Effect::Status(503, "away".to_owned())));
    bed.until_measured(
        leader,
        &[
            "source_fresh{source=\"contrail\"} 0",
            "source_trusted{source=\"contrail\"} 0",
        ],
    )?;
    ensure!(
        bed.measured(
            leader,
            "source_updates_total{source=\"contrail\",update=\"loss\"}"
        )? >= 1.0
    );
    let said = bed.until_json(leader, "/v1/problems", |said| {
        problem(said, "source").is_some() && problem(said, "api-server").is_some()
    })?;
    assert_eq!(said["problems"][0]["severe"], true);
    bed.api.clear_faults();
    bed.make(&half, &[])?;
    bed.until_measured(
        leader,
        &[
            "containers_unfinished 0",
            "source_fresh{source=\"contrail\"} 1",
        ],
    )?;
    bed.until_json(leader, "/v1/problems", |said| {
        problem(said, "source").is_none() && problem(said, "api-server").is_none()
    })?;
    let history: Value = serde_json::from_str(
        &bed.get(leader, &format!("/v1/containers/{half}/history"))?
            .text,
    )?;
    let outcomes = outcomes(&history);
    assert_eq!(outcomes[0], ("agent".into(), "failed".into()), "{history}");
    ensure!(
        outcomes.contains(&("agent".into(), "created".into())),
        "{history}"
    );

    Ok(half)
}

fn leftovers_are_removed(bed: &Bed, leader: usize, container: &str) -> Result<()> {
    let ours = bed
        .api
        .object(&machine(container).to_string())
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
    let networks = bed.api.objects("virtual-network");
    let network = networks
        .iter()
        .find(|one| one["fq_name"][2] == "mesos-default-pod-task-network")
        .context("no network")?;
    let network: FqName = serde_json::from_value(network["fq_name"].clone())?;
    left.virtual_network_refs = vec![contrail_mesos_manager::vnc::Ref::to(network)];
    bed.host.block_on(bed.vnc.create(&left))?;
    bed.until_measured(leader, &["orphans 1"])?;
    bed.until_measured(
        leader,
        &[
            "orphans 0",
            "reconciled_total{outcome=\"orphan_removed\"} 1",
        ],
    )?;

    Ok(())
}

fn what_is_dead_is_removed(
    bed: &Bed,
    leader: usize,
    (web, container): (&str, &str),
    half: &str,
) -> Result<()> {
    // Its agent removes one; the other's task ends, and nobody removes it.
    bed.end(&task(2))?;
    // It is looked at, and it is not time to remove it.
    let unchanged = "reconciled_total{outcome=\"unchanged\"}";
    bed.until(leader, "/metrics", |text| text.contains(unchanged))?;
    ensure!(bed.measured(leader, unchanged)? >= 1.0);
    bed.remove(half)?;
    bed.until_measured(leader, &["containers_removed_total 1"])?;
    bed.end(web)?;
    // As long as Marathon lists it, it may live.
    bed.marathon.app("/shop/web", &[], &json!({}));
    bed.until_measured(
        leader,
        &[
            "reconciled_total{outcome=\"removed\"} 1",
            "containers_known 0",
            "tasks 0",
        ],
    )?;
    let path = format!("/v1/containers/{container}/history");
    let history: Value = serde_json::from_str(&bed.get(leader, &path)?.text)?;
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
fn the_leader_dies(bed: &mut Bed, leader: usize) -> Result<()> {
    bed.kill(leader)?;
    let other = bed.leader()?;
    ensure!(other != leader);
    let said = bed.until_json(other, "/v1/managers", |said| {
        said["managers"].as_array().map(Vec::len) == Some(1)
    })?;
    assert_eq!(
        (&said["leading"], &said["leader"]),
        (&json!(true), &json!(bed.agents_url(other)))
    );
    ensure!(said["term"].as_u64() >= Some(2), "{said}");
    ensure!(said["lease_seconds"].as_f64() > Some(0.0), "{said}");
    bed.until_measured(
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
