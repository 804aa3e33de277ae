//! `contrail-mesos-manager overlay`: checks a file of overlays.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use contrail_mesos_api::command_line::{CheckReport, Output};
use contrail_mesos_api::config_reader::Severity;
use contrail_mesos_manager::overlay::{OverlayConfig, OverlayDefinition};
use ipnet::IpNet;

/// Tools for overlay networks
#[derive(Debug, Args)]
pub(crate) struct Overlay {
    #[command(subcommand)]
    command: OverlayCommand,
}

#[derive(Debug, Subcommand)]
enum OverlayCommand {
    /// Report every problem in a file of overlays, or how many nodes and containers they have room for
    Check {
        /// The JSON file that [overlay] names, or that of the DC/OS overlay modules
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Output format
        #[arg(
            short,
            long,
            value_enum,
            default_value = "table",
            value_name = "FORMAT"
        )]
        output: Output,
    },
}

impl Overlay {
    pub(crate) fn run(&self, is_quiet: bool) -> Result<ExitCode> {
        let OverlayCommand::Check { file, output } = &self.command;
        let mut report = CheckReport::new(file);
        match OverlayConfig::load(file) {
            Ok(config) => {
                report.add(Severity::Warning, &config.warnings);
                let summary = Summary(&config).to_string();
                let count = config.overlays.len();
                let plural = if count == 1 { "" } else { "s" };
                report.describe(
                    format!("{count} overlay{plural}"),
                    summary.lines().map(str::to_owned).collect(),
                );
            }
            Err(error) => report.add_error(&error),
        }
        Ok(report.print(*output, is_quiet)?)
    }
}

/// What a configuration has room for.
struct Summary<'a>(&'a OverlayConfig);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(config) = self;
        let v6 = config.vtep_subnet6.map(IpNet::V6);
        for subnet in [IpNet::V4(config.vtep_subnet)].into_iter().chain(v6) {
            let bits = subnet.max_prefix_len() - subnet.prefix_len();
            let nodes = Count { bits, less: 2 };
            writeln!(formatter, "tunnel endpoints of {subnet}: {nodes} nodes")?;
        }
        for overlay in &config.overlays {
            let OverlayDefinition { name, vni, .. } = overlay;
            let mut state = if overlay.enabled { "" } else { ", disabled" }.to_owned();
            if overlay.isolated {
                state.push_str(", isolated from other overlays");
            }
            if let Some(admission) = overlay.groups {
                state.push_str(match (admission.hosts, admission.mapped_ports) {
                    (true, true) => ", groups isolated, admits hosts and mapped ports",
                    (true, false) => ", groups isolated, admits hosts",
                    (false, true) => ", groups isolated, admits mapped ports",
                    (false, false) => ", groups isolated",
                });
            }
            writeln!(formatter, "{name} (VXLAN network identifier {vni}{state}):")?;
            if overlay.lends_blocks {
                for (subnet, prefix) in overlay.parts() {
                    let blocks = Count {
                        bits: prefix - subnet.prefix_len(),
                        less: 0,
                    };
                    // Every address but that of the bridge and those that are no hosts'.
                    let containers = Count {
                        bits: subnet.max_prefix_len() - prefix,
                        less: if subnet.addr().is_ipv4() { 3 } else { 2 },
                    };
                    writeln!(
                        formatter,
                        "  {subnet}: {blocks} blocks with a /{prefix} each, for {containers} containers of \
                         Mesos each; none of Docker"
                    )?;
                }
                continue;
            }
            for (subnet, prefix) in overlay.parts() {
                let nodes = Count {
                    bits: prefix - subnet.prefix_len(),
                    less: 0,
                };
                // Each containerizer has a half. The bridge has an address, and two are no hosts'.
                let containers = Count {
                    bits: subnet.max_prefix_len() - prefix - 1,
                    less: 3,
                };
                writeln!(
                    formatter,
                    "  {subnet}: {nodes} nodes with a /{prefix} each; on each node {containers} containers \
                     of Mesos and {containers} of Docker"
                )?;
            }
        }
        Ok(())
    }
}

/// A power of two, and how much less.
struct Count {
    bits: u8,
    less: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Longer numbers say nothing to a reader.
        match self.bits {
            bits @ ..=32 => write!(formatter, "{}", (1 << bits) - self.less),
            bits => write!(formatter, "2^{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn summary_says_what_there_is_room_for() {
        let text = r#"{"vtep_subnet": "44.128.0.0/20", "vtep_subnet6": "fd01:a::/64",
            "vtep_mac_oui": "70:B3:D5:00:00:00", "overlays": [
            {"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24, "vni": 1024},
            {"name": "lent", "subnet": "10.0.0.0/16", "ipam": "cluster", "vni": 8},
            {"name": "six", "subnet6": "fd01:b::/64", "prefix6": 80, "vni": 7, "enabled": false,
             "groups": true, "admit": ["hosts"], "isolated": true}]}"#;
        let config = OverlayConfig::parse(Path::new("o.json"), text).unwrap();
        assert_eq!(
            Summary(&config).to_string(),
            "tunnel endpoints of 44.128.0.0/20: 4094 nodes\n\
             tunnel endpoints of fd01:a::/64: 2^64 nodes\n\
             dcos (VXLAN network identifier 1024):\n  \
             9.0.0.0/8: 65536 nodes with a /24 each; on each node 125 containers of Mesos and 125 of Docker\n\
             lent (VXLAN network identifier 8):\n  \
             10.0.0.0/16: 4096 blocks with a /28 each, for 13 containers of Mesos each; none of Docker\n\
             six (VXLAN network identifier 7, disabled, isolated from other overlays, groups isolated, admits hosts):\n  \
             fd01:b::/64: 65536 nodes with a /80 each; on each node 2^47 containers of Mesos and 2^47 of Docker\n"
        );
    }
}
