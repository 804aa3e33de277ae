//! The real manager: one process, or several on one host that elect a leader.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::agent_api::{
    self, ClientOptions, PortRequest, Ports, PortsClient, PortsRequest,
};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::{Limits, TlsOptions};
use reqwest::redirect::Policy;
use uuid::Uuid;

use super::agent::WAIT_TIMEOUT;
use super::contrail::Vrouter;
use super::service::Service;
use super::{Host, program};

/// The port of the API for agents.
pub const AGENT_PORT: u16 = 6992;
/// The port of the admin listener.
pub const ADMIN_PORT: u16 = 6993;
/// The port for the CNI plugin of the former manager.
pub const LEGACY_PORT: u16 = 6991;
/// Configuration that puts containers into the project of the test networks.
pub const DEFAULT_PROJECT: &str = "domain = 'default-domain'\nproject = 'default-project'\n";

/// The name by which test agents identify themselves to a manager.
pub const AGENT_NAME: &str = "node1";
/// The file with the agents' token, in a host's directory.
const TOKEN_FILE: &str = "token";
/// Long enough for an answer of a busy manager, short enough to notice one that is stopped.
const LEADERSHIP_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A manager's response.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The headers. Names are in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Response {
    /// Sends a request from a host.
    pub fn fetch(request: reqwest::RequestBuilder, host: &Host) -> Result<Self> {
        host.block_on(async {
            let response = request.send().await?;
            let headers = response
                .headers()
                .iter()
                .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into())))
                .collect();
            Ok(Self {
                status: response.status().as_u16(),
                headers,
                body: response.text().await?,
            })
        })
    }
}

fn http_client(timeout: Duration) -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(timeout)
        .build()?)
}

/// Writes a token where [`ManagerProcess`] and [`agent_client`] read it, and returns the path.
pub fn write_token(host: &Host, token: &str) -> Result<PathBuf> {
    let path = host.directory().join(TOKEN_FILE);
    fs::write(&path, token)?;
    Ok(path)
}

/// A client of these managers, as the agent on a host has it.
pub fn agent_client(host: &Host, managers: &[SocketAddr]) -> Result<PortsClient> {
    let options = ClientOptions {
        managers: managers
            .iter()
            .map(|manager| Ok(agent_api::manager_address(&manager.to_string())?))
            .collect::<Result<_>>()?,
        agent: AGENT_NAME.to_owned(),
        token_file: Some(host.directory().join(TOKEN_FILE)),
        tls: TlsOptions::default(),
        limits: Limits::default(),
    };
    // The client needs the host's runtime.
    Ok(host.block_on(async { PortsClient::new(&options) })?)
}

/// A request for one port of a container, with these labels.
#[must_use]
pub fn request(container: &str, labels: &[(&str, &str)]) -> PortsRequest {
    PortsRequest {
        container: ContainerId::top_level(container),
        virtual_router_address: None,
        annotations: BTreeMap::new(),
        ports: vec![PortRequest {
            interface: "eth0".to_owned(),
            network: "contrail-cni-plugin".to_owned(),
            virtual_network: None,
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            addresses: vec![],
        }],
    }
}

/// The UUID of a container's virtual-machine.
#[must_use]
pub fn vm_uuid(container: &str) -> Uuid {
    agent_api::vm_uuid(&ContainerId::top_level(container))
}

/// The configuration of a node's agent: these managers, and the node's vRouter agent.
pub fn agent_config(
    node: &Host,
    managers: &[IpAddr],
    token: &str,
    vrouter: &Vrouter,
) -> Result<String> {
    let token_file = write_token(node, token)?;
    let managers: Vec<SocketAddr> = managers
        .iter()
        .map(|address| SocketAddr::new(*address, AGENT_PORT))
        .collect();
    Ok(vrouter.agent_config(&managers, &token_file))
}

