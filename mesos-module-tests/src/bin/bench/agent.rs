//! Launches on the real agent: host network, contrail-mesos, and network/cni with the bridge plugin,
//! each in its own cluster.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesos_module_tests::testbed::framework::{Framework, GroupSpec, TaskSpec, TaskState};
use mesos_module_tests::testbed::{Cluster, ClusterBuilder, Host, agent};
use serde_json::json;

use crate::report::{Report, Row, Samples};

/// Launches that are measured with so many tasks present.
const MEASURED_LAUNCHES: usize = 10;
/// Tasks that are launched at once to have them present.
const LAUNCH_BATCH: usize = 16;
const WAIT_TIMEOUT: Duration = Duration::from_mins(3);
const NETWORK: &str = "bench";
/// A network without any other host: the floor of a launch with a network namespace of its own.
const LOOPBACK_ONLY: &str = "none";
/// The executor of the tasks whose launch on both networks is compared.
const POD: &str = "pod";

/// A cluster of its own, and the network that its tasks are on.
struct BenchCluster {
    framework: Framework,
    cluster: Cluster,
    host: Host,
    network: Option<&'static str>,
    launched: usize,
}

/// Measures launches with each of `present` tasks there, in ascending order; the agent's memory
/// at `memory_at`; and the end of all of them. The first two clusters take turns, because they are
/// compared to the millisecond. network/cni becomes slower with every task: figures for which it
/// cannot launch the tasks within `peer_timeout` are left out.
pub(crate) fn measure(
    present: &[usize],
    memory_at: usize,
    peer_timeout: Duration,
    report: &mut Report,
) -> Result<()> {
    let library = fs::metadata(mesos_module_tests::testbed::module()?)?.len();
    let peer = measure_peer(present, peer_timeout)?;
    let mut host_network = BenchCluster::start(None, |host| Ok(Cluster::on(host)))?;
    let mut ours = BenchCluster::start(Some(NETWORK), |host| {
        let network = "name = 'bench'\nprovider = 'bridge'\nsubnet = '10.99.0.0/16'\n";
        let loopback = "name = 'none'\nprovider = 'none'\n";
        agent::with_module(
            host,
            &format!("[[network]]\n{network}[[network]]\n{loopback}"),
        )
    })?;
    ours.timed_pod_launch(None)?;
    for (level, count) in present.iter().enumerate() {
        for cluster in [&mut host_network, &mut ours] {
            cluster.fill(*count, None)?;
        }
        let (mut floor, mut own) = (Samples::default(), Samples::default());
        for _ in 0..MEASURED_LAUNCHES {
            floor.add(host_network.timed_launch()?, 0.0);
            own.add(ours.timed_launch()?, 0.0);
        }
        let peer = peer.get(level).copied();
        let row = Row::new(format!("launch to TASK_RUNNING, {count} present"), "ms").figures(
            own.wall(0.5),
            peer,
            floor.wall(0.5),
        );
        report.add(row.goal("within 5 ms of host network", |row| {
            Some(row.ours? <= row.floor? + 5.0)
        }));
        let (mut floor, mut own) = (Samples::default(), Samples::default());
        for _ in 0..MEASURED_LAUNCHES {
            floor.add(ours.timed_pod_launch(Some(LOOPBACK_ONLY))?, 0.0);
            own.add(ours.timed_pod_launch(Some(NETWORK))?, 0.0);
        }
        let row = Row::new(
            format!("launch in a pod, against network none, {count} present"),
            "ms",
        )
        .figures(own.wall(0.5), None, floor.wall(0.5));
        report.add(row.goal("within 3 ms of network none", |row| {
            Some(row.ours? <= row.floor? + 3.0)
        }));
    }
    memory(&mut host_network, &mut ours, memory_at, report)?;
    let (floor_end, own_end) = (host_network.end()?, ours.end()?);
    report.add(
        Row::new(format!("end of {memory_at} tasks at once"), "s").figures(
            Some(own_end),
            None,
            Some(floor_end),
        ),
    );
    report.add(Row::new("library size", "MiB").figures(Some(mebibytes(library)), None, None));
    Ok(())
}

fn memory(
    host_network: &mut BenchCluster,
    ours: &mut BenchCluster,
    count: usize,
    report: &mut Report,
) -> Result<()> {
    for cluster in [&mut *host_network, &mut *ours] {
        cluster.fill(count, None)?;
    }
    let (floor, own) = (host_network.memory()?, ours.memory()?);
    report.add(
        Row::new(format!("agent's memory at {count} containers"), "MiB")
            .figures(Some(own), None, Some(floor))
            .goal("<= 10 MiB added", |row| {
                Some(row.ours? - row.floor? <= 10.0)
            }),
    );
    Ok(())
}

