//! What a framework declares about the ports of a task: the ports of its `DiscoveryInfo` with their
//! labels, and task labels `vip_PORT0`, `vip_PORT1`, …. Labels are read once and then forgotten.

use std::num::NonZeroU32;

use arcstr::ArcStr;
use contrail_mesos_api::cluster::ServiceProtocol;

/// The most ports of a task that are read.
pub const MAX_PORTS: usize = 256;
/// The most virtual IPs of a port.
pub const MAX_VIPS: usize = 16;
/// The longest value of a label of a port, in bytes.
pub const MAX_VALUE_BYTES: usize = 1024;
/// The most problems of a task that are kept.
pub const MAX_LABEL_PROBLEMS: usize = 16;

/// The declared ports of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Discovery {
    /// The ports, in the framework's order.
    pub ports: Box<[DiscoveryPort]>,
    /// What could not be read.
    pub problems: Box<[LabelProblem]>,
}

/// A declared port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DiscoveryPort {
    /// Its number. 0 where the framework left the choice to nobody.
    pub number: u16,
    /// Its protocols.
    pub protocols: Protocols,
    /// What the number counts.
    pub scope: Scope,
    /// For how many seconds the connections of a client go to the same backend.
    pub affinity: Option<NonZeroU32>,
    /// Its name.
    pub name: Option<ArcStr>,
    /// The name of the only network that it is on.
    pub network: Option<ArcStr>,
    /// The values of its virtual-IP labels, as the framework wrote them.
    pub vips: Box<[ArcStr]>,
}

/// What the number of a port counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Not declared: as [`Self::Container`]. On the network of the host it is the same.
    #[default]
    Undeclared,
    /// It is a port of the container.
    Container,
    /// It is a port of the host.
    Host,
}

/// A label or a port that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelProblem {
    /// The label or the port.
    pub subject: ArcStr,
    /// What is wrong, and what to write instead.
    pub message: ArcStr,
}

/// A port of the host that is mapped to a port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// The port of the host.
    pub host: u16,
    /// The port of the container.
    pub container: u16,
    /// Its protocols: Marathon writes `udp,tcp` as one mapping.
    pub protocols: Protocols,
}

/// A set of protocols, and whether there was one that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protocols(u8);

impl Protocols {
    const UNKNOWN: u8 = 1 << 7;

    fn bit(protocol: ServiceProtocol) -> u8 {
        match protocol {
            ServiceProtocol::Tcp => 1,
            ServiceProtocol::Udp => 1 << 1,
            ServiceProtocol::Sctp => 1 << 2,
        }
    }

    /// Reads a list such as `tcp` or `udp,tcp`, in any case. Without a text it is TCP.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Self {
        let text = text.map_or("", str::trim);
        if text.is_empty() {
            return Self(Self::bit(ServiceProtocol::Tcp));
        }
        Self(text.split(',').fold(0, |set, name| {
            let known = ServiceProtocol::ALL
                .into_iter()
                .find(|known| name.trim().eq_ignore_ascii_case(known.as_str()));
            set | known.map_or(Self::UNKNOWN, Self::bit)
        }))
    }

    /// Whether one of them is not known.
    #[must_use]
    pub fn has_unknown(self) -> bool {
        self.0 & Self::UNKNOWN != 0
    }

    /// Whether it has the protocol.
    #[must_use]
    pub fn contains(self, protocol: ServiceProtocol) -> bool {
        self.0 & Self::bit(protocol) != 0
    }

    /// The protocols that are known.
    pub fn iter(self) -> impl Iterator<Item = ServiceProtocol> {
        ServiceProtocol::ALL
            .into_iter()
            .filter(move |protocol| self.contains(*protocol))
    }
}

#[cfg(test)]
mod tests {
    use ServiceProtocol::{Sctp, Tcp, Udp};

    use super::*;

    #[test]
    fn protocols_are_lists_in_any_case() {
        let read = |text| Protocols::parse(text).iter().collect::<Vec<_>>();
        assert_eq!(read(None), [Tcp]);
        assert_eq!(read(Some(" ")), [Tcp]);
        assert_eq!(read(Some("UDP")), [Udp]);
        assert_eq!(read(Some("udp, tcp")), [Tcp, Udp]);
        assert_eq!(read(Some("sctp")), [Sctp]);
        assert_eq!(read(Some("icmp")), []);
        assert!(Protocols::parse(Some("icmp,tcp")).has_unknown());
        assert!(!Protocols::parse(Some("udp,tcp")).has_unknown());
    }
}
