//! Managers on one host, each with an address of its own, and what they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::agent_api::{
    self, PortRequest, Ports, PortsClient, PortsOptions, PortsRequest,
};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::{Limits, TlsOptions};
use contrail_mesos_manager::vnc::{
    FqName, Object as _, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_sim::vnc as api;
use mesos_module_tests::Host;
use mesos_module_tests::agent::PATIENCE;
use mesos_module_tests::manager::{ADMIN, AGENTS, Answer, spawn};
use mesos_module_tests::zookeeper::ZooKeeper;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TOKEN: &str = "a-token-of-this-test-alone";
const PASSWORD: &str = "a-password-of-this-test-alone";
/// Who the managers are to ZooKeeper.
pub(crate) const DIGEST: &str = "managers:a-password-of-this-test-alone";
/// What gives a process another clock, of Debian's package faketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const API: u16 = 8082;
const LEGACY: u16 = 6991;
/// How long a manager may be silent.
pub(crate) const SESSION: Duration = Duration::from_secs(3);

/// One manager.
pub(crate) struct Member {
    address: IpAddr,
    child: Option<Child>,
}

pub(crate) struct Bed {
    pub(crate) zookeeper: ZooKeeper,
    pub(crate) api: api::Handle,
    pub(crate) members: Vec<Member>,
    pub(crate) client: PortsClient,
    host: Host,
}

impl Bed {
    /// ZooKeeper, an API server, so many managers, and an agent that knows all of them.
    pub(crate) fn start(count: u8) -> Result<Self> {
        let address = |number: u8| IpAddr::from([192, 0, 2, number]);
        let addresses: Vec<IpAddr> = (1..=count).map(|number| address(10 + number)).collect();
        let host = Host::with_addresses(address(1), &addresses)?;
        let zookeeper = ZooKeeper::start(&host, 2181)?;
        // At all addresses: whoever asks one of this host's asks from that very address, so that
        // the server's log says which manager it was.
        let any = SocketAddr::from(([0, 0, 0, 0], API));
        let (_, api) = host.block_on(api::Server::start_on(any, api::Options::default()))?;
        let server = server_address(&SocketAddr::new(host.address(), API).to_string())?;
        let vnc = host.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
        let router = FqName::new(["default-global-system-config", "node1"]);
        host.block_on(vnc.create(&VirtualRouter::named(router)))?;
        for (name, secret) in [("token", TOKEN), ("password", PASSWORD)] {
            fs::write(host.directory().join(name), secret)?;
        }
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
            zookeeper,
            api,
            members: vec![],
            host,
        };
        for address in addresses {
            bed.members.push(Member {
                address,
                child: None,
            });
            bed.run(bed.members.len() - 1)?;
        }
        Ok(bed)
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    fn path(&self, index: usize, what: &str) -> PathBuf {
        self.host
            .directory()
            .join(format!("manager-{index}.{what}"))
    }

    /// Moves a manager's clock on the wall by that much from the right time, at once.
    pub(crate) fn set_clock(&self, index: usize, offset: &str) -> Result<()> {
        // It is read at any time, so that it must never be half written.
        let new = self.path(index, "clock.new");
        fs::write(&new, offset)?;
        fs::rename(new, self.path(index, "clock"))?;
        Ok(())
    }

    /// The years in which a manager has written its log.
    pub(crate) fn years(&self, index: usize) -> BTreeSet<String> {
        let lines = self.lines(index).into_iter();
        let lines = lines.filter_map(|line| Some(line["time"].as_str()?.get(..4)?.to_owned()));
        lines.collect()
    }

    /// Starts a manager that does not run.
    pub(crate) fn run(&mut self, index: usize) -> Result<()> {
        let address = self.members[index].address;
        let directory = self.host.directory();
        let text = format!(
            "listen = '{address}:{AGENTS}'\nlegacy_listen = '{address}:{LEGACY}'\n\
             admin_listen = '{address}:{ADMIN}'\ntoken_file = '{}'\n\
             [zookeeper]\nservers = '{}'\nuser = 'managers'\npassword_file = '{}'\n\
             session_timeout = '{}s'\n\
             [vnc]\nservers = ['http://{address}:{API}']\n\
             [provision]\npod_task_subnets = ['10.32.0.0/12']\n",
            directory.join("token").display(),
            self.zookeeper.url("/contrail/managers"),
            directory.join("password").display(),
            SESSION.as_secs(),
        );
        fs::write(self.path(index, "toml"), text)?;
        self.set_clock(index, "+0")?;
        ensure!(
            std::path::Path::new(FAKETIME).is_file(),
            "{FAKETIME} is missing: install the Debian package faketime"
        );
        let clock = self.path(index, "clock");
        // Its own clock on the wall, which the test moves; what measures time is the kernel's.
        let around = [
            "env",
            &format!("LD_PRELOAD={FAKETIME}"),
            &format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ];
        let (config, log) = (self.path(index, "toml"), self.path(index, "log"));
        self.members[index].child = Some(spawn(&self.host, &config, &log, &around)?);
        Ok(())
    }

    pub(crate) fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let child = self.members[index]
            .child
            .as_ref()
            .context("it does not run")?;
        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        Ok(())
    }

    /// Ends a manager with that signal.
    pub(crate) fn end(&mut self, index: usize, signal: Signal) -> Result<()> {
        self.signal(index, signal)?;
        let mut child = self.members[index]
            .child
            .take()
            .context("it does not run")?;
        child.wait()?;
        Ok(())
    }

    /// Asks a manager's admin listener.
    pub(crate) fn admin(&self, index: usize, path: &str) -> Result<Answer> {
        let url = format!("http://{}:{ADMIN}{path}", self.members[index].address);
        self.send(reqwest::Client::new().get(url))
    }

    /// Sets what a manager logs.
    pub(crate) fn log_level(&self, index: usize, level: &str) -> Result<Answer> {
        let url = format!("http://{}:{ADMIN}/log-level", self.members[index].address);
        self.send(reqwest::Client::new().put(url).body(level.to_owned()))
    }

    /// Asks for a container's ports as an agent does that knows this manager only.
    pub(crate) fn put_at(&self, index: usize, name: &str) -> Result<Answer> {
        let (machine, request) = container(name);
        let address = self.members[index].address;
        let url = format!("http://{address}:{AGENTS}/v1/ports/{machine}");
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let ask = client.build()?.put(url).bearer_auth(TOKEN);
        self.send(ask.header(agent_api::AGENT_HEADER, "node1").json(&request))
    }

    /// Asks as a CNI plugin of Contrail's own manager does.
    pub(crate) fn legacy(&self, index: usize) -> Result<Answer> {
        let url = format!(
            "http://{}:{LEGACY}/add_cni_info",
            self.members[index].address
        );
        self.send(reqwest::Client::new().post(url).body("{}"))
    }

    fn send(&self, ask: reqwest::RequestBuilder) -> Result<Answer> {
        Answer::to(ask, &self.host)
    }

    /// The manager that leads, once exactly one of those that run does and all others know it.
    pub(crate) fn leader(&self) -> Result<usize> {
        let mut last = String::new();
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let running =
                (0..self.members.len()).filter(|index| self.members[*index].child.is_some());
            let said: Vec<(usize, String)> = running
                .map(|index| {
                    let said = self.admin(index, "/ready");
                    (
                        index,
                        said.map_or_else(|error| error.to_string(), |said| said.text),
                    )
                })
                .collect();
            let leaders: Vec<usize> = said
                .iter()
                .filter(|(_, text)| text == "leading\n")
                .map(|(index, _)| *index)
                .collect();
            if let [leader] = leaders[..] {
                let url = format!(
                    "following http://{}:{AGENTS}\n",
                    self.members[leader].address
                );
                if said
                    .iter()
                    .all(|(index, text)| *index == leader || *text == url)
                {
                    return Ok(leader);
                }
            }
            last = format!("{said:?}");
            sleep(Duration::from_millis(50));
        }
        anyhow::bail!("no leader that all know: {last}\n{}", self.logs())
    }

    /// Waits until a manager's readiness is as it should be.
    pub(crate) fn until_ready_says(&self, index: usize, status: u16, said: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let now = self.admin(index, "/ready")?;
            if now.status == status && now.text.contains(said) {
                return Ok(());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "it says {} {}\n{}",
                now.status,
                now.text,
                self.logs()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Has a container's ports made by whichever manager.
    pub(crate) fn make(&self, name: &str) -> Result<Ports> {
        let (machine, request) = container(name);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let made = self.client.put(machine, &request, deadline);
        self.host
            .block_on(made)
            .with_context(|| format!("{name}:\n{}", self.logs()))
    }

    /// Has a container's ports removed.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let (machine, _) = container(name);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.host.block_on(self.client.delete(machine, deadline))?;
        Ok(())
    }

    /// How many changes the API server has seen.
    pub(crate) fn changes(&self) -> usize {
        self.api.log().iter().map(|entry| entry.changes.len()).sum()
    }

    fn lines(&self, index: usize) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path(index, "log")).unwrap_or_default();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The terms in which a manager has led, by its log.
    pub(crate) fn terms(&self, index: usize) -> BTreeSet<u64> {
        let lines = self.lines(index).into_iter();
        let lines = lines.filter(|line| line["message"] == "leading");
        lines.filter_map(|line| line["term"].as_u64()).collect()
    }

    pub(crate) fn logs(&self) -> String {
        let logs = (0..self.members.len()).map(|index| {
            let text = fs::read_to_string(self.path(index, "log")).unwrap_or_default();
            format!("manager {index}:\n{text}")
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    /// No two managers have led in one term, and their writes do not interleave: the API server
    /// saw no more successions than there were terms.
    pub(crate) fn check_one_writer(&self) -> Result<()> {
        let mut terms = BTreeMap::new();
        for index in 0..self.members.len() {
            for term in self.terms(index) {
                let other = terms.insert(term, index);
                ensure!(
                    other.is_none(),
                    "term {term} was had twice\n{}",
                    self.logs()
                );
            }
        }
        let own = self.host.address();
        let log = self.api.log();
        let writers = log
            .iter()
            .filter(|entry| !entry.changes.is_empty() && entry.peer.ip() != own);
        let mut writers: Vec<IpAddr> = writers.map(|entry| entry.peer.ip()).collect();
        ensure!(!writers.is_empty(), "nobody wrote");
        writers.dedup();
        // Each manager in the order of its terms; a term without a write is no succession.
        let mut led = terms.values().map(|index| self.members[*index].address);
        for writer in &writers {
            ensure!(
                led.any(|leader| leader == *writer),
                "wrote, in this order: {writers:?}; led: {terms:?}\n{}",
                self.logs()
            );
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

fn container(name: &str) -> (uuid::Uuid, PortsRequest) {
    let container = ContainerId::top_level(name);
    let port = PortRequest {
        interface: "eth0".to_owned(),
        network: "contrail-cni-plugin".to_owned(),
        virtual_network: None,
        labels: BTreeMap::new(),
        addresses: vec![],
    };
    let request = PortsRequest {
        virtual_router_address: None,
        annotations: BTreeMap::new(),
        ports: vec![port],
        container: container.clone(),
    };
    (agent_api::vm_uuid(&container), request)
}
