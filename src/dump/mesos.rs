//! The agents of this host: their flags, containers, metrics and logs.

use std::path::{Path, PathBuf};

use contrail_mesos_api::dump::{Contents, Format, Part, read_file};
use serde_json::{Map, Value, json};

use super::json_contents;
use crate::doctor::agent::{self, AGENT_PORT, AgentAnswer, AgentProcess};

/// The logs that an agent writes below `--log_dir`, by the names of its versions.
const LOGS: [&str; 4] = [
    "mesos-agent.INFO",
    "mesos-slave.INFO",
    "mesos-agent.ERROR",
    "mesos-slave.ERROR",
];

/// An agent that runs here.
pub(super) struct RunningAgent {
    process: AgentProcess,
    answer: AgentAnswer,
}

impl RunningAgent {
    /// What may have secrets, or name files that have.
    pub(super) fn secrets(&self) -> Value {
        json!([
            self.process.flags.to_json(),
            self.answer.flags.as_ref().map(agent::Flags::to_json)
        ])
    }
}

/// Finds the agents of this network namespace, and asks them for their flags.
pub(super) async fn agents() -> Result<Vec<RunningAgent>, String> {
    let mut agents = vec![];
    for process in agent::find_agents().await? {
        let address = process.address(AGENT_PORT);
        let answer = match &address {
            Some(address) => agent::ask(address).await,
            None => AgentAnswer::default(),
        };
        agents.push(RunningAgent { process, answer });
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
    for RunningAgent { process, answer } in agents {
        let pid = process.pid;
        described.push(json!({
            "pid": pid,
            "version": answer.version,
            "address": answer.address,
            "problem": answer.problem,
            "libmesos": process.libmesos,
            "has_deleted_library": process.has_deleted_library,
            "flags": answer.flags.as_ref().map(agent::Flags::to_json),
            "flags_of_the_process": process.flags.to_json(),
        }));
        if let Some(address) = process.address(AGENT_PORT) {
            let metrics = address.clone();
            parts.push(Part::new(
                format!("mesos/agent-{pid}-containers.json"),
                Format::Json,
                async move {
                    let path = "/containers?show_nested=true&show_standalone=true";
                    let containers = agent::get::<Vec<Value>>(&address, path).await?;
                    json_contents(&containers.iter().map(container).collect())
                },
            ));
            parts.push(Part::new(
                format!("mesos/agent-{pid}-metrics.json"),
                Format::Json,
                async move {
                    let metrics = agent::get::<Value>(&metrics, "/metrics/snapshot").await?;
                    json_contents(&metrics)
                },
            ));
        }
        let directory = process.flags.get("log_dir").map(PathBuf::from);
        parts.extend(directory.into_iter().flat_map(|directory| {
            LOGS.into_iter().filter_map(move |name| {
                let path = directory.join(name);
                path.exists().then(|| {
                    let name = format!("logs/agent-{pid}-{name}.txt");
                    Part::blocking(name, Format::Log, move || log(&path))
                })
            })
        }));
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
