//! Which way a packet goes from a network namespace: as the kernel answers, with all of its rules and
//! tables, its check of sources, and its forwarding.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};
use nix::errno::Errno;

use super::netlink::{NetlinkError, NetlinkSocket, Request};
use super::{links, sysctl};

const RTM_GETROUTE: u16 = 26;

/// A packet whose way is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    /// Its destination.
    pub destination: IpAddr,
    /// Its source, of the same family; the kernel chooses one without it.
    pub source: Option<IpAddr>,
    /// The index of the interface by which it comes in; none for one of the namespace itself.
    pub input: Option<u32>,
    /// Its mark.
    pub mark: u32,
}

/// The way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// It leaves by an interface.
    Leaves {
        /// The index of the interface.
        index: u32,
        /// The next hop; none if the destination is on the link.
        gateway: Option<IpAddr>,
        /// The source that the kernel chooses.
        source: Option<IpAddr>,
    },
    /// It is for the namespace itself.
    Local,
    /// It goes nowhere.
    Refused(RouteRefusal),
}

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteRefusal {
    /// There is no route.
    NoRoute,
    /// A route or rule drops it: `blackhole`.
    Blackhole,
    /// A route or rule refuses it: `unreachable` or `prohibit`; or the namespace does not forward.
    Unreachable,
    /// A packet back would leave by another interface, and `rp_filter` drops it.
    ReversePath,
    /// The kernel refuses it for another reason.
    Other(Errno),
}

/// Asks the kernel of the namespace of the socket.
pub fn ask(
    socket: &mut NetlinkSocket,
    question: &RouteQuestion,
) -> Result<RouteAnswer, NetlinkError> {
    let RouteQuestion {
        destination,
        source,
        input,
        mark,
    } = *question;
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = match destination {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    header.destination_prefix_length = IpNet::from(destination).prefix_len();
    if destination.is_ipv4() {
        header.flags |= RouteFlags::LookupTable;
    }
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(destination))];
    if let Some(source) = source {
        message.header.source_prefix_length = IpNet::from(source).prefix_len();
        let source = RouteAddress::from(source);
        message.attributes.push(RouteAttribute::Source(source));
    }
    message.attributes.extend(input.map(RouteAttribute::Iif));
    if mark != 0 {
        message.attributes.push(RouteAttribute::Mark(mark));
    }
    let action = format!("ask for the route to {destination}");
    match socket.get(&Request::with_message(RTM_GETROUTE, 0, &message, &action)) {
        Ok(bytes) => {
            let message = RouteMessage::parse(&bytes[..]).map_err(|error| {
                let message = error.to_string();
                NetlinkError::InvalidResponse { action, message }
            })?;
            Ok(answer(&message))
        }
        Err(error) => match (error.errno(), source, input) {
            // Newer kernels say the same of sources that they refuse.
            (Some(Errno::EINVAL), Some(source), Some(input))
                if fails_source_check(socket, source, input, mark)? =>
            {
                Ok(RouteAnswer::Refused(RouteRefusal::ReversePath))
            }
            (Some(errno), ..) => Ok(RouteAnswer::Refused(refusal(errno))),
            (None, ..) => Err(error),
        },
    }
}

