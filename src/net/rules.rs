//! Policy routing rules that keep subnets closed: the host routes a packet to them only if it is the
//! host's own, or has a mark that says that somebody allowed it.
//!
//! ```text
//! 200: to SUBNET iif lo lookup main               the host's own packets
//! 201: to SUBNET fwmark 0/0x2000 lookup TABLE     others without the mark: a dead end, IPv4 only
//! 202: to SUBNET fwmark 0/0x2000 blackhole        others without the mark
//! ```
//!
//! With `rp_filter`, the kernel lets a packet from a container pass only if a packet back would be
//! routed. It asks as if one without a mark had come in by the interface by which the packet leaves, so
//! a blackhole alone would also drop what the containers send. The route in `TABLE` satisfies this
//! check: it leads to the bridge, by a gateway with the bridge's own MAC address, and a bridge does not
//! forward what it sends to itself. If the route is gone, the blackhole is next. IPv6 has no such check.
//!
//! Invariants: rules of this program have its protocol number, and those of one instance its own table.
//! They come before rules of others that lead packets to the main table, as those of VPNs do.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::errno::Errno;

use super::addressing;
use super::neighbours;
use super::netlink::{NetlinkError, NetlinkSocket, Request};

/// The bit of the mark of packets that may reach a container on a network that isolates groups.
pub const ALLOWED_MARK: u32 = 0x2000;
/// The protocol number of rules and routes of this program.
pub(super) const PROTOCOL: u8 = 133;
const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// The interface from which the host's own packets come.
const HOST_INTERFACE: &str = "lo";
/// The gateway of the dead ends: the IPv4 dummy address of RFC 7600, which no host has.
const DEAD_END: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// What a rule does with packets to its subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleKind {
    /// Leads those of the host itself to the main table.
    Host,
    /// Leads those that nobody allowed to the table with the dead end.
    DeadEnd,
    /// Drops those that nobody allowed.
    Blackhole,
}

impl RuleKind {
    fn priority(self) -> u32 {
        match self {
            Self::Host => 200,
            Self::DeadEnd => 201,
            Self::Blackhole => 202,
        }
    }
}

/// One rule of a closed subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// What it does.
    pub kind: RuleKind,
    /// The routing table of the instance that it belongs to; the main table for [`RuleKind::Host`].
    pub table: u32,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subnet, priority) = (self.subnet, self.kind.priority());
        match self.kind {
            RuleKind::Host => write!(
                formatter,
                "routing rule {priority} (packets of this host to {subnet} use the main table)"
            ),
            RuleKind::DeadEnd => write!(
                formatter,
                "routing rule {priority} (packets to {subnet} without the mark {ALLOWED_MARK:#x} use the table {})",
                self.table
            ),
            RuleKind::Blackhole => write!(
                formatter,
                "routing rule {priority} (packets to {subnet} without the mark {ALLOWED_MARK:#x} are dropped)"
            ),
        }
    }
}

