//! `contrail-mesos-cni`: the core of the provider `contrail` as a CNI plugin, for agents that keep
//! using network/cni. Supports ADD, DEL, CHECK and VERSION of CNI 0.1.0 to 1.0.0.
//!
//! Configuration, results and port files are those of the plugin that came with Contrail, so this
//! one replaces it without a change. The differences:
//!
//! - One deadline, poll-timeout × poll-retries, covers a whole ADD and undoing it, for which a fifth
//!   is kept back, but at most four seconds; polling starts after milliseconds.
//! - A failed ADD undoes what it created. A second ADD is refused and changes nothing.
//! - A DEL unregisters the container from the vRouter agent, removes links and files, and contacts
//!   the manager last. If the manager is away, the host is clean all the same, and the DEL must be
//!   repeated.

mod add;
mod check;
mod config;
mod del;
mod error;
mod log_file;
mod objects;
mod result;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use self::config::Settings;
use self::error::{CniError, ErrorCode};
use crate::vrouter::{PortFiles, VrouterClient, VrouterOptions};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::Limits;
use contrail_mesos_api::text::Quoted;

/// The supported versions of CNI, in ascending order.
const SUPPORTED_VERSIONS: [&str; 6] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// The version of a configuration that names none.
const DEFAULT_VERSION: &str = "0.2.0";
/// The longest configuration that is read; real ones are much shorter.
pub const MAX_INPUT_BYTES: usize = 4 << 20;

/// The output of a call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginOutput {
    /// The standard output; may be empty.
    pub stdout: String,
    /// Whether the exit status is 0.
    pub is_success: bool,
}

/// One call of the plugin for a container.
struct Invocation {
    settings: Settings,
    /// The container's id, as the runtime passed it.
    id: String,
    container: ContainerId,
    /// The uuid of its virtual-machine object.
    vm_uuid: Uuid,
    namespace: PathBuf,
    /// The interface's name, as the runtime passed it.
    interface: String,
    /// The whole standard input.
    input: String,
    vrouter: VrouterClient,
    files: PortFiles,
}

/// Runs the command of the environment. Needs a tokio runtime; works in the network namespace of
/// the calling thread.
pub async fn run(environment: &BTreeMap<String, String>, input: &[u8]) -> PluginOutput {
    let version = requested_version(input);
    match dispatch(environment, input, &version).await {
        Ok(result) => PluginOutput {
            stdout: result.map_or_else(String::new, |result| result.to_string()),
            is_success: true,
        },
        Err(error) => {
            log::error!("{error}");
            PluginOutput {
                stdout: error.json(&version).to_string(),
                is_success: false,
            }
        }
    }
}

/// The version of CNI in the configuration, which the result must have.
fn requested_version(input: &[u8]) -> String {
    let input: Value = serde_json::from_slice(input).unwrap_or_default();
    match input.get("cniVersion").and_then(Value::as_str) {
        None | Some("") => DEFAULT_VERSION,
        Some(version) => version,
    }
    .to_owned()
}

/// Runs the command, and returns the result to print if it has one.
async fn dispatch(
    environment: &BTreeMap<String, String>,
    input: &[u8],
    version: &str,
) -> Result<Option<Value>, CniError> {
    let variable = |name: &str| environment.get(name).map_or("", String::as_str);
    let command = variable("CNI_COMMAND");
    match command {
        "VERSION" => {
            let newest = SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1];
            let versions = json!({ "cniVersion": newest, "supportedVersions": SUPPORTED_VERSIONS });
            return Ok(Some(versions));
        }
        "ADD" | "DEL" | "CHECK" => {}
        other => {
            return Err(CniError::new(
                ErrorCode::Environment,
                format!("CNI_COMMAND is {other:?}; supported are ADD, DEL, CHECK and VERSION"),
            ));
        }
    }
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(CniError::new(
            ErrorCode::Version,
            format!(
                "cniVersion {version:?} is not supported; supported are {}",
                SUPPORTED_VERSIONS.join(", ")
            ),
        ));
    }
    let settings = config::parse(input)?;
    log_file::start(&settings);
    let invocation = Invocation::new(environment, settings, input)?;
    log::info!(
        "{command} of container {} ({})",
        invocation.id,
        invocation.vm_uuid
    );
    match command {
        "ADD" => invocation.add(version).await.map(Some),
        "DEL" => invocation.del().await.map(|()| None),
        _ => invocation.check(version, input).await.map(|()| None),
    }
}

impl Invocation {
    fn new(
        environment: &BTreeMap<String, String>,
        settings: Settings,
        input: &[u8],
    ) -> Result<Self, CniError> {
        let variable = |name: &str| environment.get(name).map_or("", String::as_str);
        let invalid = |message: String| CniError::new(ErrorCode::Environment, message);
        let id = variable("CNI_CONTAINERID").to_owned();
        if id.is_empty() || id.len() > 1024 || id.contains(char::is_control) {
            return Err(invalid("CNI_CONTAINERID is missing or invalid".to_owned()));
        }
        let interface = variable("CNI_IFNAME").to_owned();
        if !is_interface_name(&interface) {
            return Err(invalid(format!(
                "CNI_IFNAME {} is not an interface name: {INTERFACE_NAME_RULE}",
                Quoted(interface.as_bytes())
            )));
        }
        let namespace = PathBuf::from(variable("CNI_NETNS"));
        if namespace.as_os_str().is_empty() && variable("CNI_COMMAND") != "DEL" {
            return Err(invalid("CNI_NETNS is missing".to_owned()));
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
        .map_err(|error| CniError::new(ErrorCode::Config, error.to_string()))?;
        let container = ContainerId::printed(&id);
        Ok(Self {
            vm_uuid: agent_api::vm_uuid(&container),
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
}

/// What [`is_interface_name`] accepts, for messages.
const INTERFACE_NAME_RULE: &str =
    "use 1 to 15 characters, none of which is a blank, a slash, a colon or a percent sign";

/// Whether the kernel accepts an interface's name as it is: it takes `eth%d` for a pattern.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
}

#[cfg(test)]
mod root_tests;
#[cfg(test)]
mod tests;
