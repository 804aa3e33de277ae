//! Notifications about an overlay's state on this host: its devices, and the uplink; addresses,
//! neighbours and forwarding entries of these; routes of the overlay's protocol number, and others
//! that may replace them; forwarding and reverse path filters; the table of known sources.
//!
//! Filters in the kernel drop what concerns other links, such as those of containers.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::host_watch::{
    ALL_INTERFACES, NFNLGRP_NFTABLES, RTM_DELADDR, RTM_NEWNETCONF, RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_NETCONF, RTNLGRP_LINK, join_groups,
};
use super::links::{self, Link, RTM_DELLINK, RTM_NEWLINK};
use super::neighbours::{self, ForwardingEntry, Neighbour, RTM_DELNEIGH, RTM_NEWNEIGH};
use super::netlink::{NetlinkError, NetlinkSocket};
use super::nft::sources;
use super::routes::{self, FoundRoute, RTM_DELROUTE, RTM_NEWROUTE};
use super::socket_filter::{self, Condition, Field, PORT, TYPE};
use super::vxlan::{self, VxlanDevice};

const RTM_NEWADDR: u16 = 20;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RT_TABLE_MAIN: u32 = 254;
/// The protocol number of routes that come with addresses, such as those of containers' bridges.
const RTPROT_KERNEL: u32 = 2;
/// With more links, the filter is left out.
const MAX_FILTERED_LINKS: usize = 150;

/// What has changed, with its present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayEvent {
    /// A watched link that is no VXLAN device.
    Link(Link),
    /// A watched VXLAN device.
    Device(VxlanDevice),
    /// The watched link of that index is gone.
    LinkDeleted(u32),
    /// An address of the link with that index was added.
    Address(u32, IpNet),
    /// An address of the link with that index was removed.
    AddressDeleted(u32, IpNet),
    /// A neighbour was added or has changed.
    Neighbour(Neighbour),
    /// A neighbour was removed.
    NeighbourDeleted(Neighbour),
    /// A forwarding entry was added or has changed.
    Forwarding(ForwardingEntry),
    /// A forwarding entry was removed.
    ForwardingDeleted(ForwardingEntry),
    /// A route was added or has changed.
    Route(FoundRoute),
    /// A route was removed.
    RouteDeleted(FoundRoute),
    /// Forwarding or a reverse path filter.
    SettingChanged,
    /// Somebody else has changed the table of sources.
    SourcesChanged,
    /// The kernel dropped notifications, so anything may have changed.
    Missed,
}

/// A subscription to the notifications of one network namespace.
#[derive(Debug)]
pub struct OverlayEvents {
    route: NetlinkSocket,
    nftables: NetlinkSocket,
    /// Readable when one of the sockets is, or `wake`.
    epoll: Epoll,
    wake: EventFd,
    protocol: u8,
    links: BTreeSet<u32>,
}

