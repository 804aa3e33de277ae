//! Links by rtnetlink: bridges and their ports, veth pairs, macvlans, counters.
//!
//! A veth pair is created by one request, with its inner end in the container's namespace and with
//! its final name. A crash therefore never leaves a link whose name no intent has.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, Nla, Parseable};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    LinkProtoInfoBridge, MacVlanMode, Stats64,
};
use nix::errno::Errno;
use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVlan,
};

use super::bridge_ports::PortFlags;
use super::netlink::{NetlinkError, NetlinkSocket, Request, encode};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;

/// A link as the kernel reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, which identifies its owner.
    pub alias: Option<String>,
    /// Index of the bridge or other device that it is a port of.
    pub controller: Option<u32>,
    /// The number that this namespace has for the one of the other end, if that is another one.
    pub peer_namespace: Option<i32>,
    /// Its kind, in the kernel's terms: `veth`, `bridge`, …
    pub kind: Option<String>,
    /// What it forwards, if it is a port of a bridge.
    pub port: Option<PortFlags>,
    /// Its MTU.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: Vec<u8>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its counters, from the view of its own namespace.
    pub counters: Stats64,
    /// Its IPv4 settings; `None` if it has no IPv4.
    pub ipv4: Option<Ipv4Settings>,
    /// Its IPv6 settings; `None` if it has no IPv6.
    pub ipv6: Option<Ipv6Settings>,
}

/// Settings of a link below `/proc/sys/net/ipv4/conf`, which come with every description of the
/// link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4Settings {
    /// `forwarding`
    pub forwarding: i32,
    /// `arp_ignore`
    pub arp_ignore: i32,
    /// `send_redirects`
    pub send_redirects: i32,
    /// `route_localnet`
    pub route_localnet: i32,
}

/// Settings of a link below `/proc/sys/net/ipv6/conf`, as [`Ipv4Settings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// `forwarding`
    pub forwarding: i32,
    /// `accept_ra`
    pub accept_ra: i32,
    /// `accept_dad`
    pub accept_dad: i32,
    /// `disable_ipv6`
    pub disable_ipv6: i32,
}

/// A veth pair to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPair<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Name of the container's end.
    pub inner: &'a str,
    /// MAC address of the container's end.
    pub mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// Alias of the host's end.
    pub alias: &'a str,
    /// The bridge that the host's end becomes a port of.
    pub bridge: Option<BridgePort>,
}

/// A port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// Index of the bridge.
    pub bridge: u32,
    /// Whether a frame may leave by the port by which it came in.
    pub hairpin: bool,
    /// Whether it forwards frames from and to the host only, see [`bridge_ports`](super::bridge_ports).
    pub is_isolated: bool,
}

pub(super) fn request(kind: u16, flags: u16, message: &LinkMessage, action: String) -> Request {
    Request::with_message(kind, flags, message, action)
}

/// A container's link could not be created.
#[derive(Debug)]
pub enum VethError {
    /// Nothing was created.
    NotCreated(NetlinkError),
    /// The link was created, and must be deleted again.
    Incomplete(NetlinkError),
}

/// Creates the pair, with its inner end in `namespace`, and sets its host end up. Then executes
/// `more`, at the cost of no further system call, and returns the results of these.
pub fn create_veth(
    socket: &mut NetlinkSocket,
    pair: &VethPair<'_>,
    namespace: BorrowedFd<'_>,
    more: impl IntoIterator<Item = Request>,
) -> Result<Vec<Result<(), NetlinkError>>, VethError> {
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
        configure = configure_port(pair.host, pair.alias, port);
    }
    let action = format!(
        "create the veth pair {} and {} (in the container)",
        pair.host, pair.inner
    );
    let create = request(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &create.build(),
        action,
    );
    let requests: Vec<Request> = [create, configure].into_iter().chain(more).collect();
    let mut results = socket
        .execute(&requests)
        .map_err(VethError::Incomplete)?
        .into_iter();
    let mut next = || results.next().unwrap_or(Ok(()));
    next().map_err(VethError::NotCreated)?;
    next().map_err(VethError::Incomplete)?;
    Ok(results.collect())
}