/// Whether `rp_filter` refuses packets from `source` that come in by the interface with that index.
fn fails_source_check(
    socket: &mut NetlinkSocket,
    source: IpAddr,
    input: u32,
    mark: u32,
) -> Result<bool, NetlinkError> {
    const STRICT: u32 = 1;
    let Some(link) = links::by_index(socket, input)?.filter(|_| source.is_ipv4()) else {
        return Ok(false);
    };
    let value = |name: &str| {
        let value = sysctl::get(&format!("net/ipv4/conf/{name}/rp_filter"));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let mode: u32 = value("all").max(value(&link.name));
    if mode == 0 {
        return Ok(false);
    }
    let back = RouteQuestion {
        destination: source,
        source: None,
        input: None,
        mark,
    };
    Ok(match ask(socket, &back)? {
        RouteAnswer::Leaves { index, .. } => mode == STRICT && index != input,
        RouteAnswer::Local | RouteAnswer::Refused(_) => true,
    })
}

fn refusal(errno: Errno) -> RouteRefusal {
    match errno {
        Errno::ENETUNREACH => RouteRefusal::NoRoute,
        Errno::EHOSTUNREACH | Errno::EACCES => RouteRefusal::Unreachable,
        Errno::EXDEV => RouteRefusal::ReversePath,
        Errno::EINVAL => RouteRefusal::Blackhole,
        other => RouteRefusal::Other(other),
    }
}

fn answer(message: &RouteMessage) -> RouteAnswer {
    match message.header.kind {
        RouteType::Local | RouteType::Broadcast | RouteType::Multicast => {
            return RouteAnswer::Local;
        }
        RouteType::BlackHole => return RouteAnswer::Refused(RouteRefusal::Blackhole),
        RouteType::Unreachable => {
            // IPv6 has such a route where IPv4 has none.
            return RouteAnswer::Refused(RouteRefusal::NoRoute);
        }
        RouteType::Prohibit => return RouteAnswer::Refused(RouteRefusal::Unreachable),
        _ => {}
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::from(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::from(*address)),
        _ => None,
    };
    let (mut index, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(number) => index = Some(*number),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    match index {
        Some(index) => RouteAnswer::Leaves {
            index,
            gateway,
            source,
        },
        None => RouteAnswer::Refused(RouteRefusal::NoRoute),
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, run};

    fn ask_of(destination: &str, source: Option<&str>, input: Option<u32>) -> RouteAnswer {
        let mut socket = NetlinkSocket::route().unwrap();
        let question = RouteQuestion {
            destination: destination.parse().unwrap(),
            source: source.map(|source| source.parse().unwrap()),
            input,
            mark: 0,
        };
        ask(&mut socket, &question).unwrap()
    }

    #[test]
    fn kernel_says_why_a_packet_goes_nowhere() {
        isolated(|| {
            for name in ["d0", "d1"] {
                run("ip", &format!("link add {name} type bridge"));
                run("ip", &format!("link set {name} up"));
            }
            let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
            let (d0, d1) = (index("d0"), index("d1"));
            run("ip", "addr add 10.1.0.1/24 dev d0");
            run("ip", "addr add fd01::1/64 dev d0 nodad");
            run("ip", "route add 10.2.0.0/24 via 10.1.0.9");
            run("ip", "route add blackhole 10.3.0.0/24");
            run("ip", "route add 10.5.0.0/24 dev d1");
            let refused = RouteAnswer::Refused;
            let by_d0 = |gateway: Option<&str>| RouteAnswer::Leaves {
                index: d0,
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
                source: Some([10, 1, 0, 1].into()),
            };
            assert_eq!(ask_of("10.1.0.7", None, None), by_d0(None));
            assert_eq!(ask_of("10.2.0.7", None, None), by_d0(Some("10.1.0.9")));
            assert_eq!(ask_of("10.1.0.1", None, None), RouteAnswer::Local);
            assert_eq!(ask_of("fd01::1", None, None), RouteAnswer::Local);
            let none = refused(RouteRefusal::NoRoute);
            for destination in ["10.4.0.7", "fd04::7"] {
                assert_eq!(ask_of(destination, None, None), none);
            }
            let blackhole = refused(RouteRefusal::Blackhole);
            assert_eq!(ask_of("10.3.0.7", None, None), blackhole);
            // Packets that come in.
            let forward = || ask_of("10.5.0.7", Some("10.1.0.7"), Some(d0));
            run("sysctl", "-qw net.ipv4.ip_forward=0");
            assert_eq!(forward(), refused(RouteRefusal::Unreachable));
            run("sysctl", "-qw net.ipv4.ip_forward=1");
            let is_forwarded =
                |answer| matches!(answer, RouteAnswer::Leaves { index, .. } if index == d1);
            assert!(is_forwarded(forward()), "{:?}", forward());
            run("sysctl", "-qw net.ipv4.conf.all.rp_filter=1");
            let forged = ask_of("10.1.0.7", Some("10.1.0.8"), Some(d1));
            assert_eq!(forged, refused(RouteRefusal::ReversePath));
        });
    }
}
