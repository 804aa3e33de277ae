//! Simulated services around contrail-mesos, for machines that have none of the real ones.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use contrail_mesos_sim::marathon::launch::image::Images;
use contrail_mesos_sim::marathon::model::Defaults;
use contrail_mesos_sim::marathon::version::Version;
use contrail_mesos_sim::marathon::{HttpCredentials, Marathon, Options};
use contrail_mesos_sim::{vnc, vrouter};
use tokio::signal::unix::{SignalKind, signal};

/// Simulated services around contrail-mesos
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Marathon(MarathonArgs),
    Vnc(VncArgs),
    Vrouter(VrouterArgs),
}

/// An in-memory VNC API server
#[derive(Debug, Args)]
struct VncArgs {
    /// The address on which the API listens
    #[arg(long, default_value = "127.0.0.1:8082")]
    listen: SocketAddr,
    /// The address of the control listener, which simulated vRouter agents follow
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// The delay of every response, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u64,
    /// Write header and body of responses apart, as the real server does
    #[arg(long)]
    split_writes: bool,
    /// Require a token, which this administrator can obtain at the same address
    #[arg(long, value_name = "USER:PASSWORD:PROJECT", value_parser = administrator)]
    keystone: Option<vnc::Keystone>,
}

/// A vRouter agent: the port service, and a data path in this network namespace (needs root)
#[derive(Debug, Args)]
struct VrouterArgs {
    /// The last part of the name of its virtual-router
    #[arg(long)]
    name: String,
    /// The host's address, which is also that of its virtual-router
    #[arg(long)]
    address: IpAddr,
    /// The control listener of the API server
    #[arg(long, value_name = "URL")]
    control: String,
    /// Where the port service listens
    #[arg(long, default_value = "127.0.0.1:9091")]
    listen: SocketAddr,
    /// The directory of port files
    #[arg(long, value_name = "DIR", default_value = "/var/lib/contrail/ports")]
    ports_dir: PathBuf,
    /// The address of its own control listener
    #[arg(long, value_name = "ADDRESS")]
    own_control: Option<SocketAddr>,
    /// The external interface, on which floating IPs are answered for
    #[arg(long, value_name = "INTERFACE")]
    uplink: Option<String>,
    /// Let every container and the host's address reach each other, regardless of policies
    #[arg(long)]
    host_access: bool,
    /// Forward no packets; needs no root
    #[arg(long, conflicts_with_all = ["uplink", "host_access"])]
    no_data_path: bool,
    /// How long a port may stay stale after POST /syncports, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    stale: u64,
    /// The delay of every response, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u64,
    /// The delay of changes from the API server, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    configuration_delay: u64,
    /// The additional delay of changes of addresses, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    address_delay: u64,
}

fn administrator(text: &str) -> Result<vnc::Keystone, String> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [user, password, project] => Ok(vnc::Keystone::with_admin(user, password, project)),
        _ => Err("expected USER:PASSWORD:PROJECT".to_owned()),
    }
}

/// Marathon's REST API and event stream; its tasks run on a real Mesos
#[derive(Debug, Args)]
struct MarathonArgs {
    /// The address of the Mesos master, host:port
    #[arg(long, default_value = "127.0.0.1:5050")]
    master: String,
    /// The address on which the API listens; repeat it for more servers, of which the first leads
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: Vec<SocketAddr>,
    /// The address of the control listener, which sets the leader and faults
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// The release to simulate: 1.7, 1.8, 1.9, 1.10 or 1.11
    #[arg(long, value_name = "RELEASE", default_value = "1.11")]
    release: Version,
    /// A file with `user:password`, which every request has to present; it can also be in the
    /// environment variable `MESOSPHERE_HTTP_CREDENTIALS`
    #[arg(long, value_name = "FILE")]
    http_credentials_file: Option<PathBuf>,
    /// The heartbeat interval of event streams, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    heartbeat: u64,
    /// How many events wait for a slow consumer
    #[arg(long, value_name = "N", default_value_t = 1024)]
    event_stream_max_outstanding_messages: usize,
    /// The framework's role. Apps that accept only `slave_public` need this role, and agents that
    /// run with `--default_role=slave_public`
    #[arg(long, default_value = "*")]
    role: String,
    /// The framework's name
    #[arg(long, default_value = "marathon")]
    framework_name: String,
    /// How long Mesos keeps the tasks while the framework is disconnected, in seconds
    #[arg(long, default_value_t = 604_800)]
    failover_timeout: u64,
    /// End the framework and all its tasks on SIGTERM or SIGINT
    #[arg(long)]
    teardown: bool,
    /// The name of a container network that has none
    #[arg(long)]
    default_network_name: Option<String>,
    /// The name that Mesos knows networks of mode `container/bridge` by
    #[arg(long, default_value = "mesos-bridge")]
    mesos_bridge_name: String,
    /// The local image that replaces IMAGE; without LOCAL, the agent's own filesystem
    #[arg(long = "image", value_name = "IMAGE=LOCAL", value_parser = image)]
    images: Vec<(String, Option<String>)>,
    /// The local image that replaces all others; by default, the agent's own filesystem
    #[arg(long, value_name = "LOCAL")]
    rootfs_image: Option<String>,
    /// Keep images that no --image names
    #[arg(long, conflicts_with = "rootfs_image")]
    keep_images: bool,
    /// The shell command of containers that rely on the command of their image
    #[arg(long)]
    default_command: Option<String>,
}

