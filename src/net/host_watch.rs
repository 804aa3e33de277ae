//! Notifications about the host's side of container networks: what other programs change of links,
//! addresses, forwarding and our nftables table; where groups are isolated, also of the flags of ports and
//! of routing rules.
//!
//! A subscription is narrow: filters in the kernel drop what concerns neither a watched bridge nor
//! our table, and what our own nftables socket changed. There is no notification about most
//! settings below `/proc/sys/net`; `RTM_NEWNETCONF` tells of forwarding and `rp_filter` alone.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NlasIterator;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bridge_ports::PortFlags;
use super::links::{self, Link, RTM_DELLINK, RTM_NEWLINK};
use super::netlink::{NetlinkError, NetlinkSocket};
use super::nft::{self, TableChange};
use super::routes::RTM_DELROUTE;
use super::rules::{self, RTM_DELRULE};
use super::socket_filter::{self, Condition, Field, PORT, TYPE};

pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_NEWNETCONF: u16 = 80;
pub(super) const RTNLGRP_LINK: u32 = 1;
pub(super) const RTNLGRP_IPV4_IFADDR: u32 = 5;
pub(super) const RTNLGRP_IPV6_IFADDR: u32 = 9;
pub(super) const RTNLGRP_IPV4_NETCONF: u32 = 24;
pub(super) const RTNLGRP_IPV6_NETCONF: u32 = 25;
pub(super) const NFNLGRP_NFTABLES: u32 = 7;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_RULE: u32 = 19;
const AF_BRIDGE: u8 = 7;
/// The number in a route's header of all tables above 255.
const RT_TABLE_COMPAT: u32 = 252;
const IFF_UP: u32 = 1;
/// `NETCONFA_IFINDEX_ALL`
pub(super) const ALL_INTERFACES: u32 = u32::MAX;
/// The interface's index, the first attribute of a message.
const NETCONFA_IFINDEX: u16 = 1;
/// Enough for about a thousand changes at once.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// With more bridges, the filter is left out.
const MAX_FILTERED_BRIDGES: usize = 200;

/// What has changed. What it is now must be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The link of that name was deleted, or left the namespace.
    LinkDeleted(String),
    /// The link of that name was set down, or is no longer a port of its bridge.
    PortChanged(String),
    /// The flags of the bridge port of that name, as they are now. Only if isolation is watched.
    PortFlagsChanged(String, PortFlags),
    /// A routing rule was removed, or a route of this program that is not of the main table. Only if
    /// isolation is watched.
    RulesChanged,
    /// The link of a watched bridge, as it is now. The first and the last port also change its
    /// carrier.
    BridgeLinkChanged(Box<Link>),
    /// An address of a watched bridge, or its forwarding.
    BridgeChanged,
    /// Forwarding of all interfaces.
    ForwardingChanged,
    /// Our nftables table.
    TableChanged(TableChange),
    /// The kernel dropped notifications, so anything may have changed.
    Missed,
}

/// A subscription to the notifications of one network namespace.
#[derive(Debug)]
pub struct HostEvents {
    route: NetlinkSocket,
    nftables: NetlinkSocket,
    bridges: BTreeSet<u32>,
    watches_isolation: bool,
}

impl HostEvents {
    /// Subscribes in the calling thread's network namespace. Changes of our nftables table by the
    /// socket with the port `own_port` are left out.
    pub fn subscribe(own_port: u32) -> Result<Self, NetlinkError> {
        let route = NetlinkSocket::route()?;
        let nftables = NetlinkSocket::netfilter()?;
        let is_foreign = vec![Condition::Not(PORT, own_port)];
        // Without a filter, the watch is only woken more often.
        let _ = socket_filter::attach(nftables.socket(), &[is_foreign]);
        let mut events = Self {
            route,
            nftables,
            bridges: BTreeSet::new(),
            watches_isolation: false,
        };
        events.filter_route();
        join_groups(
            &events.route,
            &[
                RTNLGRP_LINK,
                RTNLGRP_IPV4_IFADDR,
                RTNLGRP_IPV6_IFADDR,
                RTNLGRP_IPV4_NETCONF,
                RTNLGRP_IPV6_NETCONF,
                RTNLGRP_IPV4_ROUTE,
                RTNLGRP_IPV4_RULE,
                RTNLGRP_IPV6_RULE,
            ],
        )?;
        join_groups(&events.nftables, &[NFNLGRP_NFTABLES])?;
        Ok(events)
    }

