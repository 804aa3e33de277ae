//! What `contrail-mesos dump` collects on a host for the report of a problem, see
//! [`contrail_mesos_api::dump`].
//!
//! What other commands report is collected by running them: one that hangs or crashes ends alone. Nothing of
//! the containers' own processes and files is read.

mod host;
mod mesos;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use contrail_mesos_api::dump::{Contents, Format, Part, Redactor};
use contrail_mesos_api::files::read_regular_or_linked_file;
use contrail_mesos_api::http::Address;
use contrail_mesos_api::text::with_causes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::config::{Config, Contrail, Node, Source};
use crate::preflight::read_from_node_daemon;

/// How long the managers have to answer.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of an answer of the node daemon.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// The most bytes of a file of a CNI configuration.
const MAX_CNI_FILE_BYTES: usize = 256 << 10;
/// What the node daemon is asked for, and the name of the file.
const DAEMON_ANSWERS: [(&str, &str, Format); 6] = [
    ("/v1/status", "status.json", Format::Json),
    ("/v1/cluster", "cluster.json", Format::Json),
    ("/v1/groups", "groups.json", Format::Json),
    ("/v1/drops", "drops.json", Format::Json),
    ("/v1/services", "services.json", Format::Json),
    ("/metrics", "metrics.txt", Format::Text),
];

/// What is collected.
#[derive(Clone, Debug)]
pub struct HostDump {
    /// The configuration, which may be damaged or missing.
    pub source: Source,
    /// The state directory, if it is not that of the configuration.
    pub state_dir: Option<PathBuf>,
    /// The address of the agent; none for those that run in this network namespace.
    pub agent: Option<Address>,
    /// More files of logs.
    pub logs: Vec<PathBuf>,
    /// This program, by whose commands a part is made.
    pub program: PathBuf,
}

impl HostDump {
    /// The parts, and what hides the secrets that the configuration, the agents and their files have.
    /// Needs root, and a tokio runtime.
    pub async fn collect(&self) -> (Vec<Part>, Redactor) {
        let mut redactor = Redactor::default();
        let path = self.source.path();
        if let Ok(toml) = read_regular_or_linked_file(path) {
            redactor.add_configuration(&String::from_utf8_lossy(&toml));
        }
        let mut config = match self.source.load_directories() {
            Ok((config, _)) => config,
            Err(_) => Config::default(),
        };
        if let Some(directory) = &self.state_dir {
            config.state_dir.clone_from(directory);
        }
        let cni = config.cni.as_ref();
        let cni = cni.map_or_else(Map::new, |cni| cni_configuration(&cni.config_dir));
        redactor.add_json(&Value::Object(cni.clone()));
        redactor.add_places(&Value::Object(cni.clone()));
        let agents = mesos::agents(self.agent.as_ref()).await;
        for agent in agents.iter().flatten() {
            let flags = agent.secrets();
            redactor.add_json(&flags);
            redactor.add_places(&flags);
        }

        let mut parts = vec![
            Part::blocking("host/system.json", Format::Json, || {
                json_contents(&host::system())
            }),
            linked_file("configuration/agent.toml", path),
            json_part("configuration/cni.json", Value::Object(cni)),
        ];
        parts.extend(self.commands());
        parts.push(Part::blocking("state.json", Format::Json, {
            let state_dir = config.state_dir.clone();
            move || json_contents(&state::read(&state_dir)?)
        }));
        parts.extend(host::parts());
        parts.extend(daemon(&config.node.socket));
        parts.push(nodes(config.node.clone()));
        parts.extend(config.contrail.clone().map(ports));
        parts.extend(mesos::parts(agents, &self.logs));
        (parts, redactor)
    }

