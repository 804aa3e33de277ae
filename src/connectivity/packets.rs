//! The packets of the probes that no ordinary socket sends.

use std::net::{IpAddr, SocketAddr};

use contrail_mesos_api::cluster::TASK_ZONE;

/// The length of the headers of UDP.
const UDP_HEADER_BYTES: usize = 8;
const UDP: u8 = 17;

/// An IP packet of `bytes` bytes with a UDP datagram, which no router may fragment. None if it is too short
/// or too long for its headers, or the addresses are not of one family.
pub(super) fn udp_packet(
    source: SocketAddr,
    destination: SocketAddr,
    bytes: usize,
) -> Option<Vec<u8>> {
    let header = match (source.ip(), destination.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => 20,
        (IpAddr::V6(_), IpAddr::V6(_)) => 40,
        _ => return None,
    };
    let datagram_bytes = bytes.checked_sub(header)?;
    datagram_bytes.checked_sub(UDP_HEADER_BYTES)?;
    let length = u16::try_from(datagram_bytes).ok()?.to_be_bytes();
    let mut datagram = Vec::with_capacity(datagram_bytes);
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(destination.port().to_be_bytes());
    datagram.extend(length);
    datagram.extend([0, 0]);
    datagram.resize(datagram_bytes, 0x55);
    let mut packet = Vec::with_capacity(bytes);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            const DONT_FRAGMENT: u8 = 0x40;
            let total = u16::try_from(bytes).ok()?.to_be_bytes();
            packet.extend([
                0x45,
                0,
                total[0],
                total[1],
                0,
                0,
                DONT_FRAGMENT,
                0,
                64,
                UDP,
                0,
                0,
            ]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0, length[0], length[1], UDP, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            // Without one, IPv6 drops the datagram.
            let mut summed = [source.octets(), destination.octets()].concat();
            summed.extend([0, 0, length[0], length[1], 0, 0, 0, UDP]);
            summed.extend(&datagram);
            let checksum = match checksum(&summed) {
                0 => u16::MAX,
                sum => sum,
            };
            datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
        _ => return None,
    }
    packet.extend(datagram);
    Some(packet)
}

/// An echo request of ICMP, or of `ICMPv6`, whose checksum the kernel adds.
pub(super) fn echo_request(is_v4: bool, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend([0x55; 32]);
    if is_v4 {
        let checksum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&checksum);
    }
    packet
}

/// Whether what a raw socket has received answers such a request. The header of IPv4 is before it.
pub(super) fn is_echo_reply(received: &[u8], is_v4: bool, identifier: u16) -> bool {
    let start = match received.first() {
        Some(first) if is_v4 => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let kind = if is_v4 { 0 } else { 129 };
    received.get(start) == Some(&kind)
        && received.get(start + 4..start + 6) == Some(&identifier.to_be_bytes())
}

/// The checksum of the Internet protocols.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A DNS query for the address of a name that the zone of tasks does not have. It is not forwarded.
pub(super) fn dns_query(identifier: u16) -> Vec<u8> {
    let mut query = identifier.to_be_bytes().to_vec();
    // One question, with recursion.
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in std::iter::once("connectivity-test").chain(TASK_ZONE.split('.')) {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Whether it is an answer to that query, whatever it says.
pub(super) fn is_dns_answer(received: &[u8], identifier: u16) -> bool {
    received.get(..2) == Some(&identifier.to_be_bytes())
        && received.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_length_that_is_wanted() {
        for (source, destination) in [
            ("10.1.0.2:9", "10.1.0.3:8080"),
            ("[fd00::2]:9", "[fd00::3]:8080"),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            for bytes in [68, 1280, 1500, 1501, 9000] {
                let packet = udp_packet(source, destination, bytes).unwrap();
                assert_eq!(packet.len(), bytes);
            }
            assert!(udp_packet(source, destination, 20).is_none());
            assert!(udp_packet(source, destination, 70_000).is_none());
        }
        let mixed = (
            "10.1.0.2:9".parse().unwrap(),
            "[fd00::3]:80".parse().unwrap(),
        );
        assert!(udp_packet(mixed.0, mixed.1, 1500).is_none());
    }

    #[test]
    fn checksums_are_those_of_rfc_1071() {
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        let request = echo_request(true, 7, 1);
        assert_eq!(checksum(&request), 0);
        let mut reply = [&[0x45_u8; 20][..], &request].concat();
        reply[20] = 0;
        assert!(is_echo_reply(&reply, true, 7));
        assert!(!is_echo_reply(&reply, true, 8));
        assert!(!is_echo_reply(&[], true, 7));
        let query = dns_query(0x1234);
        assert!(!is_dns_answer(&query, 0x1234));
        let mut answer = query;
        answer[2] |= 0x80;
        assert!(is_dns_answer(&answer, 0x1234));
    }
}
