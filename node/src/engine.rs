//! Runs the subsystems: each on a thread of its own, which compares when a comparison is due.
//!
//! Invariants: a subsystem that fails, panics or hangs does not stop the others. A subsystem that
//! needs the managers' state compares nothing before there is a complete one. Every change is counted
//! and logged, and so is what could not be changed, once.

use std::any::Any;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use contrail_mesos_api::cluster::{Revision, SubsystemReport};
use contrail_mesos_api::text::{truncate, with_causes};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::cluster_state::ClusterState;
use crate::schedule::{Conclusion, Schedule};
use crate::subsystem::{BoxError, Change, ClusterUse, Mode, Outcome, Subsystem};
use crate::watch::States;

/// A comparison that takes longer hangs.
const HANG_TIMEOUT: Duration = Duration::from_mins(2);
/// How many changes of a comparison are logged, each with a line of its own.
const MAX_LOGGED_CHANGES: usize = 20;
/// How many problems of a subsystem are kept. The others are counted.
const MAX_PROBLEMS: usize = 50;
/// The longest problem, in characters.
const MAX_PROBLEM_CHARS: usize = 500;

/// The state of a subsystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SubsystemStatus {
    /// Its name.
    pub name: &'static str,
    /// The last revision that it has applied without problems.
    pub applied: Option<Revision>,
    /// What is not as it must be, after the last comparison.
    pub problems: Vec<String>,
    /// How many comparisons there were.
    pub comparisons: u64,
    /// How many changes were made because the cluster's state is another, or at the start.
    pub changes: u64,
    /// How many changes were made because something else had changed this host.
    pub repairs: u64,
    /// How many comparisons had problems.
    pub failures: u64,
    /// How many comparisons panicked.
    pub panics: u64,
    /// Whether it applies revisions, or is about this host alone.
    #[serde(skip)]
    pub cluster_use: ClusterUse,
    /// When the comparison in progress began.
    #[serde(skip)]
    busy_since: Option<Instant>,
}

impl SubsystemStatus {
    /// The state before the first comparison.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Whether a comparison takes longer than any should.
    #[must_use]
    pub fn hangs(&self) -> bool {
        self.busy_since
            .is_some_and(|since| since.elapsed() > HANG_TIMEOUT)
    }
}

/// The state of all subsystems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// In the order in which they were given.
    pub subsystems: Vec<SubsystemStatus>,
}

impl EngineStatus {
    /// The revision that all subsystems that apply revisions have applied without problems.
    #[must_use]
    pub fn applied(&self) -> Option<Revision> {
        let applying = self
            .subsystems
            .iter()
            .filter(|subsystem| subsystem.cluster_use != ClusterUse::Unused);
        let applied = applying.map(|subsystem| subsystem.applied);
        // None is less than any.
        applied.min().flatten()
    }

    /// Whether every subsystem has compared once.
    #[must_use]
    pub fn has_attempted(&self) -> bool {
        self.subsystems
            .iter()
            .all(|subsystem| subsystem.comparisons > 0)
    }

    /// The subsystems that hang.
    pub fn hanging(&self) -> impl Iterator<Item = &'static str> {
        let hanging = self.subsystems.iter().filter(|status| status.hangs());
        hanging.map(|status| status.name)
    }

    /// What is reported to the managers.
    #[must_use]
    pub fn reports(&self) -> Vec<SubsystemReport> {
        let report = |status: &SubsystemStatus| SubsystemReport {
            name: status.name.to_owned(),
            problems: status.problems.clone(),
        };
        self.subsystems.iter().map(report).collect()
    }
}

