//! `contrail-mesos config check`.

use std::process::ExitCode;

use anyhow::Result;
use contrail_mesos::config::{Network, NetworkProvider, Source};
use contrail_mesos::preflight::{self, Scope};
use contrail_mesos::provider::cni::version_problems;
use contrail_mesos::provider::overlay::OverlayNetworks;
use contrail_mesos_api::cluster::Admission;
use contrail_mesos_api::command_line::{CheckOptions, CheckReport};
use contrail_mesos_api::config_reader::Severity;

use crate::output::is_quiet;

/// Prints what was found, and the networks of the configuration. Fails if an agent does not start with
/// it, or a launch on a network would be refused; files of the CNI directory that are ignored are named
/// only.
pub(crate) fn run(source: &Source, options: CheckOptions) -> Result<ExitCode> {
    let scope = if options.offline {
        Scope::Offline
    } else {
        Scope::Everything
    };
    let found = preflight::check(source, scope);
    let mut report = CheckReport::new(source.path());
    report.add(Severity::Problem, &found.refusals);
    report.add(Severity::Warning, &found.warnings);
    report.add(Severity::Note, &found.notes);
    match &found.config {
        Err(error) => report.add_error(error),
        Ok(config) => {
            report.add(Severity::Problem, &config.cni_problems);
            report.add(Severity::Warning, &config.cni_ignored);
            if !options.offline {
                // Asks plugins.
                report.add(Severity::Problem, &version_problems(config));
            }
            let overlays = OverlayNetworks::new(&config.state_dir);
            let networks = config.networks.iter();
            let descriptions = networks
                .map(|network| format!("{}: {}", network.name, description(network, &overlays)));
            let count = config.networks.len();
            let plural = if count == 1 { "" } else { "s" };
            report.describe(format!("{count} network{plural}"), descriptions.collect());
        }
    }
    Ok(report.print(options.output, is_quiet())?)
}

fn description(network: &Network, overlays: &OverlayNetworks) -> String {
    match &network.provider {
        NetworkProvider::Overlay(overlay) => {
            let mut words = vec!["overlay".to_owned(), overlay.overlay.clone()];
            // Why they are not known, the report says.
            if let Ok(bridge) = overlays.bridge_network(overlay) {
                words.extend(bridge.subnets().map(|subnet| subnet.to_string()));
                words.extend(bridge.groups.map(groups));
            }
            words.join(" ")
        }
        NetworkProvider::Bridge(bridge) => {
            let mut words: Vec<String> = bridge.subnets().map(|net| net.to_string()).collect();
            words.extend(bridge.groups.map(groups));
            words.join(" ")
        }
        NetworkProvider::Contrail(contrail) => contrail.virtual_network.as_ref().map_or_else(
            || "default virtual network of the managers".to_owned(),
            |name| format!("virtual network {name}"),
        ),
        NetworkProvider::Cni(cni) => match &cni.chain {
            Ok(chain) => format!("CNI plugins {}", chain.types().join(", ")),
            Err(_) => "CNI plugins, not usable".to_owned(),
        },
        NetworkProvider::None => "loopback only".to_owned(),
    }
}

/// What reaches the containers of a network that isolates groups.
fn groups(admission: Admission) -> String {
    let admitted: Vec<&str> = [
        (admission.hosts, "hosts"),
        (admission.mapped_ports, "mapped-ports"),
    ]
    .iter()
    .filter_map(|(is_admitted, word)| is_admitted.then_some(*word))
    .collect();
    format!(
        "isolates groups, admits {}",
        if admitted.is_empty() {
            "nothing".to_owned()
        } else {
            admitted.join(" and ")
        }
    )
}
