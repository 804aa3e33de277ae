//! The manager at scale: tasks by the hundred thousand, simulated.
//!
//! The simulators are one process, the manager another: both are this program. So the manager's
//! memory and CPU are its own. What is measured of it, and of bare clients that ask the same
//! simulators for the same and keep nothing, which is the floor, is measured in fresh processes,
//! and of several the least counts: the machine has other work.

mod cluster;
mod marathon;
mod measured;
mod simulators;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use nix::sched::{CloneFlags, unshare};

pub(crate) use measured::Role;
use measured::{Amount, Measured};
use simulators::{Addresses, Control, Order};

use crate::report::{Report, Row, Samples};

/// How often everything is listed again when nothing happens: the manager's default, in seconds.
const RESYNC: f64 = 600.0;

/// What one of the processes does.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Process {
    /// Simulates a cluster of that many tasks
    #[command(hide = true)]
    Simulators {
        /// How many
        tasks: usize,
    },
    /// Measures what asks these simulators
    #[command(hide = true)]
    Measured {
        /// What is measured
        role: Role,
        /// Where the simulators are
        addresses: String,
        /// How many tasks change
        changes: usize,
        /// How many tasks are launched
        launches: usize,
        /// How long nothing happens, in seconds
        idle: u64,
    },
}

impl Process {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Simulators { tasks } => simulators::run(*tasks),
            Self::Measured {
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
                measured::run(*role, &serde_json::from_str(addresses)?, amount)
            }
        }
    }
}

/// How to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Numbers of tasks.
    pub(crate) tasks: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) changes: usize,
    pub(crate) launches: usize,
    pub(crate) idle: u64,
}

/// What was measured of one number of tasks.
struct Level {
    tasks: f64,
    ours: Measured,
    floor: Measured,
    /// With one in a hundred stale.
    stale: Measured,
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

fn this(arguments: &[String]) -> Result<Child> {
    let program = std::env::current_exe()?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start another process of this program")
}

/// The line that a process prints.
fn line(child: &mut Child) -> Result<String> {
    let stdout = child.stdout.take().context("no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(!line.is_empty(), "a process of the bench ended early");
    Ok(line)
}

/// The simulators' process, ended when it is dropped.
struct Simulated {
    child: Child,
    addresses: Addresses,
}

impl Simulated {
    fn start(tasks: usize) -> Result<Self> {
        let mut child = this(&["simulators".to_owned(), tasks.to_string()])?;
        let started = line(&mut child).and_then(|line| Ok(serde_json::from_str(&line)?));
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

    fn measured(&self, role: &str, plan: &Plan) -> Result<Measured> {
        let mut child = this(&[
            "measured".to_owned(),
            role.to_owned(),
            serde_json::to_string(&self.addresses)?,
            plan.changes.to_string(),
            plan.launches.to_string(),
            plan.idle.to_string(),
        ])?;
        let measured = line(&mut child);
        end(&mut child);
        Ok(serde_json::from_str(&measured?)?)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // What has ended by itself needs no end.
    let _ = child.kill();
    let _ = child.wait();
}

fn measure_at(tasks: usize, plan: &Plan) -> Result<Level> {
    let simulated = Simulated::start(tasks)?;
    let mut ours = simulated.measured("whole", plan)?;
    let mut floor = simulated.measured("bare-clients", plan)?;
    let least = |best: &mut Measured, other: &Measured| {
        best.resync.wall = best.resync.wall.min(other.resync.wall);
        best.resync.cpu = best.resync.cpu.min(other.resync.cpu);
        best.left += other.left;
    };
    let short = Plan {
        changes: 0,
        launches: 0,
        ..plan.clone()
    };
    let mut stale: Option<Measured> = None;
    for _ in 0..plan.rounds {
        simulated.order(Order::Spoil(tasks / 100))?;
        let other = simulated.measured("resync", plan)?;
        match &mut stale {
            Some(stale) => least(stale, &other),
            None => stale = Some(other),
        }
        least(&mut ours, &simulated.measured("resync", plan)?);
        least(&mut floor, &simulated.measured("bare-clients", &short)?);
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
    let two = |what: &str, unit, ours: f64, floor: Option<f64>| {
        row(what, unit).figures(Some(ours), None, floor)
    };
    let most = |most: f64| move |row: &Row| Some(row.ours? <= most);
    report.add(
        two(
            "full resync",
            "s",
            ours.resync.wall,
            Some(floor.resync.wall),
        )
        .goal("<= 15 s", most(15.0)),
    );
    report.add(two(
        "full resync, CPU",
        "s",
        ours.resync.cpu,
        Some(floor.resync.cpu),
    ));
    report.add(
        two("full resync, 1 % stale", "s", stale.resync.wall, None).goal("<= 15 s", most(15.0)),
    );
    let kib = |bytes: f64| bytes / 1024.0 / tasks;
    let memory = two("memory a task", "KiB", kib(ours.resident), None);
    // What a manager without tasks has already is a good part of it where there are fewer.
    report.add(if *tasks >= 100_000.0 {
        memory.goal("<= 1 KiB", most(1.0))
    } else {
        memory
    });
    report.add(two(
        "memory a task, most in a resync",
        "KiB",
        kib(ours.peak),
        None,
    ));
    report.add(
        two(
            "events",
            "1/s",
            1.0 / ours.change.wall,
            Some(1.0 / floor.change.wall),
        )
        .goal(">= 10000/s", |row| Some(row.ours? >= 10_000.0)),
    );
    report.add(two(
        "CPU of an event",
        "us",
        ours.change.cpu * 1e6,
        Some(floor.change.cpu * 1e6),
    ));
    report.add(
        two("containers decided on for an event", "", ours.decided, None).goal("<= 1", most(1.0)),
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
    report.add(two("idle CPU", "%", ours.idle * 100.0, None).goal("< 1 %", most(1.0)));
    let with_resync = (ours.idle + ours.resync.cpu / RESYNC) * 100.0;
    report.add(
        two(
            "idle CPU, with a resync every 10 min",
            "%",
            with_resync,
            None,
        )
        .goal("< 1 %", most(1.0)),
    );
    let done = as_f64(ours.left + stale.left) + ours.written;
    report.add(two("written or left where nothing is to do", "", done, None).goal("0", most(0.0)));
    report.add(two("written where 1 % is stale", "", stale.written, None));
    #[allow(clippy::cast_precision_loss, reason = "a few")]
    report.add(two("stores copied", "", ours.copied as f64, None).goal("0", most(0.0)));
}

/// What is measured at a level.
type Figure = fn(&Level) -> Option<f64>;

/// How each grows from the fewest tasks to the most, against how the tasks do.
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
