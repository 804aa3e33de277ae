//! What the tasks ask for, kept from one computation to the next.
//!
//! Invariant: the result is that of a computation from scratch with the owners of IP VIPs so far. A change costs as much as what it touches, and a copy of the result.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

use super::classification::Classification;
use super::index::{ServiceChanges, ServiceIndex};
use super::{ComputeServices, DesiredServices, ServiceContext};
use crate::reconcile::Reconciler;
use crate::stores::mesos::MesosView;
use crate::stores::touched::Touched;

/// The function of the manager.
pub(crate) fn compute() -> ComputeServices {
    let computation: Mutex<Computation> = Mutex::default();
    Arc::new(move |view, context| {
        // A computation that panicked begins again.
        let mut computation = computation
            .lock()
            .unwrap_or_else(|poisoned: PoisonError<_>| {
                let mut computation = poisoned.into_inner();
                *computation = Computation::default();
                computation
            });
        computation.run(view, context)
    })
}

#[derive(Debug, Default)]
struct Computation {
    index: ServiceIndex,
    desired: DesiredServices,
    /// The place in the log of the view that has been read; none before the first.
    read: Option<u64>,
    /// The names of the networks that the last one was computed with.
    cluster_networks: BTreeSet<String>,
}

impl Computation {
    fn run(&mut self, view: &MesosView, context: &ServiceContext<'_>) -> DesiredServices {
        let classification = classify(context);
        if classification.cluster_networks != self.cluster_networks {
            self.cluster_networks
                .clone_from(&classification.cluster_networks);
            self.read = None;
        }
        let touched: BTreeSet<Touched> = view.touched().since(self.read).into_iter().collect();
        // If it panics, everything is looked at next time.
        self.read = None;
        let ServiceChanges {
            services,
            task_names,
            problems,
        } = self.index.apply(view, &classification, touched);
        merge(&mut self.desired.services, services);
        merge(&mut self.desired.task_names, task_names);
        if problems {
            self.desired.problems = self.index.problems(view, &classification);
        }
        self.read = Some(view.touched().next());
        self.desired.clone()
    }
}

fn merge<K: Ord, V>(known: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(known.insert(key, value)),
            None => drop(known.remove(&key)),
        }
    }
}

fn classify(context: &ServiceContext<'_>) -> Classification {
    let routed = context.options.routed_networks.iter();
    let contrail = context.reconciler.map(|reconciler| {
        let reconciler = Arc::clone(reconciler);
        let is_interface: super::classification::IsContrailInterface =
            Arc::new(move |container, address| is_interface(&reconciler, container, address));
        is_interface
    });
    Classification {
        cluster_networks: context.overlays.iter().chain(routed).cloned().collect(),
        reserved: context.options.ranges.clone(),
        contrail,
    }
}

/// Whether a container has an interface with this address on a virtual network.
fn is_interface(reconciler: &Reconciler, container: &str, address: IpAddr) -> bool {
    let vm = agent_api::vm_uuid(&ContainerId::top_level(container));
    reconciler.stores().contrail.read(|view| {
        view.vms.get(&vm).is_some_and(|vm| {
            let interfaces = vm.interfaces.iter();
            let mut addresses = interfaces.flat_map(|interface| &interface.details.addresses);
            addresses.any(|(_, known)| *known == Some(address))
        })
    })
}
