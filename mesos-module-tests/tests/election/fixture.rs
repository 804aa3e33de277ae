//! Several managers on one host, with the real ZooKeeper and a simulated API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use contrail_mesos_manager::vnc::{
    FqName, Object as _, VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_sim::vnc as api;
use mesos_module_tests::testbed::Host;
use mesos_module_tests::testbed::manager::{
    AGENT_NAME, LEGACY_PORT, ManagerCluster, ManagerProcess, Response, request,
};
use mesos_module_tests::testbed::zookeeper::ZooKeeper;

const TOKEN: &str = "a-token-of-this-test-alone";
const PASSWORD: &str = "a-password-of-this-test-alone";
/// The managers' credentials at ZooKeeper.
pub(crate) const DIGEST: &str = "managers:a-password-of-this-test-alone";
/// Gives a process its own clock. From Debian's package faketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const API_PORT: u16 = 8082;
/// The managers' session timeout in ZooKeeper.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Fixture {
    pub(crate) managers: ManagerCluster,
    pub(crate) zookeeper: ZooKeeper,
    pub(crate) api: api::Handle,
    host: Host,
}

impl Fixture {
    /// Starts ZooKeeper, an API server and `count` managers.
    pub(crate) fn start(count: u8) -> Result<Self> {
        ensure!(
            std::path::Path::new(FAKETIME).is_file(),
            "{FAKETIME} is missing: install the Debian package faketime"
        );
        let address = |number: u8| IpAddr::from([192, 0, 2, number]);
        let addresses: Vec<IpAddr> = (1..=count).map(|number| address(10 + number)).collect();
        let host = Host::with_addresses(address(1), &addresses)?;
        let zookeeper = ZooKeeper::start(&host, 2181)?;
        // A client that connects to one of this host's addresses connects from the same address.
        // So the server's log shows which manager sent a request.
        let any = SocketAddr::from(([0, 0, 0, 0], API_PORT));
        let (_, api) = host.block_on(api::Server::start_on(any, api::Options::default()))?;
        let server = server_address(&SocketAddr::new(host.address(), API_PORT).to_string())?;
        let vnc = host.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
        let router = FqName::new(["default-global-system-config", AGENT_NAME]);
        host.block_on(vnc.create(&VirtualRouter::named(router)))?;
        fs::write(host.directory().join("password"), PASSWORD)?;
        let managers = addresses
            .into_iter()
            .enumerate()
            .map(|(index, address)| manager(&host, &zookeeper, index, address))
            .collect::<Result<_>>()?;
        let mut managers = ManagerCluster::new(&host, managers)?;
        managers.start()?;
        Ok(Self {
            managers,
            zookeeper,
            api,
            host,
        })
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Moves a manager's wall clock at once, to this offset from the right time.
    pub(crate) fn set_clock(&self, index: usize, offset: &str) -> Result<()> {
        set_clock(&self.host, index, offset)
    }

    /// The years of the timestamps in a manager's log.
    pub(crate) fn years(&self, index: usize) -> BTreeSet<String> {
        self.managers
            .manager(index)
            .log_lines()
            .iter()
            .filter_map(|line| Some(line["time"].as_str()?.get(..4)?.to_owned()))
            .collect()
    }

    /// Sets a manager's log level.
    pub(crate) fn set_log_level(&self, index: usize, level: &str) -> Result<Response> {
        let manager = self.managers.manager(index);
        manager.send(|client| {
            client
                .put(manager.admin_url("/log-level"))
                .body(level.to_owned())
        })
    }

    /// Requests a container's ports from one manager only.
    pub(crate) fn put_at(&self, index: usize, container: &str) -> Result<Response> {
        self.managers.manager(index).put(&request(container, &[]))
    }

    /// Sends a request as the CNI plugin of Contrail's own manager does.
    pub(crate) fn legacy_request(&self, index: usize) -> Result<Response> {
        let manager = self.managers.manager(index);
        let address = SocketAddr::new(manager.address(), LEGACY_PORT);
        manager.send(|client| {
            client
                .post(format!("http://{address}/add_cni_info"))
                .body("{}")
        })
    }

    /// How many changes the API server has made.
    pub(crate) fn changes(&self) -> usize {
        self.api.log().iter().map(|entry| entry.changes.len()).sum()
    }

    /// The terms in which a manager has led.
    pub(crate) fn terms(&self, index: usize) -> Result<BTreeSet<u64>> {
        Ok(self.managers.manager(index).terms()?.into_keys().collect())
    }

    /// Checks that no term had two leaders, and that the managers' writes do not interleave: the
    /// writers in the API server's log follow each other in the order of their terms.
    pub(crate) fn check_one_writer(&self) -> Result<()> {
        let mut leaders = BTreeMap::new();
        for (index, manager) in self.managers.managers().iter().enumerate() {
            for term in self.terms(index)? {
                let other = leaders.insert(term, manager.address());
                ensure!(
                    other.is_none(),
                    "term {term} had two leaders\n{}",
                    self.managers.logs()
                );
            }
        }
        let own = self.host.address();
        let mut writers: Vec<IpAddr> = self
            .api
            .log()
            .iter()
            .filter(|entry| !entry.changes.is_empty() && entry.peer.ip() != own)
            .map(|entry| entry.peer.ip())
            .collect();
        ensure!(!writers.is_empty(), "no manager has written");
        writers.dedup();
        // A leader may write nothing in its term.
        let mut succession = leaders.values();
        for writer in &writers {
            ensure!(
                succession.any(|leader| leader == writer),
                "writers in order: {writers:?}; leaders by term: {leaders:?}\n{}",
                self.managers.logs()
            );
        }
        Ok(())
    }
}

fn clock_path(host: &Host, index: usize) -> PathBuf {
    host.directory().join(format!("manager-{index}.clock"))
}

fn set_clock(host: &Host, index: usize, offset: &str) -> Result<()> {
    // Renamed into place: the manager reads the file at any time.
    let path = clock_path(host, index);
    let new = path.with_extension("new");
    fs::write(&new, offset)?;
    fs::rename(new, path)?;
    Ok(())
}

fn manager(
    host: &Host,
    zookeeper: &ZooKeeper,
    index: usize,
    address: IpAddr,
) -> Result<ManagerProcess> {
    let config = format!(
        "legacy_listen = '{address}:{LEGACY_PORT}'\n\
         [zookeeper]\nservers = '{}'\nuser = 'managers'\npassword_file = '{}'\n\
         session_timeout = '{}s'\n\
         [vnc]\nservers = ['http://{address}:{API_PORT}']\n\
         [provision]\npod_task_subnets = ['10.32.0.0/12']\n",
        zookeeper.url("/contrail/managers"),
        host.directory().join("password").display(),
        SESSION_TIMEOUT.as_secs(),
    );
    set_clock(host, index, "+0")?;
    let name = format!("manager-{index}");
    // The test moves the wall clock only; the monotonic clock is the kernel's.
    Ok(
        ManagerProcess::at(host, address, &name, TOKEN, &config)?.run_through(&[
            "env",
            &format!("LD_PRELOAD={FAKETIME}"),
            &format!(
                "FAKETIME_TIMESTAMP_FILE={}",
                clock_path(host, index).display()
            ),
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]),
    )
}
