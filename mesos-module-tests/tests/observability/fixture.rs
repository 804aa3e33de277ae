//! Two managers with the real Mesos and ZooKeeper, a simulated API server and a scripted Marathon,
//! all on one host.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use contrail_mesos_manager::vnc::{
    FqName, Object as _, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_sim::vnc as api;
use mesos_module_tests::testbed::agent::{WAIT_TIMEOUT, container};
use mesos_module_tests::testbed::framework::{Framework, Options, TaskSpec, TaskState};
use mesos_module_tests::testbed::manager::{
    AGENT_NAME, ManagerCluster, ManagerProcess, Response, request,
};
use mesos_module_tests::testbed::zookeeper::ZooKeeper;
use mesos_module_tests::testbed::{Cluster, Host};
use serde_json::Value;
use uuid::Uuid;

use crate::marathon::Marathon;

pub(crate) const TOKEN: &str = "a-token-of-this-test-alone";
const API_PORT: u16 = 8082;
const MARATHON_PORT: u16 = 8080;

pub(crate) struct Fixture {
    pub(crate) managers: ManagerCluster,
    pub(crate) api: api::Handle,
    pub(crate) vnc: VncClient,
    pub(crate) marathon: Marathon,
    framework: Framework,
    /// Its process ends when the value is dropped, as that of ZooKeeper does.
    _cluster: Cluster,
    pub(crate) zookeeper: ZooKeeper,
    pub(crate) host: Host,
}

impl Fixture {
    /// Starts everything, with two managers. No virtual-router is registered.
    pub(crate) fn start() -> Result<Self> {
        let address = |number: u8| IpAddr::from([192, 0, 2, number]);
        let addresses = [address(11), address(12)];
        let host = Host::with_addresses(address(1), &addresses)?;
        let zookeeper = ZooKeeper::start(&host, 2181)?;
        let any = SocketAddr::from(([0, 0, 0, 0], API_PORT));
        let (_, api) = host.block_on(api::Server::start_on(any, api::Options::default()))?;
        let server = server_address(&SocketAddr::new(host.address(), API_PORT).to_string())?;
        let vnc = host.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
        let cluster = Cluster::on(&host).start()?;
        let options = Options {
            name: "marathon".to_owned(),
            ..Options::default()
        };
        let framework = host.block_on(Framework::connect_with(cluster.master(), options))?;
        let marathon = Marathon::start(&host, MARATHON_PORT)?;
        let managers = addresses
            .into_iter()
            .enumerate()
            .map(|(index, address)| {
                let config = format!(
                    "[zookeeper]\nservers = '{}'\nsession_timeout = '4s'\n\
                     [vnc]\nservers = ['http://{address}:{API_PORT}']\ncall_timeout = '1s'\n\
                     [provision]\npod_task_subnets = ['10.32.0.0/12']\n\
                     [mesos]\nmasters = '{}'\n\
                     [marathon]\nservers = ['http://{}:{MARATHON_PORT}']\n\
                     [limits]\nrollback_delay = '60m'\n\
                     [reconcile]\nresync = '1s'\nstabilization_window = '1s'\n\
                     grace_period = '3s'\n",
                    zookeeper.url("/contrail/managers"),
                    cluster.master(),
                    host.address(),
                );
                ManagerProcess::at(&host, address, &format!("manager-{index}"), TOKEN, &config)
            })
            .collect::<Result<_>>()?;
        let mut managers = ManagerCluster::new(&host, managers)?;
        managers.start()?;
        Ok(Self {
            managers,
            api,
            vnc,
            marathon,
            framework,
            _cluster: cluster,
            zookeeper,
            host,
        })
    }

    /// Gets a path of a manager's admin listener.
    pub(crate) fn get(&self, index: usize, path: &str) -> Result<Response> {
        self.managers.manager(index).get(path)
    }

    /// As [`Self::get`], read as JSON.
    pub(crate) fn get_json(&self, index: usize, path: &str) -> Result<Value> {
        let body = self.get(index, path)?.body;
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }

    /// Waits until the body at that path is accepted, and returns it.
    pub(crate) fn wait_for(
        &self,
        index: usize,
        path: &str,
        is_expected: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let started = Instant::now();
        loop {
            let response = self.get(index, path);
            if let Ok(response) = &response
                && is_expected(&response.body)
            {
                return Ok(response.body.clone());
            }
            if started.elapsed() > WAIT_TIMEOUT {
                let last =
                    response.map_or_else(|error| error.to_string(), |response| response.body);
                bail!("{path} has\n{last}\nlogs:\n{}", self.managers.logs());
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// As [`Self::wait_for`], for JSON.
    pub(crate) fn wait_for_json(
        &self,
        index: usize,
        path: &str,
        is_expected: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let text = self.wait_for(index, path, |text| is_expected(&parse(text)))?;
        Ok(parse(&text))
    }

    /// Waits until the manager's metrics have all of these lines.
    pub(crate) fn wait_for_metrics(&self, index: usize, lines: &[&str]) -> Result<String> {
        let has_all = |metrics: &str| {
            lines.iter().all(|line| {
                let line = format!("contrail_mesos_manager_{line}");
                metrics.lines().any(|metric| metric == line)
            })
        };
        self.wait_for(index, "/metrics", has_all)
            .with_context(|| format!("{lines:?}"))
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, index: usize, name: &str) -> Result<f64> {
        let metrics = self.get(index, "/metrics")?.body;
        let name = format!("contrail_mesos_manager_{name} ");
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&name))
            .with_context(|| format!("{name} is not in\n{metrics}"))?;
        Ok(value.parse()?)
    }

    /// Registers the host's virtual-router.
    pub(crate) fn register_router(&self) -> Result<()> {
        let name = FqName::new(["default-global-system-config", AGENT_NAME]);
        let mut router = VirtualRouter::named(name);
        router.virtual_router_ip_address = self.host.address().into();
        self.host.block_on(self.vnc.ensure(&router))?;
        Ok(())
    }

    /// Runs a task on the real Mesos, and returns its container's id.
    pub(crate) fn run_task(&self, id: &str) -> Result<String> {
        let task = TaskSpec::new(id, "sleep 1000").resources(0.01, 8.0, 0.0);
        let update = self.host.block_on(async {
            self.framework.launch(task).await?;
            self.framework
                .wait_state(id, TaskState::TaskRunning, WAIT_TIMEOUT)
                .await
        })?;
        container(&update)
    }

    /// Kills a task and waits until it has ended.
    pub(crate) fn kill_task(&self, id: &str) -> Result<()> {
        self.host.block_on(async {
            self.framework.kill(id).await?;
            self.framework.wait_end(id, WAIT_TIMEOUT).await
        })?;
        Ok(())
    }

    /// Requests a container's ports from one manager only.
    pub(crate) fn put_at(
        &self,
        index: usize,
        container: &str,
        labels: &[(&str, &str)],
    ) -> Result<Response> {
        self.managers
            .manager(index)
            .put(&request(container, labels))
    }

    /// The lines of a manager's log about a virtual machine. Every line must be JSON.
    pub(crate) fn log_lines_of(&self, index: usize, vm: Uuid) -> Result<Vec<Value>> {
        let vm = vm.to_string();
        let mut lines = vec![];
        for line in self.managers.manager(index).log().lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            if line["machine"] == vm {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// Kills the managers, then ends everything else.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.managers.kill()
    }
}
