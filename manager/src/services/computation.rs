//! What the tasks ask for, kept from one computation to the next.
//!
//! Invariant: the result is that of a computation from scratch with the owners of IP VIPs so far. A change costs as much as what it touches, and a copy of the result.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use ipnet::IpNet;

use super::classification::Classification;
use super::index::{ServiceChanges, ServiceIndex};
use super::{ComputeServices, DesiredServices, ServiceContext};
use crate::reconcile::Reconciler;
use crate::stores::mesos::MesosView;
use crate::stores::touched::Touched;

/// The function of the manager.
pub(crate) fn compute() -> ComputeServices {
    let computation: Mutex<Computation> = Mutex::default();
    Arc::new(move |view, context| lock(&computation).run(view, context))
}

/// A computation that panicked begins again, once.
fn lock(computation: &Mutex<Computation>) -> MutexGuard<'_, Computation> {
    computation
        .lock()
        .unwrap_or_else(|poisoned: PoisonError<_>| {
            computation.clear_poison();
            let mut computation = poisoned.into_inner();
            *computation = Computation::default();
            computation
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
    /// The subnets without IP VIPs that the last one was computed with.
    reserved: Vec<IpNet>,
}

impl Computation {
    fn run(&mut self, view: &MesosView, context: &ServiceContext<'_>) -> DesiredServices {
        let classification = classify(context);
        if classification.cluster_networks != self.cluster_networks
            || classification.reserved != self.reserved
        {
            self.cluster_networks
                .clone_from(&classification.cluster_networks);
            self.reserved.clone_from(&classification.reserved);
            self.read = None;
        }
        let touched: BTreeSet<Touched> = view.touched().since(self.read).into_iter().collect();
        // If it panics, everything is looked at next time.
        self.read = None;
        self.index.set_partial(!context.is_full);
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
        cluster_networks: context
            .overlays
            .names
            .iter()
            .chain(routed)
            .cloned()
            .collect(),
        reserved: context
            .options
            .ranges
            .iter()
            .chain(&context.overlays.subnets)
            .copied()
            .collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computation_that_panicked_begins_again_once() {
        let computation = Arc::<Mutex<Computation>>::default();
        let panicking = computation.clone();
        let panicked = std::thread::spawn(move || {
            let mut computation = panicking.lock().unwrap();
            computation.read = Some(7);
            assert_eq!(computation.read, None, "a mistake");
        });
        assert!(panicked.join().is_err());
        assert_eq!(lock(&computation).read, None);
        lock(&computation).read = Some(8);
        assert_eq!(lock(&computation).read, Some(8));
    }
}
