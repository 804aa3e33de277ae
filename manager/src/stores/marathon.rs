//! What Marathon says: the networks of its apps and pods, and which tasks they have.

use std::collections::HashMap;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use super::source::Source;
use crate::intern::Interner;
use crate::marathon::{App, Listing, Network, Pod, RunSpecId, TaskId, executor_of};
use crate::task_state::Liveness;

/// What Marathon says.
#[derive(Clone, Debug, Default)]
pub(crate) struct MarathonView {
    pub source: Source,
    specs: HashMap<RunSpecId, Spec>,
    /// The ids of what could not be read; none: who knows what else.
    skipped: Vec<Option<Box<str>>>,
}

/// An app or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Its networks.
    pub networks: Box<[Network]>,
    /// Its tasks that have not ended, in the order of their ids.
    pub tasks: Box<[ArcStr]>,
}

impl Spec {
    fn of_app(app: App) -> (RunSpecId, Self) {
        let tasks = app.tasks.into_iter();
        let tasks = tasks.filter(|task| task.state.liveness() != Liveness::Ended);
        let spec = Self::new(app.networks, tasks.map(|task| task.id));
        (app.id, spec)
    }

    fn of_pod(pod: Pod) -> (RunSpecId, Self) {
        // What is listed of a pod's instance may be under way to its end, and is not there yet.
        let containers = pod.instances.iter().flat_map(|one| &one.containers);
        let tasks = containers.filter(|one| one.state.liveness() != Liveness::Ended);
        let tasks: Vec<_> = tasks.filter_map(|one| one.task.clone()).collect();
        (pod.id, Self::new(pod.networks, tasks))
    }

    fn new(networks: Box<[Network]>, tasks: impl IntoIterator<Item = Box<str>>) -> Self {
        let mut tasks: Vec<ArcStr> = tasks.into_iter().map(Into::into).collect();
        tasks.sort_unstable();
        Self {
            networks,
            tasks: tasks.into(),
        }
    }
}

/// The app or pod of a task, or of a pod's executor.
pub(crate) fn run_spec_of(id: &str) -> Option<RunSpecId> {
    TaskId::parse(id)
        .map(|task| task.instance)
        .or_else(|| executor_of(id))
        .map(|instance| instance.run_spec)
}

impl MarathonView {
    /// The list is lost.
    pub(crate) fn lost(&mut self, now: Instant, why: &str) {
        self.source.lost(now, why);
    }

    /// Takes over a new list. What could not be read stays as it was.
    pub(crate) fn listed(&mut self, listing: Listing, now: Instant, settle: Duration) {
        let complete = listing.is_complete();
        let mut specs: HashMap<_, _> = listing.apps.into_iter().map(Spec::of_app).collect();
        specs.extend(listing.pods.into_iter().map(Spec::of_pod));
        self.skipped = listing.skipped.into_iter().map(|one| one.id).collect();
        let sizes = (self.specs.len(), specs.len());
        self.source.listed(now, sizes, complete, settle);
        let old = std::mem::replace(&mut self.specs, specs);
        for (id, spec) in old {
            if self.is_skipped(id.as_str()) {
                self.specs.entry(id).or_insert(spec);
            }
        }
    }

    /// Makes its ids those that others have already.
    pub(crate) fn share(&mut self, texts: &mut Interner) {
        for task in self.specs.values_mut().flat_map(|spec| &mut spec.tasks) {
            *task = texts.share(task);
        }
    }

    /// Takes over an app that was read anew; says whether its networks are others.
    pub(crate) fn app(&mut self, id: &RunSpecId, app: Option<App>) -> bool {
        self.put(id, app.map(|app| Spec::of_app(app).1))
    }

    /// Takes over a pod that was read anew; says whether its networks are others.
    pub(crate) fn pod(&mut self, id: &RunSpecId, pod: Option<Pod>) -> bool {
        self.put(id, pod.map(|pod| Spec::of_pod(pod).1))
    }

    fn put(&mut self, id: &RunSpecId, spec: Option<Spec>) -> bool {
        self.skipped
            .retain(|skipped| skipped.as_deref() != Some(id.as_str()));
        let Some(spec) = spec else {
            self.specs.remove(id);
            return false;
        };
        let networks = spec.networks.clone();
        let old = self.specs.insert(id.clone(), spec);
        old.is_none_or(|old| old.networks != networks)
    }

    /// An app or pod.
    pub(crate) fn spec(&self, id: &RunSpecId) -> Option<&Spec> {
        self.specs.get(id)
    }

    /// All apps and pods.
    pub(crate) fn specs(&self) -> impl ExactSizeIterator<Item = (&RunSpecId, &Spec)> {
        self.specs.iter()
    }

    /// The ids of what could not be read, where they are known.
    pub(crate) fn skipped(&self) -> &[Option<Box<str>>] {
        &self.skipped
    }

    /// Whether an app or pod has a task that has not ended.
    pub(crate) fn has_task(&self, spec: &RunSpecId, task: &str) -> bool {
        let search = |spec: &Spec| spec.tasks.binary_search_by(|one| (**one).cmp(task)).is_ok();
        self.specs.get(spec).is_some_and(search)
    }

    /// Whether an app, pod, task or instance may be what could not be read.
    pub(crate) fn is_skipped(&self, id: &str) -> bool {
        let spec = run_spec_of(id);
        self.skipped.iter().any(|skipped| match skipped {
            None => true,
            Some(skipped) => {
                &**skipped == id
                    || spec
                        .as_ref()
                        .is_some_and(|spec| **skipped == *spec.as_str())
                    || run_spec_of(skipped)
                        .is_some_and(|other| other.as_str() == id || Some(&other) == spec.as_ref())
            }
        })
    }
}
