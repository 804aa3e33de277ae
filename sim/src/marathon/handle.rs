//! Access to a running Marathon: which server leads, which are reachable, and which faults occur.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;

use super::events::{Event, EventFault};
use super::state::Shared;
use crate::harness::{Fault, RequestRecord, Service};

/// Access to a running Marathon. Servers are counted from 0.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) services: Vec<Arc<Service>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Handle").field(&self.servers()).finish()
    }
}

impl Handle {
    /// Where the servers listen.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        let servers = self.shared.servers.iter();
        servers.map(|server| server.address).collect()
    }

    /// The server that leads.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.shared.leader()
    }

    /// Makes this server the leader, or none. Streams of the former leader end; a new leader
    /// registers the framework again, and tasks continue to run.
    pub fn set_leader(&self, leader: Option<usize>) {
        self.shared.set_leader(leader);
    }

    /// Makes a server unreachable: connections are refused, and open ones are cut. It stays the
    /// leader if it leads.
    pub fn unplug(&self, server: usize) {
        if let Some(service) = self.services.get(server) {
            service.unplug();
        }
    }

    /// Makes a server reachable again, at the same address.
    pub async fn plug(&self, server: usize) -> io::Result<()> {
        let service = self.services.get(server).ok_or(io::ErrorKind::NotFound)?;
        service.plug().await
    }

    /// Whether a server can be reached.
    #[must_use]
    pub fn is_plugged(&self, server: usize) -> bool {
        let service = self.services.get(server);
        service.is_some_and(|service| service.is_online())
    }

    /// Adds a fault of this server, or of whichever server a client contacts. Of several that match
    /// a request, the one that was added first applies.
    pub fn fault(&self, server: Option<usize>, fault: Fault) {
        self.shared.faults.add(server, fault);
    }

    /// The faults and their servers.
    #[must_use]
    pub fn faults(&self) -> Vec<(Option<usize>, Fault)> {
        self.shared.faults.list()
    }

    /// Removes all faults, except those of events.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Delays every response.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.faults.set_delay(delay);
    }

    /// Adds a fault of events, for every stream.
    pub fn event_fault(&self, fault: EventFault) {
        self.shared.bus.fault(fault);
    }

    /// The faults of events.
    #[must_use]
    pub fn event_faults(&self) -> Vec<EventFault> {
        self.shared.bus.faults()
    }

    /// Removes all faults of events; events that were held back are sent now.
    pub fn clear_event_faults(&self) {
        self.shared.bus.clear_faults();
    }

    /// The number of event streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.bus.followers()
    }

    /// How often a slow consumer has lost an event (1.7) or its stream (since 1.8).
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.bus.lost()
    }

    /// Ends every event stream.
    pub fn cut_streams(&self) {
        self.shared.bus.close(None);
    }

    /// Writes these bytes into every event stream: half a frame, invalid UTF-8, anything.
    pub fn send_raw(&self, bytes: impl Into<Bytes>) {
        self.shared.bus.send_raw(&bytes.into());
    }

    /// Publishes an event, whether or not it happened.
    pub fn publish(&self, event: Event) {
        self.shared.bus.publish(event);
    }

    /// The latest requests to this server, in the order of arrival.
    #[must_use]
    pub fn log(&self, server: usize) -> Vec<RequestRecord> {
        let server = self.shared.servers.get(server);
        server.map_or_else(Vec::new, |server| server.frontend.log_since(0))
    }

    /// Every task that Mesos was asked to launch and that has not ended, with its last known
    /// `TASK_…` state. Tasks of deleted apps and pods are included.
    #[must_use]
    pub fn tasks(&self) -> BTreeMap<String, &'static str> {
        let store = self.shared.store();
        let tasks = store.instances().flat_map(|instance| &instance.tasks);
        tasks
            .filter(|task| !task.condition.is_terminal())
            .map(|task| (task.id.clone(), task.condition.mesos_state()))
            .collect()
    }

    /// The number of deployments in progress.
    #[must_use]
    pub fn deployments(&self) -> usize {
        self.shared.store().deployments().len()
    }

    /// The framework's id, once the master has assigned one.
    #[must_use]
    pub fn framework_id(&self) -> Option<String> {
        self.shared.store().framework_id.clone()
    }
}