/// A macvlan to create in a container, on a VLAN of an interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanLink<'a> {
    /// The host's interface.
    pub parent: &'a str,
    /// The VLAN's id.
    pub vlan: u16,
    /// Name of the VLAN's link on the host.
    pub host: &'a str,
    /// Name of the macvlan in the container.
    pub inner: &'a str,
    /// MAC address of the macvlan.
    pub mac: [u8; 6],
    /// MTU of both.
    pub mtu: u32,
    /// Alias of the VLAN's link.
    pub alias: &'a str,
}

/// Creates the VLAN, and the macvlan on it in `namespace`. Deleting the VLAN also deletes the
/// macvlan.
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
    let parent = index(socket, link.parent).map_err(VethError::NotCreated)?;
    let vlan = LinkVlan::new(link.host, parent, link.vlan)
        .mtu(link.mtu)
        .build();
    let action = format!("create the VLAN {} on {}", link.host, link.parent);
    socket
        .execute_all(&[request(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &vlan,
            action,
        )])
        .map_err(VethError::NotCreated)?;
    let mut finish = || {
        socket.execute_all(&[configure_host_end(link.host, link.alias)])?;
        let vlan = index(socket, link.host)?;
        let macvlan = LinkMacVlan::new(link.inner, vlan, MacVlanMode::Vepa)
            .mtu(link.mtu)
            .address(link.mac.to_vec())
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let action = format!("create the macvlan {} (in the container)", link.inner);
        socket.execute_all(&[request(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &macvlan,
            action,
        )])
    };
    finish().map_err(VethError::Incomplete)
}

/// Sets a link up that the vRouter forwards for, and marks it as ours.
fn configure_host_end(name: &str, alias: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).alias(alias).up();
    let message = without_link_local(message).build();
    request(RTM_SETLINK, 0, &message, format!("configure {name}"))
}

/// Sets a port of a bridge up, and marks it as ours.
fn configure_port(name: &str, alias: &str, port: BridgePort) -> Request {
    let mut message = LinkBridgePort::new(0)
        .name(name)
        .alias(alias)
        .hairpin(port.hairpin)
        .up();
    if port.is_isolated {
        message = message.isolated(true).learning(false);
    }
    // Without this, the host would get a link-local address and multicast memberships for every
    // container.
    let message = without_link_local(message).build();
    request(
        RTM_NEWLINK,
        0,
        &message,
        format!("configure the bridge port {name}"),
    )
}

/// Makes an existing link a port of a bridge again.
pub fn enslave(
    socket: &mut NetlinkSocket,
    name: &str,
    alias: &str,
    port: BridgePort,
) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_name(name)
        .controller(port.bridge)
        .build();
    let enslave = request(
        RTM_SETLINK,
        0,
        &message,
        format!("make {name} a port of its bridge"),
    );
    // A new port is not isolated, and forwards nothing while it is down.
    let down = port.is_isolated.then(|| set_down(name));
    let configure = configure_port(name, alias, port);
    let requests: Vec<Request> = down.into_iter().chain([enslave, configure]).collect();
    socket.execute_all(&requests)
}

/// Corrects the settings of a link that is a port of its bridge.
pub fn correct_port(
    socket: &mut NetlinkSocket,
    name: &str,
    alias: &str,
    port: BridgePort,
) -> Result<(), NetlinkError> {
    socket.execute_all(&[configure_port(name, alias, port)])
}

fn set_down(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).down().build();
    request(RTM_SETLINK, 0, &message, format!("set {name} down"))
}

/// The request to create a bridge. An explicit MAC address keeps it stable when ports come and go.
#[must_use]
pub fn create_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Request {
    let message = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).build();
    request(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &message,
        format!("create the bridge {name}"),
    )
}