/// The running subsystems. They stop when it is dropped.
pub struct Engine {
    threads: Vec<(UnixStream, JoinHandle<()>)>,
    status: watch::Receiver<EngineStatus>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts a thread for each subsystem, in the network namespace of the calling thread. Must be
    /// called within a tokio runtime.
    pub fn start(subsystems: Vec<Box<dyn Subsystem>>, states: &States) -> io::Result<Self> {
        let statuses = subsystems
            .iter()
            .map(|subsystem| SubsystemStatus {
                cluster_use: subsystem.cluster_use(),
                ..SubsystemStatus::new(subsystem.name())
            })
            .collect();
        let (sender, receiver) = watch::channel(EngineStatus {
            subsystems: statuses,
        });
        let sender = Arc::new(sender);
        let mut engine = Self {
            threads: vec![],
            status: receiver,
        };
        for (index, subsystem) in subsystems.into_iter().enumerate() {
            let (wake, woken) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            woken.set_nonblocking(true)?;
            let cluster_use = subsystem.cluster_use();
            let runner = Runner {
                name: subsystem.name(),
                subsystem,
                index,
                states: states.clone(),
                status: sender.clone(),
                woken,
                schedule: Schedule::new(Instant::now()),
                is_listening: true,
                cluster_use,
                seen: None,
                applied: None,
            };
            let thread = std::thread::Builder::new()
                .name(format!("cm-{}", runner.name))
                .spawn(move || runner.run())?;
            engine.threads.push((wake.try_clone()?, thread));
            if cluster_use != ClusterUse::Unused {
                tokio::spawn(wake_for_each(states.clone(), wake));
            }
        }
        Ok(engine)
    }

    /// The state of the subsystems.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    /// Stops, and waits for the comparisons in progress, for `limit` at most. Blocks.
    pub fn stop(mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let threads = std::mem::take(&mut self.threads);
        for (wake, _) in &threads {
            end(wake);
        }
        for (_, thread) in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for (wake, _) in &self.threads {
            end(wake);
        }
    }
}

/// Ends the thread at the other side.
fn end(wake: &UnixStream) {
    // If it has ended already, there is nothing to end.
    let _ = wake.shutdown(std::net::Shutdown::Both);
}

/// Wakes a thread for each new state.
async fn wake_for_each(mut states: States, wake: UnixStream) {
    while states.changed().await.is_ok() {
        match (&wake).write(b"x") {
            // If it is full, the thread wakes anyway.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The thread has ended.
            Err(_) => return,
        }
    }
}

/// Compares once without changing anything. Returns the outcome of each subsystem, or why it could
/// not compare. Without a state, those that need one are left out.
pub fn dry_run(
    subsystems: &mut [Box<dyn Subsystem>],
    state: Option<&ClusterState>,
) -> Vec<(&'static str, Result<Outcome, String>)> {
    let compare = |subsystem: &mut Box<dyn Subsystem>| {
        let result = catch_unwind(AssertUnwindSafe(|| {
            reconcile(subsystem.as_mut(), state, Mode::DryRun)
        }));
        let outcome = match result {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(with_causes(error.as_ref())),
            Err(payload) => Err(describe_panic(payload.as_ref())),
        };
        (subsystem.name(), outcome)
    };
    subsystems
        .iter_mut()
        .filter(|subsystem| state.is_some() || subsystem.cluster_use() != ClusterUse::Required)
        .map(compare)
        .collect()
}

/// A comparison with the state that the subsystem uses.
fn reconcile(
    subsystem: &mut dyn Subsystem,
    state: Option<&ClusterState>,
    mode: Mode,
) -> Result<Outcome, BoxError> {
    match state {
        Some(state) if subsystem.cluster_use() != ClusterUse::Unused => {
            subsystem.reconcile(state, mode)
        }
        _ => subsystem.reconcile_alone(mode),
    }
}

/// What a comparison compared with: the revision, if there was one, and the subsystem's
/// [`Subsystem::local_generation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DesiredVersion {
    revision: Option<Revision>,
    local: u64,
}

/// The thread of a subsystem.
struct Runner {
    name: &'static str,
    subsystem: Box<dyn Subsystem>,
    /// Its place in the status.
    index: usize,
    states: States,
    status: Arc<watch::Sender<EngineStatus>>,
    woken: UnixStream,
    schedule: Schedule,
    /// Whether its notifications can be waited for.
    is_listening: bool,
    cluster_use: ClusterUse,
    /// The state that the schedule knows of.
    seen: Option<Arc<ClusterState>>,
    /// What the last comparison without problems compared with.
    applied: Option<DesiredVersion>,
}

/// What a thread has waited for.
struct Events {
    stop: bool,
    notified: bool,
}

