//! The operator API of a leading Mesos master, as far as a follower needs it: `SUBSCRIBE` and
//! `GET_STATE` at `/api/v1`, in JSON.
//!
//! It is for clusters larger than a test machine can run: tasks and agents are what the caller
//! adds, and cost a line of text each. Nothing is launched or offered; tasks that have to run need
//! the real Mesos. The stream is framed and ordered like the real one: a record is a length in
//! decimal, a newline and that many bytes. The first record is `SUBSCRIBED` with the whole state, a
//! `HEARTBEAT` follows at once and then every fifteen seconds. The stream continues exactly where
//! the state ends: no event is repeated or omitted.
//!
//! ```text
//! state   tasks, agents and frameworks in JSON, and the followers of their changes
//! server  HTTP and the streams
//! ```

mod server;
mod state;
mod task_state;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::json;
use tokio::net::TcpListener;

pub use state::{Agent, Task};
pub use task_state::TaskState;

use crate::harness::lock;
use state::Cluster;

/// A master. Clones share their state. It ends with its runtime.
#[derive(Clone, Debug)]
pub struct Master {
    address: SocketAddr,
    cluster: Arc<Mutex<Cluster>>,
}

impl Master {
    /// Starts a master on a free port of the loopback interface.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let master = Self {
            address: listener.local_addr()?,
            cluster: Arc::default(),
        };
        let router = server::router(Arc::clone(&master.cluster));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                log::error!("the simulated master ended: {error}");
            }
        });
        Ok(master)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.cluster)
    }

    /// The number of subscriptions so far.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.lock().subscriptions
    }

    /// Registers a framework.
    pub fn add_framework(&self, id: &str, name: &str) {
        let mut cluster = self.lock();
        cluster.frameworks.insert(id.into(), name.into());
        let framework = state::framework(id, name);
        cluster.publish(
            &json!({"type": "FRAMEWORK_ADDED", "framework_added": {"framework": framework}}),
        );
    }

    /// Registers an agent, for the first time or again.
    pub fn add_agent(&self, agent: Agent) {
        let mut cluster = self.lock();
        let json = agent.json();
        cluster.agents.insert(agent.id.clone(), agent);
        cluster.publish(&json!({"type": "AGENT_ADDED", "agent_added": {"agent": json}}));
    }

    /// Removes an agent. Its tasks keep their state until they are updated.
    pub fn remove_agent(&self, id: &str) {
        let mut cluster = self.lock();
        if cluster.agents.remove(id).is_some() {
            let id = json!({"value": id});
            cluster.publish(&json!({"type": "AGENT_REMOVED", "agent_removed": {"agent_id": id}}));
        }
    }

    /// Launches a task. Followers receive it as staging, and then its state.
    pub fn add_task(&self, task: Task) {
        let mut cluster = self.lock();
        let staging = Task {
            state: TaskState::TaskStaging,
            ..task.clone()
        };
        cluster.publish(&json!({"type": "TASK_ADDED", "task_added": {"task": staging.json()}}));
        if task.state != TaskState::TaskStaging {
            cluster.publish(&task.update());
        }
        cluster.tasks.insert(task.id.clone(), task);
    }

    /// Changes the state of a task; a task that has ended is removed. Returns whether the task
    /// exists.
    #[must_use]
    pub fn update_task(&self, id: &str, state: TaskState) -> bool {
        let mut cluster = self.lock();
        let Some(task) = cluster.tasks.get_mut(id) else {
            return false;
        };
        task.state = state;
        let update = task.update();
        if state.is_terminal() {
            cluster.tasks.remove(id);
        }
        cluster.publish(&update);
        true
    }

    /// Closes all streams: followers have to subscribe again.
    pub fn cut(&self) {
        self.lock().drop_followers();
    }
}
