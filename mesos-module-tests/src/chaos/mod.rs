//! Chaos: everything that can be killed, paused or cut off is, at random moments, while apps scale
//! and change; and each time all is as it is to be again.
//!
//! ```text
//! plan     what is to happen in a round, by its seed
//! bed      all there is: hosts, ZooKeeper, API server, Marathon, Mesos, vRouter agent, managers
//! faults   how each fault begins and ends; cut drops packets
//! apps     what Marathon is told, and what Contrail is to hold for it
//! round    does a plan, and waits
//! truth    compares Marathon, Mesos, the node (node) and the API server
//! writers  who wrote when, by the API server's log
//! ```
//!
//! Invariants:
//! - The truth is compared as a whole: what is too many is as wrong as what is missing.
//! - Nothing but the bound is a matter of time.

mod apps;
mod bed;
mod cut;
mod faults;
mod member;
mod node;
mod plan;
mod round;
mod services;
mod truth;
mod writers;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;

use crate::leftovers;
use apps::{APPS, AllWanted, App, Wanted};
use bed::Bed;
use plan::Plan;
use round::Round;
use writers::Writers;

pub use plan::{ApiHarm, Fault, Harm, MarathonHarm, Role, Side, VrouterHarm};

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// Before all others: rounds that have every fault there is, several at once.
    pub covering: bool,
    /// Random rounds.
    pub rounds: u64,
    /// The first random round's; the next ones follow.
    pub seed: u64,
}

/// Runs the rounds on one bed; prints a line for each.
pub fn run(chaos: &Chaos) -> Result<()> {
    println!("{chaos:?} (CONTRAIL_TEST_SEED={} repeats it)", chaos.seed);
    let mut bed = Bed::start()?;
    let names: Vec<String> = bed.hosts().map(|host| host.name().to_owned()).collect();
    let mut wanted: AllWanted = APPS.map(|app| (app, Wanted::first())).into();
    let mut writers = Writers::default();
    begin(&mut bed, &mut wanted)?;
    let covering = if chaos.covering {
        Plan::covering(chaos.seed)
    } else {
        vec![]
    };
    let covering = covering.into_iter().map(|plan| (chaos.seed, plan));
    let random = (0..chaos.rounds).map(|round| {
        let seed = chaos.seed.wrapping_add(round);
        (seed, Plan::random(seed))
    });
    for (number, (seed, plan)) in covering.chain(random).enumerate() {
        one(
            &mut bed,
            &mut wanted,
            &mut writers,
            (number + 1, seed),
            &plan,
        )?;
    }
    for wanted in wanted.values_mut() {
        wanted.instances = 0;
    }
    Round::new(&mut bed, &mut wanted).everything()?;
    writers.check(&bed)?;
    println!("{} writes, each in its writer's term", writers.writes);
    bed.end()?;
    for name in names {
        let traces = leftovers::traces_of(&name)?;
        ensure!(traces.is_empty(), "left on the machine: {traces:?}");
    }
    Ok(())
}

/// Makes the apps, and waits until they run.
fn begin(bed: &mut Bed, wanted: &mut AllWanted) -> Result<()> {
    for (app, wanted) in &*wanted {
        let kind = if *app == App::Pod { "pods" } else { "apps" };
        let body = wanted.definition(*app);
        let (status, answer) = bed.ask(&Method::POST, &format!("/v2/{kind}"), Some(&body))?;
        ensure!(status == 201, "{status} {answer}");
    }
    let mut round = Round::new(bed, wanted);
    let ended = round.settle();
    let journal = round.journal.join("\n");
    ended.map(drop).map_err(|error| {
        let kept = keep(bed, "begin");
        error.context(format!(
            "before the first round:\n{journal}\nlogs are in {kept:?}"
        ))
    })
}

fn one(
    bed: &mut Bed,
    wanted: &mut AllWanted,
    writers: &mut Writers,
    (number, seed): (usize, u64),
    plan: &Plan,
) -> Result<()> {
    let before = writers.writes;
    let mut round = Round::new(bed, wanted);
    let ended = round.run(plan);
    let journal = round.journal.join("\n");
    let ended = ended.and_then(|ended| {
        writers.check(bed)?;
        Ok(ended)
    });
    match ended {
        Ok(ended) => {
            println!(
                "round {number:3} seed {seed} {}: well after {:.1} s, {} containers, {} objects, \
                 {} writes",
                plan.title(),
                ended.healed_in.as_secs_f64(),
                ended.look.containers,
                ended.look.objects,
                writers.writes - before
            );
            Ok(())
        }
        Err(error) => {
            let kept = keep(bed, &format!("{seed}-{number}"));
            let tails = bed.members.iter().map(|member| {
                format!(
                    "the manager {} said:\n{}",
                    member.manager.name(),
                    member.manager.tail(30)
                )
            });
            let tails: Vec<String> = tails.collect();
            Err(error.context(format!(
                "round {number}, seed {seed}, {}:\n{journal}\n{}\nlogs are in {kept:?}",
                plan.title(),
                tails.join("\n")
            )))
        }
    }
}

/// Copies the logs of everything to where the bed's end does not remove them; says where.
fn keep(bed: &Bed, name: &str) -> Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("contrail-chaos-{name}"));
    fs::create_dir_all(&directory)?;
    for member in &bed.members {
        fs::copy(
            member.manager.log(),
            directory.join(format!("{}.log", member.manager.name())),
        )?;
    }
    fs::write(directory.join("mesos.log"), bed.cluster.log()?)?;
    fs::write(directory.join("api.log"), json_lines(&bed.api.log())?)?;
    fs::write(
        directory.join("vrouter.log"),
        json_lines(&bed.vrouter.handle.log())?,
    )?;
    fs::copy(
        bed.services.directory().join("zookeeper-2181/log"),
        directory.join("zookeeper.log"),
    )
    .context("ZooKeeper's log")?;
    Ok(directory)
}

fn json_lines(entries: &[impl serde::Serialize]) -> Result<String> {
    let lines: Result<Vec<String>, _> = entries.iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}
