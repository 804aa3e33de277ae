//! The measurements, each in a separate process: of the manager, and of the bare clients, which are
//! its floor. A process prints its results as one line of JSON.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::http::{Address, LeaderOptions};
use contrail_mesos_manager::marathon::{self, MarathonClient, MarathonOptions};
use contrail_mesos_manager::mesos_master::{
    self, FollowOptions, Follower, MasterClient, MasterOptions, Masters, Update,
};
use contrail_mesos_manager::vnc::{
    Detail, FloatingIp, InstanceIp, Object, PropertyUpdate, Query, ReadOptions, VirtualMachine,
    VirtualMachineInterface, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_manager::{Config, Follow, Manager, ReconcileStats};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::simulators::{Addresses, Control, Order};

const WAIT_TIMEOUT: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Changes that are sent at a time.
const BATCH: usize = 2000;
/// Changes that the manager may have queued before the next batch is sent.
const MAX_QUEUED_EVENTS: u64 = 20_000;

/// The subject of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The manager, from its start until everything is in sync
    Resync,
    /// The manager, with the idle phase, changes and launches
    Whole,
    /// The bare clients
    BareClients,
}

/// Seconds that something took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    /// CPU time of the process.
    pub(crate) cpu: f64,
}

/// The results of a process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measurements {
    /// From the start until everything is in sync.
    pub(crate) resync: Cost,
    /// Growth of the resident memory from the start to the idle phase, in bytes.
    pub(crate) resident: f64,
    /// Peak growth of the resident memory during the resync, in bytes.
    pub(crate) peak: f64,
    /// Share of a core that the idle phase uses.
    pub(crate) idle: f64,
    /// For each change of a task, until it is processed.
    pub(crate) change: Cost,
    /// Milliseconds from a task's launch to the write that it leads to.
    pub(crate) lags: Vec<f64>,
    /// The same, while other tasks change.
    pub(crate) busy_lags: Vec<f64>,
    /// Containers decided on for each change.
    pub(crate) decided: f64,
    /// Stores copied as a whole.
    pub(crate) copied: u64,
    /// Objects written from the start until everything is in sync.
    pub(crate) written: f64,
    /// Changes that are still to be written at the end.
    pub(crate) remaining: usize,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) changes: usize,
    pub(crate) launches: usize,
    pub(crate) idle: Duration,
}

/// Measures, and prints it.
pub(crate) fn run(role: Role, addresses: &Addresses, amount: Amount) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let results = runtime.block_on(async {
        match role {
            Role::Resync => resync(addresses).await,
            Role::Whole => whole(addresses, amount).await,
            Role::BareClients => floor(addresses, amount).await,
        }
    })?;
    println!("{}", serde_json::to_string(&results)?);
    Ok(())
}

/// The start of a measurement.
#[derive(Clone, Copy)]
struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

impl Stopwatch {
    fn now() -> Result<Self> {
        Ok(Self {
            wall: Instant::now(),
            cpu: cpu()?,
        })
    }

    fn cost(self) -> Result<Cost> {
        Ok(Cost {
            wall: self.wall.elapsed().as_secs_f64(),
            cpu: cpu()?.saturating_sub(self.cpu).as_secs_f64(),
        })
    }
}

/// A figure of this process from `/proc/self/status`, in bytes.
fn memory(field: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.split_whitespace().nth(1))
        .with_context(|| format!("no {field}"))?
        .parse()?;
    Ok(kib * 1024.0)
}

fn vnc(addresses: &Addresses) -> Result<VncOptions> {
    Ok(VncOptions::new(vec![server_address(&addresses.vnc)?]))
}

fn master(addresses: &Addresses) -> Result<MasterOptions> {
    Ok(MasterOptions {
        masters: Masters::Listed(vec![Address::parse(
            &addresses.master,
            mesos_master::DEFAULT_PORT,
        )?]),
        secure: false,
        access: LeaderOptions::default(),
    })
}

