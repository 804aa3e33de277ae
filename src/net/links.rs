//! Links by rtnetlink: bridges, veth pairs, their ports and counters.
//!
//! A veth pair is made in one request, its inner end straight inside the container's namespace
//! with its final name: at no moment does a link exist that nobody would look for.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, Stats64,
};
use nix::errno::Errno;
use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVlan,
};

use super::netlink::{NetlinkError, NetlinkSocket, Request};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

/// What there is to know about a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias: where we write whose it is.
    pub alias: Option<String>,
    /// Index of the bridge that it is a port of.
    pub controller: Option<u32>,
    /// What kind of link, in the kernel's words: `veth`, `bridge`, …
    pub kind: Option<String>,
    /// Its MTU.
    pub mtu: u32,
    /// Its Ethernet address.
    pub mac: Vec<u8>,
    /// Whether it is up, by the administrator's will.
    pub up: bool,
    /// Its counters, as the host sees them.
    pub counters: Stats64,
}

/// A veth pair to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPair<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Name of the container's end.
    pub inner: &'a str,
    /// Ethernet address of the container's end.
    pub mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// Alias of the host's end.
    pub alias: &'a str,
    /// The bridge that the host's end becomes a port of.
    pub bridge: Option<BridgePort>,
}

/// How a link is a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// Index of the bridge.
    pub bridge: u32,
    /// Whether a frame may leave by the port that it came in by.
    pub hairpin: bool,
}

fn request(kind: u16, flags: u16, message: &LinkMessage, what: String) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request::new(kind, flags, payload, what)
}

/// Why a veth pair is not as it should be.
#[derive(Debug)]
pub enum VethError {
    /// Nothing was made.
    NotMade(NetlinkError),
    /// The pair was made, and has to be deleted again.
    Unfinished(NetlinkError),
}

/// Makes the pair, its inner end in `namespace`, and turns its host end on.
pub fn create_veth(
    socket: &mut NetlinkSocket,
    pair: &VethPair<'_>,
    namespace: BorrowedFd<'_>,
) -> Result<(), VethError> {
    let inner = LinkUnspec::new_with_name(pair.inner)
        .mtu(pair.mtu)
        .address(pair.mac.to_vec())
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let mut create = LinkMessageBuilder::<rtnetlink::LinkVeth>::new(pair.host, pair.inner)
        .mtu(pair.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)));
    let mut configure = configure_host_end(pair.host, pair.alias);
    if let Some(port) = pair.bridge {
        create = create.controller(port.bridge);
        configure = configure_port(pair.host, pair.alias, port.hairpin);
    }
    let what = format!(
        "create the pair {} and {} (in the container)",
        pair.host, pair.inner
    );
    let answers = socket.execute(&[
        request(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &create.build(),
            what,
        ),
        configure,
    ]);
    let mut answers = answers.map_err(VethError::Unfinished)?.into_iter();
    let mut next = || answers.next().unwrap_or(Ok(()));
    next().map_err(VethError::NotMade)?;
    next().map_err(VethError::Unfinished)
}

/// A macvlan in a container, on a VLAN of an interface of the host, to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanLink<'a> {
    /// The host's interface.
    pub parent: &'a str,
    /// The VLAN on it.
    pub vlan: u16,
    /// Name of the VLAN's link.
    pub host: &'a str,
    /// Name of the macvlan in the container.
    pub inner: &'a str,
    /// Ethernet address of the macvlan.
    pub mac: [u8; 6],
    /// MTU of both.
    pub mtu: u32,
    /// Alias of the VLAN's link.
    pub alias: &'a str,
}

/// Makes the VLAN, and the macvlan on it straight inside `namespace`. Deleting the VLAN takes the
/// macvlan with it.
pub fn create_macvlan_on_vlan(
    socket: &mut NetlinkSocket,
    link: &VlanLink<'_>,
    namespace: BorrowedFd<'_>,
) -> Result<(), VethError> {
    let index = |socket: &mut NetlinkSocket, name: &str| {
        by_name(socket, name)?.map_or_else(
            || Err(NetlinkError::NoLink(name.to_owned())),
            |link| Ok(link.index),
        )
    };
    let parent = index(socket, link.parent).map_err(VethError::NotMade)?;
    let vlan = LinkVlan::new(link.host, parent, link.vlan)
        .mtu(link.mtu)
        .build();
    let what = format!("create the VLAN {} on {}", link.host, link.parent);
    socket
        .execute_all(&[request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &vlan, what)])
        .map_err(VethError::NotMade)?;
    let mut finish = || {
        socket.execute_all(&[configure_host_end(link.host, link.alias)])?;
        let vlan = index(socket, link.host)?;
        let macvlan = LinkMacVlan::new(link.inner, vlan, MacVlanMode::Vepa)
            .mtu(link.mtu)
            .address(link.mac.to_vec())
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let what = format!("create the macvlan {} (in the container)", link.inner);
        socket.execute_all(&[request(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &macvlan,
            what,
        )])
    };
    finish().map_err(VethError::Unfinished)
}

/// Turns a link on that somebody else will forward for, with our mark on it.
fn configure_host_end(name: &str, alias: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).alias(alias).up();
    let message = without_link_local(message).build();
    request(RTM_SETLINK, 0, &message, format!("configure {name}"))
}

