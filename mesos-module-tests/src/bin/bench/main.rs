//! `make bench`: one table, measured in one run. `ours` is contrail-mesos, `peer` is network/cni or
//! the CNI plugins, and `floor` is a baseline: the bare kernel and server requests for the same task.

mod agent;
mod cni_plugins;
mod contrail;
mod contrail_mesos;
mod dns;
mod manager;
mod netlink_baseline;
mod overlay;
mod report;
mod round_robin;
mod services;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tikv_jemallocator::Jemalloc;

use report::{Report, Row};
use subject::{Figures, Plan, measure_all};

/// The allocator of contrail-mesos-manager, which runs in a process of this program.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Measure contrail-mesos, network/cni with the CNI plugins, and a baseline of bare requests
#[derive(Parser)]
struct Arguments {
    /// Numbers of attached containers at which attach and detach are measured
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 500, 1000])]
    present: Vec<usize>,
    /// Attaches and detaches to measure at each number
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Numbers of running tasks at which launches on the real agent are measured
    #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 100, 200, 500])]
    tasks: Vec<usize>,
    /// The parts to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Attach, Part::Contrail, Part::Manager, Part::Overlay, Part::Services, Part::Dns, Part::Agent])]
    parts: Vec<Part>,
    /// The file for the table as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// The number of containers at which the agent's memory is measured
    #[arg(long, default_value_t = 1000)]
    memory_at: usize,
    /// How long network/cni may take to launch those tasks, in seconds
    #[arg(long, default_value_t = 240)]
    peer_timeout: u64,
    /// Numbers of tasks that the manager follows
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000, 100_000])]
    followed: Vec<usize>,
    /// How often the manager is started at each number; the smallest figure counts
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Task changes to send, to measure the manager's event rate
    #[arg(long, default_value_t = 100_000)]
    changes: usize,
    /// Tasks to launch, to measure the time from event to write; at most 300
    #[arg(long, default_value_t = 300)]
    launches: usize,
    /// How long the idle manager is measured, in seconds
    #[arg(long, default_value_t = 15)]
    idle: u64,
    /// Rounds of traffic on an overlay
    #[arg(long, default_value_t = 21)]
    traffic_rounds: usize,
    /// How long each measurement of traffic takes, in milliseconds
    #[arg(long, default_value_t = 500)]
    traffic_ms: u64,
    /// Numbers of nodes that watch a manager
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    watching: Vec<usize>,
    /// Numbers of remote nodes of a node daemon
    #[arg(long, value_delimiter = ',', default_values_t = [500, 5000])]
    remote: Vec<u16>,
    /// Numbers of members of a group
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000])]
    members: Vec<usize>,
    /// Numbers of services of a node
    #[arg(long, value_delimiter = ',', default_values_t = [10, 10_000])]
    services: Vec<u32>,
    #[command(subcommand)]
    process: Option<manager::Process>,
}