fn marathon(addresses: &Addresses) -> Result<MarathonOptions> {
    Ok(MarathonOptions {
        servers: vec![Address::parse(&addresses.marathon, marathon::DEFAULT_PORT)?],
        access: LeaderOptions::default(),
    })
}

struct Running {
    manager: Manager,
    results: Measurements,
    control: Control,
    before: f64,
}

impl Running {
    /// Starts a manager, and waits until everything is in sync.
    async fn start(addresses: &Addresses) -> Result<Self> {
        let mut config = Config::new(vnc(addresses)?);
        config.listen.set_port(0);
        config.admin_listen = None;
        let mut follow = Follow::new(master(addresses)?);
        follow.marathon = Some(marathon(addresses)?);
        config.follow = Some(follow);
        let mut control = Control::connect(addresses)?;
        let written = writes(&mut control)?;
        let before = memory("VmRSS")?;
        let stopwatch = Stopwatch::now()?;
        let mut running = Self {
            manager: Manager::start(config).await?,
            results: Measurements::default(),
            control,
            before,
        };
        running
            .until("everything is listed and compared", |stats| {
                stats.lists.iter().all(|lists| *lists > 0) && stats.resynced_lists == stats.lists
            })
            .await?;
        running.results.resync = stopwatch.cost()?;
        running.results.peak = memory("VmHWM")? - before;
        running.results.written = writes(&mut running.control)? - written;
        running.results.remaining = running.remaining()?;
        Ok(running)
    }

    fn stats(&self) -> Result<ReconcileStats> {
        let reconciler = self.manager.reconciler().context("nothing is followed")?;
        Ok(reconciler.stats())
    }

    fn remaining(&self) -> Result<usize> {
        let reconciler = self.manager.reconciler().context("nothing is followed")?;
        let differences = reconciler.due_changes();
        for planned in differences.iter().take(3) {
            eprintln!("remaining change: {planned:?}");
        }
        Ok(differences.len())
    }

