//! Who may have a connection.
//!
//! A connection that waits for its peer can be closed to make room for a new one, so that peers that
//! say nothing keep nobody out; one whose request is being handled never is. Those that had no
//! successful request are closed first, those of the address with the most connections before
//! others, and of these the oldest.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::metrics::{CloseReason, ConnectionMetrics};

/// How many connections a listener may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// From one IPv4 address, or one IPv6 network of 64 bits.
    pub per_address: usize,
}

/// The open connections of a listener.
#[derive(Debug)]
pub(crate) struct Connections {
    api: &'static str,
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The number of the last change of any connection: later changes have higher numbers.
    last_change: u64,
    last_id: u64,
    open: HashMap<u64, Entry>,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    /// Whether a request is being handled.
    working: bool,
    /// Whether a request has been successful.
    trusted: bool,
    /// The number of its last change.
    changed: u64,
    closing: CancellationToken,
}

impl Table {
    fn next_change(&mut self) -> u64 {
        self.last_change += 1;
        self.last_change
    }

    fn count(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.open.remove(&id)?;
        if let Some(count) = self.by_address.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&entry.address);
            }
        }
        Some(entry)
    }

    /// Closes the connection that is needed least, of this address only if there is one. Returns
    /// whether there was any that may be closed.
    fn make_room(&mut self, address: Option<IpAddr>) -> bool {
        let candidates = self
            .open
            .iter()
            .filter(|(_, entry)| !entry.working && address.is_none_or(|of| entry.address == of));
        let victim = candidates.min_by_key(|(_, entry)| {
            let others = self.count(entry.address);
            (entry.trusted, std::cmp::Reverse(others), entry.changed)
        });
        let victim = victim.map(|(id, _)| *id);
        let closed = victim.and_then(|id| self.remove(id));
        if let Some(entry) = &closed {
            entry.closing.cancel();
        }
        closed.is_some()
    }
}

/// The unit that shares a limit: a host with an IPv6 address has a network of 64 bits.
fn limited_unit(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
    }
}

impl Connections {
    pub(crate) fn new(
        api: &'static str,
        limits: ConnectionLimits,
        metrics: ConnectionMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            api,
            limits,
            metrics,
            table: Mutex::default(),
        })
    }

    pub(super) fn limits(&self) -> ConnectionLimits {
        self.limits
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that is closed before its peer does that.
    pub(super) fn count_closed(&self, reason: CloseReason) {
        self.metrics.count_closed(self.api, reason);
    }

    /// Takes a new connection, and closes another one if there are too many. None if all of them
    /// are in use.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Connection, CloseReason> {
        let address = limited_unit(address);
        let mut table = self.table();
        let (of, refusal) = if table.count(address) >= self.limits.per_address {
            (Some(Some(address)), CloseReason::AddressLimit)
        } else if table.open.len() >= self.limits.total {
            (Some(None), CloseReason::Limit)
        } else {
            (None, CloseReason::Limit)
        };
        if let Some(of) = of {
            let reason = if table.make_room(of) {
                CloseReason::MadeRoom
            } else {
                refusal
            };
            self.count_closed(reason);
            if reason != CloseReason::MadeRoom {
                return Err(reason);
            }
        }
        table.last_id += 1;
        let id = table.last_id;
        let changed = table.next_change();
        let closing = CancellationToken::new();
        let entry = Entry {
            address,
            working: false,
            trusted: false,
            changed,
            closing: closing.clone(),
        };
        table.open.insert(id, entry);
        *table.by_address.entry(address).or_default() += 1;
        drop(table);
        self.metrics.open(self.api).inc();
        Ok(Connection {
            id,
            connections: self.clone(),
            closing,
        })
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    connections: Arc<Connections>,
    closing: CancellationToken,
}

impl Connection {
    /// Ends when this connection has to make room for another one.
    pub(super) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// A request has been received completely and is being handled. Returns whether it may be: not
    /// if the connection has to make room for another one.
    #[must_use]
    pub(crate) fn set_working(&self) -> bool {
        self.change(|entry| entry.working = true)
    }