/// Whether the kernel has IPv6. Without it, it refuses IPv6 attributes.
#[must_use]
pub fn has_ipv6() -> bool {
    static HAS_IPV6: OnceLock<bool> = OnceLock::new();
    *HAS_IPV6.get_or_init(|| Path::new("/proc/sys/net/ipv6").exists())
}

/// Prevents the kernel from adding a link-local IPv6 address to the link.
fn no_link_local() -> Option<AfSpecUnspec> {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    has_ipv6().then_some(AfSpecUnspec::Inet6(vec![mode]))
}

pub(super) fn without_link_local<T>(message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    match no_link_local() {
        Some(family) => message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![family])),
        None => message,
    }
}

/// Lets the link answer ARP requests, whatever it inherited from `conf/default`.
fn answering_arp() -> AfSpecUnspec {
    const IFLA_INET_CONF: u16 = 1;
    const IPV4_DEVCONF_ARP_IGNORE: u16 = 19;
    let value = 0_u32;
    let setting = DefaultNla::new(IPV4_DEVCONF_ARP_IGNORE, value.to_ne_bytes().to_vec());
    let configuration = DefaultNla::new(IFLA_INET_CONF, encode(&setting));
    AfSpecUnspec::Inet(vec![AfSpecInet::Other(configuration)])
}

/// The request to set the container's link `name` up. Without IPv6, it gets no link-local address,
/// whose announcements would reach every other container.
#[must_use]
pub fn set_up_in_container(name: &str, has_ipv6: bool) -> Request {
    let mut families = vec![answering_arp()];
    let mut action = format!("set {name} up");
    if !has_ipv6 {
        families.extend(no_link_local());
        action.push_str(", for IPv4 only");
    }
    let message = LinkUnspec::new_with_name(name)
        .up()
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(families))
        .build();
    request(RTM_SETLINK, 0, &message, action)
}

/// The request to set link `name` up, and to change its MTU if one is given.
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
            "set {name} up{}",
            mtu.map(|mtu| format!(" with an MTU of {mtu} bytes"))
                .unwrap_or_default()
        ),
    )
}

/// The request to change the MAC address of link `name`.
#[must_use]
pub fn set_mac(name: &str, mac: [u8; 6]) -> Request {
    let message = LinkUnspec::new_with_name(name)
        .address(mac.to_vec())
        .build();
    request(
        RTM_SETLINK,
        0,
        &message,
        format!("set the MAC address of {name}"),
    )
}

/// The request to change the alias of link `name`.
#[must_use]
pub fn set_alias(name: &str, alias: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).alias(alias).build();
    request(RTM_SETLINK, 0, &message, format!("set the alias of {name}"))
}

/// The request to put link `name` into a group of links.
#[must_use]
pub fn set_group(name: &str, group: u32) -> Request {
    let message = LinkUnspec::new_with_name(name).link_group(group).build();
    request(RTM_SETLINK, 0, &message, format!("put {name} into a group"))
}

/// The request to put this link, and no other one that got its name since, into a group of links.
#[must_use]
pub fn set_link_group(link: &Link, group: u32) -> Request {
    let message = LinkUnspec::new_with_index(link.index)
        .link_group(group)
        .build();
    let action = format!("put {} into a group", link.name);
    request(RTM_SETLINK, 0, &message, action)
}

/// The request to delete link `name`.
#[must_use]
pub fn delete(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).build();
    request(RTM_DELLINK, 0, &message, format!("delete the link {name}"))
}

/// The request to delete this link, and no other one that got its name since.
#[must_use]
pub fn delete_link(link: &Link) -> Request {
    let message = LinkUnspec::new_with_index(link.index).build();
    let action = format!("delete the link {}", link.name);
    request(RTM_DELLINK, 0, &message, action)
}

/// Whether the calling thread's namespace has a link with that name.
#[must_use]
pub fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// The request to delete every link of a group.
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

/// Reads the link with that name, if there is one.
pub fn by_name(socket: &mut NetlinkSocket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let message = LinkUnspec::new_with_name(name).build();
    describe(socket, &message, format!("describe the link {name}"))
}