    /// Waits until `condition` holds and the queue is empty.
    async fn until(&self, what: &str, condition: impl Fn(&ReconcileStats) -> bool) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let reconciler = self.manager.reconciler().context("nothing is followed")?;
        while !condition(&reconciler.stats()) || reconciler.waiting() > 0 {
            if Instant::now() > deadline {
                let waiting = reconciler.waiting();
                bail!(
                    "timed out waiting until {what}, with {waiting} in the queue: {:?}",
                    reconciler.stats()
                );
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

/// Does not block other tasks of the runtime.
fn order(control: &mut Control, order: Order) -> Result<Vec<f64>> {
    block_in_place(|| control.order(order))
}

fn writes(control: &mut Control) -> Result<f64> {
    let writes = order(control, Order::Writes)?;
    writes.first().copied().context("no count")
}

async fn resync(addresses: &Addresses) -> Result<Measurements> {
    Ok(Running::start(addresses).await?.results)
}

async fn whole(addresses: &Addresses, amount: Amount) -> Result<Measurements> {
    let mut running = Running::start(addresses).await?;
    // The allocator returns the memory of the listings to the system within ten seconds.
    sleep(Duration::from_secs(20)).await;
    running.results.resident = memory("VmRSS")? - running.before;
    let stopwatch = Stopwatch::now()?;
    sleep(amount.idle).await;
    let idle = stopwatch.cost()?;
    running.results.idle = idle.cpu / idle.wall;

    let before = running.stats()?;
    let mut sent = before.mesos_events;
    let stopwatch = Stopwatch::now()?;
    for _ in 0..amount.changes.div_ceil(BATCH) {
        order(&mut running.control, Order::Change(BATCH))?;
        sent += BATCH as u64;
        while sent - running.stats()?.mesos_events > MAX_QUEUED_EVENTS {
            sleep(POLL_INTERVAL).await;
        }
    }
    running
        .until("every change is processed", |stats| {
            stats.mesos_events >= sent
        })
        .await?;
    let cost = stopwatch.cost()?;
    let after = running.stats()?;
    ensure!(
        after.lists[0] == before.lists[0],
        "a new list replaced changes"
    );
    let count = as_f64((sent - before.mesos_events).max(1));
    running.results.change = Cost {
        wall: cost.wall / count,
        cpu: cost.cpu / count,
    };
    running.results.decided = as_f64(after.decisions - before.decisions) / count;

    let launch = |beside| Order::Launch {
        count: amount.launches,
        beside,
    };
    running.results.lags = order(&mut running.control, launch(0))?;
    running.results.busy_lags = order(&mut running.control, launch(1000))?;
    running.until("every launch is written", |_| true).await?;
    running.results.copied = running.stats()?.store_copies;
    running.results.remaining += running.remaining()?;
    Ok(running.results)
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The same lists, changes and calls as the manager's, by clients that keep nothing.
async fn floor(addresses: &Addresses, amount: Amount) -> Result<Measurements> {
    let mut control = Control::connect(addresses)?;
    let mut results = Measurements::default();
    let vnc = VncClient::new(vnc(addresses)?)?;
    let mesos = MasterClient::new(master(addresses)?)?;
    let marathon = MarathonClient::new(marathon(addresses)?)?;
    let stopwatch = Stopwatch::now()?;
    let lists = async {
        list::<FloatingIp>(&vnc, &["annotations", "virtual_machine_interface_refs"]).await?;
        list::<InstanceIp>(&vnc, &["annotations", "virtual_machine_interface_refs"]).await?;
        let fields = ["annotations", "virtual_machine_refs", "security_group_refs"];
        list::<VirtualMachineInterface>(&vnc, &fields).await?;
        list::<VirtualMachine>(&vnc, &["annotations", "display_name"]).await?;
        let fields = ["virtual_router_ip_address", "virtual_machine_refs"];
        list::<VirtualRouter>(&vnc, &fields).await
    };
    let (listed, state, apps) = tokio::join!(lists, mesos.state(), marathon.list());
    listed?;
    ensure!(state?.tasks.len() >= addresses.tasks);
    ensure!(!apps?.apps.is_empty());
    results.resync = stopwatch.cost()?;

    let mut follower = Follower::start(mesos, FollowOptions::default());
    ensure!(matches!(follower.next().await, Update::Snapshot(_)));
    let stopwatch = Stopwatch::now()?;
    for _ in 0..amount.changes.div_ceil(BATCH) {
        order(&mut control, Order::Change(BATCH))?;
        for _ in 0..BATCH {
            ensure!(matches!(follower.next().await, Update::Changed(_)));
        }
    }
    let cost = stopwatch.cost()?;
    let count = as_f64((amount.changes.div_ceil(BATCH) * BATCH).max(1) as u64);
    results.change = Cost {
        wall: cost.wall / count,
        cpu: cost.cpu / count,
    };

    // The reads before the first write, and the write.
    let options = ReadOptions {
        back_refs: true,
        ..ReadOptions::default()
    };
    for number in 0..amount.launches {
        let (machine, interface) = (Cluster::machine(number), Cluster::interface(number));
        let began = Instant::now();
        vnc.read_with::<VirtualMachine>(machine, &options).await?;
        vnc.read_with::<VirtualMachineInterface>(interface, &options)
            .await?;
        let application = PropertyUpdate::Set {
            field: "annotations".to_owned(),
            key: "bench".to_owned(),
            value: number.to_string(),
        };
        vnc.update_properties(interface, &[application]).await?;
        results.lags.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(results)
}

async fn list<T: Object>(client: &VncClient, fields: &[&str]) -> Result<()> {
    let detail = Detail::Fields(fields.iter().map(ToString::to_string).collect());
    let query = Query::new().detail(detail).page(500);
    let mut marker: Option<String> = None;
    loop {
        let (_, next) = client.list_page::<T>(&query, marker.as_deref()).await?;
        if next.is_none() {
            return Ok(());
        }
        marker = next;
    }
}
