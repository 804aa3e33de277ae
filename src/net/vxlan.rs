//! VXLAN devices of a routed overlay: one virtual network each, nothing learned and nothing flooded.
//!
//! A device that was created here sends only what a forwarding entry ([`super::neighbours`]) names
//! a host for. Its MAC address is part of the request that creates it: udev gives another one to a
//! device whose address the kernel chose.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::links::{
    self, Link, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK, request, without_link_local,
};
use super::netlink::{NetlinkError, NetlinkSocket, Request};

/// What cannot be changed of a device once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The VXLAN network identifier, below 2^24.
    pub vni: u32,
    /// The local underlay address, which packets are sent from.
    pub local: IpAddr,
    /// The UDP port of all hosts.
    pub port: u16,
}

/// A VXLAN device to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanLink<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its tunnel.
    pub tunnel: &'a Tunnel,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, in bytes.
    pub mtu: u32,
}

/// A VXLAN device as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// The link.
    pub link: Link,
    /// Its tunnel.
    pub tunnel: Tunnel,
    /// Whether it has something that [`create`] does not give to a device: it learns, floods to a
    /// default destination, sends by a fixed link, takes the network from the packet, or answers
    /// in the place of neighbours.
    pub is_altered: bool,
}

/// The request to create a device, which is down. The kernel ignores an alias in it, so [`mark`]
/// follows: until then the device is known by its MAC address and its tunnel.
#[must_use]
pub fn create(device: &VxlanLink<'_>) -> Request {
    let Tunnel { vni, local, port } = device.tunnel;
    let local = match local {
        IpAddr::V4(address) => InfoVxlan::Local(*address),
        IpAddr::V6(address) => InfoVxlan::Local6(*address),
    };
    let message = LinkVxlan::new(device.name, *vni)
        .append_info_data(InfoVxlan::Port(*port))
        .append_info_data(InfoVxlan::Learning(false))
        .append_info_data(local)
        .mtu(device.mtu)
        .address(device.mac.to_vec())
        .build();
    let action = format!("create the VXLAN device {}", device.name);
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message, action)
}

/// The request to mark a device as its owner's by an alias. It gets no link-local IPv6 address.
#[must_use]
pub fn mark(name: &str, alias: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).alias(alias);
    let action = format!("mark the VXLAN device {name} as ours");
    request(RTM_SETLINK, 0, &without_link_local(message).build(), action)
}

/// Lists the VXLAN devices of the namespace. With a socket of [`NetlinkSocket::strict_route`] the
/// kernel leaves out all other links.
pub fn all(socket: &mut NetlinkSocket) -> Result<Vec<VxlanDevice>, NetlinkError> {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .append_extra_attribute(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
            InfoKind::Vxlan,
        )]))
        .build();
    let action = "list the VXLAN devices".to_owned();
    socket.list(&request(RTM_GETLINK, 0, &message, action), parse)
}

/// Parses a message about a link; none if it is no VXLAN device.
pub(super) fn parse(bytes: &[u8]) -> Option<VxlanDevice> {
    LinkMessage::parse(bytes).ok().and_then(read)
}

fn read(message: LinkMessage) -> Option<VxlanDevice> {
    let mut data = None;
    for attribute in &message.attributes {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Data(InfoData::Vxlan(attributes)) = info {
                    data = Some(attributes.clone());
                }
            }
        }
    }
    let mut device = VxlanDevice {
        link: Link::default(),
        tunnel: Tunnel {
            vni: 0,
            local: IpAddr::from([0, 0, 0, 0]),
            port: 0,
        },
        is_altered: false,
    };
    let tunnel = &mut device.tunnel;
    for attribute in data? {
        match attribute {
            InfoVxlan::Id(vni) => tunnel.vni = vni,
            InfoVxlan::Local(address) => tunnel.local = address.into(),
            InfoVxlan::Local6(address) => tunnel.local = address.into(),
            InfoVxlan::Port(port) => tunnel.port = port,
            InfoVxlan::Learning(true)
            | InfoVxlan::Proxy(true)
            | InfoVxlan::Rsc(true)
            | InfoVxlan::L2Miss(true)
            | InfoVxlan::L3Miss(true)
            | InfoVxlan::CollectMetadata(true)
            | InfoVxlan::Vnifilter(true)
            | InfoVxlan::Gbp
            | InfoVxlan::Gpe => device.is_altered = true,
            InfoVxlan::Link(index) => device.is_altered |= index != 0,
            InfoVxlan::Limit(limit) => device.is_altered |= limit != 0,
            InfoVxlan::Group(address) => device.is_altered |= !address.is_unspecified(),
            InfoVxlan::Group6(address) => device.is_altered |= !address.is_unspecified(),
            _ => {}
        }
    }
    device.link = links::from_message(message);
    device.is_altered |= device.link.controller.is_some();
    Some(device)
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, run};

    fn tunnel(local: &str) -> Tunnel {
        Tunnel {
            vni: 1024,
            local: local.parse().unwrap(),
            port: 4789,
        }
    }

    #[test]
    fn device_is_read_back_as_it_was_created() {
        isolated(|| {
            for local in ["192.0.2.1", "2001:db8::1"] {
                let mut socket = NetlinkSocket::strict_route().unwrap();
                let tunnel = tunnel(local);
                let device = VxlanLink {
                    name: "vtep1024",
                    tunnel: &tunnel,
                    mac: [0x70, 0xb3, 0xd5, 0x80, 0, 1],
                    mtu: 1450,
                };
                let requests = [create(&device), mark(device.name, "the owner")];
                socket.execute_all(&requests).unwrap();
                run("ip", "link add other type bridge");
                let devices = all(&mut socket).unwrap();
                let [found] = devices.as_slice() else {
                    panic!("{devices:?}");
                };
                assert_eq!(found.tunnel, tunnel);
                assert!(!found.is_altered);
                let link = &found.link;
                assert_eq!((link.name.as_str(), link.mtu), ("vtep1024", 1450));
                assert_eq!(link.mac, device.mac);
                assert_eq!(link.alias.as_deref(), Some("the owner"));
                assert!(!link.up);
                socket
                    .execute_all(&[links::delete("vtep1024"), links::delete("other")])
                    .unwrap();
            }
        });
    }

    #[test]
    fn devices_of_other_programs_are_recognised_as_altered() {
        isolated(|| {
            run("ip", "link add br0 type bridge");
            for (name, options) in [
                ("learns", "id 1 dstport 4789"),
                ("floods", "id 2 dstport 4789 nolearning remote 192.0.2.9"),
                ("external", "external dstport 4790 nolearning"),
                ("proxy", "id 3 dstport 4789 nolearning proxy"),
                ("gbp", "id 4 dstport 4791 nolearning gbp"),
            ] {
                run("ip", &format!("link add {name} type vxlan {options}"));
            }
            run(
                "ip",
                "link add port master br0 type vxlan id 5 dstport 4789 nolearning",
            );
            let mut socket = NetlinkSocket::strict_route().unwrap();
            let devices = all(&mut socket).unwrap();
            assert_eq!(devices.len(), 6);
            assert!(
                devices.iter().all(|device| device.is_altered),
                "{devices:#?}"
            );
        });
    }
}