/// A manager. The process ends when the value is dropped, or with the thread that started it.
pub struct ManagerProcess {
    service: Service,
    address: IpAddr,
    token: String,
    command_prefix: Vec<String>,
}

impl Deref for ManagerProcess {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl DerefMut for ManagerProcess {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.service
    }
}

impl ManagerProcess {
    /// Configures a manager at the host's own address. It does not run yet.
    ///
    /// `config` is its configuration without listeners and token file.
    pub fn new(host: &Host, name: &str, token: &str, config: &str) -> Result<Self> {
        Self::at(host, host.address(), name, token, config)
    }

    /// As [`Self::new`], at another address of the host.
    pub fn at(host: &Host, address: IpAddr, name: &str, token: &str, config: &str) -> Result<Self> {
        let token_file = write_token(host, token)?;
        let process = Self {
            service: Service::new(host, name),
            address,
            token: token.to_owned(),
            command_prefix: vec![],
        };
        let text = format!(
            "listen = '{address}:{AGENT_PORT}'\nadmin_listen = '{address}:{ADMIN_PORT}'\n\
             token_file = '{}'\n{config}",
            token_file.display()
        );
        fs::write(process.path("toml"), text)?;
        Ok(process)
    }

    /// Runs the manager through another command, such as `env`.
    #[must_use]
    pub fn run_through(mut self, command: &[&str]) -> Self {
        self.command_prefix = command.iter().map(ToString::to_string).collect();
        self
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Starts the manager, unless it runs.
    pub fn start(&mut self) -> Result<()> {
        let mut command: Vec<OsString> = self.command_prefix.iter().map(OsString::from).collect();
        command.push(program("contrail-mesos-manager")?.into());
        command.push("--config".into());
        command.push(self.path("toml").into());
        command.extend(["--log-format", "json"].map(OsString::from));
        self.run(command)
    }

    /// The URL of the API for agents.
    #[must_use]
    pub fn agents_url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.address, AGENT_PORT))
    }

    /// A URL of the admin listener.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(self.address, ADMIN_PORT))
    }

    /// Sends a request from the manager's own host.
    pub fn send(
        &self,
        request: impl FnOnce(reqwest::Client) -> reqwest::RequestBuilder,
    ) -> Result<Response> {
        Response::fetch(request(http_client(WAIT_TIMEOUT)?), self.host())
    }

    /// Gets a path of the admin listener.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.send(|client| client.get(self.admin_url(path)))
    }

    /// Requests a container's ports from this manager only. Redirects are not followed.
    pub fn put(&self, request: &PortsRequest) -> Result<Response> {
        let machine = agent_api::vm_uuid(&request.container);
        self.send(|client| {
            client
                .put(format!("{}/v1/ports/{machine}", self.agents_url()))
                .bearer_auth(&self.token)
                .header(agent_api::AGENT_HEADER, AGENT_NAME)
                .json(request)
        })
    }

    /// Whether the manager leads and accepts requests.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.is_running()
            && http_client(LEADERSHIP_TIMEOUT)
                .map(|client| client.get(self.admin_url("/leading")))
                .and_then(|request| Response::fetch(request, self.host()))
                .is_ok_and(|response| response.status == 200)
    }

    /// Waits until the manager leads and accepts requests.
    pub fn wait_until_leading(&mut self) -> Result<()> {
        let started = Instant::now();
        while !self.is_leading() {
            ensure!(
                self.exit_status().is_none() && started.elapsed() < WAIT_TIMEOUT,
                "the manager does not start:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits until `/ready` has this status and this text in its body.
    pub fn wait_until_ready_is(&self, status: u16, text: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let last = match self.get("/ready") {
                Ok(response) if response.status == status && response.body.contains(text) => {
                    return Ok(());
                }
                Ok(response) => format!("{} {}", response.status, response.body),
                Err(error) => format!("{error:#}"),
            };
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "{} is not {status} {text:?} but {last}\n{}",
                self.name(),
                self.log()
            );
            sleep(POLL_INTERVAL);
        }
    }

    /// The terms in which it led and when each began, from its log.
    pub fn terms(&self) -> Result<BTreeMap<u64, SystemTime>> {
        let mut terms = BTreeMap::new();
        for line in self.log_lines() {
            if line["message"] != "leading" {
                continue;
            }
            let term = line["term"].as_u64().context("a term without a number")?;
            let time: jiff::Timestamp = line["time"].as_str().unwrap_or_default().parse()?;
            terms.entry(term).or_insert(time.into());
        }
        Ok(terms)
    }
}

