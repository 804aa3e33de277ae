//! `contrail-mesos config check`.

use std::process::ExitCode;

use contrail_mesos::config::{Network, NetworkProvider, Source};
use contrail_mesos::provider::cni::version_problems;

/// Prints the networks of the configuration, or its problems, one per line. Fails if a CNI network
/// would refuse its containers; files of the CNI directory that are ignored are named only.
pub(crate) fn run(source: &Source) -> ExitCode {
    match source.load() {
        Ok(config) => {
            println!(
                "{}: good, {} network{}",
                source.path().display(),
                config.networks.len(),
                if config.networks.len() == 1 { "" } else { "s" }
            );
            for network in &config.networks {
                println!("  {}: {}", network.name, description(network));
            }
            let versions = version_problems(&config);
            let unusable: Vec<_> = config.cni_problems.iter().chain(&versions).collect();
            for problem in &unusable {
                println!("not usable: {problem}");
            }
            for ignored in &config.cni_ignored {
                println!("warning: {ignored}");
            }
            if unusable.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            for problem in &error.problems {
                println!("{problem}");
            }
            let count = error.problems.len();
            eprintln!(
                "{count} problem{} in {}",
                if count == 1 { "" } else { "s" },
                source.path().display()
            );
            ExitCode::FAILURE
        }
    }
}

fn description(network: &Network) -> String {
    match &network.provider {
        NetworkProvider::Bridge(_) => {
            let subnets: Vec<String> = network.subnets().iter().map(ToString::to_string).collect();
            subnets.join(" ")
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
