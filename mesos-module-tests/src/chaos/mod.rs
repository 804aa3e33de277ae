//! Chaos tests: every part of a cluster is killed, paused or disconnected at random moments while
//! apps change. After each round the cluster must reach the desired state again.
//!
//! ```text
//! plan        the faults and changes of a round, derived from its seed
//! testbed     the hosts and services: ZooKeeper, API server, Marathon, Mesos, vRouter agent, managers
//! faults      begins and ends each fault; cut drops packets
//! apps        definitions for Marathon, and what Contrail must have for them
//! round       executes a plan, and waits for recovery
//! comparison  compares Marathon, Mesos, the node and the API server
//! writers     checks that there is one writer per term
//! ```
//!
//! Invariants:
//! - The state is compared as a whole: surplus objects fail a round as missing ones do.
//! - Only the recovery timeout depends on time.

mod apps;
mod comparison;
mod cut;
mod faults;
mod manager;
mod node;
pub mod overlay;
mod plan;
mod round;
mod services;
mod testbed;
mod writers;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;

use crate::testbed::leftovers;
use apps::{APPS, App, DesiredApp, DesiredApps};
use plan::Plan;
use round::Round;
use testbed::Testbed;
use writers::Writers;

pub use plan::{ApiHarm, Fault, Harm, MarathonHarm, Role, Side, VrouterHarm};

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// Whether rounds that cover every fault, several at once, come first.
    pub covering: bool,
    /// Random rounds.
    pub rounds: u64,
    /// Seed of the first random round; each next round adds one.
    pub seed: u64,
}

/// Runs the rounds on one testbed; prints a line for each.
pub fn run(chaos: &Chaos) -> Result<()> {
    println!("{chaos:?} (CONTRAIL_TEST_SEED={} repeats it)", chaos.seed);
    let mut testbed = Testbed::start()?;
    let names: Vec<String> = testbed.hosts().map(|host| host.name().to_owned()).collect();
    let mut desired: DesiredApps = APPS.map(|app| (app, DesiredApp::initial())).into();
    let mut writers = Writers::default();
    create_apps(&mut testbed, &mut desired)?;
    let covering = chaos
        .covering
        .then(|| Plan::covering(chaos.seed))
        .into_iter()
        .flatten()
        .map(|plan| (chaos.seed, plan));
    let random = (0..chaos.rounds).map(|round| {
        let seed = chaos.seed.wrapping_add(round);
        (seed, Plan::random(seed))
    });
    for (number, (seed, plan)) in covering.chain(random).enumerate() {
        run_round(
            &mut testbed,
            &mut desired,
            &mut writers,
            (number + 1, seed),
            &plan,
        )?;
    }
    for desired in desired.values_mut() {
        desired.instances = 0;
    }
    Round::new(&mut testbed, &mut desired).reconcile_all()?;
    writers.check(&testbed)?;
    println!("{} writes, each in the writer's term", writers.writes);
    testbed.stop()?;
    for name in names {
        let traces = leftovers::traces_of(&name)?;
        ensure!(traces.is_empty(), "leftovers on the machine: {traces:?}");
    }
    Ok(())
}

/// Creates the apps, and waits until they run.
fn create_apps(testbed: &mut Testbed, desired: &mut DesiredApps) -> Result<()> {
    for (app, desired) in &*desired {
        let kind = if *app == App::Pod { "pods" } else { "apps" };
        let body = desired.definition(*app);
        let (status, body) = testbed.request(&Method::POST, &format!("/v2/{kind}"), Some(&body))?;
        ensure!(status == 201, "{status} {body}");
    }
    let mut round = Round::new(testbed, desired);
    let ended = round.settle();
    let journal = round.journal.join("\n");
    ended.map(drop).map_err(|error| {
        let directory = save_logs(testbed, "begin");
        error.context(format!(
            "before the first round:\n{journal}\nlogs are in {directory:?}"
        ))
    })
}

fn run_round(
    testbed: &mut Testbed,
    desired: &mut DesiredApps,
    writers: &mut Writers,
    (number, seed): (usize, u64),
    plan: &Plan,
) -> Result<()> {
    let before = writers.writes;
    let mut round = Round::new(testbed, desired);
    let run = round.run(plan);
    let journal = round.journal.join("\n");
    let checked = run.and_then(|ended| {
        writers.check(testbed)?;
        Ok(ended)
    });
    match checked {
        Ok(ended) => {
            println!(
                "round {number:3} seed {seed} {}: recovered after {:.1} s, {} containers, {} objects, \
                 {} writes",
                plan.title(),
                ended.recovered_in.as_secs_f64(),
                ended.comparison.containers,
                ended.comparison.objects,
                writers.writes - before
            );
            Ok(())
        }
        Err(error) => {
            let directory = save_logs(testbed, &format!("{seed}-{number}"));
            let tails: Vec<String> = testbed
                .managers
                .iter()
                .map(|manager| {
                    format!(
                        "log of manager {}:\n{}",
                        manager.process.name(),
                        manager.process.tail(30)
                    )
                })
                .collect();
            Err(error.context(format!(
                "round {number}, seed {seed}, {}:\n{journal}\n{}\nlogs are in {directory:?}",
                plan.title(),
                tails.join("\n")
            )))
        }
    }
}

/// Copies all logs to a directory that outlives the testbed, and returns it.
fn save_logs(testbed: &Testbed, name: &str) -> Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("contrail-chaos-{name}"));
    fs::create_dir_all(&directory)?;
    for manager in &testbed.managers {
        fs::copy(
            manager.process.log_path(),
            directory.join(format!("{}.log", manager.process.name())),
        )?;
    }
    fs::write(directory.join("mesos.log"), testbed.cluster.log()?)?;
    fs::write(directory.join("api.log"), json_lines(&testbed.api.log())?)?;
    fs::write(
        directory.join("vrouter.log"),
        json_lines(&testbed.vrouter.handle.log())?,
    )?;
    fs::copy(
        testbed.services.directory().join("zookeeper-2181/log"),
        directory.join("zookeeper.log"),
    )
    .context("ZooKeeper's log")?;
    Ok(directory)
}

fn json_lines(entries: &[impl serde::Serialize]) -> Result<String> {
    let lines: Result<Vec<String>, _> = entries.iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}
