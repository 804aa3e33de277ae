//! Several real managers, the real ZooKeeper, and agents that ask whoever leads.

mod bed;
mod clock;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contrail_mesos_api::http::LeaderOptions;
use contrail_mesos_manager::mesos_master::{MasterClient, MasterOptions};
use mesos_module_tests::agent::PATIENCE;
use mesos_module_tests::zookeeper::ZooKeeper;
use mesos_module_tests::{Cluster, Host};
use nix::sys::signal::Signal;
use zookeeper_client::{Acls, Client, CreateMode};

use bed::{Bed, SESSION};

#[test]
fn one_of_three_leads_and_others_take_over() -> Result<()> {
    let mut bed = Bed::start(3)?;
    let first = bed.leader()?;
    let standby = (first + 1) % 3;
    let address = bed.make("a")?.ports[0].addresses[0].address;

    // A standby sends agents on, and refuses plugins, which follow nobody.
    let sent_on = bed.put_at(standby, "b")?;
    assert_eq!(sent_on.status, 307, "{}", sent_on.text);
    let location = &sent_on.headers["location"];
    ensure!(
        location.contains(&format!("192.0.2.1{}:6992/v1/ports/", first + 1)),
        "{location}"
    );
    let refused = bed.legacy(standby)?;
    assert_eq!(
        (refused.status, &*refused.headers["retry-after"]),
        (503, "1")
    );
    assert_eq!(bed.legacy(first)?.status, 400);
    assert_eq!(bed.admin(standby, "/leading")?.status, 503);
    assert_eq!(bed.admin(first, "/leading")?.status, 200);

    // What is measured is what happened.
    let text = bed.admin(first, "/metrics")?.text;
    for line in [
        "contrail_mesos_manager_leading 1",
        "contrail_mesos_manager_serving 1",
        "contrail_mesos_manager_containers_made_total 1",
        "contrail_mesos_manager_containers_failed_total 0",
        "contrail_mesos_manager_requests_total{api=\"agents\",method=\"PUT\",path=\"/v1/ports/{machine}\",status=\"200\"} 1",
        "contrail_mesos_manager_request_duration_seconds_count{api=\"agents\",method=\"PUT\"} 1",
        "contrail_mesos_manager_vnc_calls_total{method=\"POST\",resource=\"virtual-machines\",status=\"200\"} 1",
    ] {
        ensure!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    let text = bed.admin(standby, "/metrics")?.text;
    ensure!(
        text.contains("contrail_mesos_manager_leading 0\n"),
        "{text}"
    );
    ensure!(
        text.contains("contrail_mesos_manager_leader_known 1\n"),
        "{text}"
    );
    ensure!(text.contains("status=\"307\"} "), "{text}");

    // The log's level, at run time.
    assert_eq!(bed.log_level(first, "loud")?.status, 400);
    assert_eq!(bed.log_level(first, "trace")?.status, 200);
    assert_eq!(bed.admin(first, "/log-level")?.text, "trace\n");
    bed.make("a")?;
    ensure!(bed.logs().contains("\"level\":\"TRACE\""), "{}", bed.logs());
    bed.log_level(first, "info")?;

    // Killed: another takes over when its session is over, and the agent finds it by itself.
    bed.end(first, Signal::SIGKILL)?;
    let again = bed.make("a")?;
    assert_eq!(again.ports[0].addresses[0].address, address);
    let second = bed.leader()?;
    ensure!(second != first);
    ensure!(bed.terms(second).first() > bed.terms(first).last());

    // Stopped in order: nobody has to wait for its session.
    bed.run(first)?;
    ensure!(bed.leader()? == second);
    bed.end(second, Signal::SIGTERM)?;
    bed.make("c")?;
    let third = bed.leader()?;
    ensure!(third != second);
    bed.remove("a")?;
    bed.remove("c")?;
    bed.check_one_writer()
}

#[test]
fn nothing_is_written_without_zookeeper() -> Result<()> {
    let mut bed = Bed::start(1)?;
    assert_eq!(bed.leader()?, 0);
    bed.make("a")?;
    let terms = bed.terms(0);

    // ZooKeeper stops answering, its connections open. The lease ends well before the session.
    bed.zookeeper.pause()?;
    bed.until_ready_says(0, 503, "ZooKeeper")?;
    let before = bed.changes();
    let refused = bed.put_at(0, "b")?;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(bed.changes(), before);
    bed.zookeeper.resume()?;
    bed.make("b")?;

    // It is away for so long that the session is over.
    bed.zookeeper.pause()?;
    bed.until_ready_says(0, 503, "ZooKeeper")?;
    sleep(SESSION * 2);
    bed.zookeeper.resume()?;
    bed.make("c")?;
    ensure!(bed.terms(0).last() > terms.last(), "{}", bed.logs());

    // It dies, and comes back with what it knew.
    bed.zookeeper.kill()?;
    bed.until_ready_says(0, 503, "ZooKeeper")?;
    assert_eq!(bed.put_at(0, "d")?.status, 503);
    bed.zookeeper.run()?;
    bed.make("d")?;
    for name in ["a", "b", "c", "d"] {
        bed.remove(name)?;
    }
    bed.check_one_writer()
}

#[test]
fn a_leader_that_slept_writes_nothing_when_it_wakes() -> Result<()> {
    let bed = Bed::start(2)?;
    let first = bed.leader()?;
    bed.make("a")?;
    // In the middle of a container: every call takes so long that the leader sleeps within one.
    bed.api.set_delay(Duration::from_millis(300));
    let began = bed.changes();
    std::thread::scope(|scope| -> Result<()> {
        let making = scope.spawn(|| bed.make("b"));
        let started = Instant::now();
        while bed.changes() == began {
            ensure!(started.elapsed() < PATIENCE, "{}", bed.logs());
            sleep(Duration::from_millis(5));
        }
        bed.signal(first, Signal::SIGSTOP)?;
        bed.until_ready_says(1 - first, 200, "leading")?;
        bed.signal(first, Signal::SIGCONT)?;
        // The agent waits for the one that slept, which refuses, and asks the other.
        match making.join() {
            Ok(made) => made.map(drop),
            Err(_) => anyhow::bail!("the agent panicked"),
        }
    })?;
    bed.api.set_delay(Duration::ZERO);
    bed.until_ready_says(first, 200, "following")?;
    bed.remove("a")?;
    bed.remove("b")?;
    bed.check_one_writer()
}

#[test]
fn nodes_that_an_operator_removes_cost_an_election_and_no_more() -> Result<()> {
    let bed = Bed::start(2)?;
    let first = bed.leader()?;
    bed.make("a")?;
    let zookeeper = bed.zookeeper.address().to_string();
    let client = Client::connector().with_auth("digest", bed::DIGEST.as_bytes());
    let client = bed.host().block_on(client.connect(&zookeeper))?;
    let candidates = "/contrail/managers/candidates";
    let remove_first = async {
        let mut nodes = client.list_children(candidates).await?;
        nodes.sort();
        let node = format!("{candidates}/{}", nodes[0]);
        client.delete(&node, None).await
    };
    bed.host().block_on(remove_first)?;
    bed.until_ready_says(1 - first, 200, "leading")?;
    ensure!(bed.leader()? == 1 - first);
    bed.make("b")?;
    bed.check_one_writer()?;
    // Whoever leads next, terms begin anew.
    bed.host()
        .block_on(client.delete("/contrail/managers/term", None))?;
    bed.until_ready_says(1 - first, 503, "")?;
    bed.leader()?;
    bed.remove("a")?;
    bed.remove("b")
}

#[test]
fn who_is_not_let_in_says_so() -> Result<()> {
    let mut bed = Bed::start(2)?;
    let first = bed.leader()?;
    let other = 1 - first;
    bed.end(other, Signal::SIGTERM)?;
    std::fs::write(bed.host().directory().join("password"), "a-wrong-one")?;
    bed.run(other)?;
    let started = Instant::now();
    while bed.admin(other, "/ready").map_or(0, |answer| answer.status) != 503 {
        ensure!(started.elapsed() < PATIENCE, "{}", bed.logs());
        sleep(Duration::from_millis(50));
    }
    bed.until_ready_says(other, 503, "password_file in [zookeeper]")?;
    ensure!(!bed.logs().contains("a-wrong-one"));
    assert_eq!(bed.put_at(other, "a")?.status, 503);
    assert_eq!(bed.put_at(first, "a")?.status, 200);
    bed.remove("a")?;
    bed.check_one_writer()
}

#[test]
fn the_leading_master_is_found() -> Result<()> {
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
    // Nobody is there.
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

    // The leader is gone: the next one is asked, and is not there.
    host.block_on(keeper.delete(&node(7, ip, port).0, None))?;
    let error = host.block_on(found.state()).unwrap_err();
    assert_eq!(error.server, format!("http://{ip}:1"), "{error}");
    drop((keeper, zookeeper));
    cluster.stop()
}
