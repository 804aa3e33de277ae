//! Metrics of services.

use contrail_mesos_api::cluster::{Object, ObjectKey};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::overlay::ObjectChange;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    kind: &'static str,
    change: &'static str,
}

/// What has been published since the start. Clones share the values.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceMetrics {
    changes: Family<ChangeLabels, Counter>,
}

impl ServiceMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "services_changes",
            "Services and names of tasks that were published, changed or withdrawn",
            self.changes.clone(),
        );
    }

    pub(super) fn count_changes(&self, changes: &[ObjectChange]) {
        for change in changes {
            let (kind, change) = match change {
                ObjectChange::Put(Object::Service(_)) => ("service", "put"),
                ObjectChange::Put(Object::TaskName(_)) => ("task_name", "put"),
                ObjectChange::Delete(ObjectKey::Service { .. }) => ("service", "delete"),
                ObjectChange::Delete(ObjectKey::TaskName { .. }) => ("task_name", "delete"),
                _ => continue,
            };
            self.changes
                .get_or_create(&ChangeLabels { kind, change })
                .inc();
        }
    }

    #[cfg(test)]
    pub(super) fn changes(&self, kind: &'static str, change: &'static str) -> u64 {
        let labels = ChangeLabels { kind, change };
        self.changes.get_or_create(&labels).get()
    }
}