/// Turns a link on as a port of a bridge, with our mark on it.
fn configure_port(name: &str, alias: &str, hairpin: bool) -> Request {
    let message = LinkBridgePort::new(0)
        .name(name)
        .alias(alias)
        .hairpin(hairpin)
        .up();
    // A port needs no address of its own; with one every container would cost the host a
    // link-local address and its multicast memberships.
    let message = without_link_local(message).build();
    request(
        RTM_NEWLINK,
        0,
        &message,
        format!("configure the bridge port {name}"),
    )
}

/// Puts an existing link back on a bridge.
pub fn enslave(
    socket: &mut NetlinkSocket,
    name: &str,
    bridge: u32,
    alias: &str,
    hairpin: bool,
) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_name(name).controller(bridge).build();
    socket.execute_all(&[
        request(
            RTM_SETLINK,
            0,
            &message,
            format!("make {name} a port of its bridge"),
        ),
        configure_port(name, alias, hairpin),
    ])
}

/// Makes a bridge. Its MAC address is given, so that it stays when ports come and go.
pub fn create_bridge(
    socket: &mut NetlinkSocket,
    name: &str,
    mac: [u8; 6],
    mtu: u32,
    alias: &str,
) -> Result<(), NetlinkError> {
    let message = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).build();
    socket.execute_all(&[request(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &message,
        format!("create the bridge {name}"),
    )])?;
    let mark = LinkUnspec::new_with_name(name).alias(alias).build();
    socket.execute_all(&[request(
        RTM_SETLINK,
        0,
        &mark,
        format!("mark the bridge {name} as ours"),
    )])
}

/// The kernel refuses IPv6 settings where it was started without IPv6.
fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| Path::new("/proc/sys/net/ipv6").exists())
}

/// Keeps the kernel from giving the link a link-local IPv6 address of its own accord.
fn without_link_local<T>(message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    if !has_ipv6() {
        return message;
    }
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![mode],
    )]))
}

/// Request: link `name` up, and without a link-local IPv6 address, whose announcements would
/// reach every other container.
#[must_use]
pub fn set_up_for_ipv4(name: &str) -> Request {
    let message = without_link_local(LinkUnspec::new_with_name(name).up()).build();
    request(
        RTM_SETLINK,
        0,
        &message,
        format!("turn {name} up, for IPv4 only"),
    )
}

/// Request: link `name` up, with that MTU if one is given.
#[must_use]
pub fn set_up(name: &str, mtu: Option<u32>) -> Request {
    let mut message = LinkUnspec::new_with_name(name).up();
    if let Some(mtu) = mtu {
        message = message.mtu(mtu);
    }
    request(
        RTM_SETLINK,
        0,
        &message.build(),
        format!(
            "turn {name} up{}",
            mtu.map(|mtu| format!(" with an MTU of {mtu} bytes"))
                .unwrap_or_default()
        ),
    )
}

/// Request: another Ethernet address for link `name`.
#[must_use]
pub fn set_mac(name: &str, mac: [u8; 6]) -> Request {
    let message = LinkUnspec::new_with_name(name)
        .address(mac.to_vec())
        .build();
    request(
        RTM_SETLINK,
        0,
        &message,
        format!("give {name} its Ethernet address"),
    )
}

/// Request: link `name` into a group of links.
#[must_use]
pub fn set_group(name: &str, group: u32) -> Request {
    let message = LinkUnspec::new_with_name(name).link_group(group).build();
    request(RTM_SETLINK, 0, &message, format!("group {name}"))
}

/// Request: link `name` away.
#[must_use]
pub fn delete(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).build();
    request(RTM_DELLINK, 0, &message, format!("delete the link {name}"))
}

/// Request: every link of a group away.
#[must_use]
pub fn delete_group(group: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .link_group(group)
        .build();
    request(
        RTM_DELLINK,
        0,
        &message,
        format!("delete the links of group {group:#x}"),
    )
}

/// The link of that name, if there is one.
pub fn by_name(socket: &mut NetlinkSocket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let message = LinkUnspec::new_with_name(name).build();
    let answer = socket.get(&request(
        RTM_GETLINK,
        0,
        &message,
        format!("describe the link {name}"),
    ));
    match answer {
        Ok(bytes) => parse(&bytes)
            .map(Some)
            .map_err(|message| NetlinkError::Garbled {
                what: format!("describe the link {name}"),
                message,
            }),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link of the namespace.
pub fn all(socket: &mut NetlinkSocket) -> Result<Vec<Link>, NetlinkError> {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    let mut links = Vec::new();
    socket.dump(
        &request(RTM_GETLINK, 0, &message, "list the links".to_owned()),
        // One link that cannot be read must not hide all others.
        |bytes| links.extend(parse(bytes)),
    )?;
    Ok(links)
}

/// Reads a message about a link.
pub(crate) fn parse(bytes: &[u8]) -> Result<Link, String> {
    let message = LinkMessage::parse(bytes).map_err(|error| error.to_string())?;
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Stats64(counters) => link.counters = counters,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = Some(kind_name(&kind));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(link)
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Bridge => "bridge".to_owned(),
        InfoKind::Veth => "veth".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}
