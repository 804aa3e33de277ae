//! A round: executes a plan, ends all faults, and waits for the desired state.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use reqwest::Method;
use serde_json::json;

use super::apps::{App, DesiredApps};
use super::comparison::{Comparison, compare};
use super::faults::Active;
use super::plan::{Plan, Step};
use super::testbed::Testbed;

/// How long recovery may take after the last fault has ended.
pub(super) const RECOVERY_TIMEOUT: Duration = Duration::from_mins(2);
/// How long the desired state must hold: longer than the managers' resync interval.
const STABLE_FOR: Duration = Duration::from_millis(2500);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A running round.
pub(super) struct Round<'a> {
    testbed: &'a mut Testbed,
    desired: &'a mut DesiredApps,
    /// Apps whose last request may not have reached Marathon.
    unconfirmed: BTreeSet<App>,
    /// The events of the round, with their times.
    pub(super) journal: Vec<String>,
    began: Instant,
}

/// The result of a round.
pub(super) struct RoundResult {
    /// From the end of the last fault.
    pub(super) recovered_in: Duration,
    pub(super) comparison: Comparison,
}

impl<'a> Round<'a> {
    pub(super) fn new(testbed: &'a mut Testbed, desired: &'a mut DesiredApps) -> Self {
        Self {
            testbed,
            desired,
            unconfirmed: BTreeSet::new(),
            journal: vec![],
            began: Instant::now(),
        }
    }

    fn note(&mut self, what: &str) {
        let at = self.began.elapsed();
        let clock = jiff::Timestamp::now();
        self.journal
            .push(format!("{:6.2} s ({clock:.3}) {what}", at.as_secs_f64()));
    }

    /// Executes a plan, and waits for the desired state.
    pub(super) fn run(&mut self, plan: &Plan) -> Result<RoundResult> {
        let mut active: Vec<Option<Active>> = vec![None; plan.faults.len()];
        for (at, step) in &plan.steps {
            sleep(at.saturating_sub(self.began.elapsed()));
            let what = plan.step(*step);
            match *step {
                Step::Begin(index) => {
                    active[index] = self.testbed.begin(plan.faults[index])?;
                    let suffix = if active[index].is_some() {
                        ""
                    } else {
                        ": not possible now"
                    };
                    self.note(&format!("{what}{suffix}"));
                }
                Step::End(index) => {
                    self.note(&what);
                    if let Some(active) = active[index].take() {
                        self.testbed.heal(active)?;
                        self.note("ended");
                    }
                }
                Step::Scale(app, instances) => {
                    if let Some(desired) = self.desired.get_mut(&app) {
                        desired.instances = instances;
                    }
                    self.send(app, true, &what);
                }
                Step::Relabel(app, labels) => {
                    if let Some(desired) = self.desired.get_mut(&app) {
                        desired.labels = labels;
                    }
                    self.send(app, false, &what);
                }
            }
        }
        self.settle()
    }

    /// Sends all desired apps to Marathon, and waits for the desired state.
    pub(super) fn reconcile_all(&mut self) -> Result<RoundResult> {
        self.unconfirmed.extend(self.desired.keys());
        self.settle()
    }

    /// Sends a desired app to Marathon. A request that fails may have been performed.
    fn send(&mut self, app: App, scale: bool, what: &str) {
        match self.try_send(app, scale) {
            Ok(()) => self.note(what),
            Err(error) => {
                self.unconfirmed.insert(app);
                self.note(&format!("{what}: {error:#}"));
            }
        }
    }

    fn try_send(&mut self, app: App, scale: bool) -> Result<()> {
        let Some(desired) = self.desired.get(&app) else {
            return Ok(());
        };
        // After a failed request the whole definition is sent again.
        let scale = scale && app != App::Pod && !self.unconfirmed.contains(&app);
        let body = if scale {
            json!({"instances": desired.instances})
        } else {
            desired.definition(app)
        };
        let kind = if app == App::Pod { "pods" } else { "apps" };
        let path = format!("/v2/{kind}{}?force=true", app.id());
        let (status, body) = self.testbed.request(&Method::PUT, &path, Some(&body))?;
        ensure!((200..300).contains(&status), "{status} {body}");
        self.unconfirmed.remove(&app);
        Ok(())
    }

    /// Waits until the cluster is in the desired state, and stays in it.
    pub(super) fn settle(&mut self) -> Result<RoundResult> {
        self.note("all faults have ended");
        let healed = Instant::now();
        let mut stable: Option<(Instant, Comparison)> = None;
        loop {
            for manager in &mut self.testbed.managers {
                if let Some(status) = manager.process.exit_status() {
                    bail!(
                        "the manager {} ended unexpectedly: {status}",
                        manager.process.name()
                    );
                }
            }
            for app in self.unconfirmed.clone() {
                let what = format!("{} is sent again", app.id());
                self.send(app, false, &what);
            }
            let comparison = compare(self.testbed, self.desired);
            let matches = comparison.differences.is_empty() && self.unconfirmed.is_empty();
            match (&stable, matches) {
                (None, true) => {
                    self.note("recovered");
                    stable = Some((Instant::now(), comparison));
                }
                (Some((since, _)), true) if since.elapsed() >= STABLE_FOR => {
                    return Ok(RoundResult {
                        recovered_in: since.duration_since(healed),
                        comparison,
                    });
                }
                (Some(_), true) => {}
                (Some(_), false) => {
                    self.note(&format!(
                        "differs again: {}",
                        comparison.differences.join("; ")
                    ));
                    stable = None;
                }
                (None, false) => ensure!(
                    healed.elapsed() < RECOVERY_TIMEOUT,
                    "not recovered after {RECOVERY_TIMEOUT:?}:\n{}",
                    comparison.differences.join("\n")
                ),
            }
            sleep(POLL_INTERVAL);
        }
    }
}
