//! The networks of Marathon's apps and pods, and their tasks.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use super::source::Source;
use crate::intern::Interner;
use crate::marathon::{App, Listing, Network, Pod, RunSpecId, TaskId, instance_of_executor};
use crate::task_state::Liveness;

/// Marathon's apps and pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct MarathonView {
    pub source: Source,
    specs: HashMap<RunSpecId, RunSpec>,
    /// The ids of entries that could not be read; `None` where not even the id could be.
    skipped: Vec<Option<Box<str>>>,
    skipped_ids: SkippedIds,
}

/// What may be among the entries that could not be read.
#[derive(Clone, Debug, Default)]
struct SkippedIds {
    /// Whether the id of an entry is not known, so that it may be any.
    any: bool,
    /// The known ids, and the apps and pods to which they belong.
    ids: HashSet<Box<str>>,
}

impl SkippedIds {
    fn new(skipped: &[Option<Box<str>>]) -> Self {
        let known = skipped.iter().flatten();
        let specs = known.clone().filter_map(|id| run_spec_of(id));
        Self {
            any: skipped.iter().any(Option::is_none),
            ids: known
                .cloned()
                .chain(specs.map(|spec| spec.as_str().into()))
                .collect(),
        }
    }
}

/// An app or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunSpec {
    pub networks: Box<[Network]>,
    /// Its tasks that have not ended, sorted.
    pub tasks: Box<[ArcStr]>,
}

impl RunSpec {
    fn of_app(app: App) -> (RunSpecId, Self) {
        let tasks = app
            .tasks
            .into_iter()
            .filter(|task| task.state.liveness() != Liveness::Ended)
            .map(|task| task.id);
        (app.id, Self::new(app.networks, tasks))
    }

    fn of_pod(pod: Pod) -> (RunSpecId, Self) {
        // A pod's instance may be listed as ending while a container of it still runs.
        let tasks: Vec<_> = pod
            .instances
            .iter()
            .flat_map(|instance| &instance.containers)
            .filter(|container| container.state.liveness() != Liveness::Ended)
            .filter_map(|container| container.task.clone())
            .collect();
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
        .or_else(|| instance_of_executor(id))
        .map(|instance| instance.run_spec)
}

impl MarathonView {
    /// The connection was lost.
    pub(crate) fn mark_lost(&mut self, now: Instant, reason: &str) {
        self.source.mark_lost(now, reason);
    }

    /// Applies a full list. Entries that could not be read keep their last state.
    pub(crate) fn apply_listing(
        &mut self,
        listing: Listing,
        now: Instant,
        stabilization_window: Duration,
    ) {
        let complete = listing.is_complete();
        let mut specs: HashMap<_, _> = listing.apps.into_iter().map(RunSpec::of_app).collect();
        specs.extend(listing.pods.into_iter().map(RunSpec::of_pod));
        self.skipped = listing
            .skipped
            .into_iter()
            .map(|skipped| skipped.id)
            .collect();
        self.skipped_ids = SkippedIds::new(&self.skipped);
        let sizes = (self.specs.len(), specs.len());
        self.source
            .mark_listed(now, sizes, complete, stabilization_window);
        let old = std::mem::replace(&mut self.specs, specs);
        for (id, spec) in old {
            if self.is_skipped(id.as_str()) {
                self.specs.entry(id).or_insert(spec);
            }
        }
    }

    /// Shares its task ids with strings that are interned already.
    pub(crate) fn intern(&mut self, interner: &mut Interner) {
        for task in self.specs.values_mut().flat_map(|spec| &mut spec.tasks) {
            *task = interner.share(task);
        }
    }

    /// Applies an app that was read again; returns whether its networks changed.
    pub(crate) fn update_app(&mut self, id: &RunSpecId, app: Option<App>) -> bool {
        self.update_spec(id, app.map(|app| RunSpec::of_app(app).1))
    }

    /// Applies a pod that was read again; returns whether its networks changed.
    pub(crate) fn update_pod(&mut self, id: &RunSpecId, pod: Option<Pod>) -> bool {
        self.update_spec(id, pod.map(|pod| RunSpec::of_pod(pod).1))
    }

    fn update_spec(&mut self, id: &RunSpecId, spec: Option<RunSpec>) -> bool {
        if self.skipped_ids.ids.contains(id.as_str()) {
            self.skipped
                .retain(|skipped| skipped.as_deref() != Some(id.as_str()));
            self.skipped_ids = SkippedIds::new(&self.skipped);
        }
        let Some(spec) = spec else {
            self.specs.remove(id);
            return false;
        };
        let networks = spec.networks.clone();
        let old = self.specs.insert(id.clone(), spec);
        old.is_none_or(|old| old.networks != networks)
    }

    /// An app or pod.
    pub(crate) fn spec(&self, id: &RunSpecId) -> Option<&RunSpec> {
        self.specs.get(id)
    }

    /// All apps and pods.
    pub(crate) fn specs(&self) -> impl ExactSizeIterator<Item = (&RunSpecId, &RunSpec)> {
        self.specs.iter()
    }

    /// The ids of entries that could not be read, where they are known.
    pub(crate) fn skipped(&self) -> &[Option<Box<str>>] {
        &self.skipped
    }

    /// Whether an app or pod has a task that has not ended.
    pub(crate) fn has_task(&self, spec: &RunSpecId, task: &str) -> bool {
        self.specs.get(spec).is_some_and(|spec| {
            spec.tasks
                .binary_search_by(|other| (**other).cmp(task))
                .is_ok()
        })
    }

    /// Whether an app, pod, task or instance may be among the entries that could not be read.
    pub(crate) fn is_skipped(&self, id: &str) -> bool {
        let SkippedIds { any, ids } = &self.skipped_ids;
        let is_spec_skipped = || run_spec_of(id).is_some_and(|spec| ids.contains(spec.as_str()));
        *any || ids.contains(id) || (!ids.is_empty() && is_spec_skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_that_could_not_be_read_covers_its_app_and_tasks() {
        const UUID: &str = "0bcd1234-c7a5-11ea-8f39-0242ac110002";
        let task = |app: &str| format!("{app}.instance-{UUID}._app.1");
        let view = |skipped: Vec<Option<Box<str>>>| MarathonView {
            skipped_ids: SkippedIds::new(&skipped),
            skipped,
            ..MarathonView::default()
        };
        let app = view(vec![Some("/shop/web".into())]);
        assert!(app.is_skipped("/shop/web") && app.is_skipped(&task("shop_web")));
        assert!(!app.is_skipped("/shop/db") && !app.is_skipped(&task("shop_db")));
        let of_task = view(vec![Some(task("shop_web").into())]);
        assert!(of_task.is_skipped("/shop/web") && of_task.is_skipped(&task("shop_web")));
        assert!(view(vec![None]).is_skipped("/any"));
        assert!(!view(vec![]).is_skipped(&task("shop_web")));
    }

    #[test]
    fn many_entries_that_could_not_be_read_are_looked_up_quickly() {
        // With a search through all entries this would not end.
        let skipped: Vec<Option<Box<str>>> = (0..200_000)
            .map(|number| Some(format!("/app/{number}").into()))
            .collect();
        let view = MarathonView {
            skipped_ids: SkippedIds::new(&skipped),
            skipped,
            ..MarathonView::default()
        };
        let found = (100_000..300_000).filter(|number| view.is_skipped(&format!("/app/{number}")));
        assert_eq!(found.count(), 100_000);
    }
}
