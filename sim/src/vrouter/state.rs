//! The state of an agent, which the port service, the follower and the data path share.

use std::collections::BTreeSet;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard};

use uuid::Uuid;

use super::config::Config;
use super::options::{Delays, Options};
use super::ports::Ports;
use crate::harness::{FaultTable, Frontend, lock};

/// The content type of every response.
pub(crate) const JSON: &str = "application/json; charset=UTF-8";

/// What all tasks share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) faults: Arc<FaultTable>,
    state: Mutex<State>,
    /// Wakes the data path.
    pub(crate) wake: Mutex<Option<SyncSender<()>>>,
}

/// What changes.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) ports: Ports,
    pub(crate) delays: Delays,
    /// Which lists of the API server have arrived.
    pub(crate) synced: Synced,
    /// The interfaces that the data path forwards for; none without a data path.
    pub(crate) forwarding: Option<BTreeSet<Uuid>>,
    /// What the data path could not do.
    pub(crate) problems: BTreeSet<String>,
}

/// Which lists of the API server have arrived.
#[derive(Clone, Copy, Default)]
pub(crate) struct Synced {
    pub(crate) addresses: bool,
    pub(crate) others: bool,
}

impl Synced {
    pub(crate) fn is_complete(self) -> bool {
        self.addresses && self.others
    }
}

impl State {
    /// Whether the data path forwards for an interface; always, without a data path.
    pub(crate) fn forwards(&self, interface: Uuid) -> bool {
        let forwarding = self.forwarding.as_ref();
        forwarding.is_none_or(|interfaces| interfaces.contains(&interface))
    }
}

impl Shared {
    pub(crate) fn new(options: Options, ports: Ports, data_path: bool) -> Arc<Self> {
        let faults = FaultTable::default();
        faults.set_delay(options.delays.response);
        Arc::new(Self {
            frontend: Frontend::new(options.log_limit, JSON, JSON),
            faults: Arc::new(faults),
            state: Mutex::new(State {
                config: Config::default(),
                ports,
                delays: options.delays,
                synced: Synced::default(),
                forwarding: data_path.then(BTreeSet::new),
                problems: BTreeSet::new(),
            }),
            wake: Mutex::new(None),
            options,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes what takes how long.
    pub(crate) fn set_delays(&self, delays: Delays) {
        self.faults.set_delay(delays.response);
        self.lock().delays = delays;
    }

    /// Makes the data path apply the present state.
    pub(crate) fn wake_data_path(&self) {
        if let Some(wake) = &*lock(&self.wake) {
            // A full queue means that it is about to do so.
            let _ = wake.try_send(());
        }
    }
}