impl Rule {
    /// The rules that keep `subnet` closed, of the instance with that routing table. In this order they
    /// are added; removed in the reverse one, none is left without one that names its instance.
    #[must_use]
    pub fn of_subnet(subnet: IpNet, table: u32) -> Vec<Self> {
        let subnet = subnet.trunc();
        let main = u32::from(RouteHeader::RT_TABLE_MAIN);
        let kinds: &[RuleKind] = match subnet {
            IpNet::V4(_) => &[RuleKind::Blackhole, RuleKind::DeadEnd, RuleKind::Host],
            IpNet::V6(_) => &[RuleKind::Blackhole, RuleKind::Host],
        };
        let rule = |kind| Self {
            subnet,
            kind,
            table: if kind == RuleKind::Host { main } else { table },
        };
        kinds.iter().copied().map(rule).collect()
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let header = &mut message.header;
        header.family = match self.subnet {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        header.dst_len = self.subnet.prefix_len();
        header.action = match self.kind {
            RuleKind::Host | RuleKind::DeadEnd => RuleAction::ToTable,
            RuleKind::Blackhole => RuleAction::Blackhole,
        };
        message.attributes = vec![
            RuleAttribute::Destination(self.subnet.network()),
            RuleAttribute::Priority(self.kind.priority()),
            RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
            RuleAttribute::Table(self.table),
        ];
        message.attributes.extend(match self.kind {
            RuleKind::Host => vec![RuleAttribute::Iifname(HOST_INTERFACE.to_owned())],
            RuleKind::DeadEnd | RuleKind::Blackhole => vec![
                RuleAttribute::FwMark(0),
                RuleAttribute::FwMask(ALLOWED_MARK),
            ],
        });
        message
    }

    /// The request to add the rule. The kernel refuses it with `EEXIST` if it is there.
    #[must_use]
    pub fn add(&self) -> Request {
        let action = format!("add the {self}");
        Request::with_message(
            RTM_NEWRULE,
            NLM_F_CREATE | NLM_F_EXCL,
            &self.message(),
            action,
        )
    }

    /// The request to remove the rule. The kernel refuses it with `ENOENT` if it is gone.
    #[must_use]
    pub fn delete(&self) -> Request {
        let action = format!("remove the {self}");
        Request::with_message(RTM_DELRULE, 0, &self.message(), action)
    }

    /// Parses a message about a rule; none for one that is not as this program makes it.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let message = RuleMessage::parse(bytes).ok()?;
        let mut table = u32::from(message.header.table);
        let (mut destination, mut priority, mut is_own) = (None, 0, false);
        let (mut mark, mut bits, mut interface) = (0, 0, None);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Destination(address) => destination = Some(*address),
                RuleAttribute::Priority(number) => priority = *number,
                RuleAttribute::Protocol(protocol) => is_own = u8::from(*protocol) == PROTOCOL,
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::FwMark(value) => mark = *value,
                RuleAttribute::FwMask(value) => bits = *value,
                RuleAttribute::Iifname(name) => interface = Some(name.as_str()),
                _ => {}
            }
        }
        let is_unmarked = mark == 0 && bits == ALLOWED_MARK && interface.is_none();
        let kind = match message.header.action {
            RuleAction::Blackhole if is_unmarked => RuleKind::Blackhole,
            RuleAction::ToTable if is_unmarked => RuleKind::DeadEnd,
            RuleAction::ToTable if bits == 0 && interface == Some(HOST_INTERFACE) => RuleKind::Host,
            _ => return None,
        };
        let rule = Self {
            subnet: IpNet::new(destination?, message.header.dst_len).ok()?,
            kind,
            table,
        };
        (is_own && priority == kind.priority()).then_some(rule)
    }
}

/// Lists the rules of this program, of every instance and both families.
pub fn all(socket: &mut NetlinkSocket) -> Result<Vec<Rule>, NetlinkError> {
    let message = RuleMessage::default();
    let list = Request::with_message(RTM_GETRULE, 0, &message, "list the routing rules");
    socket.list(&list, Rule::parse)
}

/// The dead ends by one bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadEnds {
    /// The routing table of the instance.
    pub table: u32,
    /// The index of the bridge.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// What exists of [`DeadEnds`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundDeadEnds {
    /// Whether their gateway has the bridge's MAC address.
    pub has_gateway: bool,
    /// The subnets whose routes lead to the gateway.
    pub subnets: Vec<Ipv4Net>,
}

impl DeadEnds {
    /// The request that gives the gateway the bridge's MAC address.
    #[must_use]
    pub fn set_gateway(&self) -> Request {
        addressing::add_neighbour(self.index, DEAD_END.into(), self.mac)
    }