/// A part of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Attach and detach of networks on bridges, without the real agent
    Attach,
    /// Containers of Contrail, without the real agent
    Contrail,
    /// The manager, with tasks by the hundred thousand
    Manager,
    /// Overlay networks: traffic, managers with a thousand nodes, node daemons
    Overlay,
    /// Services: load, changes and connections
    Services,
    /// The DNS server of the node daemon, and dnsmasq
    Dns,
    /// Launches on the real agent, and its memory
    Agent,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(process) = &arguments.process {
        return process.run();
    }
    // Every bridge and rule lives in namespaces that end with this process.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make namespaces; run as root")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let mut report = Report::default();
    Report::header();
    let is_wanted = |part| arguments.parts.contains(&part);
    if is_wanted(Part::Attach) {
        attach_and_detach(arguments, &mut report)?;
    }
    if is_wanted(Part::Contrail) {
        contrail::measure(arguments.rounds, &mut report)?;
    }
    if is_wanted(Part::Manager) {
        let plan = manager::Plan {
            tasks: arguments.followed.clone(),
            rounds: arguments.starts,
            changes: arguments.changes,
            launches: arguments.launches,
            idle: arguments.idle,
        };
        manager::measure(&plan, &mut report)?;
    }
    // An error must not lose the rows that were measured before it.
    let mut result = Ok(());
    if is_wanted(Part::Overlay) {
        let plan = overlay::Plan {
            rounds: arguments.traffic_rounds,
            length: Duration::from_millis(arguments.traffic_ms),
            containers: arguments.rounds,
            watching: arguments.watching.clone(),
            registrations: 20,
            remote: arguments.remote.clone(),
            services: arguments.services.iter().copied().max().unwrap_or_default(),
            members: arguments.members.clone(),
            idle: Duration::from_secs(arguments.idle),
        };
        result = overlay::measure(&plan, &mut report);
    }
    if is_wanted(Part::Services) {
        let plan = services::Plan {
            services: arguments.services.clone(),
            changes: 200,
            rounds: arguments.traffic_rounds,
            length: Duration::from_millis(arguments.traffic_ms),
        };
        result = result.and(services::measure(&plan, &mut report));
    }
    if is_wanted(Part::Dns) {
        let plan = dns::Plan {
            rounds: arguments.traffic_rounds,
            length: Duration::from_millis(arguments.traffic_ms),
        };
        result = result.and(dns::measure(&plan, &mut report));
    }
    if is_wanted(Part::Agent) {
        result = result.and(agent::measure(
            &arguments.tasks,
            arguments.memory_at,
            Duration::from_secs(arguments.peer_timeout),
            &mut report,
        ));
    }
    report.write(&arguments.json)?;
    println!("\nwritten to {}", arguments.json.display());
    for row in report.missed() {
        println!("missed: {}", row.name);
    }
    result
}

fn attach_and_detach(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let plan = Plan {
        present: arguments.present.clone(),
        port_at: arguments.present.clone(),
        rounds: arguments.rounds,
    };
    let [ours, peer, floor] = measure_all(&plan)?;
    for (level, present) in arguments.present.iter().enumerate() {
        let at = |figures: &Figures| figures.levels.get(level).cloned().unwrap_or_default();
        let (ours, peer, floor) = (at(&ours), at(&peer), at(&floor));
        let name = |what: &str| format!("{what}, {present} present");
        let three = |what: &str, figure: &dyn Fn(&subject::Level) -> Option<f64>| {
            Row::new(name(what), "ms").figures(figure(&ours), figure(&peer), figure(&floor))
        };
        let attach = three("attach p50", &|level| level.attach.wall(0.5));
        let at_most = |limit: f64| move |row: &Row| Some(row.to_floor? <= limit);
        report.add(attach.goal("<= 1.25x floor", at_most(1.25)));
        report.add(
            three("attach p99", &|level| level.attach.wall(0.99))
                .goal("<= 1.5x floor", at_most(1.5)),
        );
        report.add(
            three("attach CPU p50", &|level| level.attach.cpu(0.5))
                .goal("<= 1.25x floor", at_most(1.25)),
        );
        report.add(three("detach p50", &|level| level.detach.wall(0.5)));
        report.add(three("detach p99", &|level| level.detach.wall(0.99)));
        report.add(three("detach CPU p50", &|level| level.detach.cpu(0.5)));
        if ours.attach_port.wall(0.5).is_some() {
            let attach = three("attach with a port p50", &|level| {
                level.attach_port.wall(0.5)
            });
            report.add(attach.goal("<= 1.4x floor", at_most(1.4)));
            report.add(three("detach with a port p50", &|level| {
                level.detach_port.wall(0.5)
            }));
        }
    }
    let growth = |figures: &Figures| {
        let first = figures.levels.first()?.attach.wall(0.5)?;
        let last = figures.levels.last()?.attach.wall(0.5)?;
        Some(last / first)
    };
    report.add(
        Row::new("attach p50, growth from fewest to most present", "x")
            .figures(growth(&ours), growth(&peer), growth(&floor))
            .goal("no steeper than the floor's", |row| {
                // The floor itself varies by a tenth between runs.
                Some(row.ours? <= row.floor? * 1.1)
            }),
    );
    report.add(
        Row::new("500 detaches at once", "s")
            .figures(ours.burst, peer.burst, floor.burst)
            .goal("< 2 s", |row| Some(row.ours? < 2.0)),
    );
    Ok(())
}
