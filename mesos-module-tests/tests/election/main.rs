//! Several real managers with the real ZooKeeper, and an agent that follows the leader.

mod clock;
mod fixture;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contrail_mesos_api::http::LeaderOptions;
use contrail_mesos_manager::mesos_master::{MasterClient, MasterOptions};
use mesos_module_tests::testbed::agent::WAIT_TIMEOUT;
use mesos_module_tests::testbed::zookeeper::ZooKeeper;
use mesos_module_tests::testbed::{Cluster, Host};
use nix::sys::signal::Signal;
use zookeeper_client::{Acls, Client, CreateMode};

use fixture::{Fixture, SESSION_TIMEOUT};

#[test]
fn standby_takes_over_from_killed_and_stopped_leaders() -> Result<()> {
    let mut fixture = Fixture::start(3)?;
    let first = fixture.managers.leader()?;
    let standby = (first + 1) % 3;
    let address = fixture.managers.put("a", &[])?.ports[0].addresses[0].address;

    // A standby redirects agents, and refuses CNI plugins, which follow no redirect.
    let sent_on = fixture.put_at(standby, "b")?;
    assert_eq!(sent_on.status, 307, "{}", sent_on.body);
    let location = &sent_on.headers["location"];
    ensure!(
        location.contains(&format!("192.0.2.1{}:6992/v1/ports/", first + 1)),
        "{location}"
    );
    let refused = fixture.legacy_request(standby)?;
    assert_eq!(
        (refused.status, &*refused.headers["retry-after"]),
        (503, "1")
    );
    assert_eq!(fixture.legacy_request(first)?.status, 400);
    assert_eq!(
        fixture.managers.manager(standby).get("/leading")?.status,
        503
    );
    assert_eq!(fixture.managers.manager(first).get("/leading")?.status, 200);

    // The metrics.
    let text = fixture.managers.manager(first).get("/metrics")?.body;
    for line in [
        "contrail_mesos_manager_leading 1",
        "contrail_mesos_manager_serving 1",
        "contrail_mesos_manager_containers_made_total 1",
        "contrail_mesos_manager_requests_total{api=\"agents\",method=\"PUT\",path=\"/v1/ports/{machine}\",status=\"200\"} 1",
        "contrail_mesos_manager_request_duration_seconds_count{api=\"agents\",method=\"PUT\"} 1",
        "contrail_mesos_manager_vnc_calls_total{method=\"POST\",resource=\"virtual-machines\",status=\"200\"} 1",
    ] {
        ensure!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    ensure!(
        !text.contains("\ncontrail_mesos_manager_containers_failed_total{"),
        "{text}"
    );
    let text = fixture.managers.manager(standby).get("/metrics")?.body;
    ensure!(
        text.contains("contrail_mesos_manager_leading 0\n"),
        "{text}"
    );
    ensure!(
        text.contains("contrail_mesos_manager_leader_known 1\n"),
        "{text}"
    );
    ensure!(text.contains("status=\"307\"} "), "{text}");

    // The log level changes at run time.
    assert_eq!(fixture.set_log_level(first, "loud")?.status, 400);
    assert_eq!(fixture.set_log_level(first, "trace")?.status, 200);
    assert_eq!(
        fixture.managers.manager(first).get("/log-level")?.body,
        "trace\n"
    );
    fixture.managers.put("a", &[])?;
    ensure!(
        fixture.managers.logs().contains("\"level\":\"TRACE\""),
        "{}",
        fixture.managers.logs()
    );
    fixture.set_log_level(first, "info")?;

    // Killed: a standby takes over when the session expires, and the agent finds it.
    fixture.managers.manager_mut(first).end(Signal::SIGKILL)?;
    let again = fixture.managers.put("a", &[])?;
    assert_eq!(again.ports[0].addresses[0].address, address);
    let second = fixture.managers.leader()?;
    ensure!(second != first);
    ensure!(fixture.terms(second)?.first() > fixture.terms(first)?.last());

    // Terminated: a standby takes over without waiting for the session to expire.
    fixture.managers.manager_mut(first).start()?;
    ensure!(fixture.managers.leader()? == second);
    fixture.managers.manager_mut(second).end(Signal::SIGTERM)?;
    fixture.managers.put("c", &[])?;
    let third = fixture.managers.leader()?;
    ensure!(third != second);
    fixture.managers.delete("a")?;
    fixture.managers.delete("c")?;
    fixture.check_one_writer()
}

#[test]
fn leader_without_zookeeper_writes_nothing() -> Result<()> {
    let mut fixture = Fixture::start(1)?;
    assert_eq!(fixture.managers.leader()?, 0);
    fixture.managers.put("a", &[])?;
    let terms = fixture.terms(0)?;

    // ZooKeeper stops responding with its connections open. The lease ends well before the session.
    fixture.zookeeper.pause()?;
    fixture
        .managers
        .manager(0)
        .wait_until_ready_is(503, "ZooKeeper")?;
    let before = fixture.changes();
    let refused = fixture.put_at(0, "b")?;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(fixture.changes(), before);
    fixture.zookeeper.resume()?;
    fixture.managers.put("b", &[])?;

    // ZooKeeper is stopped for so long that the session expires.
    fixture.zookeeper.pause()?;
    fixture
        .managers
        .manager(0)
        .wait_until_ready_is(503, "ZooKeeper")?;
    sleep(SESSION_TIMEOUT * 2);
    fixture.zookeeper.resume()?;
    fixture.managers.put("c", &[])?;
    ensure!(
        fixture.terms(0)?.last() > terms.last(),
        "{}",
        fixture.managers.logs()
    );

    // ZooKeeper is killed, and restarted with its data.
    fixture.zookeeper.kill()?;
    fixture
        .managers
        .manager(0)
        .wait_until_ready_is(503, "ZooKeeper")?;
    assert_eq!(fixture.put_at(0, "d")?.status, 503);
    fixture.zookeeper.run()?;
    fixture.managers.put("d", &[])?;
    for name in ["a", "b", "c", "d"] {
        fixture.managers.delete(name)?;
    }
    fixture.check_one_writer()
}

#[test]
fn leader_resumed_after_its_term_writes_nothing() -> Result<()> {
    let fixture = Fixture::start(2)?;
    let first = fixture.managers.leader()?;
    fixture.managers.put("a", &[])?;
    // Calls are slow, so that the leader is stopped within one, in the middle of a container.
    fixture.api.set_delay(Duration::from_millis(300));
    let began = fixture.changes();
    std::thread::scope(|scope| -> Result<()> {
        let making = scope.spawn(|| fixture.managers.put("b", &[]));
        let started = Instant::now();
        while fixture.changes() == began {
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "{}",
                fixture.managers.logs()
            );
            sleep(Duration::from_millis(5));
        }
        fixture.managers.manager(first).signal(Signal::SIGSTOP)?;
        fixture
            .managers
            .manager(1 - first)
            .wait_until_ready_is(200, "leading")?;
        fixture.managers.manager(first).signal(Signal::SIGCONT)?;
        // The agent still waits for the stopped leader, which refuses, and then asks the new one.
        match making.join() {
            Ok(made) => made.map(drop),
            Err(_) => anyhow::bail!("the agent panicked"),
        }
    })?;
    fixture.api.set_delay(Duration::ZERO);
    fixture
        .managers
        .manager(first)
        .wait_until_ready_is(200, "following")?;
    fixture.managers.delete("a")?;
    fixture.managers.delete("b")?;
    fixture.check_one_writer()
}

