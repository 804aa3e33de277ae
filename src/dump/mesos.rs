//! The agents of this host: their flags, containers, metrics and logs.

use std::path::{Path, PathBuf};

use contrail_mesos_api::dump::{Contents, Format, Part, read_file};
use contrail_mesos_api::http::Address;
use serde_json::{Map, Value, json};

use super::json_contents;
use crate::doctor::agent::{self, AGENT_PORT, AgentAnswer, AgentProcess, Flags};

/// The logs that an agent writes below `--log_dir`, by the names of its versions.
const LOGS: [&str; 4] = [
    "mesos-agent.INFO",
    "mesos-slave.INFO",
    "mesos-agent.ERROR",
    "mesos-slave.ERROR",
];

/// An agent that runs here, or that the operator named.
pub(super) struct RunningAgent {
    process: Option<AgentProcess>,
    address: Option<Address>,
    answer: AgentAnswer,
}

impl RunningAgent {
    /// What may have secrets, or name files that have.
    pub(super) fn secrets(&self) -> Value {
        let of_process = self.process.as_ref().map(|process| process.flags.to_json());
        json!([of_process, self.answer.flags.as_ref().map(Flags::to_json)])
    }
}

/// Asks the agent at this address or, without one, those of this network namespace for their flags.
pub(super) async fn agents(address: Option<&Address>) -> Result<Vec<RunningAgent>, String> {
    if let Some(address) = address {
        return Ok(vec![RunningAgent {
            process: None,
            address: Some(address.clone()),
            answer: agent::ask(address).await,
        }]);
    }
    let mut agents = vec![];
    for process in agent::find_agents().await? {
        let address = process.address(AGENT_PORT);
        let answer = match &address {
            Some(address) => agent::ask(address).await,
            None => AgentAnswer::default(),
        };
        agents.push(RunningAgent {
            process: Some(process),
            address,
            answer,
        });
    }
    Ok(agents)
}

/// The parts about the agents, and the logs.
pub(super) fn parts(agents: Result<Vec<RunningAgent>, String>, logs: &[PathBuf]) -> Vec<Part> {
    let agents = match agents {
        Ok(agents) => agents,
        Err(error) => {
            let part = Part::new("mesos/agents.json", Format::Json, async { Err(error) });
            return [part].into_iter().chain(given_logs(logs)).collect();
        }
    };
    let mut parts = vec![];
    let mut described = vec![];
    for RunningAgent {
        process,
        address,
        answer,
    } in agents
    {
        let process = process.as_ref();
        let pid = process.map(|process| process.pid);
        let name = pid.map_or_else(|| "named".to_owned(), |pid| pid.to_string());
        described.push(json!({
            "pid": pid,
            "version": answer.version,
            "address": answer.address,
            "problem": answer.problem,
            "libmesos": process.map(|process| &process.libmesos),
            "has_deleted_library": process.map(|process| process.has_deleted_library),
            "flags": answer.flags.as_ref().map(Flags::to_json),
            "flags_of_the_process": process.map(|process| process.flags.to_json()),
        }));
        if let Some(address) = address {
            parts.extend(answers(&name, &address));
        }
        // Those of an agent that was named may be of another host.
        let directory = process.and_then(|process| process.flags.get("log_dir"));
        for log_name in LOGS {
            if let Some(path) = directory.map(|directory| Path::new(directory).join(log_name))
                && path.exists()
            {
                let part = format!("logs/agent-{name}-{log_name}.txt");
                parts.push(Part::blocking(part, Format::Log, move || log(&path)));
            }
        }
    }
    let described = Value::Array(described);
    parts.insert(
        0,
        Part::new("mesos/agents.json", Format::Json, async move {
            json_contents(&described)
        }),
    );
    parts.extend(given_logs(logs));
    parts
}

/// What an agent answers.
fn answers(name: &str, address: &Address) -> [Part; 2] {
    let (of_containers, of_metrics) = (address.clone(), address.clone());
    let containers = async move {
        let path = agent::CONTAINERS_PATH;
        let containers = agent::get::<Vec<Value>>(&of_containers, path).await?;
        json_contents(&containers.iter().map(container).collect())
    };
    let metrics =
        async move { json_contents(&agent::get::<Value>(&of_metrics, "/metrics/snapshot").await?) };
    [
        Part::new(
            format!("mesos/agent-{name}-containers.json"),
            Format::Json,
            containers,
        ),
        Part::new(
            format!("mesos/agent-{name}-metrics.json"),
            Format::Json,
            metrics,
        ),
    ]
}

/// What is of interest of a container: neither its processes nor its statistics.
fn container(container: &Value) -> Value {
    let fields = ["container_id", "executor_id", "framework_id"];
    let mut shown: Map<String, Value> = fields
        .into_iter()
        .map(|field| (field.to_owned(), container[field].clone()))
        .collect();
    shown.insert(
        "network_infos".to_owned(),
        container["status"]["network_infos"].clone(),
    );
    Value::Object(shown)
}

/// The end of a log, which is a link to the newest file beside it.
fn log(path: &Path) -> Result<Contents, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let target = path.canonicalize().map_err(fail)?;
    let directory = path.parent().map(Path::canonicalize);
    if directory.and_then(Result::ok).as_deref() != target.parent() {
        return Err(format!(
            "{} is a link to another directory, and is not followed",
            path.display()
        ));
    }
    read_file(&target, Format::Log).map_err(fail)
}

fn given_logs(logs: &[PathBuf]) -> impl Iterator<Item = Part> + '_ {
    logs.iter()
        .enumerate()
        .map(|(index, path)| Part::file(format!("logs/given-{index}.txt"), Format::Log, path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn log_is_followed_within_its_directory_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("logs")).unwrap();
        fs::write(path("logs/mesos-agent.1"), "one\n").unwrap();
        fs::write(path("shadow"), "two\n").unwrap();
        symlink("mesos-agent.1", path("logs/good")).unwrap();
        symlink("../shadow", path("logs/bad")).unwrap();
        assert_eq!(log(&path("logs/good")).unwrap().bytes, b"one\n");
        assert!(log(&path("logs/bad")).is_err());
        assert!(log(&path("logs/none")).is_err());
    }
}
