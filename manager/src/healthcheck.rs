//! `contrail-mesos-manager healthcheck`: asks the manager that runs with a configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use contrail_mesos_api::http::{Address, HttpClient, Limits, Request, TlsOptions};
use contrail_mesos_api::{command_line, program};
use contrail_mesos_manager::Config;
use hyper::Method;

/// For a probe, which has a limit of its own.
const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(2),
    request_timeout: Duration::from_secs(4),
    max_body_bytes: 64 << 10,
};

/// Ask the running manager at `admin_listen` whether it is ready, and exit with status 0 if it is
#[derive(Debug, Args)]
pub(crate) struct Healthcheck {
    /// Ask only whether it runs: for what restarts it. A manager that waits for ZooKeeper or the VNC API
    /// runs, but is not ready
    #[arg(long)]
    live: bool,
}

impl Healthcheck {
    /// Asks the manager with the configuration at this path.
    pub(crate) fn run(&self, config: &Path) -> Result<ExitCode> {
        let config = match Config::load(config) {
            Ok(config) => config,
            Err(error) => {
                program::print_problems(&error.problems, error.omitted);
                return Ok(ExitCode::FAILURE);
            }
        };
        let Some(listen) = config.admin_listen else {
            bail!("admin_listen is \"none\": there is nobody to ask");
        };
        let path = if self.live { "/live" } else { "/ready" };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        command_line::print(&runtime.block_on(ask(reachable(listen), path))?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The address by which this host reaches a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

async fn ask(listen: SocketAddr, path: &str) -> Result<String> {
    let address = Address::parse(&listen.to_string(), listen.port())?;
    let request = Request {
        method: Method::GET,
        uri: address.uri(path)?,
        headers: vec![],
        body: None,
    };
    let http = HttpClient::new(LIMITS, &TlsOptions::default())?;
    let response = http
        .send(request)
        .await
        .with_context(|| format!("no answer from the manager at {listen}; does it run?"))?;
    let text = response.text();
    ensure!(
        response.status.is_success(),
        "{path} of the manager at {listen} answers with status {}: {text}",
        response.status.as_u16()
    );
    Ok(format!("{}\n", text.trim_end()))
}