#[test]
fn deleted_zookeeper_nodes_cost_one_election() -> Result<()> {
    let fixture = Fixture::start(2)?;
    let first = fixture.managers.leader()?;
    fixture.managers.put("a", &[])?;
    let zookeeper = fixture.zookeeper.address().to_string();
    let client = Client::connector().with_auth("digest", fixture::DIGEST.as_bytes());
    let client = fixture.host().block_on(client.connect(&zookeeper))?;
    let candidates = "/contrail/managers/candidates";
    let remove_first = async {
        let mut nodes = client.list_children(candidates).await?;
        nodes.sort();
        let node = format!("{candidates}/{}", nodes[0]);
        client.delete(&node, None).await
    };
    fixture.host().block_on(remove_first)?;
    fixture
        .managers
        .manager(1 - first)
        .wait_until_ready_is(200, "leading")?;
    ensure!(fixture.managers.leader()? == 1 - first);
    fixture.managers.put("b", &[])?;
    fixture.check_one_writer()?;
    // The next leader starts with term 1 again.
    fixture
        .host()
        .block_on(client.delete("/contrail/managers/term", None))?;
    fixture
        .managers
        .manager(1 - first)
        .wait_until_ready_is(503, "")?;
    fixture.managers.leader()?;
    fixture.managers.delete("a")?;
    fixture.managers.delete("b")
}

