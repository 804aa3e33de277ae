//! The simulators around the manager, and the control connection to them. They run in a separate
//! process, so that their memory and CPU are not counted as the manager's.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_manager::vnc::{Patch, VirtualMachine, VncClient, VncOptions, server_address};
use contrail_mesos_sim::mesos_master::{Master, TaskState};
use contrail_mesos_sim::vnc::{Handle, Options, Server};
use futures::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle as Runtime;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::cluster::{Cluster, WAITING_TASKS};
use super::marathon;

const WRITE_TIMEOUT: Duration = Duration::from_mins(2);
/// Delay between two launches while other tasks change.
const LAUNCH_INTERVAL: Duration = Duration::from_millis(10);

/// The addresses of the simulators, and the number of running tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) tasks: usize,
    pub(crate) vnc: String,
    pub(crate) master: String,
    pub(crate) marathon: String,
    /// The control listener.
    pub(crate) control: String,
}

/// A command, sent as a line of JSON. The response is a line of JSON, too.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Changes this number of tasks, one after another, as fast as possible.
    Change(usize),
    /// Sets a wrong display name on this number of containers.
    Spoil(usize),
    /// Launches `count` of the waiting tasks, one after another, while `beside` other tasks change
    /// every second. The response has the milliseconds until the first write of each.
    Launch { count: usize, beside: usize },
    /// Returns the number of writes.
    Writes,
}

/// Runs until the standard input is closed.
pub(crate) fn run(tasks: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let simulators = runtime.block_on(Simulators::start(tasks))?;
    println!("{}", serde_json::to_string(&simulators.addresses)?);
    let handle = runtime.handle().clone();
    std::thread::spawn(move || simulators.serve(&handle));
    let mut nothing = vec![];
    std::io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}

struct Simulators {
    cluster: Cluster,
    addresses: Addresses,
    control: TcpListener,
    client: VncClient,
    master: Master,
    write_log: Arc<WriteLog>,
    next: AtomicU64,
    launched: AtomicU64,
}

/// The writes to the API server.
#[derive(Default)]
struct WriteLog {
    writes: AtomicU64,
    first: Mutex<HashMap<Uuid, Instant>>,
}

impl WriteLog {
    async fn watch(self: Arc<Self>, vnc: Handle) {
        let mut changes = vnc.changes();
        loop {
            match changes.recv().await {
                Ok(change) => {
                    self.writes.fetch_add(1, Ordering::Relaxed);
                    let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                    first.entry(change.uuid).or_insert_with(Instant::now);
                }
                Err(RecvError::Lagged(many)) => {
                    self.writes.fetch_add(many, Ordering::Relaxed);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }
}

impl Simulators {
    async fn start(tasks: usize) -> Result<Self> {
        let cluster = Cluster { tasks };
        let options = Options {
            // The default keeps too many request bodies.
            log_limit: 1000,
            ..Options::default()
        };
        let (_, vnc) = Server::start(options).await?;
        cluster.fill_vnc(&vnc)?;
        let master = Master::start().await?;
        cluster.fill_master(&master)?;
        let marathon = marathon::serve(cluster.apps()?).await?;
        let control = TcpListener::bind(("127.0.0.1", 0))?;
        let client = VncClient::new(VncOptions::new(vec![server_address(&vnc.url())?]))?;
        let write_log = Arc::<WriteLog>::default();
        tokio::spawn(Arc::clone(&write_log).watch(vnc.clone()));
        Ok(Self {
            cluster,
            addresses: Addresses {
                tasks,
                vnc: vnc.url(),
                master: master.address().to_string(),
                marathon: marathon.to_string(),
                control: control.local_addr()?.to_string(),
            },
            control,
            client,
            master,
            write_log,
            next: AtomicU64::new(0),
            launched: AtomicU64::new(0),
        })
    }

    fn serve(&self, runtime: &Runtime) -> Result<()> {
        for stream in self.control.incoming() {
            let mut stream = BufReader::new(stream?);
            let mut line = String::new();
            while stream.read_line(&mut line)? > 0 {
                let order: Order = serde_json::from_str(&line)?;
                let response = runtime
                    .block_on(self.execute(order))
                    .map_err(|error| format!("{error:#}"));
                let mut response = serde_json::to_string(&response)?;
                response.push('\n');
                stream.get_mut().write_all(response.as_bytes())?;
                line.clear();
            }
        }
        Ok(())
    }

    async fn execute(&self, order: Order) -> Result<Vec<f64>> {
        match order {
            Order::Change(count) => {
                self.change(count)?;
                Ok(vec![])
            }
            Order::Spoil(count) => {
                let spoil = (0..count).map(async |number| {
                    let patch = Patch::new().set("display_name", "stale");
                    let machine = Cluster::machine(number * self.cluster.tasks / count);
                    self.client.update::<VirtualMachine>(machine, patch).await
                });
                let mut updates = stream::iter(spoil).buffer_unordered(16);
                while let Some(result) = updates.next().await {
                    result?;
                }
                Ok(vec![])
            }
            Order::Launch { count, beside } => self.launch(count, beside).await,
            #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
            Order::Writes => Ok(vec![self.write_log.writes.load(Ordering::Relaxed) as f64]),
        }
    }

    /// Repeats task states, as agents do.
    fn change(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let task = Cluster::task_id(usize::try_from(next)? % self.cluster.tasks);
            ensure!(self.master.update_task(&task, TaskState::TaskRunning));
        }
        Ok(())
    }

    async fn launch(&self, count: usize, beside: usize) -> Result<Vec<f64>> {
        let others = async {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            loop {
                tick.tick().await;
                if let Err(error) = self.change(beside / 100) {
                    return error;
                }
            }
        };
        let launches = async {
            let mut lags = vec![];
            for _ in 0..count {
                lags.push(self.launch_next().await?);
                if beside > 0 {
                    sleep(LAUNCH_INTERVAL).await;
                }
            }
            Ok(lags)
        };
        tokio::select! {
            error = others => Err(error),
            lags = launches => lags,
        }
    }

    async fn launch_next(&self) -> Result<f64> {
        let launched = self.launched.fetch_add(1, Ordering::Relaxed);
        let number = usize::try_from(launched)?;
        ensure!(
            number < WAITING_TASKS,
            "all waiting tasks have been launched"
        );
        let number = self.cluster.tasks + number;
        // The manager writes the interface first.
        let interface = Cluster::interface(number);
        let task = self.cluster.task(number)?;
        let began = Instant::now();
        self.master.add_task(task);
        let written = async {
            loop {
                // The log began after the interface was created.
                let first = self
                    .write_log
                    .first
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(&interface)
                    .copied();
                if let Some(at) = first {
                    return at;
                }
                sleep(Duration::from_micros(500)).await;
            }
        };
        let written = timeout(WRITE_TIMEOUT, written)
            .await
            .context("nothing is written for a running task")?;
        Ok(written.duration_since(began).as_secs_f64() * 1e3)
    }
}

/// The client's end of the control connection. Blocks.
pub(crate) struct Control(BufReader<TcpStream>);

impl Control {
    pub(crate) fn connect(addresses: &Addresses) -> Result<Self> {
        let stream = TcpStream::connect(&addresses.control)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn order(&mut self, order: Order) -> Result<Vec<f64>> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.0.get_mut().write_all(line.as_bytes())?;
        line.clear();
        self.0.read_line(&mut line)?;
        let response: Result<Vec<f64>, String> =
            serde_json::from_str(&line).context("the simulators have ended")?;
        match response {
            Ok(figures) => Ok(figures),
            Err(problem) => bail!("{order:?}: {problem}"),
        }
    }
}
