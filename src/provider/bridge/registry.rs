//! The interfaces that this process has attached, is attaching, or is detaching.
//!
//! Attach and detach of one interface never overlap: each holds its entry's lock while it works,
//! and an attach that gets the lock after its entry was removed does nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::BridgeIntent;
use crate::config::OverlayPart;
use crate::provider::{Intent, ProviderError, refused};

/// How far a container's interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InterfaceState {
    Attaching,
    Attached,
    /// Its link may be deleted without a report.
    Detaching,
    /// Its link was deleted, which was reported.
    Lost,
}

/// One interface of one container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) intent: Intent<BridgeIntent>,
    state: Mutex<InterfaceState>,
    work: Mutex<()>,
}

impl Entry {
    fn new(intent: &Intent<BridgeIntent>, state: InterfaceState) -> Arc<Self> {
        Arc::new(Self {
            intent: intent.clone(),
            state: Mutex::new(state),
            work: Mutex::new(()),
        })
    }

    /// Waits until no other thread changes the interface.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> InterfaceState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state from `from` to `to`; returns false if it is not `from`.
    pub(super) fn transition(&self, from: InterfaceState, to: InterfaceState) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = *state == from;
        if matches {
            *state = to;
        }
        matches
    }
}

/// What of an intent its host shares among containers: the configuration of a network when the
/// container was launched. While a configuration changes, a network has containers of several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a part of the configuration of its own"
)]
pub(super) struct NetworkForm {
    pub(super) network: String,
    pub(super) bridge: String,
    pub(super) bridge_addresses: Vec<IpNet>,
    pub(super) mtu: u32,
    pub(super) masquerade: bool,
    /// Whether a port of the host is mapped.
    pub(super) maps_ports: bool,
    /// Whether a port of the host's 127.0.0.1 is mapped.
    pub(super) maps_loopback: bool,
    /// Destinations that the containers reach by the gateway.
    pub(super) routes: Vec<IpNet>,
    /// The overlay that the network is part of.
    pub(super) overlay: Option<OverlayPart>,
    /// Whether its containers are reached as their groups allow.
    pub(super) isolates: bool,
}

impl NetworkForm {
    /// The form of a container without mapped ports.
    fn without_ports(&self) -> Self {
        Self {
            maps_ports: false,
            maps_loopback: false,
            ..self.clone()
        }
    }
}

impl From<&Intent<BridgeIntent>> for NetworkForm {
    fn from(intent: &Intent<BridgeIntent>) -> Self {
        let maps_ports = !intent.ports.is_empty();
        let has_v4 = intent.addresses.iter().any(|net| net.addr().is_ipv4());
        Self {
            network: intent.network.clone(),
            bridge: intent.provider.bridge.clone(),
            bridge_addresses: intent.provider.bridge_addresses.clone(),
            mtu: intent.mtu,
            masquerade: intent.provider.masquerade,
            maps_ports,
            maps_loopback: maps_ports && has_v4,
            routes: intent.provider.routes.clone(),
            overlay: intent.provider.overlay.clone(),
            isolates: intent.provider.policy.is_some(),
        }
    }
}

#[derive(Debug, Default)]
struct Entries {
    /// By the name of the host end.
    by_name: HashMap<String, Arc<Entry>>,
    /// How many of the interfaces have each form. One that none has any more is kept while others
    /// differ from it in mapped ports only: what mapped ports need of the host then does not come
    /// and go with each container.
    forms: BTreeMap<NetworkForm, usize>,
}

impl Entries {
    fn insert(&mut self, entry: Arc<Entry>) {
        let name = entry.intent.provider.host_interface.clone();
        *self.forms.entry((&entry.intent).into()).or_default() += 1;
        if let Some(previous) = self.by_name.insert(name, entry) {
            self.forget_form(&previous);
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(entry) = self.by_name.remove(name) {
            self.forget_form(&entry);
        }
    }

    fn forget_form(&mut self, entry: &Entry) {
        let form = NetworkForm::from(&entry.intent);
        let Some(count) = self.forms.get_mut(&form) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        let form = form.without_ports();
        let is_similar = |other: &NetworkForm| other.without_ports() == form;
        let is_kept = self
            .forms
            .iter()
            .any(|(other, count)| *count > 0 && is_similar(other));
        if !is_kept {
            self.forms.retain(|other, _| !is_similar(other));
        }
    }
}

/// All interfaces.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: Mutex<Entries>,
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an interface that is about to be attached.
    pub(super) fn begin_attach(
        &self,
        intent: &Intent<BridgeIntent>,
    ) -> Result<Arc<Entry>, ProviderError> {
        let mut entries = self.entries();
        let name = &intent.provider.host_interface;
        if let Some(entry) = entries.by_name.get(name) {
            let message = match entry.state() {
                InterfaceState::Attaching => "is being attached already",
                InterfaceState::Attached | InterfaceState::Lost => {
                    "is attached already; detach it first"
                }
                InterfaceState::Detaching => "is being detached; wait until that is done",
            };
            return Err(refused(
                &intent.network,
                format!(
                    "the interface {} of container {} {message}",
                    intent.interface, intent.container
                ),
            ));
        }
        let entry = Entry::new(intent, InterfaceState::Attaching);
        entries.insert(Arc::clone(&entry));
        Ok(entry)
    }

    /// Adds an interface that was attached before a restart.
    pub(super) fn adopt(&self, intent: &Intent<BridgeIntent>) {
        self.entries()
            .insert(Entry::new(intent, InterfaceState::Attached));
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries().by_name.get(name).cloned()
    }

    /// Marks an interface as detaching, whatever its state.
    pub(super) fn begin_detach(&self, name: &str) -> Option<Arc<Entry>> {
        let entry = self.get(name)?;
        *entry.state.lock().unwrap_or_else(PoisonError::into_inner) = InterfaceState::Detaching;
        Some(entry)
    }

    pub(super) fn remove(&self, name: &str) {
        self.entries().remove(name);
    }

    /// Removes this entry, but not a newer one with the same name.
    pub(super) fn remove_entry(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries();
        let name = &entry.intent.provider.host_interface;
        if entries
            .by_name
            .get(name)
            .is_some_and(|current| Arc::ptr_eq(current, entry))
        {
            entries.remove(name);
        }
    }

    /// The forms of the interfaces on that bridge; none if it is not used.
    pub(super) fn forms(&self, bridge: &str) -> Vec<NetworkForm> {
        self.entries()
            .forms
            .keys()
            .filter(|form| form.bridge == bridge)
            .cloned()
            .collect()
    }

    /// The bridges that interfaces are on.
    pub(super) fn bridges(&self) -> BTreeSet<String> {
        self.entries()
            .forms
            .keys()
            .map(|form| form.bridge.clone())
            .collect()
    }

    pub(super) fn list(&self) -> Vec<Arc<Entry>> {
        self.entries().by_name.values().cloned().collect()
    }
}
