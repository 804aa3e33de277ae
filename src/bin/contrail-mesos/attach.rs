//! `contrail-mesos attach` and `detach`: attach any network namespace as the agent attaches a
//! container's.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use contrail_mesos::config::Config;
use contrail_mesos::isolator::attacher::{Attacher, Target};
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use contrail_mesos::network_request::{self, ContainerRequest};
use contrail_mesos::proto::mesos::network_info::{IpAddress, PortMapping};
use contrail_mesos::proto::mesos::{ContainerInfo, Label, Labels, NetworkInfo, container_info};
use contrail_mesos_api::container::ContainerId;
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;

use crate::Output;

/// Attach a network namespace to networks
#[derive(Args)]
pub(crate) struct Attach {
    /// Name of the attachment, used like a container id; give it to detach
    container: String,
    /// Network of the configuration, for eth0; repeat the option for eth1 and so on
    #[arg(long = "network", required = true, value_name = "NAME")]
    networks: Vec<String>,
    /// Network namespace: a path, or a name below /run/netns
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "pid")]
    netns: Option<PathBuf>,
    /// Process whose network namespace to attach; its hostname is set, too
    #[arg(long, required_unless_present_any = ["netns", "dry_run"])]
    pid: Option<u32>,
    /// Static address on the first network
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// Host port to map on the first network: 8080:80, 5353:53/udp
    #[arg(long = "port", value_name = "HOST:CONTAINER[/PROTOCOL]", value_parser = port)]
    ports: Vec<PortMapping>,
    /// Label of each network, such as networks=blue for Contrail
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<Label>,
    /// Hostname [default: the name of the attachment]
    #[arg(long)]
    hostname: Option<String>,
    /// Print the changes without making them
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl Attach {
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let container = ContainerId::chosen(&self.container).map_err(anyhow::Error::msg)?;
        let request = network_request::parse(&container, &self.container_info(), config)?;
        let (lost, _receiver) = unbounded_channel();
        let attacher = Attacher::new(config, lost)?;
        if let Some(stored) = attacher.checkpoints().find_printed(&self.container)? {
            bail!("{}", stored.reason_in_use(&container));
        }
        if self.pid.is_some() || self.netns.is_some() {
            let target = self.target()?;
            attacher.check_target(&request, &container, target).await?;
        }
        if self.dry_run {
            for change in attacher.plan(&request).await? {
                println!("{change}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        let target = self.target()?;
        let checkpoint = attacher
            .reserve(&request, &container, Owner::Operator, None)
            .await?;
        if let Err(error) = attach(&attacher, &checkpoint, target).await {
            match attacher.detach(&checkpoint).await {
                Ok(()) => return Err(error),
                Err(detach_error) => bail!(
                    "{error}; cannot undo everything: {detach_error}; \
                     retry with contrail-mesos detach {container}"
                ),
            }
        }
        self.print(&request, &checkpoint)?;
        Ok(ExitCode::SUCCESS)
    }

    fn container_info(&self) -> ContainerInfo {
        let info = |(index, name): (usize, &String)| {
            let is_first = index == 0;
            NetworkInfo {
                name: Some(name.clone().into_bytes()),
                labels: Some(Labels {
                    labels: self.labels.clone(),
                }),
                port_mappings: if is_first { self.ports.clone() } else { vec![] },
                ip_addresses: if is_first {
                    self.ip_addresses()
                } else {
                    vec![]
                },
                groups: vec![],
            }
        };
        ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: self.hostname.clone().map(String::into_bytes),
            network_infos: self.networks.iter().enumerate().map(info).collect(),
        }
    }

    fn ip_addresses(&self) -> Vec<IpAddress> {
        let entry = |address: &IpAddr| IpAddress {
            protocol: None,
            ip_address: Some(address.to_string().into_bytes()),
        };
        self.addresses.iter().map(entry).collect()
    }

    fn target(&self) -> Result<Target> {
        match (self.pid, &self.netns) {
            (Some(pid), _) => Ok(Target::Process(pid)),
            (None, Some(path)) if path.components().count() == 1 => {
                Ok(Target::Namespace(PathBuf::from("/run/netns").join(path)))
            }
            (None, Some(path)) => Ok(Target::Namespace(path.clone())),
            (None, None) => bail!("no namespace: give --netns or --pid"),
        }
    }

    fn print(&self, request: &ContainerRequest, checkpoint: &Checkpoint) -> Result<()> {
        let intents = || checkpoint.networks.iter().map(|network| &network.intent);
        match self.output {
            Output::Json => {
                let intents: Vec<_> = intents().collect();
                let attachment = json!({ "container": self.container, "networks": intents });
                println!("{}", serde_json::to_string_pretty(&attachment)?);
            }
            Output::Table => {
                for intent in intents() {
                    let addresses: Vec<_> =
                        intent.addresses.iter().map(ToString::to_string).collect();
                    println!(
                        "{} on {}: {} mac {}",
                        intent.interface,
                        intent.network,
                        addresses.join(" "),
                        intent.mac
                    );
                }
                println!("hostname {}", request.hostname);
            }
        }
        Ok(())
    }
}

async fn attach(attacher: &Attacher, checkpoint: &Checkpoint, target: Target) -> Result<()> {
    attacher.write_etc_files(checkpoint, None).await?;
    attacher.attach(checkpoint, target).await?;
    Ok(())
}

/// Undo an attach
#[derive(Args)]
pub(crate) struct Detach {
    /// Name of the attachment
    container: String,
    /// Also detach a container of the agent
    #[arg(long)]
    force: bool,
}

impl Detach {
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let container = ContainerId::top_level(&self.container);
        let (lost, _receiver) = unbounded_channel();
        let attacher = Attacher::new(config, lost)?;
        let checkpoint = attacher
            .checkpoints()
            .load_all()?
            .into_iter()
            .find_map(|stored| match stored {
                // By the name that status prints, which has dots for a nested container.
                StoredCheckpoint::Intact { checkpoint, .. }
                    if checkpoint.container.to_string() == self.container =>
                {
                    Some(checkpoint)
                }
                _ => None,
            });
        let Some(checkpoint) = checkpoint else {
            println!("{container} is not attached: nothing to do");
            return Ok(ExitCode::SUCCESS);
        };
        if checkpoint.owner == Owner::Agent && !self.force {
            bail!(
                "{container} is a container of the agent, which detaches it when it ends; \
                 use --force to detach it now"
            );
        }
        attacher
            .detach(&checkpoint)
            .await
            .with_context(|| format!("{container} is not completely detached; retry"))?;
        println!("{container} is detached");
        Ok(ExitCode::SUCCESS)
    }
}

fn port(argument: &str) -> Result<PortMapping> {
    let (ports, protocol) = match argument.split_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol.as_bytes().to_vec())),
        None => (argument, None),
    };
    let (host, container) = ports.split_once(':').unwrap_or((ports, ports));
    let number = |port: &str| {
        port.parse()
            .with_context(|| format!("{port:?} is not a port number"))
    };
    Ok(PortMapping {
        host_port: number(host)?,
        container_port: number(container)?,
        protocol,
    })
}

fn label(argument: &str) -> Result<Label> {
    let (key, value) = argument
        .split_once('=')
        .with_context(|| format!("{argument:?} is not KEY=VALUE"))?;
    Ok(Label {
        key: key.as_bytes().to_vec(),
        value: Some(value.as_bytes().to_vec()),
    })
}