/// Managers on one host, each at an address of its own, and a client that knows all of them.
pub struct ManagerCluster {
    managers: Vec<ManagerProcess>,
    client: PortsClient,
    host: Host,
}

impl ManagerCluster {
    /// A cluster of these managers, which do not run yet.
    pub fn new(host: &Host, managers: Vec<ManagerProcess>) -> Result<Self> {
        let addresses: Vec<SocketAddr> = managers
            .iter()
            .map(|manager| SocketAddr::new(manager.address, AGENT_PORT))
            .collect();
        Ok(Self {
            managers,
            client: agent_client(host, &addresses)?,
            host: host.clone(),
        })
    }

    /// Starts all managers.
    pub fn start(&mut self) -> Result<()> {
        self.managers.iter_mut().try_for_each(ManagerProcess::start)
    }

    /// All managers.
    #[must_use]
    pub fn managers(&self) -> &[ManagerProcess] {
        &self.managers
    }

    /// One of the managers.
    ///
    /// # Panics
    /// If there is no such manager.
    #[must_use]
    pub fn manager(&self, index: usize) -> &ManagerProcess {
        &self.managers[index]
    }

    /// One of the managers, to start or end it.
    ///
    /// # Panics
    /// If there is no such manager.
    pub fn manager_mut(&mut self, index: usize) -> &mut ManagerProcess {
        &mut self.managers[index]
    }

    /// Waits until exactly one running manager leads and all others follow it.
    pub fn leader(&self) -> Result<usize> {
        let started = Instant::now();
        loop {
            let states: Vec<(usize, String)> = self
                .managers
                .iter()
                .enumerate()
                .filter(|(_, manager)| manager.is_running())
                .map(|(index, manager)| {
                    let state = manager.get("/ready").map(|response| response.body);
                    (index, state.unwrap_or_else(|error| error.to_string()))
                })
                .collect();
            let leaders: Vec<usize> = states
                .iter()
                .filter(|(_, state)| state == "leading\n")
                .map(|(index, _)| *index)
                .collect();
            if let [leader] = leaders[..] {
                let following = format!("following {}\n", self.managers[leader].agents_url());
                if states
                    .iter()
                    .all(|(index, state)| *index == leader || *state == following)
                {
                    return Ok(leader);
                }
            }
            if started.elapsed() > WAIT_TIMEOUT {
                bail!(
                    "the managers agree on no leader: {states:?}\n{}",
                    self.logs()
                );
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Requests a container's ports as its agent does: from the manager that leads.
    pub fn put(&self, container: &str, labels: &[(&str, &str)]) -> Result<Ports> {
        let request = request(container, labels);
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        let ports = self.client.put(vm_uuid(container), &request, deadline);
        self.host
            .block_on(ports)
            .with_context(|| format!("{container}:\n{}", self.logs()))
    }

    /// Removes a container's ports as its agent does.
    pub fn delete(&self, container: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        self.host
            .block_on(self.client.delete(vm_uuid(container), deadline))?;
        Ok(())
    }

    /// The logs of all managers.
    #[must_use]
    pub fn logs(&self) -> String {
        self.managers
            .iter()
            .map(|manager| format!("{}:\n{}", manager.name(), manager.log()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Kills every manager that runs.
    pub fn kill(&mut self) -> Result<()> {
        self.managers
            .iter_mut()
            .try_for_each(|manager| manager.kill())
    }
}
