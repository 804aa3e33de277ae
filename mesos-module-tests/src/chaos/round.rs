//! A round: what was planned is done, all is healed, and what is becomes what is to be.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use reqwest::Method;
use serde_json::json;

use super::apps::{App, DesiredApps};
use super::comparison::{Comparison, look};
use super::faults::Active;
use super::plan::{Plan, Step};
use super::testbed::Testbed;

/// How long it may take, once all is healed, until all is as it is to be.
pub(super) const RECOVERY_TIMEOUT: Duration = Duration::from_mins(2);
/// How long all must stay so: longer than the managers' resync.
const STABLE_FOR: Duration = Duration::from_millis(2500);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What is done in a round, and what has been.
pub(super) struct Round<'a> {
    testbed: &'a mut Testbed,
    wanted: &'a mut DesiredApps,
    /// Apps of which it is not known what Marathon was told last.
    unsure: BTreeSet<App>,
    /// What was done when.
    pub(super) journal: Vec<String>,
    began: Instant,
}

/// How a round ended.
pub(super) struct Ended {
    pub(super) healed_in: Duration,
    pub(super) look: Comparison,
}

impl<'a> Round<'a> {
    pub(super) fn new(testbed: &'a mut Testbed, wanted: &'a mut DesiredApps) -> Self {
        Self {
            testbed,
            wanted,
            unsure: BTreeSet::new(),
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

    /// Does what is planned, and waits until all is well.
    pub(super) fn run(&mut self, plan: &Plan) -> Result<Ended> {
        let mut active: Vec<Option<Active>> = vec![None; plan.faults.len()];
        for (at, step) in &plan.steps {
            sleep(at.saturating_sub(self.began.elapsed()));
            let what = plan.step(*step);
            match *step {
                Step::Begin(index) => {
                    active[index] = self.testbed.begin(plan.faults[index])?;
                    let done = if active[index].is_some() {
                        ""
                    } else {
                        ": there is nobody left"
                    };
                    self.note(&format!("{what}{done}"));
                }
                Step::End(index) => {
                    self.note(&what);
                    if let Some(active) = active[index].take() {
                        self.testbed.heal(active)?;
                        self.note("… and has");
                    }
                }
                Step::Scale(app, instances) => {
                    if let Some(wanted) = self.wanted.get_mut(&app) {
                        wanted.instances = instances;
                    }
                    self.tell(app, true, &what);
                }
                Step::Relabel(app, labels) => {
                    if let Some(wanted) = self.wanted.get_mut(&app) {
                        wanted.labels = labels;
                    }
                    self.tell(app, false, &what);
                }
            }
        }
        self.settle()
    }

    /// Tells Marathon all that is wanted, and waits until all is well.
    pub(super) fn everything(&mut self) -> Result<Ended> {
        self.unsure.extend(self.wanted.keys());
        self.settle()
    }

    /// Tells Marathon how an app is to be. It may not hear it, or we may not hear that it did.
    fn tell(&mut self, app: App, scale: bool, what: &str) {
        let told = self.try_tell(app, scale);
        match told {
            Ok(()) => self.note(what),
            Err(error) => {
                self.unsure.insert(app);
                self.note(&format!("{what}: {error:#}"));
            }
        }
    }

    fn try_tell(&mut self, app: App, scale: bool) -> Result<()> {
        let Some(wanted) = self.wanted.get(&app) else {
            return Ok(());
        };
        // Of what may not have been heard everything is told again.
        let scale = scale && app != App::Pod && !self.unsure.contains(&app);
        let body = if scale {
            json!({"instances": wanted.instances})
        } else {
            wanted.definition(app)
        };
        let kind = if app == App::Pod { "pods" } else { "apps" };
        let path = format!("/v2/{kind}{}?force=true", app.id());
        let (status, answer) = self.testbed.ask(&Method::PUT, &path, Some(&body))?;
        ensure!((200..300).contains(&status), "{status} {answer}");
        self.unsure.remove(&app);
        Ok(())
    }

    /// Waits until all is as it is to be, and stays so.
    pub(super) fn settle(&mut self) -> Result<Ended> {
        self.note("all is healed");
        let healed = Instant::now();
        let mut well: Option<(Instant, Comparison)> = None;
        loop {
            for manager in &mut self.testbed.managers {
                if let Some(status) = manager.process.exit_status() {
                    bail!(
                        "the manager {} ended by itself: {status}",
                        manager.process.name()
                    );
                }
            }
            for app in self.unsure.clone() {
                let what = format!("{} once more", app.id());
                self.tell(app, false, &what);
            }
            let look = look(self.testbed, self.wanted);
            let is_well = look.differences.is_empty() && self.unsure.is_empty();
            match (&well, is_well) {
                (None, true) => {
                    self.note("all is well");
                    well = Some((Instant::now(), look));
                }
                (Some((since, _)), true) if since.elapsed() >= STABLE_FOR => {
                    return Ok(Ended {
                        healed_in: since.duration_since(healed),
                        look,
                    });
                }
                (Some(_), true) => {}
                (Some(_), false) => {
                    self.note(&format!("no more: {}", look.differences.join("; ")));
                    well = None;
                }
                (None, false) => ensure!(
                    healed.elapsed() < RECOVERY_TIMEOUT,
                    "after {RECOVERY_TIMEOUT:?} it is still not as it is to be:\n{}",
                    look.differences.join("\n")
                ),
            }
            sleep(POLL_INTERVAL);
        }
    }
}