/// The medians of network/cni, of as many of the levels as it comes to.
fn measure_peer(present: &[usize], limit: Duration) -> Result<Vec<f64>> {
    let mut cluster = BenchCluster::start(Some(NETWORK), network_cni)?;
    let deadline = Instant::now() + limit;
    let mut medians = Vec::new();
    for count in present {
        if !cluster.fill(*count, Some(deadline))? {
            println!(
                "(network/cni had {} of {count} tasks after {limit:?}: no figures for it from here on)",
                cluster.launched
            );
            break;
        }
        let mut samples = Samples::default();
        for _ in 0..MEASURED_LAUNCHES {
            samples.add(cluster.timed_launch()?, 0.0);
        }
        medians.extend(samples.wall(0.5));
    }
    // Its own way to the end takes minutes: everything is killed with the host.
    cluster.stop()?;
    Ok(medians)
}

fn network_cni(host: &Host) -> Result<ClusterBuilder> {
    let config = host.directory().join("cni");
    fs::create_dir_all(&config)?;
    // network/cni reads no result that is newer than 0.2.0.
    let network = json!({
        "name": NETWORK, "type": "bridge", "bridge": "peer0", "cniVersion": "0.2.0",
        "isGateway": true, "ipMasq": false, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "subnet": "10.77.0.0/16",
            "dataDir": host.directory().join("leases"),
            "routes": [{ "dst": "0.0.0.0/0" }]
        }
    });
    fs::write(config.join("bench.json"), network.to_string())?;
    Ok(Cluster::on(host)
        .isolation(&["network/cni"])
        .env("MESOS_NETWORK_CNI_PLUGINS_DIR", "/usr/lib/cni")
        .env(
            "MESOS_NETWORK_CNI_CONFIG_DIR",
            &config.display().to_string(),
        ))
}

impl BenchCluster {
    fn start(
        network: Option<&'static str>,
        cluster: impl FnOnce(&Host) -> Result<ClusterBuilder>,
    ) -> Result<Self> {
        let host = agent::host()?;
        let cluster = cluster(&host)?.start()?;
        Ok(Self {
            framework: cluster.framework()?,
            cluster,
            host,
            network,
            launched: 0,
        })
    }

    fn next_task(&mut self, network: Option<&str>) -> (String, TaskSpec) {
        let id = format!("t{}", self.launched);
        self.launched += 1;
        let task = TaskSpec::new(&id, "exec sleep 100000");
        let task = match network {
            Some(network) => task.network(network),
            None => task,
        };
        (id, task)
    }

    fn running(&self, id: &str) -> Result<()> {
        let state = TaskState::TaskRunning;
        let running = self.framework.wait_state(id, state, WAIT_TIMEOUT);
        self.host.block_on(running)?;
        Ok(())
    }

    /// Launches until so many are running; false if that is not done by the deadline.
    fn fill(&mut self, count: usize, deadline: Option<Instant>) -> Result<bool> {
        while self.launched < count {
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(false);
            }
            let mut ids = Vec::new();
            for _ in 0..LAUNCH_BATCH.min(count - self.launched) {
                let (id, task) = self.next_task(self.network);
                self.host.block_on(self.framework.launch(task))?;
                ids.push(id);
            }
            ids.iter().try_for_each(|id| self.running(id))?;
        }
        Ok(true)
    }

    /// One launch, in milliseconds.
    fn timed_launch(&mut self) -> Result<f64> {
        // What the launch before left over has to be offered again first.
        std::thread::sleep(Duration::from_millis(200));
        let (id, task) = self.next_task(self.network);
        let start = Instant::now();
        self.host.block_on(self.framework.launch(task))?;
        self.running(&id)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// One launch by an executor that is there already and is on the host's network, in milliseconds.
    /// An executor on the network `none` could not reach the agent.
    fn timed_pod_launch(&mut self, network: Option<&str>) -> Result<f64> {
        std::thread::sleep(Duration::from_millis(200));
        let (id, task) = self.next_task(network);
        let start = Instant::now();
        let group = GroupSpec::new(POD).task(task);
        self.host.block_on(self.framework.launch_group(group))?;
        self.running(&id)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// Resident memory of master and agent, in MiB.
    fn memory(&self) -> Result<f64> {
        let pid = self.cluster.pid().context("the cluster is not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kibibytes: u32 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .context("/proc has no resident memory")?;
        Ok(f64::from(kibibytes) / 1024.0)
    }

    /// Ends all tasks at once; seconds until the agent has no container any more.
    fn end(self) -> Result<f64> {
        let start = Instant::now();
        self.host.block_on(self.framework.teardown())?;
        let call = json!({ "type": "GET_CONTAINERS", "get_containers": {} });
        loop {
            let answer = self.cluster.agent_call(&call)?;
            let containers = answer["get_containers"]["containers"].as_array();
            if containers.is_none_or(Vec::is_empty) {
                break;
            }
            if start.elapsed() > WAIT_TIMEOUT {
                bail!("{} containers do not end", containers.map_or(0, Vec::len));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let seconds = start.elapsed().as_secs_f64();
        self.stop()?;
        Ok(seconds)
    }

    fn stop(self) -> Result<()> {
        self.cluster.stop()
    }
}

fn mebibytes(bytes: u64) -> f64 {
    // In KiB it is exact, and fits for any library.
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
