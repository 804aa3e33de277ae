//! Chaos tests of overlay networks: managers, ZooKeeper, node daemons, agents, links and the state of
//! the kernel fail at random moments while tasks start and end, and probes in groups send to each other.
//! After each round everything must be as before, and all containers must reach each other; probes reach
//! those with a common group, and no others.
//!
//! ```text
//! plan        the faults and changes of a round, derived from its seed
//! faults      begins and ends each fault
//! tasks       starts and ends tasks, and repeats what a fault has prevented
//! probes      containers in groups, and what they have received
//! state       what managers, ZooKeeper, node daemons, files and the kernel have
//! comparison  compares all of them
//! ```
//!
//! Invariants:
//! - Nothing is allocated a second time: whatever fails, each node keeps its address, tunnel endpoint and
//!   subnets.
//! - One TCP connection between two hosts lives through all rounds.
//! - At no moment does a probe receive from one with which it shares no group.
//! - Only the recovery timeout depends on time.

mod comparison;
mod faults;
mod plan;
mod probes;
mod state;
mod tasks;

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::Chaos;
use super::round::RECOVERY_TIMEOUT;
use crate::testbed::overlay::{OverlayCluster, Transfer};
use faults::Active;
use plan::{Plan, Step};
use probes::Probes;
use state::{Allocations, DataPath};
use tasks::Tasks;

pub use plan::{Fault, Harm, Removal, Victim};

/// The number of hosts with an agent and a node daemon.
pub(super) const NODES: u8 = 3;
/// How long the state must hold after recovery: longer than a report and a reconnection take.
const STABLE_FOR: Duration = Duration::from_millis(1500);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A cluster to which faults happen.
struct Testbed {
    cluster: OverlayCluster,
    /// The connection that must live through everything.
    transfer: Transfer,
    tasks: Tasks,
    probes: Probes,
    /// What every node was given in the beginning.
    allocations: Allocations,
    /// What each node's kernel had in the beginning.
    data_paths: Vec<DataPath>,
    /// The managers that a fault affects at present.
    faulty_managers: Vec<bool>,
    /// The events of the round, with their times.
    journal: Vec<String>,
    began: Instant,
}

/// Runs the rounds on one testbed; prints a line for each.
pub fn run(chaos: &Chaos) -> Result<()> {
    println!(
        "overlay: {chaos:?} (CONTRAIL_TEST_SEED={} repeats it)",
        chaos.seed
    );
    let mut testbed = Testbed::start()?;
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
        let number = number + 1;
        match testbed.round(&plan) {
            Ok(recovered_in) => println!(
                "round {number:3} seed {seed} {}: recovered after {:.1} s, {} containers",
                plan.title(),
                recovered_in.as_secs_f64(),
                testbed.tasks.running().count()
            ),
            Err(error) => {
                let directory = testbed.save_logs(&format!("{seed}-{number}"));
                return Err(error.context(format!(
                    "round {number}, seed {seed}, {}:\n{}\nlogs are in {directory:?}",
                    plan.title(),
                    testbed.journal.join("\n")
                )));
            }
        }
    }
    testbed.end()
}

impl Testbed {
    fn start() -> Result<Self> {
        let cluster = OverlayCluster::start_with(NODES, &probes::overlays())?;
        let probes = Probes::start(&cluster)?;
        let transfer = Transfer::start(&cluster, "vxlan-1", [0, 1])?;
        let list = cluster.wait_until_current()?;
        let allocations = Allocations::of_nodes(&list)?;
        let data_paths = (0..usize::from(NODES))
            .map(|node| DataPath::read(cluster.host(node)))
            .collect::<Result<_>>()?;
        let mut testbed = Self {
            faulty_managers: vec![false; cluster.managers.managers().len()],
            cluster,
            transfer,
            tasks: Tasks::default(),
            probes,
            allocations,
            data_paths,
            journal: vec![],
            began: Instant::now(),
        };
        for slot in 0..usize::from(NODES) {
            testbed.tasks.set(&testbed.cluster, slot, true)?;
        }
        testbed.recover()?;
        Ok(testbed)
    }

    fn note(&mut self, what: &str) {
        let at = self.began.elapsed();
        let clock = jiff::Timestamp::now();
        self.journal
            .push(format!("{:6.2} s ({clock:.3}) {what}", at.as_secs_f64()));
    }

