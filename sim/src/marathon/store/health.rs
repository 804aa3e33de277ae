//! Health checks: which are due, and what follows from their results.

use std::net::SocketAddr;
use std::time::Duration;

use super::Store;
use crate::harness::clock::Timestamp;
use crate::marathon::events::Event;
use crate::marathon::id::InstanceId;
use crate::marathon::instance::{Condition, Goal, Instance, Task};
use crate::marathon::model::app::App;
use crate::marathon::model::health::{HealthCheck, Protocol};
use crate::marathon::model::network::is_host;
use crate::marathon::model::run_spec::RunSpec;

/// A check that Marathon makes by itself, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The task.
    pub task_id: String,
    /// Which of the app's checks it is.
    pub check: usize,
    /// What must be there.
    pub target: Target,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a probe looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A URL that must be answered.
    Url(String),
    /// A host and a port that must accept connections.
    Port(String, u16),
}

impl Store {
    /// The checks that Marathon has to make now. Each is due again after its interval.
    pub fn due_probes(&mut self, now: Timestamp) -> Vec<Probe> {
        let mut probes = Vec::new();
        for instance in self.instances.values_mut() {
            let run_spec = instance.run_spec.clone();
            let RunSpec::App(app) = &*run_spec else {
                continue;
            };
            let host = instance.agent.as_ref().map(|agent| agent.host.clone());
            for task in &mut instance.tasks {
                if task.condition == Condition::Running {
                    probes.extend(due(app, task, host.as_deref(), now));
                }
            }
        }
        probes
    }

    /// Adds the result of a check by Marathon.
    pub fn add_probe_result(
        &mut self,
        task_id: &str,
        check: usize,
        result: Result<(), String>,
        now: Timestamp,
    ) {
        let instance = InstanceId::of_task(task_id).and_then(|id| self.instances.get_mut(&id));
        // It may have ended while the check was made.
        let Some(instance) = instance else {
            return;
        };
        let run_spec = instance.run_spec.clone();
        let RunSpec::App(app) = &*run_spec else {
            return;
        };
        let Some(definition) = app.health_checks.get(check) else {
            return;
        };
        let Some(index) = instance.tasks.iter().position(|task| task.id == task_id) else {
            return;
        };
        let task = &mut instance.tasks[index];
        let health = task.health.entry(check).or_default();
        let schedule = &definition.schedule;
        if result.is_err() && health.first_success.is_none() {
            let graceful = task
                .started_at
                .is_none_or(|at| at.after(schedule.grace_period()) > now);
            if graceful {
                return;
            }
        }
        let was_alive = health.is_alive();
        let failed = result.is_err();
        health.add(result, now);
        let (is_alive, failures) = (health.is_alive(), health.consecutive_failures);
        let cause = health.last_failure_cause.clone().unwrap_or_default();
        if failed {
            self.events
                .push(Event::failed_health_check(instance, definition));
            let max = schedule.max_consecutive_failures;
            if max > 0 && failures >= max && instance.goal == Goal::Running {
                let event = Event::unhealthy_kill(instance, task_id, &cause);
                self.events.push(event);
                instance.kill_wanted = true;
            }
        }
        if was_alive != is_alive {
            log::info!("{task_id}: check {check} says alive={is_alive} {cause}");
            self.events.push(Event::health_changed(instance, is_alive));
        }
        self.complete_deployments();
    }
}

/// Adds what a status of Mesos says about the health of a task, and the events that follow.
pub(super) fn add_status(
    instance: &mut Instance,
    index: usize,
    healthy: bool,
    now: Timestamp,
) -> Vec<Event> {
    let checks: Vec<usize> = match &*instance.run_spec {
        RunSpec::App(app) => {
            let checks = app.health_checks.iter().enumerate();
            checks
                .filter(|(_, check)| check.protocol.is_of_mesos())
                .map(|(index, _)| index)
                .collect()
        }
        RunSpec::Pod(_) => vec![0],
    };
    let before = instance.is_healthy();
    let mut changed = false;
    for check in checks {
        let health = instance.tasks[index].health.entry(check).or_default();
        let was_alive = health.is_alive();
        // Mesos does not say why.
        health.add(healthy.then_some(()).ok_or_else(String::new), now);
        changed |= was_alive != healthy;
    }
    let mut events = Vec::new();
    if changed {
        events.push(Event::health_changed(instance, healthy));
    }
    if instance.is_healthy() != before {
        events.push(Event::instance_health_changed(instance));
    }
    events
}

/// The checks of a task that Marathon has to make now.
fn due(app: &App, task: &mut Task, host: Option<&str>, now: Timestamp) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (index, check) in app.health_checks.iter().enumerate() {
        if check.protocol.is_of_mesos() {
            continue;
        }
        let started = task.started_at.unwrap_or(now);
        let next = task
            .probes
            .get(&index)
            .copied()
            .unwrap_or_else(|| started.after(check.schedule.first()));
        if next > now {
            task.probes.insert(index, next);
            continue;
        }
        task.probes
            .insert(index, now.after(check.schedule.interval()));
        // Without an address there is nothing to check yet.
        if let Some((host, port)) = target(app, check, task, host) {
            probes.push(Probe {
                task_id: task.id.clone(),
                check: index,
                target: probe_target(check, &host, port),
                timeout: check.schedule.timeout(),
            });
        }
    }
    probes
}

fn probe_target(check: &HealthCheck, host: &str, port: u16) -> Target {
    let scheme = match check.protocol {
        Protocol::Https => "https",
        Protocol::Http => "http",
        _ => return Target::Port(host.to_owned(), port),
    };
    let authority = match host.parse() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    };
    let path = check.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Target::Url(format!("{scheme}://{authority}{slash}{path}"))
}

/// The agent with a host's port, else the task's first address with a port of the container.
fn target(
    app: &App,
    check: &HealthCheck,
    task: &Task,
    host: Option<&str>,
) -> Option<(String, u16)> {
    let first = task
        .addresses
        .first()
        .map(|address| address.address.clone());
    let is_host = is_host(&app.networks);
    if let Some(port) = check.port {
        let host = if is_host {
            host.map(str::to_owned)
        } else {
            first
        };
        return Some((host?, port));
    }
    let index = check.port_index?;
    if let Some(port) = task.host_ports.get(index).copied().flatten() {
        return Some((host?.to_owned(), port));
    }
    let port = app.port_mappings().get(index)?.container_port;
    (port != 0).then_some((first?, port))
}
