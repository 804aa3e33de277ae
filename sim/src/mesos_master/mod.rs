//! The operator API of a leading Mesos master, as far as one follows it: `SUBSCRIBE` and
//! `GET_STATE` at `/api/v1`, in JSON.
//!
//! For clusters larger than any test machine: tasks and agents are what the one who started it says
//! they are, and cost a line of text each. Nothing is launched and nothing is offered; where a task
//! has to run, there is the real Mesos. The stream is framed and ordered as the real one: a record is
//! a length in decimal, a newline and as many bytes; the first is `SUBSCRIBED` with the whole
//! state, a `HEARTBEAT` follows at once and then every fifteen seconds; no event is sent that the
//! state already had, and none is left out.
//!
//! ```text
//! state   tasks, agents and frameworks; what one of them looks like
//! server  HTTP around it, and the streams
//! ```

mod server;
mod state;
mod task_state;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub use state::{Agent, Task};
pub use task_state::TaskState;

use server::record;
use state::State;

/// How often there is a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A master. Clones are the same one. It ends with its runtime.
#[derive(Clone, Debug)]
pub struct Master {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// Those who follow. The real master keeps what a slow one has not read yet, too.
    followers: Vec<mpsc::UnboundedSender<Vec<u8>>>,
    subscriptions: u64,
}

impl Inner {
    fn tell(&mut self, event: &serde_json::Value) {
        let record = record(event);
        self.followers
            .retain(|follower| follower.send(record.clone()).is_ok());
    }
}

impl Master {
    /// Starts one on a free port of this machine alone.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let master = Self {
            address: listener.local_addr()?,
            inner: Arc::default(),
        };
        let router = server::router(master.clone());
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is made at once.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often somebody has begun to follow.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.lock().subscriptions
    }

    /// A framework has registered.
    pub fn add_framework(&self, id: &str, name: &str) {
        let mut inner = self.lock();
        inner.state.frameworks.insert(id.into(), name.into());
        let framework = state::framework(id, name);
        inner
            .tell(&json!({"type": "FRAMEWORK_ADDED", "framework_added": {"framework": framework}}));
    }

    /// An agent has registered, for the first time or again.
    pub fn add_agent(&self, agent: Agent) {
        let mut inner = self.lock();
        let shown = agent.json();
        inner.state.agents.insert(agent.id.clone(), agent);
        inner.tell(&json!({"type": "AGENT_ADDED", "agent_added": {"agent": shown}}));
    }

    /// An agent is gone. Its tasks stay what they are until they are said to be otherwise.
    pub fn remove_agent(&self, id: &str) {
        let mut inner = self.lock();
        if inner.state.agents.remove(id).is_some() {
            let id = json!({"value": id});
            inner.tell(&json!({"type": "AGENT_REMOVED", "agent_removed": {"agent_id": id}}));
        }
    }

    /// A task was launched. It is told of as staging; what it is by now is told after that.
    pub fn add_task(&self, task: Task) {
        let mut inner = self.lock();
        let staging = Task {
            state: TaskState::TaskStaging,
            ..task.clone()
        };
        inner.tell(&json!({"type": "TASK_ADDED", "task_added": {"task": staging.json()}}));
        if task.state != TaskState::TaskStaging {
            inner.tell(&task.update());
        }
        inner.state.tasks.insert(task.id.clone(), task);
    }

    /// The state of a task is this now; one that has ended is forgotten. Says whether there is
    /// such a task.
    #[must_use]
    pub fn update_task(&self, id: &str, state: TaskState) -> bool {
        let mut inner = self.lock();
        let Some(task) = inner.state.tasks.get_mut(id) else {
            return false;
        };
        task.state = state;
        let update = task.update();
        if state.is_terminal() {
            inner.state.tasks.remove(id);
        }
        inner.tell(&update);
        true
    }

    /// Closes all streams: those who follow have to subscribe again.
    pub fn cut(&self) {
        self.lock().followers.clear();
    }
}