impl Runner {
    fn run(mut self) {
        loop {
            let events = match self.wait() {
                Ok(events) => events,
                Err(error) => {
                    log::error!(subsystem = self.name, error:%; "cannot wait for notifications");
                    // The next comparison is due after a delay.
                    std::thread::sleep(Duration::from_secs(1));
                    Events {
                        stop: false,
                        notified: false,
                    }
                }
            };
            if events.stop {
                return;
            }
            if events.notified {
                self.receive();
            }
            let state = self.state();
            if state.is_none() && self.cluster_use == ClusterUse::Required {
                continue;
            }
            let now = Instant::now();
            let is_new = match (&self.seen, &state) {
                (Some(seen), Some(state)) => !Arc::ptr_eq(seen, state),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if is_new {
                self.schedule.changed(now);
                self.seen.clone_from(&state);
            }
            if self.schedule.due() <= now {
                let conclusion = self.compare(state.as_deref());
                self.schedule.concluded(Instant::now(), conclusion);
            }
        }
    }

    /// The latest state that this subsystem uses.
    fn state(&self) -> Option<Arc<ClusterState>> {
        match self.cluster_use {
            ClusterUse::Required | ClusterUse::Optional => self.states.borrow().clone(),
            ClusterUse::Unused => None,
        }
    }

    /// Waits for a notification, a new state, or the next comparison.
    fn wait(&mut self) -> Result<Events, Errno> {
        let can_compare = self.seen.is_some() || self.cluster_use != ClusterUse::Required;
        let timeout = if can_compare {
            // Rounded up, so that the thread does not wake too early.
            let left = self
                .schedule
                .due()
                .saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        } else if self.states.borrow().is_some() {
            // The state that was there at the start wakes nobody.
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        let mut files = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        if self.is_listening
            && let Some(descriptor) = self.subsystem.notifications()
        {
            files.push(PollFd::new(descriptor, PollFlags::POLLIN));
        }
        match poll(&mut files, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let events = |index: usize| files.get(index).and_then(PollFd::revents);
        let notified = events(1).is_some_and(|events| !events.is_empty());
        let is_useless = events(1)
            .is_some_and(|events| events.intersects(PollFlags::POLLNVAL | PollFlags::POLLHUP));
        let is_woken = events(0).is_some_and(|events| !events.is_empty());
        drop(files);
        if is_useless {
            self.is_listening = false;
            log::error!(
                subsystem = self.name;
                "notifications have ended: changes of other programs are only found by full comparisons"
            );
        }
        let mut stop = false;
        if is_woken {
            let mut bytes = [0; 64];
            stop = loop {
                match (&self.woken).read(&mut bytes) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
                }
            };
        }
        Ok(Events { stop, notified })
    }

    /// Reads the notifications that have arrived.
    fn receive(&mut self) {
        let subsystem = &mut self.subsystem;
        let is_due = catch_unwind(AssertUnwindSafe(|| subsystem.receive()));
        let is_due = is_due.unwrap_or_else(|payload| {
            self.count_panic(payload.as_ref());
            true
        });
        let now = Instant::now();
        match (is_due, self.subsystem.is_urgent()) {
            (true, true) => self.schedule.urgent(now),
            (true, false) => self.schedule.changed(now),
            (false, _) => {}
        }
    }

    fn update(&self, update: impl FnOnce(&mut SubsystemStatus) -> bool) {
        self.status.send_if_modified(|status| {
            // The place is there as long as the thread is.
            status.subsystems.get_mut(self.index).is_some_and(update)
        });
    }

    fn count_panic(&self, payload: &(dyn Any + Send)) -> String {
        let problem = describe_panic(payload);
        log::error!(subsystem = self.name; "{problem}");
        self.update(|status| {
            status.panics += 1;
            true
        });
        problem
    }

    fn compare(&mut self, state: Option<&ClusterState>) -> Conclusion {
        self.update(|status| {
            status.busy_since = Some(Instant::now());
            false
        });
        let subsystem = &mut self.subsystem;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let outcome = reconcile(subsystem.as_mut(), state, Mode::Apply);
            (outcome, subsystem.local_generation())
        }));
        let (outcome, local) = match result {
            Ok((Ok(outcome), local)) => (outcome, local),
            Ok((Err(error), local)) => (failure(with_causes(error.as_ref())), local),
            Err(payload) => (failure(self.count_panic(payload.as_ref())), 0),
        };
        let revision = state.map(|state| state.revision);
        self.conclude(DesiredVersion { revision, local }, outcome)
    }

    fn conclude(&mut self, version: DesiredVersion, outcome: Outcome) -> Conclusion {
        let Outcome { changes, problems } = outcome;
        let problems = bounded(problems);
        let before = {
            let status = self.status.borrow();
            let status = status.subsystems.get(self.index);
            status.map_or_else(Vec::new, |status| status.problems.clone())
        };
        // Nothing that must be has changed since everything was as it must be.
        let is_repair = self.applied == Some(version) && before.is_empty();
        self.log(&changes, is_repair);
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            log::warn!(subsystem = self.name; "{problem}");
        }
        if problems.is_empty() && !before.is_empty() {
            log::info!(subsystem = self.name; "there are no problems any more");
        }
        let count = changes.len() as u64;
        let is_success = problems.is_empty();
        if is_success {
            self.applied = Some(version);
        }
        self.update(|status| {
            status.busy_since = None;
            status.comparisons += 1;
            if is_repair {
                status.repairs += count;
            } else {
                status.changes += count;
            }
            let mut is_modified = status.comparisons == 1 || count > 0;
            if is_success {
                is_modified |= status.applied != version.revision;
                status.applied = version.revision;
            } else {
                status.failures += 1;
            }
            is_modified |= status.problems != problems;
            status.problems = problems;
            is_modified
        });
        match (is_success, is_repair && count > 0) {
            (false, _) => Conclusion::Failed,
            (true, true) => Conclusion::Repaired,
            (true, false) => Conclusion::Applied,
        }
    }

    fn log(&self, changes: &[Change], is_repair: bool) {
        for change in changes.iter().take(MAX_LOGGED_CHANGES) {
            if is_repair {
                log::warn!(subsystem = self.name; "repaired what something else had changed: {change}");
            } else {
                log::info!(subsystem = self.name; "{change}");
            }
        }
        let more = changes.len().saturating_sub(MAX_LOGGED_CHANGES);
        if more > 0 {
            log::info!(subsystem = self.name, more; "more changes were made");
        }
    }
}