fn describe(
    socket: &mut NetlinkSocket,
    message: &LinkMessage,
    action: String,
) -> Result<Option<Link>, NetlinkError> {
    match socket.get(&request(RTM_GETLINK, 0, message, action.clone())) {
        Ok(bytes) => parse(&bytes)
            .map(Some)
            .map_err(|message| NetlinkError::InvalidResponse { action, message }),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the links of the namespace, without their counters.
pub fn all(socket: &mut NetlinkSocket) -> Result<Vec<Link>, NetlinkError> {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    let mut links = Vec::new();
    socket.dump(
        &request(RTM_GETLINK, 0, &message, "list the links".to_owned()),
        // Skips a link that cannot be parsed, rather than failing for all.
        |bytes| links.extend(parse(bytes)),
    )?;
    Ok(links)
}

/// Reads the link with that index, if there is one.
pub fn by_index(socket: &mut NetlinkSocket, index: u32) -> Result<Option<Link>, NetlinkError> {
    let message = LinkUnspec::new_with_index(index).build();
    describe(socket, &message, format!("describe the link {index}"))
}

/// Parses a message about a link.
pub(crate) fn parse(bytes: &[u8]) -> Result<Link, String> {
    let message = LinkMessage::parse(bytes).map_err(|error| error.to_string())?;
    Ok(from_message(message))
}

/// The link that a message describes.
pub(super) fn from_message(message: LinkMessage) -> Link {
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
            LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Stats64(counters) => link.counters = counters,
            // Of a notification of the bridge.
            LinkAttribute::ProtoInfoBridge(settings) => {
                link.port = Some(notified_port_flags(&settings));
            }
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    read_settings(&mut link, family);
                }
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind_name(&kind)),
                        LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                            link.port = Some(port_flags(&settings));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn port_flags(settings: &[InfoBridgePort]) -> PortFlags {
    let mut flags = PortFlags::default();
    for setting in settings {
        match setting {
            InfoBridgePort::Isolated(is_isolated) => flags.is_isolated = *is_isolated,
            InfoBridgePort::Learning(learns) => flags.learns = *learns,
            _ => {}
        }
    }
    flags
}

fn notified_port_flags(settings: &[LinkProtoInfoBridge]) -> PortFlags {
    const IFLA_BRPORT_LEARNING: u16 = 8;
    const IFLA_BRPORT_ISOLATED: u16 = 33;
    let mut flags = PortFlags::default();
    for setting in settings {
        let mut value = [0];
        if setting.value_len() == value.len() {
            setting.emit_value(&mut value);
        }
        match setting.kind() {
            IFLA_BRPORT_LEARNING => flags.learns = value != [0],
            IFLA_BRPORT_ISOLATED => flags.is_isolated = value != [0],
            _ => {}
        }
    }
    flags
}

fn read_settings(link: &mut Link, family: AfSpecUnspec) {
    match family {
        AfSpecUnspec::Inet(attributes) => {
            link.ipv4 = attributes.iter().find_map(|attribute| match attribute {
                AfSpecInet::DevConf(settings) => Some(Ipv4Settings {
                    forwarding: settings.forwarding,
                    arp_ignore: settings.arp_ignore,
                    send_redirects: settings.send_redirects,
                    route_localnet: settings.route_localnet,
                }),
                _ => None,
            });
        }
        AfSpecUnspec::Inet6(attributes) => {
            link.ipv6 = attributes.iter().find_map(|attribute| match attribute {
                AfSpecInet6::DevConf(settings) => Some(Ipv6Settings {
                    forwarding: settings.forwarding,
                    accept_ra: settings.accept_ra,
                    accept_dad: settings.accept_dad,
                    disable_ipv6: settings.disable_ipv6,
                }),
                _ => None,
            });
        }
        _ => {}
    }
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Bridge => "bridge".to_owned(),
        InfoKind::Veth => "veth".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}
