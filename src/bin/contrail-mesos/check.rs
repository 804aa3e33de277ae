//! `contrail-mesos config check`.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use contrail_mesos::config::{Network, NetworkProvider, Source};
use contrail_mesos::preflight::{self, Report};
use contrail_mesos::provider::cni::version_problems;
use contrail_mesos::provider::overlay::OverlayNetworks;
use contrail_mesos_api::cluster::Admission;

use crate::output::{print, print_error};

/// Prints the networks of the configuration, or its problems, one per line. Fails if a launch on a
/// network would be refused; files of the CNI directory that are ignored are named only.
pub(crate) fn run(source: &Source) -> Result<ExitCode> {
    let Report {
        config,
        refusals,
        warnings,
        notes,
    } = preflight::check(source);
    let path = source.path().display();
    let (mut text, mut count) = (String::new(), refusals.len());
    let mut code = ExitCode::SUCCESS;
    match &config {
        Ok(config) => {
            if refusals.is_empty() {
                let networks = config.networks.len();
                let plural = if networks == 1 { "" } else { "s" };
                writeln!(text, "{path}: good, {networks} network{plural}")?;
            }
            let overlays = OverlayNetworks::new(&config.state_dir);
            for network in &config.networks {
                let description = description(network, &overlays);
                writeln!(text, "  {}: {description}", network.name)?;
            }
        }
        Err(error) => {
            for problem in &error.problems {
                writeln!(text, "{problem}")?;
            }
            if error.omitted > 0 {
                writeln!(text, "and {} more", error.omitted)?;
            }
            count += error.count();
        }
    }
    for problem in &refusals {
        writeln!(text, "{problem}")?;
    }
    for warning in &warnings {
        writeln!(text, "warning: {warning}")?;
    }
    for note in &notes {
        writeln!(text, "note: {note}")?;
    }
    if let Ok(config) = &config {
        let versions = version_problems(config);
        for problem in config.cni_problems.iter().chain(&versions) {
            writeln!(text, "not usable: {problem}")?;
            code = ExitCode::FAILURE;
        }
        for ignored in &config.cni_ignored {
            writeln!(text, "warning: {ignored}")?;
        }
    }
    print(&text)?;
    if count > 0 {
        print_error(&format!(
            "{count} problem{} in {path}",
            if count == 1 { "" } else { "s" }
        ));
        code = ExitCode::FAILURE;
    }
    Ok(code)
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