impl OverlayEvents {
    /// Subscribes in the calling thread's network namespace. The overlay's routes have the number
    /// `protocol`. Changes of the table of sources by the socket with the port `own_port` are left
    /// out.
    pub fn subscribe(protocol: u8, own_port: u32) -> Result<Self, NetlinkError> {
        let fail = |error: nix::errno::Errno| NetlinkError::Socket(error.into(), "notifications");
        let events = Self {
            route: NetlinkSocket::route()?,
            nftables: NetlinkSocket::netfilter()?,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(fail)?,
            protocol,
            links: BTreeSet::new(),
        };
        // Without a filter, the watch is only woken more often.
        let _ = socket_filter::attach(events.nftables.socket(), &table_filter(own_port));
        events.filter();
        join_groups(
            &events.route,
            &[
                RTNLGRP_LINK,
                RTNLGRP_NEIGH,
                RTNLGRP_IPV4_IFADDR,
                RTNLGRP_IPV6_IFADDR,
                RTNLGRP_IPV4_ROUTE,
                RTNLGRP_IPV6_ROUTE,
                RTNLGRP_IPV4_NETCONF,
                RTNLGRP_IPV6_NETCONF,
            ],
        )?;
        join_groups(&events.nftables, &[NFNLGRP_NFTABLES])?;
        for socket in [&events.route, &events.nftables] {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            events.epoll.add(socket.socket(), event).map_err(fail)?;
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        events.epoll.add(&events.wake, event).map_err(fail)?;
        Ok(events)
    }

    /// Makes the descriptor readable until the next [`Self::receive`], for notifications that were
    /// received early.
    pub fn wake(&self) {
        // Fails only if it is readable already.
        let _ = self.wake.write(1);
    }

    /// Watches the links with these indexes; without any, new addresses of all links. What changed
    /// before must be read afterwards.
    pub fn watch_links(&mut self, links: BTreeSet<u32>) {
        if links != self.links {
            self.links = links;
            self.filter();
        }
    }

    fn filter(&self) {
        let kinds = |kinds: &[u16]| {
            let kinds = kinds.iter().map(|kind| u32::from(*kind)).collect();
            Condition::OneOf(TYPE, kinds)
        };
        let byte = |offset, value| Condition::OneOf(Field::Byte(offset), vec![value]);
        let links: Vec<u32> = self.links.iter().copied().collect();
        let any_or_all = [&[ALL_INTERFACES], links.as_slice()].concat();
        let mut rules = vec![
            vec![
                kinds(&[RTM_NEWROUTE]),
                byte(20, RT_TABLE_MAIN),
                Condition::Not(Field::Byte(21), RTPROT_KERNEL),
            ],
            vec![
                kinds(&[RTM_DELROUTE]),
                byte(20, RT_TABLE_MAIN),
                byte(21, self.protocol.into()),
            ],
            vec![
                kinds(&[RTM_NEWNETCONF]),
                Condition::OneOf(Field::Word(24), any_or_all),
            ],
        ];
        if links.is_empty() {
            rules.push(vec![kinds(&[RTM_NEWADDR])]);
        } else {
            // The index has the same place in all of them.
            let is_watched = || Condition::OneOf(Field::Word(20), links.clone());
            let of_links = [RTM_NEWADDR, RTM_DELADDR, RTM_NEWNEIGH, RTM_DELNEIGH];
            rules.push(vec![kinds(&of_links), is_watched()]);
            rules.push(vec![
                kinds(&[RTM_NEWLINK, RTM_DELLINK]),
                byte(16, 0),
                is_watched(),
            ]);
        }
        let filtered = links.len() <= MAX_FILTERED_LINKS
            && socket_filter::attach(self.route.socket(), &rules).is_ok();
        if !filtered {
            let _ = socket_filter::detach(self.route.socket());
        }
    }

    /// The descriptor that becomes readable when there are notifications.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Passes the notifications that have arrived to `on_event`. Never waits.
    pub fn receive(&mut self, mut on_event: impl FnMut(OverlayEvent)) -> Result<(), NetlinkError> {
        // Fails if it is not readable.
        let _ = self.wake.read();
        let links = &self.links;
        let mut has_missed = self.route.receive_pending(|kind, payload| {
            parse(kind, payload, links)
                .into_iter()
                .for_each(&mut on_event);
        })?;
        let mut has_changed = false;
        has_missed |= self.nftables.receive_pending(|kind, payload| {
            has_changed |= sources::is_change(kind, payload);
        })?;
        if has_changed {
            on_event(OverlayEvent::SourcesChanged);
        }
        if has_missed {
            on_event(OverlayEvent::Missed);
        }
        Ok(())
    }
}

/// Passes changes of tables by others, but of elements only those of the table of sources: containers
/// change elements of other tables. The filter sees only the first of the messages about a
/// transaction.
fn table_filter(own_port: u32) -> [Vec<Condition>; 2] {
    let is_foreign = || Condition::Not(PORT, own_port);
    let [generation, addition, removal] = sources::ELEMENT_MESSAGES;
    let is_other = |kind: u16| Condition::Not(TYPE, kind.into());
    // The name follows the headers of the message, of netfilter and of the attribute.
    let name = sources::TABLE
        .as_bytes()
        .chunks_exact(4)
        .zip((24..).step_by(4));
    let has_name = name.filter_map(|(bytes, offset)| {
        let word = u32::from_ne_bytes(bytes.try_into().ok()?);
        Some(Condition::OneOf(Field::Word(offset), vec![word]))
    });
    [
        vec![
            is_foreign(),
            is_other(generation),
            is_other(addition),
            is_other(removal),
        ],
        [is_foreign()].into_iter().chain(has_name).collect(),
    ]
}

/// The event of a message. Without a filter in the kernel, there are messages about other links.
fn parse(kind: u16, payload: &[u8], links: &BTreeSet<u32>) -> Option<OverlayEvent> {
    let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
    let is_watched = links.contains(&index);
    match kind {
        RTM_NEWLINK | RTM_DELLINK if payload.first() == Some(&0) && is_watched => {
            if kind == RTM_DELLINK {
                return Some(OverlayEvent::LinkDeleted(index));
            }
            let device = vxlan::parse(payload).map(OverlayEvent::Device);
            device.or_else(|| links::parse(payload).ok().map(OverlayEvent::Link))
        }
        RTM_NEWADDR if is_watched || links.is_empty() => {
            Some(OverlayEvent::Address(index, address(payload)?))
        }
        RTM_DELADDR if is_watched => Some(OverlayEvent::AddressDeleted(index, address(payload)?)),
        RTM_NEWNEIGH | RTM_DELNEIGH if is_watched => {
            let is_deleted = kind == RTM_DELNEIGH;
            if let Some(entry) = neighbours::parse_forwarding(payload) {
                return Some(if is_deleted {
                    OverlayEvent::ForwardingDeleted(entry)
                } else {
                    OverlayEvent::Forwarding(entry)
                });
            }
            let neighbour = neighbours::parse(payload)?;
            Some(if is_deleted {
                OverlayEvent::NeighbourDeleted(neighbour)
            } else {
                OverlayEvent::Neighbour(neighbour)
            })
        }
        RTM_NEWROUTE => Some(OverlayEvent::Route(routes::parse(payload)?)),
        RTM_DELROUTE => Some(OverlayEvent::RouteDeleted(routes::parse(payload)?)),
        RTM_NEWNETCONF => Some(OverlayEvent::SettingChanged),
        _ => None,
    }
}

fn address(payload: &[u8]) -> Option<IpNet> {
    let message = AddressMessage::parse(payload).ok()?;
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })?;
    IpNet::new(address, message.header.prefix_len).ok()
}