#[test]
fn manager_with_a_wrong_password_reports_it() -> Result<()> {
    let mut fixture = Fixture::start(2)?;
    let first = fixture.managers.leader()?;
    let other = 1 - first;
    fixture.managers.manager_mut(other).end(Signal::SIGTERM)?;
    std::fs::write(fixture.host().directory().join("password"), "a-wrong-one")?;
    fixture.managers.manager_mut(other).start()?;
    let started = Instant::now();
    while fixture
        .managers
        .manager(other)
        .get("/ready")
        .map_or(0, |response| response.status)
        != 503
    {
        ensure!(
            started.elapsed() < WAIT_TIMEOUT,
            "{}",
            fixture.managers.logs()
        );
        sleep(Duration::from_millis(50));
    }
    fixture
        .managers
        .manager(other)
        .wait_until_ready_is(503, "password_file in [zookeeper]")?;
    ensure!(!fixture.managers.logs().contains("a-wrong-one"));
    assert_eq!(fixture.put_at(other, "a")?.status, 503);
    assert_eq!(fixture.put_at(first, "a")?.status, 200);
    fixture.managers.delete("a")?;
    fixture.check_one_writer()
}

#[test]
fn leading_master_is_found_through_zookeeper() -> Result<()> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let cluster = Cluster::on(&host).start()?;
    let zookeeper = ZooKeeper::start(&host, 2181)?;
    let client = |masters: &str| -> Result<MasterClient> {
        Ok(MasterClient::new(MasterOptions {
            masters: masters.parse()?,
            secure: false,
            access: LeaderOptions::default(),
        })?)
    };
    let found = client(&zookeeper.url("/mesos"))?;
    // No master is registered.
    let error = host.block_on(found.state()).unwrap_err();
    ensure!(
        error.to_string().contains("cannot list the masters"),
        "{error}"
    );

    let (ip, port) = cluster.master().rsplit_once(':').unwrap_or_default();
    let keeper = host.block_on(Client::connect(&zookeeper.address().to_string()))?;
    let node = |number: u32, ip: &str, port: &str| {
        let info = format!(
            r#"{{"address":{{"hostname":"m","ip":"{ip}","port":{port}}},"hostname":"m","id":"x","ip":1,"pid":"master@{ip}:{port}","port":{port},"version":"1.11.0"}}"#
        );
        (format!("/mesos/json.info_{number:010}"), info)
    };
    host.block_on(async {
        let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        keeper.create("/mesos", b"", &persistent).await?;
        keeper
            .create("/mesos/log_replicas", b"", &persistent)
            .await?;
        for (path, info) in [node(7, ip, port), node(8, ip, "1")] {
            keeper.create(&path, info.as_bytes(), &ephemeral).await?;
        }
        Ok::<_, zookeeper_client::Error>(())
    })?;
    let listed = host.block_on(client(cluster.master())?.state())?;
    assert_eq!(host.block_on(found.state())?, listed);
    ensure!(!listed.agents.is_empty());

    // Without the leader, the next master in ZooKeeper leads, and it cannot be reached.
    host.block_on(keeper.delete(&node(7, ip, port).0, None))?;
    let error = host.block_on(found.state()).unwrap_err();
    assert_eq!(error.server, format!("http://{ip}:1"), "{error}");
    drop((keeper, zookeeper));
    cluster.stop()
}