    /// Watches the bridges with these indexes and, if one of them `isolates` groups, what isolation
    /// needs. What changed before must be read afterwards.
    pub fn watch_bridges(&mut self, bridges: BTreeSet<u32>, isolates: bool) {
        if bridges != self.bridges || isolates != self.watches_isolation {
            self.bridges = bridges;
            self.watches_isolation = isolates;
            self.filter_route();
        }
    }

    fn filter_route(&mut self) {
        let kind = |kind: u16| Condition::OneOf(TYPE, vec![kind.into()]);
        let family = |family: u8| Condition::OneOf(Field::Byte(16), vec![family.into()]);
        let bridges: Vec<u32> = self.bridges.iter().copied().collect();
        let is_bridge = |offset| Condition::OneOf(Field::Word(offset), bridges.clone());
        let mut rules = vec![
            // Each detach has them; there is no shorter notice of a lost interface.
            vec![kind(RTM_DELLINK)],
            vec![kind(RTM_NEWLINK), family(0), is_bridge(20)],
            // A link was set down. A new one has all bits of the mask of changes.
            vec![
                kind(RTM_NEWLINK),
                family(0),
                Condition::Not(Field::Word(28), u32::MAX),
                Condition::AnyBit(Field::Word(28), IFF_UP),
                Condition::NoBit(Field::Word(24), IFF_UP),
            ],
            vec![kind(RTM_DELADDR), is_bridge(20)],
            vec![
                kind(RTM_NEWNETCONF),
                Condition::OneOf(
                    Field::Word(24),
                    [&[ALL_INTERFACES], bridges.as_slice()].concat(),
                ),
            ],
        ];
        if self.watches_isolation {
            rules.extend([
                vec![kind(RTM_NEWLINK), family(AF_BRIDGE)],
                vec![kind(RTM_DELRULE)],
                vec![
                    kind(RTM_DELROUTE),
                    Condition::OneOf(Field::Byte(20), vec![RT_TABLE_COMPAT]),
                    Condition::OneOf(Field::Byte(21), vec![rules::PROTOCOL.into()]),
                ],
            ]);
        }
        let filtered = bridges.len() < MAX_FILTERED_BRIDGES
            && socket_filter::attach(self.route.socket(), &rules).is_ok();
        if !filtered {
            let _ = socket_filter::detach(self.route.socket());
        }
    }

    /// The descriptors that become readable when there are notifications.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.route.socket().as_fd(), self.nftables.socket().as_fd()]
    }

    /// Passes the notifications that have arrived to `on_event`. Never waits.
    pub fn receive(&mut self, mut on_event: impl FnMut(HostEvent)) -> Result<(), NetlinkError> {
        let mut files = self
            .descriptors()
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        match poll(&mut files, PollTimeout::ZERO) {
            Ok(0) => return Ok(()),
            // Then the sockets are read, which does not wait either.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(NetlinkError::Socket(error.into(), "notifications")),
        }
        let (bridges, isolates) = (&self.bridges, self.watches_isolation);
        let mut has_missed = self.route.receive_pending(|kind, payload| {
            route_event(kind, payload, bridges)
                .or_else(|| isolation_event(kind, payload).filter(|_| isolates))
                .into_iter()
                .for_each(&mut on_event);
        })?;
        has_missed |= self.nftables.receive_pending(|kind, payload| {
            let change = nft::table_change(kind, payload);
            change
                .map(HostEvent::TableChanged)
                .into_iter()
                .for_each(&mut on_event);
        })?;
        if has_missed {
            on_event(HostEvent::Missed);
        }
        Ok(())
    }
}