fn image(text: &str) -> Result<(String, Option<String>), String> {
    let (image, local) = text.split_once('=').ok_or("expected IMAGE=LOCAL")?;
    let local = (!local.is_empty()).then(|| local.to_owned());
    Ok((image.to_owned(), local))
}

#[tokio::main]
async fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match Cli::parse().command {
        Command::Marathon(args) => marathon(args).await,
        Command::Vnc(args) => api_server(args).await,
        Command::Vrouter(args) => vrouter_agent(args).await,
    }
}

/// Reads `--http_credentials` from a file or the environment, where other users cannot see it.
fn http_credentials(file: Option<PathBuf>) -> Result<Option<HttpCredentials>> {
    let text = match file {
        Some(file) => std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?,
        None => match std::env::var("MESOSPHERE_HTTP_CREDENTIALS") {
            Ok(text) => text,
            Err(_) => return Ok(None),
        },
    };
    let credentials = HttpCredentials::parse(text.trim_end())
        .context("the credentials do not have the form user:password")?;
    Ok(Some(credentials))
}

async fn marathon(args: MarathonArgs) -> Result<()> {
    let images = Images::default();
    let (listen, standbys) = args.listen.split_first().context("no --listen")?;
    let options = Options {
        master: args.master,
        listen: *listen,
        standbys: standbys.to_vec(),
        version: args.release,
        http_credentials: http_credentials(args.http_credentials_file)?,
        heartbeat: Duration::from_millis(args.heartbeat),
        outstanding: args.event_stream_max_outstanding_messages,
        framework_name: args.framework_name,
        failover_timeout: Duration::from_secs(args.failover_timeout),
        defaults: Defaults {
            network_name: args.default_network_name,
            mesos_bridge_name: args.mesos_bridge_name,
            role: args.role,
        },
        images: Images {
            by_name: args.images.into_iter().collect(),
            otherwise: args.rootfs_image,
            keep: args.keep_images,
            default_command: args.default_command.unwrap_or(images.default_command),
        },
        ..Options::default()
    };
    let running = Marathon::start(options)
        .await
        .with_context(|| format!("cannot listen on {:?}", args.listen))?;
    for address in running.handle().servers() {
        log::info!("Marathon listens on http://{address}");
    }
    if let Some(control) = args.control {
        let control = running
            .handle()
            .control(control)
            .await
            .with_context(|| "cannot listen for control")?;
        log::info!("Marathon's control listener is on http://{control}");
    }
    termination().await?;
    let stopped = running.stop(args.teardown).await;
    stopped.map_err(|error| anyhow!("cannot end the framework: {error}"))
}

async fn api_server(args: VncArgs) -> Result<()> {
    let options = vnc::Options {
        auth: args.keystone.map_or(vnc::Auth::None, vnc::Auth::Keystone),
        delay: Duration::from_millis(args.delay),
        split_writes: args.split_writes,
        ..vnc::Options::default()
    };
    let (address, handle) = vnc::Server::start_on(args.listen, options)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    log::info!("the API server listens on http://{address}");
    if let Some(control) = args.control {
        let control = handle
            .control(control)
            .await
            .with_context(|| "cannot listen for control")?;
        log::info!("the API server's control listener is on http://{control}");
    }
    termination().await
}

async fn vrouter_agent(args: VrouterArgs) -> Result<()> {
    let name = args.name.clone();
    let options = vrouter::Options {
        address: args.address,
        listen: args.listen,
        stale: Duration::from_millis(args.stale),
        data_path: if args.no_data_path {
            vrouter::DataPath::Off
        } else {
            vrouter::DataPath::On(vrouter::Forwarding {
                uplink: args.uplink,
                host_access: args.host_access,
            })
        },
        delays: vrouter::Delays {
            response: Duration::from_millis(args.delay),
            configuration: Duration::from_millis(args.configuration_delay),
            address: Duration::from_millis(args.address_delay),
        },
        ..vrouter::Options::new(&name, &args.control, args.ports_dir)
    };
    let (address, handle) = vrouter::Agent::start(options).await?;
    log::info!("the vRouter agent {name} listens on http://{address}");
    if let Some(control) = args.own_control {
        let control = handle
            .control(control)
            .await
            .with_context(|| "cannot listen for control")?;
        log::info!("the vRouter agent's control listener is on http://{control}");
    }
    termination().await?;
    handle.stop().await?;
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
async fn termination() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    Ok(())
}
