//! A running Marathon, seen from the inside: who leads, who can be reached, what goes wrong.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;

use super::events::{Event, EventFault};
use super::server::{Shared, lock};
use crate::vnc::{Entry, Fault};

/// A running Marathon, seen from the inside. Servers are counted from 0.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Handle").field(&self.servers()).finish()
    }
}

impl Handle {
    /// Where the servers listen.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        let servers = self.0.servers.iter();
        servers.map(|server| server.address).collect()
    }

    /// Which server leads.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.0.leader()
    }

    /// From now on this server leads, or none. Streams of the one that led end; a new leader
    /// registers the framework anew, and what runs, runs on.
    pub fn set_leader(&self, leader: Option<usize>) {
        self.0.set_leader(leader);
    }

    /// Nobody can reach this server any more: connections are refused, those that stand are cut
    /// off. Whether it leads is another matter.
    pub fn unplug(&self, server: usize) {
        self.0.unplug(server);
    }

    /// It can be reached again, at the same address.
    pub async fn plug(&self, server: usize) -> io::Result<()> {
        self.0.plug(server).await
    }

    /// Whether it can be reached.
    #[must_use]
    pub fn is_plugged(&self, server: usize) -> bool {
        let server = self.0.servers.get(server);
        server.is_some_and(|server| server.online.load(Ordering::SeqCst))
    }

    /// Makes something go wrong from now on, after what already does: at this server, or without
    /// one at whichever a client asks.
    pub fn fault(&self, server: Option<usize>, fault: Fault) {
        lock(&self.0.faults).push((server, fault));
    }

    /// What goes wrong, and where.
    #[must_use]
    pub fn faults(&self) -> Vec<(Option<usize>, Fault)> {
        lock(&self.0.faults).clone()
    }

    /// Lets everything go well again, except events.
    pub fn clear_faults(&self) {
        lock(&self.0.faults).clear();
    }

    /// Makes every answer take so long.
    pub fn set_delay(&self, delay: Duration) {
        *lock(&self.0.delay) = delay;
    }

    /// How long every answer is made to take.
    #[must_use]
    pub fn delay(&self) -> Duration {
        *lock(&self.0.delay)
    }

    /// Makes something go wrong with events from now on, for every stream.
    pub fn event_fault(&self, fault: EventFault) {
        self.0.bus.fault(fault);
    }

    /// What goes wrong with events.
    #[must_use]
    pub fn event_faults(&self) -> Vec<EventFault> {
        self.0.bus.faults()
    }

    /// Lets all events through again; those that were held back come now.
    pub fn clear_event_faults(&self) {
        self.0.bus.clear_faults();
    }

    /// How many event streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.bus.followers()
    }

    /// How often a slow consumer has lost an event (1.7) or its stream (since 1.8).
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.bus.lost()
    }

    /// Ends every event stream.
    pub fn cut_streams(&self) {
        self.0.bus.close(None);
    }

    /// Writes these bytes into every event stream: half a frame, what is not UTF-8, anything.
    pub fn send_raw(&self, bytes: impl Into<Bytes>) {
        self.0.bus.send_raw(&bytes.into());
    }

    /// Publishes an event, true or not.
    pub fn publish(&self, event: Event) {
        self.0.bus.publish(event);
    }

    /// The latest requests to this server, in the order in which they came in.
    #[must_use]
    pub fn log(&self, server: usize) -> Vec<Entry> {
        let server = self.0.servers.get(server);
        server.map_or_else(Vec::new, |server| lock(&server.log).entries())
    }

    /// The truth: every task that Mesos was asked to launch and that has not ended, with the
    /// `TASK_…` state that is known of it. Those of deleted apps and pods are in it.
    #[must_use]
    pub fn tasks(&self) -> BTreeMap<String, &'static str> {
        let store = self.0.store();
        let tasks = store.instances().flat_map(|instance| &instance.tasks);
        tasks
            .filter(|task| !task.condition.is_terminal())
            .map(|task| (task.id.clone(), task.condition.mesos_state()))
            .collect()
    }

    /// How many deployments are under way.
    #[must_use]
    pub fn deployments(&self) -> usize {
        self.0.store().deployments().len()
    }

    /// The framework's id, once the master has given one.
    #[must_use]
    pub fn framework_id(&self) -> Option<String> {
        self.0.store().framework_id.clone()
    }
}