/// Subscribes a socket, which no longer blocks, to notifications.
pub(super) fn join_groups(socket: &NetlinkSocket, groups: &[u32]) -> Result<(), NetlinkError> {
    let fail = |error| NetlinkError::Socket(error, "notifications");
    // With a smaller buffer, notifications are only missed more often.
    let _ = socket.socket().set_rx_buf_sz(RECEIVE_BUFFER_BYTES);
    socket.socket().set_non_blocking(true).map_err(fail)?;
    for group in groups {
        match socket.socket().add_membership(*group) {
            // A kernel without IPv6 may not have the group.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            other => other.map_err(fail)?,
        }
    }
    Ok(())
}

fn route_event(kind: u16, payload: &[u8], bridges: &BTreeSet<u32>) -> Option<HostEvent> {
    let family = *payload.first()?;
    let word = |offset: usize| {
        let bytes = payload.get(offset..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    match kind {
        RTM_DELLINK if family == 0 => {
            Some(HostEvent::LinkDeleted(links::parse(payload).ok()?.name))
        }
        // A port that leaves its bridge.
        RTM_DELLINK if family == AF_BRIDGE => {
            Some(HostEvent::PortChanged(links::parse(payload).ok()?.name))
        }
        RTM_NEWLINK if family == 0 => {
            if bridges.contains(&word(4)?) {
                let link = links::parse(payload).ok();
                return Some(link.map_or(HostEvent::BridgeChanged, |link| {
                    HostEvent::BridgeLinkChanged(Box::new(link))
                }));
            }
            let (flags, changed) = (word(8)?, word(12)?);
            let was_set_down = changed != u32::MAX && changed & IFF_UP != 0 && flags & IFF_UP == 0;
            was_set_down
                .then(|| links::parse(payload).ok())
                .flatten()
                .map(|link| HostEvent::PortChanged(link.name))
        }
        RTM_DELADDR => bridges
            .contains(&word(4)?)
            .then_some(HostEvent::BridgeChanged),
        RTM_NEWNETCONF => {
            let index = NlasIterator::new(payload.get(4..)?)
                .flatten()
                .find(|attribute| attribute.kind() == NETCONFA_IFINDEX)?;
            let index = u32::from_ne_bytes(*index.value().first_chunk()?);
            if index == ALL_INTERFACES {
                Some(HostEvent::ForwardingChanged)
            } else {
                bridges.contains(&index).then_some(HostEvent::BridgeChanged)
            }
        }
        _ => None,
    }
}

/// What isolated groups need besides. Without a filter in the kernel, more comes in than is asked for.
fn isolation_event(kind: u16, payload: &[u8]) -> Option<HostEvent> {
    let family = *payload.first()?;
    match kind {
        RTM_NEWLINK if family == AF_BRIDGE => {
            let link = links::parse(payload).ok()?;
            Some(HostEvent::PortFlagsChanged(link.name, link.port?))
        }
        RTM_DELRULE => Some(HostEvent::RulesChanged),
        RTM_DELROUTE => {
            let (table, protocol) = (*payload.get(4)?, *payload.get(5)?);
            let is_own = u32::from(table) == RT_TABLE_COMPAT && protocol == rules::PROTOCOL;
            is_own.then_some(HostEvent::RulesChanged)
        }
        _ => None,
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, run};

    fn received(events: &mut HostEvents) -> Vec<HostEvent> {
        let mut all = Vec::new();
        events
            .receive(|event| {
                all.push(match event {
                    HostEvent::BridgeLinkChanged(link) => {
                        assert_eq!(link.name, "br0");
                        HostEvent::BridgeChanged
                    }
                    other => other,
                });
            })
            .unwrap();
        all.dedup();
        all
    }

    /// A bridge with a port, which are watched.
    fn watched_bridge() -> HostEvents {
        run("ip", "link add br0 address 02:00:00:00:00:01 type bridge");
        run("ip", "link set br0 up");
        run("ip", "addr add 10.1.0.1/24 dev br0");
        run(
            "ip",
            "link add port0 master br0 up type veth peer name peer0",
        );
        // The first port with a carrier gives the bridge one.
        run("ip", "link set peer0 up");
        let mut socket = NetlinkSocket::route().unwrap();
        let bridge = links::by_name(&mut socket, "br0").unwrap().unwrap();
        let mut events = HostEvents::subscribe(0).unwrap();
        events.watch_bridges([bridge.index].into(), false);
        // The carrier of new links comes with a delay.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        received(&mut events);
        events
    }

    #[test]
    fn changes_of_a_bridge_its_ports_and_forwarding_are_received() {
        isolated(|| {
            let mut events = watched_bridge();
            for (program, arguments, expected) in [
                ("ip", "link set br0 mtu 1300", HostEvent::BridgeChanged),
                (
                    "ip",
                    "addr del 10.1.0.1/24 dev br0",
                    HostEvent::BridgeChanged,
                ),
                ("ip", "link set br0 down", HostEvent::BridgeChanged),
                (
                    "sysctl",
                    "-w net.ipv4.conf.br0.forwarding=1",
                    HostEvent::BridgeChanged,
                ),
                (
                    "sysctl",
                    "-w net.ipv4.ip_forward=1",
                    HostEvent::ForwardingChanged,
                ),
                (
                    "sysctl",
                    "-w net.ipv6.conf.all.forwarding=1",
                    HostEvent::ForwardingChanged,
                ),
                (
                    "ip",
                    "link set port0 down",
                    HostEvent::PortChanged("port0".to_owned()),
                ),
                (
                    "ip",
                    "link set port0 nomaster",
                    HostEvent::PortChanged("port0".to_owned()),
                ),
                (
                    "ip",
                    "link del port0",
                    HostEvent::LinkDeleted("port0".to_owned()),
                ),
            ] {
                run(program, arguments);
                let all = received(&mut events);
                assert!(all.contains(&expected), "{program} {arguments}: {all:?}");
            }
        });
    }

    #[test]
    fn changes_of_isolation_are_received_if_it_is_watched() {
        isolated(|| {
            let mut events = watched_bridge();
            let change = || {
                run("bridge", "link set dev port0 isolated on");
                run("bridge", "link set dev port0 isolated off");
                for family in ["-4", "-6"] {
                    run(
                        "ip",
                        &format!("{family} rule add pref 200 iif lo lookup main"),
                    );
                    run("ip", &format!("{family} rule del pref 200"));
                }
                run("ip", "route add 10.9.0.0/24 dev br0 table 1000 proto 133");
                run("ip", "route del 10.9.0.0/24 dev br0 table 1000 proto 133");
                // Of an overlay, and of others.
                for route in ["proto 133", "table 1000"] {
                    run("ip", &format!("route add 10.9.0.0/24 dev br0 {route}"));
                    run("ip", &format!("route del 10.9.0.0/24 dev br0 {route}"));
                }
            };
            change();
            assert_eq!(received(&mut events), []);
            let bridges = events.bridges.clone();
            events.watch_bridges(bridges, true);
            change();
            let mut all = Vec::new();
            events.receive(|event| all.push(event)).unwrap();
            let count = |event: &HostEvent| all.iter().filter(|other| *other == event).count();
            let flags = |is_isolated| {
                let flags = PortFlags {
                    is_isolated,
                    learns: true,
                };
                HostEvent::PortFlagsChanged("port0".to_owned(), flags)
            };
            assert!(count(&flags(true)) > 0, "{all:?}");
            assert!(count(&flags(false)) > 0, "{all:?}");
            assert_eq!(count(&HostEvent::RulesChanged), 3, "{all:?}");
        });
    }

    #[test]
    fn new_veth_pairs_and_foreign_tables_are_not_received() {
        isolated(|| {
            let mut events = watched_bridge();
            run(
                "ip",
                "link add port1 master br0 up type veth peer name peer1",
            );
            run("ip", "link set peer1 up");
            run("ip", "addr add 10.9.0.1/24 dev peer1");
            run("nft", "add table inet somebody_else");
            assert_eq!(received(&mut events), []);
        });
    }
}
