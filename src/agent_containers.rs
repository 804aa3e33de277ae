//! The containers that the agents of this host know, for a comparison with the checkpoints.
//!
//! An agent knows a container from before its `prepare` until after its `cleanup`: so a checkpoint that was
//! there before an agent was asked, and whose container the agent does not know, is of no container of it.
//! Its answer may leave out containers that the asker may not see; the runtime directory has all of them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use contrail_mesos_api::http::Address;
use serde::Deserialize;

use crate::doctor::agent::{self, AGENT_PORT, AgentProcess};

/// The flag `--runtime_dir` of an agent that has none.
const DEFAULT_RUNTIME_DIR: &str = "/var/run/mesos";
/// The directory of containers in a runtime directory, and of nested ones in that of a container.
const CONTAINERS: &str = "containers";
/// More than Mesos nests.
const MAX_DEPTH: usize = 32;

#[derive(Deserialize)]
struct ContainerAnswer {
    container_id: String,
    status: Option<StatusAnswer>,
}

#[derive(Deserialize)]
struct StatusAnswer {
    container_id: Option<IdAnswer>,
}

#[derive(Deserialize)]
struct IdAnswer {
    value: String,
    parent: Option<Box<IdAnswer>>,
}

/// Asks the agent at this address or, without one, the agents that run in the network namespace of the
/// calling thread. Returns the values of the ids of all containers that they know, and of their parents; none
/// if there is no agent. An error says why an agent does not answer.
pub async fn ask(address: Option<Address>) -> Result<Option<HashSet<String>>, String> {
    let mut containers = AgentContainers::default();
    if let Some(address) = address {
        containers.add_answer(&address).await?;
        return Ok(Some(containers.values));
    }
    let processes = agent::find_agents().await?;
    if processes.is_empty() {
        return Ok(None);
    }
    for process in processes {
        containers.add(&process).await?;
    }
    Ok(Some(containers.values))
}

#[derive(Debug, Default)]
struct AgentContainers {
    values: HashSet<String>,
}

impl AgentContainers {
    async fn add(&mut self, process: &AgentProcess) -> Result<(), String> {
        let directory = process.flags.get("runtime_dir");
        let directory = PathBuf::from(directory.unwrap_or(DEFAULT_RUNTIME_DIR));
        let listed = self.add_directory(&directory.join(CONTAINERS), 0);
        let answered = match process.address(AGENT_PORT) {
            Some(address) => self.add_answer(&address).await,
            None => Err("its address is not known".to_owned()),
        };
        match (listed, answered) {
            (_, Ok(())) | (Ok(()), _) => Ok(()),
            (Err(listed), Err(answered)) => Err(format!(
                "the agent with the pid {} does not say its containers: {answered}; its runtime directory {}: {listed}",
                process.pid,
                directory.display()
            )),
        }
    }

    async fn add_answer(&mut self, address: &Address) -> Result<(), String> {
        for answer in agent::get::<Vec<ContainerAnswer>>(address, agent::CONTAINERS_PATH).await? {
            self.values.insert(answer.container_id);
            let mut id = answer.status.and_then(|status| status.container_id);
            while let Some(IdAnswer { value, parent }) = id {
                self.values.insert(value);
                id = parent.map(|parent| *parent);
            }
        }
        Ok(())
    }

    fn add_directory(&mut self, directory: &Path, depth: usize) -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                self.values.insert(name);
            }
            if depth < MAX_DEPTH {
                // Most have no nested ones, and any may end now.
                let _ = self.add_directory(&entry.path().join(CONTAINERS), depth + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_directory_has_nested_containers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containers");
        fs::create_dir_all(path.join("one/containers/two")).unwrap();
        let mut containers = AgentContainers::default();
        containers.add_directory(&path, 0).unwrap();
        assert_eq!(
            containers.values,
            HashSet::from(["one", "two"].map(str::to_owned))
        );
        assert!(containers.add_directory(&path.join("none"), 0).is_err());
    }
}