    /// The request to lead packets to `subnet` there, in place of another route.
    #[must_use]
    pub fn set_route(&self, subnet: Ipv4Net) -> Request {
        let subnet = subnet.trunc();
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = AddressFamily::Inet;
        header.destination_prefix_length = subnet.prefix_len();
        header.protocol = RouteProtocol::from(PROTOCOL);
        header.scope = RouteScope::Universe;
        header.kind = RouteType::Unicast;
        header.flags = RouteFlags::Onlink;
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(RouteAddress::Inet(subnet.network())),
            RouteAttribute::Gateway(RouteAddress::Inet(DEAD_END)),
            RouteAttribute::Oif(self.index),
        ];
        let action = format!("lead packets to {subnet} that nobody allowed to a dead end");
        Request::with_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message, action)
    }

    /// Reads what exists. Opens a socket of its own, for which the kernel leaves out other tables.
    pub fn find(&self) -> Result<FoundDeadEnds, NetlinkError> {
        let mut socket = NetlinkSocket::strict_route()?;
        let neighbours = neighbours::of_link(&mut socket, self.index)?;
        let has_gateway = neighbours.iter().any(|neighbour| {
            neighbour.address == DEAD_END
                && neighbour.mac == Some(self.mac)
                && neighbour.is_permanent
        });
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.attributes = vec![RouteAttribute::Table(self.table)];
        let list = Request::with_message(RTM_GETROUTE, 0, &message, "list the dead ends");
        let subnets = match socket.list(&list, |bytes| self.parse_route(bytes)) {
            // There is no such table.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Vec::new(),
            found => found?,
        };
        Ok(FoundDeadEnds {
            has_gateway,
            subnets,
        })
    }

    fn parse_route(&self, bytes: &[u8]) -> Option<Ipv4Net> {
        let message = RouteMessage::parse(bytes).ok()?;
        let has = |attribute: &RouteAttribute| message.attributes.contains(attribute);
        let is_dead_end = message.header.kind == RouteType::Unicast
            && has(&RouteAttribute::Table(self.table))
            && has(&RouteAttribute::Gateway(RouteAddress::Inet(DEAD_END)))
            && has(&RouteAttribute::Oif(self.index));
        let network = message.attributes.iter().find_map(|attribute| {
            if let RouteAttribute::Destination(RouteAddress::Inet(network)) = attribute {
                Some(*network)
            } else {
                None
            }
        })?;
        let subnet = Ipv4Net::new(network, message.header.destination_prefix_length).ok()?;
        is_dead_end.then_some(subnet)
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, run};

    const TABLE: u32 = 0x4000_1234;

    #[test]
    fn rules_are_found_as_they_were_added_and_no_others() {
        isolated(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            let mut expected: Vec<Rule> = ["10.1.0.0/24", "fd01::/64"]
                .iter()
                .flat_map(|subnet| Rule::of_subnet(subnet.parse().unwrap(), TABLE))
                .collect();
            let requests: Vec<_> = expected.iter().map(Rule::add).collect();
            socket.execute_all(&requests).unwrap();
            for result in socket.execute(&requests).unwrap() {
                assert_eq!(result.unwrap_err().errno(), Some(Errno::EEXIST));
            }
            // Of others, and altered ones.
            for rule in [
                "pref 200 to 10.2.0.0/24 iif lo lookup main protocol 4",
                "pref 202 to 10.2.0.0/24 fwmark 0/0x4000 blackhole protocol 133",
                "pref 199 to 10.2.0.0/24 iif lo lookup main protocol 133",
                "pref 200 to 10.2.0.0/24 iif eth0 lookup main protocol 133",
            ] {
                run("ip", &format!("rule add {rule}"));
            }
            let mut found = all(&mut socket).unwrap();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected);
            let delete: Vec<_> = expected.iter().map(Rule::delete).collect();
            socket.execute_all(&delete).unwrap();
            assert_eq!(all(&mut socket).unwrap(), []);
            for result in socket.execute(&delete).unwrap() {
                assert_eq!(result.unwrap_err().errno(), Some(Errno::ENOENT));
            }
        });
    }

    #[test]
    fn dead_ends_are_found_until_somebody_removes_them() {
        isolated(|| {
            run("ip", "link add br0 address 02:00:00:00:00:01 type bridge");
            run("ip", "link set br0 up");
            let dead_ends = DeadEnds {
                table: TABLE,
                index: nix::net::if_::if_nametoindex("br0").unwrap(),
                mac: [2, 0, 0, 0, 0, 1],
            };
            assert_eq!(dead_ends.find().unwrap(), FoundDeadEnds::default());
            let subnet: Ipv4Net = "10.1.0.0/24".parse().unwrap();
            let requests = [dead_ends.set_gateway(), dead_ends.set_route(subnet)];
            let mut socket = NetlinkSocket::route().unwrap();
            for _ in 0..2 {
                socket.execute_all(&requests).unwrap();
            }
            let complete = FoundDeadEnds {
                has_gateway: true,
                subnets: vec![subnet],
            };
            assert_eq!(dead_ends.find().unwrap(), complete);
            run(
                "ip",
                "neigh replace 192.0.0.8 lladdr 02:00:00:00:00:02 dev br0 nud permanent",
            );
            assert!(!dead_ends.find().unwrap().has_gateway);
            socket.execute_all(&requests).unwrap();
            run(
                "ip",
                &format!("route replace 10.1.0.0/24 dev br0 table {TABLE}"),
            );
            assert_eq!(dead_ends.find().unwrap().subnets, []);
            socket.execute_all(&requests).unwrap();
            assert_eq!(dead_ends.find().unwrap(), complete);
        });
    }
}
