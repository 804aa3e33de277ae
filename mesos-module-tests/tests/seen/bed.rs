//! Real managers, the real Mesos and ZooKeeper, an API server and a Marathon that say what a test
//! wants, all on one host.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::agent_api::{
    self, PortRequest, Ports, PortsClient, PortsOptions, PortsRequest,
};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::{Limits, TlsOptions};
use contrail_mesos_manager::vnc::{
    FqName, Object as _, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_sim::vnc as api;
use mesos_module_tests::agent::{PATIENCE, container};
use mesos_module_tests::framework::{Framework, Options, TaskSpec, TaskState};
use mesos_module_tests::manager::{ADMIN, AGENTS, Answer, spawn};
use mesos_module_tests::zookeeper::ZooKeeper;
use mesos_module_tests::{Cluster, Host};
use serde_json::Value;
use uuid::Uuid;

use crate::marathon::Marathon;

const TOKEN: &str = "a-token-of-this-test-alone";
const API: u16 = 8082;
const MARATHON: u16 = 8080;

/// A manager.
struct Member {
    address: IpAddr,
    child: Option<Child>,
}

pub(crate) struct Bed {
    pub(crate) api: api::Handle,
    pub(crate) vnc: VncClient,
    pub(crate) marathon: Marathon,
    members: Vec<Member>,
    client: PortsClient,
    framework: Framework,
    cluster: Cluster,
    zookeeper: ZooKeeper,
    pub(crate) host: Host,
}

impl Bed {
    /// Everything, with two managers. No virtual-router is registered.
    pub(crate) fn start() -> Result<Self> {
        let address = |number: u8| IpAddr::from([192, 0, 2, number]);
        let addresses = [address(11), address(12)];
        let host = Host::with_addresses(address(1), &addresses)?;
        fs::write(host.directory().join("token"), TOKEN)?;
        let zookeeper = ZooKeeper::start(&host, 2181)?;
        let any = SocketAddr::from(([0, 0, 0, 0], API));
        let (_, api) = host.block_on(api::Server::start_on(any, api::Options::default()))?;
        let server = server_address(&SocketAddr::new(host.address(), API).to_string())?;
        let vnc = host.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
        let cluster = Cluster::on(&host).start()?;
        let options = Options {
            name: "marathon".to_owned(),
            ..Options::default()
        };
        let framework = host.block_on(Framework::connect_with(cluster.master(), options))?;
        let managers = addresses.iter().map(|address| {
            Ok(agent_api::manager_address(
                &SocketAddr::new(*address, AGENTS).to_string(),
            )?)
        });
        let options = PortsOptions {
            managers: managers.collect::<Result<_>>()?,
            agent: "node1".to_owned(),
            token_file: Some(host.directory().join("token")),
            tls: TlsOptions::default(),
            limits: Limits::default(),
        };
        let mut bed = Self {
            client: host.block_on(async { PortsClient::new(&options) })?,
            marathon: Marathon::start(&host, MARATHON)?,
            members: vec![],
            api,
            vnc,
            framework,
            cluster,
            zookeeper,
            host,
        };
        for address in addresses {
            let member = Member {
                address,
                child: None,
            };
            bed.members.push(member);
            bed.run(bed.members.len() - 1)?;
        }
        Ok(bed)
    }

    fn run(&mut self, index: usize) -> Result<()> {
        let address = self.members[index].address;
        let own = self.host.address();
        let directory = self.host.directory();
        let token = directory.join("token");
        let text = format!(
            "listen = '{address}:{AGENTS}'\nadmin_listen = '{address}:{ADMIN}'\n\
             token_file = '{}'\n\
             [zookeeper]\nservers = '{}'\nsession_timeout = '4s'\n\
             [vnc]\nservers = ['http://{address}:{API}']\ncall_timeout = '1s'\n\
             [provision]\npod_task_subnets = ['10.32.0.0/12']\n\
             [mesos]\nmasters = '{}'\n\
             [marathon]\nservers = ['http://{own}:{MARATHON}']\n\
             [limits]\nrollback_delay = '60m'\n[reconcile]\nresync = '1s'\nstabilization_window = '1s'\ngrace_period = '3s'\n",
            token.display(),
            self.zookeeper.url("/contrail/managers"),
            self.cluster.master(),
        );
        let config = directory.join(format!("manager-{index}.toml"));
        fs::write(&config, text)?;
        let log = directory.join(format!("manager-{index}.log"));
        self.members[index].child = Some(spawn(&self.host, &config, &log, &[])?);
        Ok(())
    }

    /// Kills a manager.
    pub(crate) fn kill(&mut self, index: usize) -> Result<()> {
        let mut child = self.members[index]
            .child
            .take()
            .context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Where a manager is asked.
    pub(crate) fn url(&self, index: usize, path: &str) -> String {
        format!("http://{}:{ADMIN}{path}", self.members[index].address)
    }

    /// Where agents ask it.
    pub(crate) fn agents_url(&self, index: usize) -> String {
        format!("http://{}:{AGENTS}", self.members[index].address)
    }

    /// Asks a manager's admin listener.
    pub(crate) fn get(&self, index: usize, path: &str) -> Result<Answer> {
        let ask = reqwest::Client::new().get(self.url(index, path));
        Answer::to(ask, &self.host)
    }

    /// Waits until a manager says what it should there.
    pub(crate) fn until(
        &self,
        index: usize,
        path: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let started = Instant::now();
        loop {
            let said = self.get(index, path);
            if let Ok(said) = &said
                && wanted(&said.text)
            {
                return Ok(said.text.clone());
            }
            if started.elapsed() > PATIENCE {
                let said = said.map_or_else(|error| error.to_string(), |said| said.text);
                bail!("{path} says\n{said}\nthe log:\n{}", self.logs());
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// The same, of JSON.
    pub(crate) fn until_json(
        &self,
        index: usize,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let text = self.until(index, path, |text| wanted(&read(text)))?;
        Ok(read(&text))
    }

    /// Waits until these lines are among a manager's metrics.
    pub(crate) fn until_measured(&self, index: usize, lines: &[&str]) -> Result<String> {
        let missing = |text: &str| -> Vec<String> {
            let lines = lines.iter();
            let lines = lines.map(|line| format!("contrail_mesos_manager_{line}"));
            lines
                .filter(|line| !text.lines().any(|found| found == line))
                .collect()
        };
        let found = self.until(index, "/metrics", |text| missing(text).is_empty());
        found.with_context(|| format!("{lines:?}"))
    }

    /// The number of a metric.
    pub(crate) fn measured(&self, index: usize, name: &str) -> Result<f64> {
        let text = self.get(index, "/metrics")?.text;
        let name = format!("contrail_mesos_manager_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        let value = value.with_context(|| format!("{name} is not in\n{text}"))?;
        Ok(value.parse()?)
    }

    /// The manager that leads and is ready.
    pub(crate) fn leader(&self) -> Result<usize> {
        let started = Instant::now();
        loop {
            for index in 0..self.members.len() {
                if self.members[index].child.is_some()
                    && self
                        .get(index, "/leading")
                        .is_ok_and(|said| said.status == 200)
                {
                    return Ok(index);
                }
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "nobody leads\n{}",
                self.logs()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Registers the host's virtual-router.
    pub(crate) fn router(&self) -> Result<()> {
        let mut router =
            VirtualRouter::named(FqName::new(["default-global-system-config", "node1"]));
        router.virtual_router_ip_address = self.host.address().into();
        self.host.block_on(self.vnc.ensure(&router))?;
        Ok(())
    }

    /// Runs a task of the real Mesos; says what its container is.
    pub(crate) fn task(&self, id: &str) -> Result<String> {
        let task = TaskSpec::new(id, "sleep 1000").resources(0.01, 8.0, 0.0);
        let update = self.host.block_on(async {
            self.framework.launch(task).await?;
            self.framework
                .wait_state(id, TaskState::TaskRunning, PATIENCE)
                .await
        })?;
        container(&update)
    }

    /// Ends a task.
    pub(crate) fn end(&self, id: &str) -> Result<()> {
        self.host.block_on(async {
            self.framework.kill(id).await?;
            self.framework.wait_end(id, PATIENCE).await
        })?;
        Ok(())
    }

    /// Has a container's ports made as its agent does.
    pub(crate) fn make(&self, container: &str, labels: &[(&str, &str)]) -> Result<Ports> {
        let (machine, request) = request(container, labels);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        Ok(self
            .host
            .block_on(self.client.put(machine, &request, deadline))?)
    }

    /// Asks one manager, once, for a container's ports; says the status and what it answered.
    pub(crate) fn try_make(
        &self,
        index: usize,
        container: &str,
        labels: &[(&str, &str)],
    ) -> Result<(u16, String)> {
        let (machine, request) = request(container, labels);
        let url = format!("{}/v1/ports/{machine}", self.agents_url(index));
        let ask = reqwest::Client::new().put(url).json(&request);
        let ask = ask
            .bearer_auth(TOKEN)
            .header(agent_api::AGENT_HEADER, "node1");
        self.host.block_on(async {
            let answer = ask.timeout(PATIENCE).send().await?;
            Ok((answer.status().as_u16(), answer.text().await?))
        })
    }

    /// Has a container's ports removed as its agent does.
    pub(crate) fn remove(&self, container: &str) -> Result<()> {
        let machine = machine(container);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.host.block_on(self.client.delete(machine, deadline))?;
        Ok(())
    }

    pub(crate) fn logs(&self) -> String {
        let logs = (0..self.members.len()).map(|index| {
            let log = self.host.directory().join(format!("manager-{index}.log"));
            format!(
                "manager {index}:\n{}",
                fs::read_to_string(log).unwrap_or_default()
            )
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    /// The lines that a manager has logged of a container.
    pub(crate) fn lines_of(&self, index: usize, machine: Uuid) -> Result<Vec<Value>> {
        let log = self.host.directory().join(format!("manager-{index}.log"));
        let text = fs::read_to_string(log)?;
        let lines = text.lines().map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        let machine = machine.to_string();
        Ok(lines
            .into_iter()
            .filter(|line| line["machine"] == machine)
            .collect())
    }

    /// Ends everything in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].child.is_some() {
                self.kill(index)?;
            }
        }
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The machine of a container.
pub(crate) fn machine(container: &str) -> Uuid {
    agent_api::vm_uuid(&ContainerId::top_level(container))
}

fn request(container: &str, labels: &[(&str, &str)]) -> (Uuid, PortsRequest) {
    let labels = labels.iter();
    let port = PortRequest {
        interface: "eth0".to_owned(),
        network: "contrail-cni-plugin".to_owned(),
        virtual_network: None,
        labels: labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        addresses: vec![],
    };
    let request = PortsRequest {
        container: ContainerId::top_level(container),
        virtual_router_address: None,
        annotations: BTreeMap::new(),
        ports: vec![port],
    };
    (machine(container), request)
}