    /// The response is written: from now on the connection waits for its peer.
    pub(super) fn set_waiting(&self, successful: bool) {
        self.change(|entry| {
            entry.working = false;
            entry.trusted |= successful;
        });
    }

    /// Returns whether the connection still has its place.
    fn change(&self, change: impl FnOnce(&mut Entry)) -> bool {
        let mut table = self.connections.table();
        let changed = table.next_change();
        let Some(entry) = table.open.get_mut(&self.id) else {
            return false;
        };
        change(entry);
        entry.changed = changed;
        true
    }

    pub(crate) fn count_closed(&self, reason: CloseReason) {
        self.connections.count_closed(reason);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
        self.connections.metrics.open(self.connections.api).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: usize) -> Arc<Connections> {
        let limits = ConnectionLimits { total, per_address };
        Connections::new("agents", limits, ConnectionMetrics::default())
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn is_closed(connection: &Connection) -> bool {
        connection.closing.is_cancelled()
    }

    #[test]
    fn address_at_its_limit_loses_its_own_oldest_connection() {
        let connections = connections(10, 2);
        let other = connections.admit(address(2)).unwrap();
        let first = connections.admit(address(1)).unwrap();
        let second = connections.admit(address(1)).unwrap();
        let third = connections.admit(address(1)).unwrap();
        assert!(is_closed(&first));
        assert!(!is_closed(&second) && !is_closed(&third) && !is_closed(&other));
    }

    #[test]
    fn full_listener_closes_a_connection_of_the_largest_address() {
        let connections = connections(4, 4);
        let few = connections.admit(address(1)).unwrap();
        let many: Vec<_> = (0..3)
            .map(|_| connections.admit(address(2)).unwrap())
            .collect();
        let new = connections.admit(address(3)).unwrap();
        assert!(is_closed(&many[0]));
        assert!(!is_closed(&few) && !is_closed(&new) && !is_closed(&many[1]));
    }

    #[test]
    fn connection_with_a_successful_request_is_closed_last() {
        let connections = connections(2, 2);
        let served = connections.admit(address(1)).unwrap();
        assert!(served.set_working());
        served.set_waiting(true);
        let silent = connections.admit(address(1)).unwrap();
        let _third = connections.admit(address(1)).unwrap();
        assert!(is_closed(&silent) && !is_closed(&served));
    }

    #[test]
    fn working_connection_is_never_closed() {
        let connections = connections(2, 1);
        let working = connections.admit(address(1)).unwrap();
        assert!(working.set_working());
        assert_eq!(
            connections.admit(address(1)).err(),
            Some(CloseReason::AddressLimit)
        );
        let other = connections.admit(address(2)).unwrap();
        assert!(other.set_working());
        assert_eq!(
            connections.admit(address(3)).err(),
            Some(CloseReason::Limit)
        );
        working.set_waiting(true);
        connections.admit(address(3)).unwrap();
        assert!(is_closed(&working) && !is_closed(&other));
        // A request that it receives too late is not handled.
        assert!(!working.set_working());
    }

    #[test]
    fn ended_connection_gives_its_place_back() {
        let connections = connections(1, 1);
        for _ in 0..3 {
            let connection = connections.admit(address(1)).unwrap();
            assert!(connection.set_working());
            drop(connection);
        }
        assert!(connections.table().by_address.is_empty());
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_limit() {
        let unit = |text: &str| limited_unit(text.parse().unwrap());
        assert_eq!(unit("2001:db8::1"), unit("2001:db8::ffff:1"));
        assert_ne!(unit("2001:db8::1"), unit("2001:db8:0:1::1"));
        assert_eq!(unit("::ffff:10.0.0.1"), unit("10.0.0.1"));
        assert_ne!(unit("10.0.0.1"), unit("10.0.0.2"));
    }
}
