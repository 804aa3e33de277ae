//! `contrail-mesos attach` and `detach`: what the agent does for a container, by hand.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use contrail_mesos::config::Config;
use contrail_mesos::isolator::checkpoint::{Checkpoint, Found, Owner};
use contrail_mesos::isolator::networks::{Networks, Target};
use contrail_mesos::network_request::{self, Request};
use contrail_mesos::proto::mesos::network_info::{IpAddress, PortMapping};
use contrail_mesos::proto::mesos::{ContainerInfo, Label, Labels, NetworkInfo, container_info};
use contrail_mesos_api::container::ContainerId;
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;

use crate::Output;

/// Attach a network namespace to networks
#[derive(Args)]
pub(crate) struct Attach {
    /// A name for the attachment, as a container id; detach takes the same
    container: String,
    /// A network of the configuration; once for eth0, again for eth1, …
    #[arg(long = "network", required = true, value_name = "NAME")]
    networks: Vec<String>,
    /// The network namespace: a path, or a name below /run/netns
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "pid")]
    netns: Option<PathBuf>,
    /// A process whose network namespace it is; its hostname is set too
    #[arg(long, required_unless_present_any = ["netns", "dry_run"])]
    pid: Option<u32>,
    /// Ask for this very address on the first network
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// Map a port of the host on the first network: 8080:80, 5353:53/udp
    #[arg(long = "port", value_name = "HOST:CONTAINER[/PROTOCOL]", value_parser = port)]
    ports: Vec<PortMapping>,
    /// A label of the `NetworkInfo`
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<Label>,
    /// The hostname; default: the container's name
    #[arg(long)]
    hostname: Option<String>,
    /// Print every change that would be made, and make none
    #[arg(long)]
    dry_run: bool,
    /// How to print what was made
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl Attach {
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let container = ContainerId::top_level(&self.container);
        let request = network_request::request(&container, &self.container_info(), config)?;
        let (lost, _nobody_waits) = unbounded_channel();
        let networks = Networks::new(config, lost)?;
        if self.dry_run {
            for change in networks.plan(&request).await? {
                println!("{change}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        let target = self.target()?;
        let checkpoint = networks
            .reserve(&request, &container, Owner::Operator, None)
            .await?;
        let attached = attach(&networks, &checkpoint, target).await;
        if let Err(error) = attached {
            let undone = networks.detach(&checkpoint).await;
            let undone = undone.err().map_or(String::new(), |error| {
                format!("; not everything could be undone: {error}")
            });
            bail!("{error:#}{undone}");
        }
        self.print(&request, &checkpoint)?;
        Ok(ExitCode::SUCCESS)
    }

    fn container_info(&self) -> ContainerInfo {
        let info = |(index, name): (usize, &String)| {
            let first = index == 0;
            NetworkInfo {
                name: Some(name.clone().into_bytes()),
                labels: Some(Labels {
                    labels: self.labels.clone(),
                }),
                port_mappings: if first { self.ports.clone() } else { vec![] },
                ip_addresses: if first { self.ip_addresses() } else { vec![] },
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
            (None, None) => bail!("name the namespace with --netns or --pid"),
        }
    }

    fn print(&self, request: &Request, checkpoint: &Checkpoint) -> Result<()> {
        let intents = || checkpoint.networks.iter().map(|network| &network.intent);
        match self.output {
            Output::Json => {
                let intents: Vec<_> = intents().collect();
                let text = json!({ "container": self.container, "networks": intents });
                println!("{}", serde_json::to_string_pretty(&text)?);
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

async fn attach(networks: &Networks, checkpoint: &Checkpoint, target: Target) -> Result<()> {
    networks.write_etc_files(checkpoint, None).await?;
    networks.attach(checkpoint, target).await?;
    Ok(())
}

/// Give back everything that an attach made
#[derive(Args)]
pub(crate) struct Detach {
    /// The name that attach was given
    container: String,
    /// Detach even a container of the agent
    #[arg(long)]
    force: bool,
}

impl Detach {
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let container = ContainerId::top_level(&self.container);
        let (lost, _nobody_waits) = unbounded_channel();
        let networks = Networks::new(config, lost)?;
        let found = networks.checkpoints().find()?;
        let checkpoint = found.into_iter().find_map(|found| match found {
            Found::Container(checkpoint, _) => {
                // The name that status prints, for nested containers too.
                let named = checkpoint.container.to_string() == self.container;
                named.then_some(checkpoint)
            }
            Found::Damaged { .. } => None,
        });
        let Some(checkpoint) = checkpoint else {
            println!("{container} is not attached: nothing to do");
            return Ok(ExitCode::SUCCESS);
        };
        if checkpoint.owner == Owner::Agent && !self.force {
            bail!(
                "{container} is a container of the agent, which detaches it when it ends; \
                 --force detaches it all the same"
            );
        }
        networks
            .detach(&checkpoint)
            .await
            .with_context(|| format!("{container} is not completely detached"))?;
        println!("{container} is detached");
        Ok(ExitCode::SUCCESS)
    }
}

fn port(text: &str) -> Result<PortMapping> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol.as_bytes().to_vec())),
        None => (text, None),
    };
    let (host, container) = ports.split_once(':').unwrap_or((ports, ports));
    let number = |text: &str| {
        text.parse()
            .with_context(|| format!("{text:?} is not a port number"))
    };
    Ok(PortMapping {
        host_port: number(host)?,
        container_port: number(container)?,
        protocol,
    })
}

fn label(text: &str) -> Result<Label> {
    let (key, value) = text
        .split_once('=')
        .with_context(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok(Label {
        key: key.as_bytes().to_vec(),
        value: Some(value.as_bytes().to_vec()),
    })
}
