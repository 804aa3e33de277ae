//! The whole state. Each element is decoded on its own.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::parts::{AgentInfo, RawAgent, RawExecutor, RawFramework, RawTask, or_default};
use crate::intern::Interner;
use crate::mesos_master::model::{Skipped, State, Task};
use crate::mesos_master::ports::Discovery;

/// The raw state. The master always sends the four outer objects, so a state without one of them is
/// incomplete. An absent inner list is empty.
#[derive(Deserialize, Default)]
pub(super) struct RawState<'a> {
    #[serde(rename = "get_tasks", borrow, default)]
    tasks: Option<Tasks<'a>>,
    #[serde(rename = "get_agents", borrow, default)]
    agents: Option<Agents<'a>>,
    #[serde(rename = "get_frameworks", borrow, default)]
    frameworks: Option<Frameworks<'a>>,
    #[serde(rename = "get_executors", borrow, default)]
    executors: Option<Executors<'a>>,
}

#[derive(Deserialize, Default)]
pub(super) struct Tasks<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    tasks: Vec<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    unreachable_tasks: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
pub(super) struct Agents<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    agents: Vec<&'a RawValue>,
    /// Agents of an earlier leader that have not reregistered yet.
    #[serde(borrow, default, deserialize_with = "or_default")]
    recovered_agents: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
pub(super) struct Frameworks<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    frameworks: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
pub(super) struct Executors<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    executors: Vec<&'a RawValue>,
}

impl RawState<'_> {
    pub(super) fn read(self) -> State {
        let mut state = State::default();
        let mut names = Interner::default();
        let mut skipped = Vec::new();
        let mut skip = |kind, problem: String| {
            let problem = problem.into();
            skipped.push(Skipped { kind, problem });
        };
        for (kind, is_present) in [
            ("task", self.tasks.is_some()),
            ("agent", self.agents.is_some()),
            ("framework", self.frameworks.is_some()),
            ("executor", self.executors.is_some()),
        ] {
            if !is_present {
                skip(kind, "the list is missing".to_owned());
            }
        }
        let mut discoveries = HashSet::new();
        let tasks = self.tasks.unwrap_or_default();
        for element in tasks.tasks.into_iter().chain(tasks.unreachable_tasks) {
            match serde_json::from_str::<RawTask>(element.get()) {
                Err(error) => skip("task", error.to_string()),
                Ok(raw) => match raw.read(&mut names) {
                    None => skip("task", "it has no id or no framework".to_owned()),
                    // A terminal task is listed until the update is acknowledged.
                    Some(task) if task.status.state.is_ended() => {}
                    Some(mut task) => {
                        share(&mut task, &mut discoveries);
                        state.tasks.insert(task.key.clone(), Box::new(task));
                    }
                },
            }
        }
        let agents = self.agents.unwrap_or_default();
        for element in agents.agents {
            match serde_json::from_str::<RawAgent>(element.get()) {
                Err(error) => skip("agent", error.to_string()),
                Ok(raw) => match raw.read(&mut names) {
                    None => skip("agent", "it has no id".to_owned()),
                    Some(agent) => {
                        state.agents.insert(agent.id.clone(), agent);
                    }
                },
            }
        }
        for element in agents.recovered_agents {
            match serde_json::from_str::<AgentInfo>(element.get()) {
                Err(error) => skip("agent", error.to_string()),
                Ok(info) => match info.read(&mut names) {
                    None => skip("agent", "it has no id".to_owned()),
                    Some(agent) => {
                        state.agents.entry(agent.id.clone()).or_insert(agent);
                    }
                },
            }
        }
        for element in self.frameworks.unwrap_or_default().frameworks {
            match serde_json::from_str::<RawFramework>(element.get()) {
                Err(error) => skip("framework", error.to_string()),
                Ok(raw) => match raw.read(&mut names) {
                    None => skip("framework", "it has no id".to_owned()),
                    Some(framework) => {
                        state.frameworks.insert(framework.id.clone(), framework);
                    }
                },
            }
        }
        for element in self.executors.unwrap_or_default().executors {
            match serde_json::from_str::<RawExecutor>(element.get()) {
                Err(error) => skip("executor", error.to_string()),
                Ok(raw) => match raw.read(&mut names) {
                    None => skip("executor", "it has no id, framework or agent".to_owned()),
                    Some(executor) => {
                        state.executors.insert(executor);
                    }
                },
            }
        }
        state.skipped = skipped;
        state
    }
}

/// The tasks of an app without ports of the host declare the same.
fn share(task: &mut Task, discoveries: &mut HashSet<Arc<Discovery>>) {
    let Some(own) = &mut task.discovery else {
        return;
    };
    match discoveries.get(own) {
        Some(shared) => *own = Arc::clone(shared),
        None => {
            discoveries.insert(Arc::clone(own));
        }
    }
}
