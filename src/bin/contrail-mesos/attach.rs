//! `contrail-mesos attach`: attaches any network namespace as the agent attaches a container's.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use contrail_mesos::config::{Config, Dns};
use contrail_mesos::isolator::attacher::{Attacher, Target};
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner};
use contrail_mesos::network_request::{self, ContainerRequest};
use contrail_mesos::proto::mesos::network_info::{IpAddress, PortMapping};
use contrail_mesos::proto::mesos::{ContainerInfo, Label, Labels, NetworkInfo, container_info};
use contrail_mesos::provider::Attachment;
use contrail_mesos_api::container::ContainerId;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;

use crate::Output;
use crate::output::{port_text, print};

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
    /// Process whose network namespace to attach, in place of --netns; its hostname is set, too
    #[arg(long)]
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
        if !self.dry_run {
            // Before anything else is looked at.
            self.target()?;
        }
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
            let changes = attacher.plan(&request).await?;
            self.print_plan(changes)?;
            return Ok(ExitCode::SUCCESS);
        }
        let target = self.target()?;
        let checkpoint = attacher
            .reserve(&request, &container, Owner::Operator, None)
            .await?;
        match attach(&attacher, &checkpoint, target).await {
            Ok(attachments) => {
                self.print(&request, &checkpoint, &attachments)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => match attacher.detach(&checkpoint).await {
                Ok(()) => Err(error),
                Err(detach_error) => bail!(
                    "{error}; cannot undo everything: {detach_error}; \
                     retry with contrail-mesos detach {container}"
                ),
            },
        }
    }

    /// Networks have changes in common, such as the nftables table: each is printed once.
    fn print_plan(&self, mut changes: Vec<String>) -> Result<()> {
        let mut known = HashSet::new();
        changes.retain(|change| known.insert(change.clone()));
        let mut text = String::new();
        match self.output {
            Output::Json => {
                let plan = json!({ "container": self.container, "changes": changes });
                writeln!(text, "{}", serde_json::to_string_pretty(&plan)?)?;
            }
            Output::Table => {
                for change in &changes {
                    writeln!(text, "{change}")?;
                }
            }
        }
        print(&text)
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

    /// Prints what was made, which may differ from the request: plugins and Contrail choose
    /// addresses and MAC addresses.
    fn print(
        &self,
        request: &ContainerRequest,
        checkpoint: &Checkpoint,
        attachments: &[Attachment],
    ) -> Result<()> {
        let intents = checkpoint.networks.iter().map(|network| &network.intent);
        let networks: Vec<AttachedNetwork<'_>> = intents
            .zip(attachments)
            .map(|(intent, attachment)| AttachedNetwork {
                network: &intent.network,
                interface: &intent.interface,
                addresses: strings(&attachment.addresses),
                gateways: strings(&attachment.gateways),
                mac: attachment.mac.to_string(),
                mtu: intent.mtu,
                ports: intent.ports.iter().copied().map(port_text).collect(),
                dns: &attachment.dns,
            })
            .collect();
        let mut text = String::new();
        match self.output {
            Output::Json => {
                let attachment = json!({
                    "container": self.container,
                    "hostname": request.hostname,
                    "networks": networks,
                });
                writeln!(text, "{}", serde_json::to_string_pretty(&attachment)?)?;
            }
            Output::Table => {
                for network in &networks {
                    let addresses = network.addresses.join(" ");
                    writeln!(
                        text,
                        "{} on {}: {addresses} mac {}",
                        network.interface, network.network, network.mac
                    )?;
                }
                writeln!(text, "hostname {}", request.hostname)?;
            }
        }
        print(&text)
    }
}

/// One network of an attachment, for programs.
#[derive(Serialize)]
struct AttachedNetwork<'a> {
    network: &'a str,
    interface: &'a str,
    addresses: Vec<String>,
    gateways: Vec<String>,
    mac: String,
    mtu: u32,
    ports: Vec<String>,
    dns: &'a Dns,
}

fn strings<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

async fn attach(
    attacher: &Attacher,
    checkpoint: &Checkpoint,
    target: Target,
) -> Result<Vec<Attachment>> {
    attacher.write_etc_files(checkpoint, None).await?;
    Ok(attacher.attach(checkpoint, target).await?)
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