/// The outcome of a comparison that came to nothing.
fn failure(problem: String) -> Outcome {
    Outcome {
        changes: vec![],
        problems: vec![problem],
    }
}

/// The first problems, each of them shortened, and how many there are besides.
fn bounded(problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    let first = problems.into_iter().take(MAX_PROBLEMS);
    let mut first: Vec<_> = first
        .map(|problem| truncate(&problem, MAX_PROBLEM_CHARS))
        .collect();
    if more > 0 {
        first.push(format!("{more} more problems"));
    }
    first
}

fn describe_panic(payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!(
        "the comparison panicked: {message}. This is a bug of contrail-mesos-node. Please report it \
         with the daemon's log"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::fd::BorrowedFd;
    use std::sync::Mutex;

    use super::*;
    use crate::subsystem::BoxError;
    use crate::testing::{cluster, revision};

    /// What a comparison does.
    enum Step {
        Changes(usize),
        /// Because of what this host knows by itself.
        LocalChanges(usize),
        Problem(&'static str),
        Error,
        Panic,
    }

    /// A subsystem that does these steps, and then changes nothing.
    #[derive(Default)]
    struct Fake {
        name: &'static str,
        steps: VecDeque<Step>,
        notifications: Option<UnixStream>,
        seen: Arc<Mutex<Vec<(Revision, Mode)>>>,
        cluster_use: ClusterUse,
        generation: u64,
        alone: Arc<Mutex<usize>>,
    }

    impl Fake {
        fn boxed(name: &'static str, steps: impl IntoIterator<Item = Step>) -> Box<dyn Subsystem> {
            Box::new(Self {
                name,
                steps: steps.into_iter().collect(),
                ..Self::default()
            })
        }
    }

    impl Subsystem for Fake {
        fn name(&self) -> &'static str {
            self.name
        }

        fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
            self.seen.lock().unwrap().push((cluster.revision, mode));
            self.step()
        }

        fn cluster_use(&self) -> ClusterUse {
            self.cluster_use
        }

        fn reconcile_alone(&mut self, _mode: Mode) -> Result<Outcome, BoxError> {
            *self.alone.lock().unwrap() += 1;
            self.step()
        }

        fn local_generation(&self) -> u64 {
            self.generation
        }

        fn notifications(&self) -> Option<BorrowedFd<'_>> {
            self.notifications.as_ref().map(std::os::fd::AsFd::as_fd)
        }

        fn receive(&mut self) -> bool {
            let mut bytes = [0; 16];
            let socket = self.notifications.as_mut().unwrap();
            // An "n" is about a change of its own.
            socket
                .read(&mut bytes)
                .is_ok_and(|count| bytes[..count].contains(&b'y'))
        }
    }

    impl Fake {
        fn step(&mut self) -> Result<Outcome, BoxError> {
            match self.steps.pop_front() {
                None => Ok(Outcome::default()),
                Some(Step::Changes(count)) => Ok(Outcome {
                    changes: vec![Change("add a route".to_owned()); count],
                    problems: vec![],
                }),
                Some(Step::LocalChanges(count)) => {
                    self.generation += 1;
                    Ok(Outcome {
                        changes: vec![Change("add an element".to_owned()); count],
                        problems: vec![],
                    })
                }
                Some(Step::Problem(problem)) => Ok(failure(problem.to_owned())),
                Some(Step::Error) => Err("no netlink socket".into()),
                Some(Step::Panic) => panic!("index out of bounds"),
            }
        }
    }

    fn states(text: &str) -> (watch::Sender<Option<Arc<ClusterState>>>, States) {
        watch::channel(Some(Arc::new(cluster(text))))
    }

    async fn wait_for(engine: &Engine, is: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
        engine.status().wait_for(is).await.unwrap().clone()
    }

    #[tokio::test]
    async fn failing_subsystem_does_not_stop_the_others() {
        let (_sender, receiver) = states("1.1");
        let engine = Engine::start(
            vec![
                Fake::boxed("panics", [Step::Panic, Step::Error, Step::Problem("full")]),
                Fake::boxed("works", [Step::Changes(2)]),
            ],
            &receiver,
        )
        .unwrap();
        let status = wait_for(&engine, EngineStatus::has_attempted).await;
        assert_eq!(status.applied(), None);
        let status = wait_for(&engine, |status| status.applied().is_some()).await;
        assert_eq!(status.applied(), Some(revision("1.1")));
        let [panics, works] = &status.subsystems[..] else {
            panic!("{status:?}");
        };
        assert_eq!(
            (panics.panics, panics.failures, panics.comparisons),
            (1, 3, 4)
        );
        assert_eq!(panics.problems, [] as [&str; 0]);
        assert_eq!((works.changes, works.repairs, works.failures), (2, 0, 0));
    }

    #[tokio::test]
    async fn nothing_is_compared_before_there_is_a_state() {
        let (sender, receiver) = watch::channel(None);
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let fake = Fake {
            name: "waits",
            seen: seen.clone(),
            ..Fake::default()
        };
        let engine = Engine::start(vec![Box::new(fake)], &receiver).unwrap();
        assert!(!engine.status().borrow().has_attempted());
        sender.send_replace(Some(Arc::new(cluster("1.1"))));
        wait_for(&engine, |status| status.applied() == Some(revision("1.1"))).await;
        sender.send_replace(Some(Arc::new(cluster("1.2"))));
        wait_for(&engine, |status| status.applied() == Some(revision("1.2"))).await;
        let revisions = [("1.1", Mode::Apply), ("1.2", Mode::Apply)];
        assert_eq!(
            *seen.lock().unwrap(),
            revisions.map(|(text, mode)| (revision(text), mode))
        );
        engine.stop(Duration::from_secs(30));
    }

    #[tokio::test]
    async fn changes_without_a_new_revision_are_repairs() {
        let (sender, receiver) = states("1.1");
        let (mut kernel, notifications) = UnixStream::pair().unwrap();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let fake = Fake {
            name: "repairs",
            steps: [3, 0, 1, 2].map(Step::Changes).into(),
            notifications: Some(notifications),
            seen: seen.clone(),
            ..Fake::default()
        };
        let engine = Engine::start(vec![Box::new(fake)], &receiver).unwrap();
        let comparisons =
            |count| move |status: &EngineStatus| status.subsystems[0].comparisons >= count;
        let status = wait_for(&engine, comparisons(1)).await;
        assert_eq!(
            (status.subsystems[0].changes, status.subsystems[0].repairs),
            (3, 0)
        );
        // Its own changes make no comparison due, and others one.
        kernel.write_all(b"n").unwrap();
        kernel.write_all(b"y").unwrap();
        while seen.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kernel.write_all(b"y").unwrap();
        let status = wait_for(&engine, comparisons(3)).await;
        assert_eq!(
            (status.subsystems[0].changes, status.subsystems[0].repairs),
            (3, 1)
        );
        sender.send_replace(Some(Arc::new(cluster("1.2"))));
        let status = wait_for(&engine, comparisons(4)).await;
        assert_eq!(
            (status.subsystems[0].changes, status.subsystems[0].repairs),
            (5, 1)
        );
    }

    #[tokio::test]
    async fn local_subsystems_compare_without_a_state() {
        let (sender, receiver) = watch::channel(None);
        let alone = [Arc::<Mutex<usize>>::default(), Arc::default()];
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (mut kernel, notifications) = UnixStream::pair().unwrap();
        let host = Fake {
            name: "host",
            cluster_use: ClusterUse::Unused,
            alone: alone[0].clone(),
            seen: seen.clone(),
            steps: [Step::Changes(1), Step::Changes(2), Step::LocalChanges(3)].into(),
            notifications: Some(notifications),
            ..Fake::default()
        };
        let groups = Fake {
            name: "groups",
            cluster_use: ClusterUse::Optional,
            alone: alone[1].clone(),
            ..Fake::default()
        };
        let engine = Engine::start(vec![Box::new(host), Box::new(groups)], &receiver).unwrap();
        let status = wait_for(&engine, EngineStatus::has_attempted).await;
        assert_eq!(status.applied(), None);
        sender.send_replace(Some(Arc::new(cluster("1.1"))));
        wait_for(&engine, |status| status.applied() == Some(revision("1.1"))).await;
        for comparisons in 2..4 {
            kernel.write_all(b"y").unwrap();
            wait_for(&engine, |status| {
                status.subsystems[0].comparisons == comparisons
            })
            .await;
        }
        let host = engine.status().borrow().subsystems[0].clone();
        assert_eq!((host.changes, host.repairs), (4, 2));
        assert_eq!(host.applied, None);
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(*alone[0].lock().unwrap(), 3);
        assert_eq!(*alone[1].lock().unwrap(), 1);
    }

    #[test]
    fn applied_is_the_lowest_revision_of_all() {
        let status = |applied: Option<&str>| SubsystemStatus {
            applied: applied.map(revision),
            ..SubsystemStatus::default()
        };
        let applied = |all: &[Option<&str>]| {
            let subsystems = all.iter().copied().map(status).collect();
            EngineStatus { subsystems }.applied()
        };
        assert_eq!(applied(&[Some("1.3"), Some("1.2")]), Some(revision("1.2")));
        assert_eq!(applied(&[Some("1.3"), None]), None);
    }

    #[test]
    fn comparison_that_hangs_is_found() {
        let begun = Instant::now().checked_sub(HANG_TIMEOUT * 2).unwrap();
        let status = |busy_since| SubsystemStatus {
            busy_since,
            ..SubsystemStatus::new("overlay")
        };
        let subsystems = vec![
            status(None),
            status(Some(Instant::now())),
            status(Some(begun)),
        ];
        let status = EngineStatus { subsystems };
        assert_eq!(status.hanging().collect::<Vec<_>>(), ["overlay"]);
    }

    #[test]
    fn problems_are_bounded() {
        let long = "x".repeat(MAX_PROBLEM_CHARS * 2);
        let kept = bounded(vec![long; MAX_PROBLEMS + 5]);
        assert_eq!(kept.len(), MAX_PROBLEMS + 1);
        assert!(
            kept.iter()
                .all(|problem| problem.chars().count() <= MAX_PROBLEM_CHARS + 1)
        );
        assert!(kept.last().unwrap().starts_with("5 "), "{kept:?}");
    }

    #[test]
    fn dry_run_changes_nothing_and_survives_panics() {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let fake = Fake {
            name: "works",
            steps: [Step::Changes(1)].into(),
            seen: seen.clone(),
            ..Fake::default()
        };
        let mut subsystems = vec![Fake::boxed("panics", [Step::Panic]), Box::new(fake)];
        let outcomes = dry_run(&mut subsystems, Some(&cluster("1.1")));
        assert!(outcomes[0].1.is_err());
        assert_eq!(outcomes[1].1.as_ref().unwrap().changes.len(), 1);
        assert_eq!(*seen.lock().unwrap(), [(revision("1.1"), Mode::DryRun)]);
        subsystems.push(Box::new(Fake {
            name: "host",
            cluster_use: ClusterUse::Unused,
            ..Fake::default()
        }));
        let outcomes = dry_run(&mut subsystems, None);
        let names: Vec<_> = outcomes.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["host"]);
    }
}
