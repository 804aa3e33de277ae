//! The manager with up to hundreds of thousands of simulated tasks.
//!
//! Simulators and manager are separate processes of this program, so that memory and CPU of the
//! simulators are not counted as the manager's. The floor is measured with bare clients, which send
//! the same requests to the same simulators and keep nothing. Every measurement is repeated in new
//! processes, and the smallest result counts, because other programs use the machine as well.

mod cluster;
mod marathon;
mod measurement;
mod simulators;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use nix::sched::{CloneFlags, unshare};

pub(crate) use measurement::Role;
use measurement::{Amount, Measurements};
use simulators::{Addresses, Control, Order};

use crate::report::{Report, Row, Samples};

/// The manager's default resync interval, in seconds.
const RESYNC: f64 = 600.0;

/// The processes that the bench starts.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Process {
    /// Simulates a cluster
    #[command(hide = true)]
    Simulators {
        /// Number of tasks
        tasks: usize,
    },
    /// Measures a client of the simulators
    #[command(hide = true)]
    Measure {
        /// Subject of the measurement
        role: Role,
        /// Addresses of the simulators, as JSON
        addresses: String,
        /// Number of task changes
        changes: usize,
        /// Number of task launches
        launches: usize,
        /// Length of the idle phase, in seconds
        idle: u64,
    },
}

impl Process {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Simulators { tasks } => simulators::run(*tasks),
            Self::Measure {
                role,
                addresses,
                changes,
                launches,
                idle,
            } => {
                let amount = Amount {
                    changes: *changes,
                    launches: *launches,
                    idle: Duration::from_secs(*idle),
                };
                measurement::run(*role, &serde_json::from_str(addresses)?, amount)
            }
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The numbers of tasks to measure with.
    pub(crate) tasks: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) changes: usize,
    pub(crate) launches: usize,
    pub(crate) idle: u64,
}

/// The results with one number of tasks.
struct Level {
    tasks: f64,
    ours: Measurements,
    floor: Measurements,
    /// A resync with one percent of the objects stale.
    stale: Measurements,
}

/// Measures, in a network namespace of its own.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])?;
            let mut levels = vec![];
            for tasks in &plan.tasks {
                let level = measure_at(*tasks, plan)?;
                rows(&level, report);
                levels.push(level);
            }
            growth(&levels, report);
            Ok(())
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn spawn_self(arguments: &[String]) -> Result<Child> {
    let program = std::env::current_exe()?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start another process of this program")
}

