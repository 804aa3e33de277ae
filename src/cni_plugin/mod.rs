//! `contrail-mesos-cni`: the same core as the provider `contrail`, as a CNI plugin for agents that
//! stay with network/cni. CNI 0.1.0 to 1.0.0: ADD, DEL, CHECK, VERSION.
//!
//! Configuration, answers and port files are those of the plugin that came with Contrail, so that
//! it takes that one's place without a change. What it does otherwise:
//!
//! - One deadline, poll-timeout × poll-retries, is for all of an ADD; waiting begins in
//!   milliseconds.
//! - An ADD that fails undoes what it made. A second ADD is refused, and harms nothing.
//! - A DEL tells the vRouter agent first, removes links and files, and tells the manager last;
//!   when the manager is away the host is clean all the same, and the DEL is to be repeated.

mod add;
mod check;
mod config;
mod del;
mod failure;
mod log_file;
mod manager;
mod result;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use self::config::Settings;
use self::failure::{Code, Failure};
use crate::vrouter::{PortFiles, VrouterClient, VrouterOptions};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::Limits;

/// The versions that results can be had in.
const VERSIONS: [&str; 6] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// The version of a configuration that names none.
const DEFAULT_VERSION: &str = "0.2.0";
/// Longer than any configuration.
pub const LONGEST_INPUT: usize = 4 << 20;

/// What the plugin prints, and whether it did what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For the standard output; may be empty.
    pub text: String,
    /// Whether to exit with 0.
    pub is_success: bool,
}

/// One call of the plugin that is about a container.
struct Call {
    settings: Settings,
    /// The container, as its runtime calls it.
    id: String,
    container: ContainerId,
    /// The uuid of its virtual-machine object.
    machine: Uuid,
    namespace: PathBuf,
    /// What the runtime calls the interface.
    interface: String,
    /// All of the standard input.
    input: String,
    vrouter: VrouterClient,
    files: PortFiles,
}

/// Does what the environment says. Needs a tokio runtime; works in the network namespace of the
/// calling thread.
pub async fn run(environment: &BTreeMap<String, String>, input: &[u8]) -> Answer {
    let version = version_of(input);
    match answer(environment, input, &version).await {
        Ok(None) => Answer {
            text: String::new(),
            is_success: true,
        },
        Ok(Some(result)) => Answer {
            text: result.to_string(),
            is_success: true,
        },
        Err(failure) => {
            log::error!("{failure}");
            Answer {
                text: failure.json(&version).to_string(),
                is_success: false,
            }
        }
    }
}

/// The version that the answer is to have.
fn version_of(input: &[u8]) -> String {
    let input: Value = serde_json::from_slice(input).unwrap_or_default();
    match input.get("cniVersion").and_then(Value::as_str) {
        None | Some("") => DEFAULT_VERSION,
        Some(version) => version,
    }
    .to_owned()
}

async fn answer(
    environment: &BTreeMap<String, String>,
    input: &[u8],
    version: &str,
) -> Result<Option<Value>, Failure> {
    let variable = |name: &str| environment.get(name).map_or("", String::as_str);
    let command = variable("CNI_COMMAND");
    match command {
        "VERSION" => {
            let newest = VERSIONS[VERSIONS.len() - 1];
            let versions = json!({ "cniVersion": newest, "supportedVersions": VERSIONS });
            return Ok(Some(versions));
        }
        "ADD" | "DEL" | "CHECK" => {}
        other => {
            return Err(Failure::new(
                Code::Environment,
                format!("CNI_COMMAND is {other:?}; known are ADD, DEL, CHECK and VERSION"),
            ));
        }
    }
    if !VERSIONS.contains(&version) {
        return Err(Failure::new(
            Code::Version,
            format!(
                "cniVersion {version:?} is not supported; supported are {}",
                VERSIONS.join(", ")
            ),
        ));
    }
    let settings = config::parse(input)?;
    log_file::start(&settings);
    let call = call(environment, settings, input)?;
    log::info!("{command} of container {} ({})", call.id, call.machine);
    match command {
        "ADD" => call.add(version).await.map(Some),
        "DEL" => call.del().await.map(|()| None),
        _ => call.check(version, input).await.map(|()| None),
    }
}

fn call(
    environment: &BTreeMap<String, String>,
    settings: Settings,
    input: &[u8],
) -> Result<Call, Failure> {
    let variable = |name: &str| environment.get(name).map_or("", String::as_str);
    let wrong = |message: String| Failure::new(Code::Environment, message);
    let id = variable("CNI_CONTAINERID").to_owned();
    if id.is_empty() || id.len() > 1024 || id.contains(char::is_control) {
        return Err(wrong(
            "CNI_CONTAINERID is missing, or is no container's id".to_owned(),
        ));
    }
    let interface = variable("CNI_IFNAME").to_owned();
    if !is_interface_name(&interface) {
        return Err(wrong(format!(
            "CNI_IFNAME {interface:?} is no interface's name"
        )));
    }
    let namespace = PathBuf::from(variable("CNI_NETNS"));
    if namespace.as_os_str().is_empty() && variable("CNI_COMMAND") != "DEL" {
        return Err(wrong("CNI_NETNS is missing".to_owned()));
    }
    let vrouter = VrouterClient::new(&VrouterOptions {
        host: settings.vrouter_host.clone(),
        port: settings.vrouter_port,
        limits: Limits {
            connect_timeout: Duration::from_secs(1),
            request_timeout: settings.deadline.min(Duration::from_secs(5)),
            max_body_bytes: 4 << 20,
        },
    })
    .map_err(|error| Failure::new(Code::Config, error.to_string()))?;
    let container = ContainerId::printed(&id);
    Ok(Call {
        machine: agent_api::vm_uuid(&container),
        files: PortFiles::new(&settings.port_directory),
        vrouter,
        settings,
        id,
        container,
        namespace,
        interface,
        input: String::from_utf8_lossy(input).into_owned(),
    })
}

/// What the kernel takes for an interface's name.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte))
}

#[cfg(test)]
mod tests;
