//! The real master's events, as the client of `master` follows them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::http::LeaderOptions;
use contrail_mesos_manager::mesos_master::{
    FollowOptions, Follower, MasterClient, MasterOptions, State, Task, Update,
};
use contrail_mesos_manager::task_state::TaskState;
use mesos_module_tests::testbed::agent::{Agent, BLUE, WAIT_TIMEOUT, address, container};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::{Cluster, Host};
use serde_json::json;

/// A follower and what it has followed.
struct FollowedState {
    host: Host,
    follower: Follower,
    state: State,
    losses: usize,
}

fn client(master: &str) -> Result<MasterClient> {
    Ok(MasterClient::new(MasterOptions {
        masters: master.parse()?,
        secure: false,
        access: LeaderOptions::default(),
    })?)
}

impl FollowedState {
    fn follow(host: &Host, master: &str) -> Result<Self> {
        let client = client(master)?;
        let options = FollowOptions {
            backoff: (Duration::from_millis(10), Duration::from_millis(500)),
            ..FollowOptions::default()
        };
        let mut followed = Self {
            host: host.clone(),
            follower: host.block_on(async { Follower::start(client, options) }),
            state: State::default(),
            losses: 0,
        };
        followed.until(|state| !state.agents.is_empty())?;
        Ok(followed)
    }

    /// Applies updates until the state meets the condition.
    fn until(&mut self, condition: impl Fn(&State) -> bool + Sync) -> Result<()> {
        self.until_lost(0, condition)
    }

    /// As [`Self::until`], and the stream must have been lost at least `losses` times.
    fn until_lost(
        &mut self,
        losses: usize,
        condition: impl Fn(&State) -> bool + Sync,
    ) -> Result<()> {
        let host = self.host.clone();
        host.block_on(async {
            while self.losses < losses || !condition(&self.state) {
                let update = tokio::time::timeout(WAIT_TIMEOUT, self.follower.next())
                    .await
                    .with_context(|| format!("no more updates: {:?}", self.state))?;
                match update {
                    Update::Snapshot(state) => self.state = *state,
                    Update::Changed(change) => self.state.apply(change),
                    Update::Lost(error) => {
                        self.losses += 1;
                        self.state = State::default();
                        println!("{error}");
                    }
                }
                if !self.state.is_complete() {
                    bail!("not understood: {:?}", self.state.skipped);
                }
            }
            Ok(())
        })
    }
}

fn find<'a>(state: &'a State, task: &str) -> Option<&'a Task> {
    let mut tasks = state.tasks.values().map(Box::as_ref);
    tasks.find(|one| &*one.key.task == task)
}

fn runs(state: &State, task: &str) -> bool {
    find(state, task).is_some_and(|task| {
        task.status.state == TaskState::Running && task.status.addresses().next().is_some()
    })
}

#[test]
fn follower_joins_task_container_address_and_agent() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let mut followed = FollowedState::follow(agent.host(), agent.cluster.master())?;
    let known = followed.state.agents.values().next().context("no agent")?;
    ensure!(known.active, "{known:?}");
    assert_eq!(known.address, Some(agent.host().address()));
    ensure!(followed.state.frameworks.contains_key(agent.framework.id()));

    let task = TaskSpec::new("web", "sleep 1000")
        .network("blue")
        .label("mine", "yes");
    let running = agent.run(task)?;
    followed.until(|state| runs(state, "web"))?;
    let task = find(&followed.state, "web").context("no task")?;
    assert_eq!(&*task.key.framework, agent.framework.id());
    assert_eq!(task.executor(), "web");
    assert_eq!(
        task.status.container.as_deref(),
        Some(&*container(&running)?)
    );
    let addresses: Vec<_> = task.status.addresses().collect();
    assert_eq!(addresses, [address(&running)?]);
    assert_eq!(task.status.networks[0].name.as_deref(), Some("blue"));
    assert_eq!(&*task.labels, [("mine".into(), "yes".into())]);
    ensure!(task.status.at.is_some());
    let on = followed
        .state
        .agent_of(task)
        .context("its agent is not known")?;
    assert_eq!(Some(&*on.id), running.agent_id.as_deref());

    // A listing agrees in the end. An event has the task's newest state with an older status, so the
    // event with the newest status may still follow.
    let listed = agent
        .host()
        .block_on(client(agent.cluster.master())?.state())?;
    followed.until(|state| *state == listed)?;

    // After a crash of master and agent, the running task is listed again.
    agent.crash()?;
    followed.until_lost(1, |state| runs(state, "web"))?;
    let again = find(&followed.state, "web").context("no task")?;
    assert_eq!(
        again.status.container.as_deref(),
        Some(&*container(&running)?)
    );

    agent.kill("web")?;
    followed.until(|state| find(state, "web").is_none())?;
    drop(followed);
    agent.end()
}

#[test]
fn follower_reports_a_lost_agent_at_once() -> Result<()> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let cluster = Cluster::on(&host).start()?;
    let mut followed = FollowedState::follow(&host, cluster.master())?;
    let framework = cluster.framework()?;
    let id = framework.id().to_owned();
    followed.until(|state| state.frameworks.contains_key(&*id))?;
    host.block_on(framework.launch(TaskSpec::new("web", "sleep 1000")))?;
    followed.until(|state| runs(state, "web"))?;
    let agent = followed
        .state
        .agents
        .keys()
        .next()
        .context("no agent")?
        .clone();
    cluster.master_call(&json!({"type": "MARK_AGENT_GONE",
        "mark_agent_gone": {"agent_id": {"value": &*agent}}}))?;
    followed.until(|state| !state.agents.contains_key(&agent))?;
    followed.until(|state| {
        find(state, "web").is_none_or(|task| task.status.state != TaskState::Running)
    })?;
    host.block_on(framework.teardown())?;
    followed.until(|state| !state.frameworks.contains_key(&*id) && state.tasks.is_empty())?;
    assert_eq!(followed.losses, 0);
    drop((followed, framework));
    cluster.stop()
}
