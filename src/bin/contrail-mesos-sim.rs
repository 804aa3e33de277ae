//! Stand-ins for the services around contrail-mesos that no test machine has.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use contrail_mesos::sim::marathon::launch::image::Images;
use contrail_mesos::sim::marathon::model::Defaults;
use contrail_mesos::sim::marathon::{Marathon, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Stand-ins for the services around contrail-mesos.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Marathon(MarathonArgs),
}

/// Marathon's REST API; what it launches runs on the Mesos that is named.
#[derive(Debug, Args)]
struct MarathonArgs {
    /// The Mesos master, host:port
    #[arg(long, default_value = "127.0.0.1:5050")]
    master: String,
    /// Where the API listens
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The framework's role; for apps that accept `slave_public` only, that, on agents that run
    /// with `--default_role=slave_public`
    #[arg(long, default_value = "*")]
    role: String,
    /// The framework's name
    #[arg(long, default_value = "marathon")]
    framework_name: String,
    /// How long Mesos keeps the tasks when this is away, in seconds
    #[arg(long, default_value_t = 604_800)]
    failover_timeout: u64,
    /// End the framework and all its tasks when this is ended by SIGTERM or SIGINT
    #[arg(long)]
    teardown: bool,
    /// What a container network without a name is called
    #[arg(long)]
    default_network_name: Option<String>,
    /// What networks of mode `container/bridge` are called towards Mesos
    #[arg(long, default_value = "mesos-bridge")]
    mesos_bridge_name: String,
    /// The local image to use in place of IMAGE; nothing after the `=` means the agent's own
    /// filesystem
    #[arg(long = "image", value_name = "IMAGE=LOCAL", value_parser = image)]
    images: Vec<(String, Option<String>)>,
    /// The local image to use in place of every other one; without it, the agent's own filesystem
    #[arg(long, value_name = "LOCAL")]
    rootfs_image: Option<String>,
    /// Leave images that no --image names as they are
    #[arg(long, conflicts_with = "rootfs_image")]
    keep_images: bool,
    /// The shell command of containers that leave it to their image
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
    }
}

async fn marathon(args: MarathonArgs) -> Result<()> {
    let images = Images::default();
    let options = Options {
        master: args.master,
        listen: args.listen,
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
    let listen = options.listen;
    let running = Marathon::start(options)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    log::info!("marathon listens on {}", running.url());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    let stopped = running.stop(args.teardown).await;
    stopped.map_err(|error| anyhow!("cannot end the framework: {error}"))
}
