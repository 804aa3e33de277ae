//! Tasks and task groups to launch, and the allocation of their resources from an offer.

use std::fmt;

use serde_json::{Map, Value, json};

use super::offer::{Allocation, RemainingOffer};

/// Where a launch was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The agent.
    pub agent_id: String,
    /// The agent's host name.
    pub hostname: String,
    /// The allocated host ports, in the order of the request.
    pub ports: Vec<u16>,
}

/// Completes a `TaskInfo` after its placement.
type Completion = Box<dyn FnOnce(&mut Value, &Placement) + Send + Sync>;

/// A task to launch: its resources, and a `TaskInfo` without agent and resources.
#[derive(Default)]
pub struct TaskSpec {
    id: String,
    info: Map<String, Value>,
    cpus: f64,
    mem: f64,
    disk: f64,
    /// Host ports; zero means any.
    ports: Vec<u16>,
    hostname: Option<String>,
    completion: Option<Completion>,
}

impl fmt::Debug for TaskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSpec")
            .field("id", &self.id)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl TaskSpec {
    /// A task that runs `command` in a shell, with 0.01 cpus and 16 MB.
    #[must_use]
    pub fn new(id: &str, command: &str) -> Self {
        Self::bare(id).set("command", json!({"shell": true, "value": command}))
    }

    /// A task without a command.
    #[must_use]
    pub fn bare(id: &str) -> Self {
        let spec = Self {
            id: id.to_owned(),
            cpus: 0.01,
            mem: 16.0,
            ..Self::default()
        };
        spec.set("name", json!(id))
    }

    /// The task's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sets a field of the `TaskInfo`.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.info.insert(field.to_owned(), value);
        self
    }

    /// Sets the resources of the task besides ports.
    #[must_use]
    pub fn resources(mut self, cpus: f64, mem: f64, disk: f64) -> Self {
        (self.cpus, self.mem, self.disk) = (cpus, mem, disk);
        self
    }

    /// Requests host ports; zero means any.
    #[must_use]
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    /// Restricts the task to the agent with that host name.
    #[must_use]
    pub fn on_host(mut self, hostname: &str) -> Self {
        self.hostname = Some(hostname.to_owned());
        self
    }

    /// Puts the task's container on a network: one more `NetworkInfo`.
    #[must_use]
    pub fn network(self, name: &str) -> Self {
        self.network_info(json!({"name": name}))
    }

    /// Adds a `NetworkInfo` to the task's container.
    #[must_use]
    pub fn network_info(mut self, network: Value) -> Self {
        push(container(&mut self.info), "network_infos", network);
        self
    }

    /// Gives the task's container the root filesystem of a Docker image.
    #[must_use]
    pub fn image(mut self, name: &str) -> Self {
        let mesos = json!({"image": {"type": "DOCKER", "docker": {"name": name}}});
        container(&mut self.info).insert("mesos".to_owned(), mesos);
        self
    }

    /// Adds a label to the task.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        let labels = object(&mut self.info, "labels");
        push(labels, "labels", json!({"key": key, "value": value}));
        self
    }

    /// Lets `completion` change the `TaskInfo` after its placement, when its ports are known.
    #[must_use]
    pub fn complete(
        mut self,
        completion: impl FnOnce(&mut Value, &Placement) + Send + Sync + 'static,
    ) -> Self {
        self.completion = Some(Box::new(completion));
        self
    }

    fn info(self, place: &Placement, resources: Vec<Value>) -> Value {
        let mut info = Value::Object(self.info);
        info["task_id"] = json!({"value": self.id});
        info["agent_id"] = json!({"value": place.agent_id});
        info["resources"] = Value::Array(resources);
        if let Some(completion) = self.completion {
            completion(&mut info, place);
        }
        info
    }
}

/// A task group (pod): nested containers under one default executor.
#[derive(Debug, Default)]
pub struct GroupSpec {
    executor_id: String,
    executor: Map<String, Value>,
    tasks: Vec<TaskSpec>,
}