    /// Executes a plan, ends all faults, and waits for recovery. Returns how long that took.
    fn round(&mut self, plan: &Plan) -> Result<Duration> {
        self.journal.clear();
        self.began = Instant::now();
        self.probes.begin_round()?;
        let mut active: Vec<Option<Active>> = vec![None; plan.faults.len()];
        for (at, step) in &plan.steps {
            sleep(at.saturating_sub(self.began.elapsed()));
            self.note(&plan.step(*step));
            match *step {
                Step::Begin(index) => {
                    active[index] = self.begin(plan.faults[index])?;
                    if active[index].is_none() {
                        self.note("not possible now");
                    }
                }
                Step::End(index) => {
                    if let Some(active) = active[index].take() {
                        self.heal(active)?;
                        self.note("ended");
                    }
                }
                Step::Task { slot, runs } => self.tasks.set(&self.cluster, slot, runs)?,
                Step::Groups(groups) => self.probes.change(groups)?,
            }
            self.probes.check()?;
        }
        self.note("all faults have ended");
        let recovered_in = self.recover()?;
        self.probes.check()?;
        Ok(recovered_in)
    }

    /// Waits until everything is as it must be, and stays so.
    fn recover(&mut self) -> Result<Duration> {
        let healed = Instant::now();
        let mut recovered: Option<Instant> = None;
        loop {
            self.expect_processes()?;
            let mut differences = self.tasks.reconcile(&self.cluster)?;
            if differences.is_empty() {
                differences = self.compare();
            }
            match recovered {
                None if differences.is_empty() => {
                    self.note("recovered");
                    self.transfer.wait_for_progress()?;
                    recovered = Some(Instant::now());
                }
                None => ensure!(
                    healed.elapsed() < RECOVERY_TIMEOUT,
                    "not recovered after {RECOVERY_TIMEOUT:?}:\n{}",
                    differences.join("\n")
                ),
                Some(_) if !differences.is_empty() => {
                    self.note(&format!("differs again: {}", differences.join("; ")));
                    recovered = None;
                }
                Some(since) if since.elapsed() >= STABLE_FOR => {
                    return Ok(since.duration_since(healed));
                }
                Some(_) => {}
            }
            sleep(POLL_INTERVAL);
        }
    }

    /// Fails if a manager or a node daemon has ended by itself.
    fn expect_processes(&mut self) -> Result<()> {
        for index in 0..self.faulty_managers.len() {
            let manager = self.cluster.managers.manager_mut(index);
            if let Some(status) = manager.exit_status() {
                bail!("{} ended unexpectedly: {status}", manager.name());
            }
        }
        for daemon in &mut self.cluster.daemons {
            if let Some(status) = daemon.exit_status() {
                let host = daemon.host().name();
                bail!("the node daemon of {host} ended unexpectedly: {status}");
            }
        }
        Ok(())
    }

    /// Copies all logs to a directory that outlives the testbed, and returns it.
    fn save_logs(&self, name: &str) -> Result<PathBuf> {
        let directory = std::env::temp_dir().join(format!("contrail-chaos-overlay-{name}"));
        fs::create_dir_all(&directory)?;
        let cluster = &self.cluster;
        for manager in cluster.managers.managers() {
            let copy = directory.join(format!("{}.log", manager.name()));
            fs::copy(manager.log_path(), copy)?;
        }
        for (index, daemon) in cluster.daemons.iter().enumerate() {
            let copy = directory.join(format!("daemon-{}.log", index + 1));
            fs::copy(daemon.log_path(), copy)?;
            let log = cluster.node(index).cluster.log()?;
            fs::write(directory.join(format!("agent-{}.log", index + 1)), log)?;
        }
        let log = cluster.mesos.master().log()?;
        fs::write(directory.join("master.log"), log)?;
        Ok(directory)
    }

    /// Ends all tasks and then everything else. Nothing may be left.
    fn end(mut self) -> Result<()> {
        self.began = Instant::now();
        for slot in 0..tasks::SLOTS.len() {
            self.tasks.set(&self.cluster, slot, false)?;
        }
        self.recover()?;
        let numbers = self.transfer.finish(&self.cluster)?;
        println!("{numbers} numbers went both ways by one connection");
        self.cluster.end()
    }
}
