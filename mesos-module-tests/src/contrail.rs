//! Contrail around one or more hosts: a simulated API server, the real manager, and on each host a
//! simulated vRouter agent that truly forwards. Everything listens inside the hosts' namespaces.

mod objects;
mod vrouter;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_manager::vnc::{Object, VncClient, VncOptions, server_address};
use contrail_mesos_sim::vnc as api;
use serde_json::{Value, json};

use self::objects::network;
pub use self::objects::{open_ports, provision};
pub use self::vrouter::Vrouter;
use crate::agent::PATIENCE;
use crate::{Host, program};

/// Where the API server listens, on the host that has it.
const API_PORT: u16 = 8082;
const CONTROL_PORT: u16 = 8083;
const MANAGER_PORT: u16 = 6992;
/// What agents and manager share.
const TOKEN: &str = "a-token-of-this-test-alone";

/// The API server and the manager, on one host.
pub struct Contrail {
    api: api::Handle,
    client: VncClient,
    manager: Option<Child>,
    host: Host,
    directory: PathBuf,
    before: Before,
}

/// What the API server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    objects: BTreeMap<String, usize>,
    addresses: Vec<String>,
}

impl Contrail {
    /// Starts API server and manager on a host, with the networks of the seed's examples.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_with(host, "")
    }

    /// As [`Contrail::start`], with more tables in the manager's configuration.
    pub fn start_with(host: &Host, more: &str) -> Result<Self> {
        let any = |port| std::net::SocketAddr::new(host.address(), port);
        let options = api::Options::default();
        let (_, api) = host.block_on(api::Server::start_on(any(API_PORT), options))?;
        host.block_on(api.control(any(CONTROL_PORT)))?;
        let server = server_address(&any(API_PORT).to_string())?;
        let client = host.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
        host.block_on(provision(&client))?;
        let directory = host.directory().join("contrail");
        fs::create_dir_all(&directory)?;
        let mut contrail = Self {
            before: before(&api),
            api,
            client,
            manager: None,
            host: host.clone(),
            directory,
        };
        contrail.configure_manager(more)?;
        contrail.start_manager()?;
        // The manager has provisioned its own.
        contrail.before = before(&contrail.api);
        Ok(contrail)
    }

    /// The API server, seen from the inside.
    #[must_use]
    pub fn api(&self) -> &api::Handle {
        &self.api
    }

    /// The API server's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}:{API_PORT}", self.host.address())
    }

    /// A client of the API server. To be used on the host.
    #[must_use]
    pub fn client(&self) -> &VncClient {
        &self.client
    }

    /// Makes an object, if it is not there.
    pub fn ensure<T: Object>(&self, object: &T) -> Result<()> {
        self.host.block_on(self.client.ensure(object))?;
        Ok(())
    }

    /// Makes a virtual network with these subnets, and what it needs.
    pub fn network(&self, name: &str, subnets: &[&str]) -> Result<()> {
        self.host.block_on(network(&self.client, name, subnets))
    }

    /// How many objects the API server holds, in words.
    #[must_use]
    pub fn holds(&self) -> String {
        let now = before(&self.api);
        let count: usize = now.objects.values().sum();
        format!("{count} objects, {} addresses", now.addresses.len())
    }

    /// What the manager has logged.
    pub fn manager_says(&self) -> Result<String> {
        Ok(fs::read_to_string(self.manager_log())?)
    }

    /// The containers' objects, for people.
    pub fn tables(&self) -> Result<Vec<String>> {
        let names = |object: &Value| {
            let parts = object["fq_name"].as_array().into_iter().flatten();
            parts
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(":")
        };
        let mut lines = Vec::new();
        for address in self.api.objects("instance-ip") {
            lines.push(format!(
                "instance-ip {:<40} {:<20} {}",
                names(&address),
                address["instance_ip_address"].as_str().unwrap_or_default(),
                names(&json!({ "fq_name": address["virtual_network_refs"][0]["to"] }))
            ));
        }
        for floating in self.api.objects("floating-ip") {
            lines.push(format!(
                "floating-ip {} {}",
                floating["floating_ip_address"].as_str().unwrap_or_default(),
                names(&floating)
            ));
        }
        for router in self.api.objects("virtual-router") {
            let refs = router["virtual_machine_refs"]
                .as_array()
                .map_or(0, Vec::len);
            lines.push(format!(
                "virtual-router {}: {refs} virtual machines",
                names(&router)
            ));
        }
        Ok(lines)
    }

    /// Starts the vRouter agent of a host, and registers its virtual-router as `name`.
    pub fn vrouter(&mut self, host: &Host, name: &str, uplink: Option<&str>) -> Result<Vrouter> {
        let registered = Vrouter::register(&self.client, name, host.address());
        self.host.block_on(registered)?;
        self.before = before(&self.api);
        Vrouter::start(&self.control(), host, name, uplink)
    }

    fn control(&self) -> String {
        format!("http://{}:{CONTROL_PORT}", self.host.address())
    }

    /// Writes the manager's configuration, which is read when it starts, with these tables more.
    pub fn configure_manager(&self, more: &str) -> Result<()> {
        let address = self.host.address();
        fs::write(self.token_file(), format!("{TOKEN}\n"))?;
        let text = format!(
            "listen = '{address}:{MANAGER_PORT}'\n\
             legacy_listen = '{address}:6991'\n\
             token_file = '{}'\n\
             domain = 'default-domain'\n\
             project = 'default-project'\n\
             create = ['networks']\n\
             [vnc]\n\
             servers = ['http://{address}:{API_PORT}']\n\
             [provision]\n\
             pod_task_subnets = ['10.32.0.0/16']\n\
             ip_fabric_subnets = ['10.64.0.0/16']\n\
             {more}",
            self.token_file().display()
        );
        fs::write(self.directory.join("manager.toml"), text)?;
        Ok(())
    }

    /// Where the token is that agents and manager share.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Starts the manager, and waits until it answers.
    pub fn start_manager(&mut self) -> Result<()> {
        ensure!(self.manager.is_none(), "the manager runs already");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.manager_log())?;
        let length = usize::try_from(log.metadata()?.len())?;
        let manager = Command::new("nsenter")
            .arg(format!("--net={}", self.host.namespace().display()))
            .arg("--")
            .arg(program("contrail-mesos-manager")?)
            .arg("--config")
            .arg(self.directory.join("manager.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run the manager")?;
        self.manager = Some(manager);
        self.wait_until_ready(length)
    }

    /// Waits until the manager says that everything is provisioned, after so much of its log.
    fn wait_until_ready(&mut self, log: usize) -> Result<()> {
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(self.manager_log())?;
            if text.get(log..).is_some_and(|new| new.contains("] ready")) {
                return Ok(());
            }
            let ended = self.manager.as_mut().and_then(|m| m.try_wait().ok()?);
            ensure!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "the manager does not start:\n{text}"
            );
            sleep(Duration::from_millis(5));
        }
    }

    fn manager_log(&self) -> PathBuf {
        self.directory.join("manager.log")
    }

    /// Kills the manager.
    pub fn kill_manager(&mut self) -> Result<()> {
        let mut manager = self.manager.take().context("the manager does not run")?;
        manager.kill()?;
        manager.wait()?;
        Ok(())
    }

    /// What the agent's configuration says of Contrail, for a host whose vRouter agent this is.
    #[must_use]
    pub fn agent_config(&self, vrouter: &Vrouter) -> String {
        let manager = SocketAddr::new(self.host.address(), MANAGER_PORT);
        vrouter.agent_config(&[manager], &self.token_file())
    }

    /// Takes what the API server holds now for what it held before.
    pub fn accept(&mut self) -> Result<()> {
        self.before = before(&self.api);
        Ok(())
    }

    /// Waits until the API server holds no object of that type.
    pub fn expect_none_of(&self, kind: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let objects = self.api.objects(kind);
            if objects.is_empty() {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "left: {objects:?}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the API server holds what it held before: not one object or address more or
    /// less.
    pub fn expect_as_before(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let now = before(&self.api);
            if now == self.before {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "the API server held\n{:?}\nand holds\n{now:?}\nthe manager says\n{}",
                    self.before,
                    fs::read_to_string(self.manager_log())?
                );
            }
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Contrail {
    fn drop(&mut self) {
        if self.manager.is_some()
            && let Err(error) = self.kill_manager()
        {
            log::error!("cannot end the manager: {error:#}");
        }
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(self.manager_log())
        {
            eprintln!("the manager said:\n{log}");
        }
    }
}

fn before(api: &api::Handle) -> Before {
    let taken = api.addresses();
    let mut addresses: Vec<String> = taken
        .iter()
        .map(|(subnet, address, _)| format!("{address} of {subnet}"))
        .collect();
    addresses.sort();
    Before {
        objects: api.counts(),
        addresses,
    }
}