/// Reads the line that a process prints.
fn read_line(child: &mut Child) -> Result<String> {
    let stdout = child.stdout.take().context("no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(!line.is_empty(), "a process of the bench ended early");
    Ok(line)
}

/// The simulators' process. Killed on drop.
struct SimulatorProcess {
    child: Child,
    addresses: Addresses,
}

impl SimulatorProcess {
    fn start(tasks: usize) -> Result<Self> {
        let mut child = spawn_self(&["simulators".to_owned(), tasks.to_string()])?;
        let started = read_line(&mut child).and_then(|line| Ok(serde_json::from_str(&line)?));
        match started {
            Ok(addresses) => Ok(Self { child, addresses }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    fn order(&self, order: Order) -> Result<()> {
        Control::connect(&self.addresses)?.order(order).map(drop)
    }

    fn measure(&self, role: &str, plan: &Plan) -> Result<Measurements> {
        let mut child = spawn_self(&[
            "measure".to_owned(),
            role.to_owned(),
            serde_json::to_string(&self.addresses)?,
            plan.changes.to_string(),
            plan.launches.to_string(),
            plan.idle.to_string(),
        ])?;
        let results = read_line(&mut child);
        end(&mut child);
        Ok(serde_json::from_str(&results?)?)
    }
}

impl Drop for SimulatorProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // Both fail if the process has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn measure_at(tasks: usize, plan: &Plan) -> Result<Level> {
    let simulators = SimulatorProcess::start(tasks)?;
    let mut ours = simulators.measure("whole", plan)?;
    let mut floor = simulators.measure("bare-clients", plan)?;
    let keep_smallest = |best: &mut Measurements, other: &Measurements| {
        best.resync.wall = best.resync.wall.min(other.resync.wall);
        best.resync.cpu = best.resync.cpu.min(other.resync.cpu);
        best.remaining += other.remaining;
    };
    let short = Plan {
        changes: 0,
        launches: 0,
        ..plan.clone()
    };
    let mut stale: Option<Measurements> = None;
    for _ in 0..plan.rounds {
        simulators.order(Order::Spoil(tasks / 100))?;
        let other = simulators.measure("resync", plan)?;
        match &mut stale {
            Some(stale) => keep_smallest(stale, &other),
            None => stale = Some(other),
        }
        keep_smallest(&mut ours, &simulators.measure("resync", plan)?);
        keep_smallest(&mut floor, &simulators.measure("bare-clients", &short)?);
    }
    Ok(Level {
        tasks: as_f64(tasks),
        ours,
        floor,
        stale: stale.context("no rounds")?,
    })
}

#[allow(clippy::cast_precision_loss, reason = "counts of tasks")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn samples(lags: &[f64]) -> Samples {
    let mut samples = Samples::default();
    for lag in lags {
        samples.add(*lag, 0.0);
    }
    samples
}

fn rows(level: &Level, report: &mut Report) {
    let Level {
        tasks,
        ours,
        floor,
        stale,
    } = level;
    let row = |what: &str, unit| Row::new(format!("manager, {tasks} tasks: {what}"), unit);
    let entry = |what: &str, unit, ours: f64, floor: Option<f64>| {
        row(what, unit).figures(Some(ours), None, floor)
    };
    let at_most = |limit: f64| move |row: &Row| Some(row.ours? <= limit);
    report.add(
        entry(
            "full resync",
            "s",
            ours.resync.wall,
            Some(floor.resync.wall),
        )
        .goal("<= 15 s", at_most(15.0)),
    );
    report.add(entry(
        "full resync, CPU",
        "s",
        ours.resync.cpu,
        Some(floor.resync.cpu),
    ));
    report.add(
        entry("full resync, 1 % stale", "s", stale.resync.wall, None)
            .goal("<= 15 s", at_most(15.0)),
    );
    let kib = |bytes: f64| bytes / 1024.0 / tasks;
    let memory = entry("memory a task", "KiB", kib(ours.resident), None);
    // With fewer tasks, the memory of a manager without tasks is a large part of it.
    report.add(if *tasks >= 100_000.0 {
        memory.goal("<= 1 KiB", at_most(1.0))
    } else {
        memory
    });
    report.add(entry(
        "memory a task, peak in a resync",
        "KiB",
        kib(ours.peak),
        None,
    ));
    report.add(
        entry(
            "events",
            "1/s",
            1.0 / ours.change.wall,
            Some(1.0 / floor.change.wall),
        )
        .goal(">= 10000/s", |row| Some(row.ours? >= 10_000.0)),
    );
    report.add(
        entry(
            "CPU of an event",
            "us",
            ours.change.cpu * 1e6,
            Some(floor.change.cpu * 1e6),
        )
        .goal("<= 1.5x floor", |row| Some(row.to_floor? <= 1.5)),
    );
    report.add(
        entry("containers decided on for an event", "", ours.decided, None)
            .goal("<= 1", at_most(1.0)),
    );
    let (lags, busy) = (samples(&ours.lags), samples(&ours.busy_lags));
    let floor_lags = samples(&floor.lags);
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        let figures = |what: &str, ours: &Samples| {
            let what = format!("event to write {name}{what}");
            row(&what, "ms").figures(ours.wall(quantile), None, floor_lags.wall(quantile))
        };
        report.add(figures("", &lags));
        report.add(figures(", 1000 events/s beside", &busy));
    }
    report.add(entry("idle CPU", "%", ours.idle * 100.0, None).goal("< 1 %", at_most(1.0)));
    let with_resync = (ours.idle + ours.resync.cpu / RESYNC) * 100.0;
    report.add(
        entry(
            "idle CPU, with a resync every 10 min",
            "%",
            with_resync,
            None,
        )
        .goal("< 1 %", at_most(1.0)),
    );
    let redundant = as_f64(ours.remaining + stale.remaining) + ours.written;
    report.add(
        entry(
            "redundant writes and remaining changes",
            "",
            redundant,
            None,
        )
        .goal("0", at_most(0.0)),
    );
    report.add(entry("written where 1 % is stale", "", stale.written, None));
    #[allow(clippy::cast_precision_loss, reason = "a few")]
    report.add(entry("stores copied", "", ours.copied as f64, None).goal("0", at_most(0.0)));
}

/// A figure of a level, if it was measured.
type Figure = fn(&Level) -> Option<f64>;

/// Reports how each figure grows from the smallest to the largest number of tasks.
fn growth(levels: &[Level], report: &mut Report) {
    let (Some(few), Some(many)) = (levels.first(), levels.last()) else {
        return;
    };
    if levels.len() < 2 {
        return;
    }
    let tasks = many.tasks / few.tasks;
    let figures: [(&str, Figure); 7] = [
        ("full resync", |level| Some(level.ours.resync.wall)),
        ("full resync, CPU", |level| Some(level.ours.resync.cpu)),
        ("full resync, 1 % stale", |level| {
            Some(level.stale.resync.wall)
        }),
        ("memory", |level| Some(level.ours.resident)),
        ("CPU of an event", |level| Some(level.ours.change.cpu)),
        ("event to write p50", |level| {
            samples(&level.ours.lags).wall(0.5)
        }),
        ("event to write p99", |level| {
            samples(&level.ours.lags).wall(0.99)
        }),
    ];
    for (what, figure) in figures {
        let grown = figure(many).zip(figure(few)).map(|(many, few)| many / few);
        report.add(
            Row::new(format!("manager: growth of {what}, tasks {tasks}x"), "x")
                .figures(grown, None, None)
                .goal("no worse than linear", |row| Some(row.ours? <= tasks)),
        );
    }
}