    /// What other commands of this program report.
    fn commands(&self) -> Vec<Part> {
        let config = self.source.path().display().to_string();
        let state_dir = self.state_dir.as_ref();
        let state_dir = state_dir.map(|path| path.display().to_string());
        let agent = self.agent.as_ref().map(ToString::to_string);
        let with_state = |command: &[&str]| {
            let mut arguments: Vec<String> = command.iter().map(ToString::to_string).collect();
            if let Some(directory) = &state_dir {
                arguments.extend(["--state-dir".to_owned(), directory.clone()]);
            }
            arguments
        };
        let with_agent = |mut arguments: Vec<String>| {
            if let Some(address) = &agent {
                arguments.extend(["--agent".to_owned(), address.clone()]);
            }
            arguments
        };
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let part = |name: &str, format, arguments: Vec<String>| {
            let all = ["--config", &config].into_iter();
            let all: Vec<&str> = all.chain(arguments.iter().map(String::as_str)).collect();
            Part::program(format!("commands/{name}"), format, &self.program, &all)
        };
        let doctor = with_agent(words(&["doctor", "-o", "json"]));
        let check = with_agent(with_state(&["check", "-o", "json"]));
        vec![
            part(
                "config-check.txt",
                Format::Text,
                words(&["config", "check"]),
            ),
            part("doctor.json", Format::Json, doctor),
            part(
                "status.json",
                Format::Json,
                with_state(&["status", "-o", "json"]),
            ),
            part("check.json", Format::Json, check),
        ]
    }
}

fn json_contents(value: &Value) -> Result<Contents, String> {
    serde_json::to_vec(value)
        .map(Contents::from)
        .map_err(|error| error.to_string())
}

fn json_part(name: &str, value: Value) -> Part {
    Part::new(name, Format::Json, async move { json_contents(&value) })
}

/// A configuration, which may be a symbolic link.
fn linked_file(name: &str, path: &Path) -> Part {
    let path = path.to_owned();
    Part::blocking(name, Format::Text, move || {
        read_regular_or_linked_file(&path)
            .map(Contents::from)
            .map_err(|error| format!("{}: {error}", path.display()))
    })
}

/// The files of a directory of CNI configurations. Their redaction knows them as plugins.
fn cni_configuration(directory: &Path) -> Map<String, Value> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let read = |path: &Path| {
        let bytes = match read_regular_or_linked_file(path) {
            Ok(bytes) if bytes.len() > MAX_CNI_FILE_BYTES => return json!({"error": "is too long"}),
            Ok(bytes) => bytes,
            Err(error) => return json!({"error": error.to_string()}),
        };
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(json) => json!({"plugins": json}),
            Err(error) => json!({"error": format!("is no JSON: {error}")}),
        }
    };
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .map(|path| (path.display().to_string(), read(&path)))
        .collect()
}

/// The answers of the node daemon. One that is away is named once.
fn daemon(socket: &Path) -> Vec<Part> {
    let part = |(path, name, format): (&'static str, &str, Format)| {
        let socket = socket.to_owned();
        Part::blocking(format!("node-daemon/{name}"), format, move || {
            read_from_node_daemon(&socket, path, MAX_ANSWER_BYTES)
                .map(Contents::from)
                .map_err(|error| format!("{}: {error}", socket.display()))
        })
    };
    let count = if socket.exists() {
        DAEMON_ANSWERS.len()
    } else {
        1
    };
    DAEMON_ANSWERS.into_iter().take(count).map(part).collect()
}

/// The nodes as the managers list them.
fn nodes(node: Node) -> Part {
    Part::new("managers/nodes.json", Format::Json, async move {
        // It reads files.
        let client = tokio::task::spawn_blocking(move || node.cluster_client());
        let client = client.await.map_err(|error| error.to_string())?;
        let client = client.map_err(|error| with_causes(&error))?;
        let client = client.ok_or("the configuration names no managers in [node]")?;
        let list = client.nodes(Instant::now() + MANAGER_TIMEOUT).await;
        let list = list.map_err(|error| with_causes(&error))?;
        json_contents(&serde_json::to_value(list).map_err(|error| error.to_string())?)
    })
}

/// The containers of this host as the managers have them.
fn ports(contrail: Contrail) -> Part {
    Part::new("managers/ports.json", Format::Json, async move {
        let address = contrail.virtual_router_address;
        let client = tokio::task::spawn_blocking(move || contrail.manager_client());
        let client = client.await.map_err(|error| error.to_string())?;
        let client = client.map_err(|error| with_causes(&error))?;
        let list = client.list(address, Instant::now() + MANAGER_TIMEOUT).await;
        let list = list.map_err(|error| with_causes(&error))?;
        json_contents(&serde_json::to_value(list).map_err(|error| error.to_string())?)
    })
}