impl GroupSpec {
    /// An empty group whose executor has that id.
    #[must_use]
    pub fn new(executor_id: &str) -> Self {
        Self {
            executor_id: executor_id.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a task.
    #[must_use]
    pub fn task(mut self, task: TaskSpec) -> Self {
        self.tasks.push(task);
        self
    }

    /// Puts the group on a network: one more `NetworkInfo` of its executor.
    #[must_use]
    pub fn network(self, name: &str) -> Self {
        self.network_info(json!({"name": name}))
    }

    /// Adds a `NetworkInfo` to the container of the executor.
    #[must_use]
    pub fn network_info(mut self, network: Value) -> Self {
        push(container(&mut self.executor), "network_infos", network);
        self
    }

    /// Sets a field of the `ExecutorInfo`.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.executor.insert(field.to_owned(), value);
        self
    }
}

fn object<'a>(parent: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    let value = parent.entry(field).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    // Replaced with an object above if it was none.
    value.as_object_mut().unwrap_or_else(|| unreachable!())
}

fn container(info: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let container = object(info, "container");
    container.entry("type").or_insert_with(|| json!("MESOS"));
    container
}

fn push(parent: &mut Map<String, Value>, field: &str, item: Value) {
    if let Value::Array(items) = parent.entry(field).or_insert_with(|| json!([])) {
        items.push(item);
    }
}

/// A launch that waits for an offer.
#[derive(Debug)]
pub(super) enum Launch {
    Task(TaskSpec),
    Group(GroupSpec),
}

/// The resources of an executor: cpus, memory and disk. The master requires some of each.
const EXECUTOR: (f64, f64, f64) = (0.01, 32.0, 1.0);

impl Launch {
    fn tasks(&self) -> &[TaskSpec] {
        match self {
            Self::Task(task) => std::slice::from_ref(task),
            Self::Group(group) => &group.tasks,
        }
    }

    /// Allocates its resources from an offer. `None`, and nothing allocated, if they do not fit.
    pub(super) fn take(&self, offer: &mut RemainingOffer) -> Option<Vec<Allocation>> {
        let mut remaining = offer.clone();
        let mut all = Vec::new();
        if matches!(self, Self::Group(_)) {
            all.push(remaining.take(EXECUTOR, &[])?);
        }
        for task in self.tasks() {
            let elsewhere = |host: &String| *host != remaining.hostname;
            if task.hostname.as_ref().is_some_and(elsewhere) {
                return None;
            }
            all.push(remaining.take((task.cpus, task.mem, task.disk), &task.ports)?);
        }
        *offer = remaining;
        Some(all)
    }

    /// The operation that launches it with its allocations.
    pub(super) fn operation(
        self,
        framework: &str,
        agent: &str,
        hostname: &str,
        allocations: Vec<Allocation>,
    ) -> (Value, Placement) {
        let mut place = Placement {
            agent_id: agent.to_owned(),
            hostname: hostname.to_owned(),
            ports: Vec::new(),
        };
        let mut ports = Vec::new();
        let mut allocations = allocations.into_iter();
        let mut next = |place: &mut Placement| {
            let allocation = allocations.next().unwrap_or_default();
            place.ports.clone_from(&allocation.ports);
            ports.extend(allocation.ports);
            allocation.resources
        };
        let operation = match self {
            Self::Task(task) => {
                let resources = next(&mut place);
                let infos = [task.info(&place, resources)];
                json!({"type": "LAUNCH", "launch": {"task_infos": infos}})
            }
            Self::Group(group) => {
                let mut executor = Value::Object(group.executor);
                executor["type"] = json!("DEFAULT");
                executor["executor_id"] = json!({"value": group.executor_id});
                executor["framework_id"] = json!({"value": framework});
                executor["resources"] = Value::Array(next(&mut place));
                let infos: Vec<Value> = group
                    .tasks
                    .into_iter()
                    .map(|task| {
                        let resources = next(&mut place);
                        task.info(&place, resources)
                    })
                    .collect();
                json!({"type": "LAUNCH_GROUP",
                       "launch_group": {"executor": executor, "task_group": {"tasks": infos}}})
            }
        };
        place.ports = ports;
        (operation, place)
    }
}