#[cfg(test)]
mod root_tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::net::testing::{isolated, run};

    type Expected = fn(&OverlayEvent) -> bool;

    fn received(events: &mut OverlayEvents) -> Vec<OverlayEvent> {
        let mut all = Vec::new();
        events.receive(|event| all.push(event)).unwrap();
        all
    }

    fn is_readable(events: &OverlayEvents) -> bool {
        let mut files = [PollFd::new(events.descriptor(), PollFlags::POLLIN)];
        poll(&mut files, PollTimeout::ZERO).unwrap() > 0
    }

    fn device() -> u32 {
        run(
            "ip",
            "link add vtep1 type vxlan id 1 dstport 4789 nolearning local 192.0.2.1",
        );
        run("ip", "link set vtep1 addrgenmode none");
        run("ip", "link set vtep1 up");
        run("ip", "addr add 44.128.0.1/20 dev vtep1");
        nix::net::if_::if_nametoindex("vtep1").unwrap()
    }

    #[test]
    fn changes_of_watched_links_and_routes_are_received() {
        isolated(|| {
            let index = device();
            let mut events = OverlayEvents::subscribe(133, 0).unwrap();
            events.watch_links([index].into());
            // The device's own events come with a delay.
            std::thread::sleep(std::time::Duration::from_millis(1200));
            received(&mut events);
            let steps: [(&str, &str, Expected); 14] = [
                (
                    "ip",
                    "link set vtep1 mtu 1300",
                    |event| matches!(event, OverlayEvent::Device(device) if device.link.mtu == 1300),
                ),
                ("ip", "addr add 44.128.0.9/20 dev vtep1", |event| {
                    matches!(event, OverlayEvent::Address(..))
                }),
                ("ip", "addr del 44.128.0.9/20 dev vtep1", |event| {
                    matches!(event, OverlayEvent::AddressDeleted(..))
                }),
                (
                    "ip",
                    "neigh add 44.128.0.2 lladdr 02:00:00:00:00:02 dev vtep1 nud permanent",
                    |event| matches!(event, OverlayEvent::Neighbour(one) if one.is_permanent),
                ),
                ("ip", "neigh del 44.128.0.2 dev vtep1", |event| {
                    matches!(event, OverlayEvent::NeighbourDeleted(_))
                }),
                (
                    "bridge",
                    "fdb add 02:00:00:00:00:02 dev vtep1 dst 192.0.2.2 self permanent",
                    |event| matches!(event, OverlayEvent::Forwarding(one) if !one.is_altered),
                ),
                (
                    "bridge",
                    "fdb del 02:00:00:00:00:02 dev vtep1 dst 192.0.2.2 self",
                    |event| matches!(event, OverlayEvent::ForwardingDeleted(_)),
                ),
                (
                    "ip",
                    "route add 9.0.2.0/24 via 44.128.0.2 dev vtep1 onlink proto 133",
                    |event| matches!(event, OverlayEvent::Route(one) if one.protocol == 133),
                ),
                (
                    "ip",
                    "route replace 9.0.2.0/24 dev lo",
                    |event| matches!(event, OverlayEvent::Route(one) if one.protocol != 133),
                ),
                ("sysctl", "-w net.ipv4.conf.vtep1.rp_filter=1", |event| {
                    matches!(event, OverlayEvent::SettingChanged)
                }),
                ("nft", "add table inet contrail_mesos_overlay", |event| {
                    matches!(event, OverlayEvent::SourcesChanged)
                }),
                (
                    "nft",
                    "add set inet contrail_mesos_overlay ports { type inet_service ; }",
                    |event| matches!(event, OverlayEvent::SourcesChanged),
                ),
                (
                    "nft",
                    "add element inet contrail_mesos_overlay ports { 9 }",
                    |event| matches!(event, OverlayEvent::SourcesChanged),
                ),
                ("ip", "link del vtep1", |event| {
                    matches!(event, OverlayEvent::LinkDeleted(_))
                }),
            ];
            for (program, arguments, expected) in steps {
                assert!(!is_readable(&events), "before {arguments}");
                run(program, arguments);
                assert!(is_readable(&events), "{arguments}");
                let all = received(&mut events);
                assert!(all.iter().any(expected), "{program} {arguments}: {all:?}");
            }
        });
    }

    #[test]
    fn links_of_containers_and_their_addresses_wake_nobody() {
        isolated(|| {
            let index = device();
            run("ip", "link add br0 up type bridge");
            run("nft", "add table inet other");
            run("nft", "add set inet other hosts { type ipv4_addr ; }");
            let mut events = OverlayEvents::subscribe(133, 0).unwrap();
            events.watch_links([index].into());
            std::thread::sleep(std::time::Duration::from_millis(1200));
            received(&mut events);
            run(
                "ip",
                "link add port1 master br0 up type veth peer name peer1",
            );
            run("ip", "link set peer1 up");
            run("ip", "addr add 10.9.0.1/24 dev peer1");
            run(
                "ip",
                "neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev peer1",
            );
            run("ip", "link del port1");
            run("nft", "add element inet other hosts { 192.0.2.9 }");
            run("nft", "delete element inet other hosts { 192.0.2.9 }");
            assert!(!is_readable(&events), "{:?}", received(&mut events));
        });
    }
}
