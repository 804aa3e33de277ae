//! Features of the kernel, each tried as an attach uses it: in network namespaces of this check, which
//! are gone with it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use ipnet::{IpNet, Ipv4Net};

use super::{Check, Needs, Severity};
use crate::net::conntrack;
use crate::net::links::{self, BridgePort, VethError, VethPair, VlanLink};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns;
use crate::net::nft::{Element, NftError, Table};
use crate::net::vxlan::{self, Tunnel, VxlanLink};

const BRIDGE: &str = "cm-bridge";
const HOST_END: &str = "cm-veth";
const MTU: u32 = 1500;
const OWNER: &str = "contrail-mesos doctor";

pub(super) async fn checks(needs: Needs) -> Vec<Check> {
    let namespaces = async {
        let (host, inner) = (netns::create().await?, netns::create().await?);
        netns::run_in(host, move || try_all(&inner, needs)).await
    };
    match namespaces.await {
        Ok(checks) => {
            let mut all = vec![Check::ok(
                "kernel-namespace",
                "network namespaces can be created and entered",
            )];
            all.extend(checks);
            all
        }
        Err(error) => vec![Check::failure(
            "kernel-namespace",
            error.to_string(),
            "run doctor as root; see CONFIG_NET_NS and the setting user.max_net_namespaces",
        )],
    }
}

/// Tries the features in the calling thread's namespace, which is empty; `inner` is another one.
pub(super) fn try_all(inner: &OwnedFd, needs: Needs) -> Vec<Check> {
    let mut socket = match NetlinkSocket::strict_route() {
        Ok(socket) => socket,
        Err(error) => {
            let remedy = "use a kernel of Linux 4.20 or later";
            return vec![Check::failure("kernel-netlink", error.to_string(), remedy)];
        }
    };
    let required = |name, result, text: &str, remedy: &str| {
        outcome(name, Severity::Failure, result, text, remedy)
    };
    let optional = |name, is_needed, result, text: &str, remedy: &str| {
        let severity = if is_needed {
            Severity::Failure
        } else {
            Severity::Warning
        };
        outcome(name, severity, result, text, remedy)
    };
    let mut checks = vec![
        required(
            "kernel-bridge",
            try_bridge(&mut socket),
            "a bridge can be created",
            "load the module bridge (modprobe bridge; CONFIG_BRIDGE)",
        ),
        required(
            "kernel-veth",
            try_veth(&mut socket, inner),
            "a veth pair can be created as an isolated port of a bridge, with its end in another namespace",
            "load the module veth (modprobe veth; CONFIG_VETH)",
        ),
        optional(
            "kernel-vxlan",
            needs.vxlan,
            try_vxlan(&mut socket),
            "a VXLAN device can be created, for overlay networks",
            "load the module vxlan (modprobe vxlan; CONFIG_VXLAN); overlay networks need it",
        ),
    ];
    if needs.macvlan {
        checks.push(required(
            "kernel-macvlan",
            try_macvlan(&mut socket, inner),
            "a macvlan on a VLAN can be created, for vif = \"macvlan\"",
            "load the modules macvlan and 8021q (CONFIG_MACVLAN, CONFIG_VLAN_8021Q)",
        ));
    }
    checks.push(required(
        "kernel-nftables",
        try_nftables(),
        "the table of mapped ports and masquerading can be created: NAT in the family inet, sets and maps",
        "load the modules nf_tables, nft_chain_nat, nft_masq and nft_fib_inet (Linux 5.6 or later; CONFIG_NF_TABLES_INET, \
         CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET)",
    ));
    checks.push(required(
        "kernel-conntrack",
        try_conntrack(),
        "tracked flows can be listed and forgotten",
        "load the module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)",
    ));
    let ipv6 = "boot without ipv6.disable=1; networks with subnet6 need it";
    checks.push(if links::has_ipv6() {
        Check::ok("kernel-ipv6", "the kernel has IPv6")
    } else if needs.ipv6 {
        Check::failure("kernel-ipv6", "the kernel has no IPv6", ipv6)
    } else {
        Check::warning("kernel-ipv6", "the kernel has no IPv6", ipv6)
    });
    checks
}

fn outcome(
    name: &'static str,
    severity: Severity,
    result: Result<(), String>,
    text: &str,
    remedy: &str,
) -> Check {
    match result {
        Ok(()) => Check::ok(name, text),
        Err(error) => Check::new(name, severity, error, remedy),
    }
}

fn try_bridge(socket: &mut NetlinkSocket) -> Result<(), String> {
    let requests = [
        links::create_bridge(BRIDGE, [2, 0, 0, 0, 0, 1], MTU),
        links::set_up(BRIDGE, None),
    ];
    socket
        .execute_all(&requests)
        .map_err(|error| error.to_string())
}

fn try_veth(socket: &mut NetlinkSocket, inner: &OwnedFd) -> Result<(), String> {
    // Without bridges, the pair is tried alone.
    let bridge = links::by_name(socket, BRIDGE).map_err(|error| error.to_string())?;
    let pair = VethPair {
        host: HOST_END,
        inner: "eth0",
        mac: [2, 0, 0, 0, 0, 2],
        mtu: MTU,
        alias: OWNER,
        bridge: bridge.map(|bridge| BridgePort {
            bridge: bridge.index,
            hairpin: true,
            is_isolated: true,
        }),
    };
    links::create_veth(socket, &pair, inner.as_fd(), [])
        .map(drop)
        .map_err(veth_text)
}

fn veth_text(error: VethError) -> String {
    match error {
        VethError::NotCreated(error) | VethError::Incomplete(error) => error.to_string(),
    }
}

fn try_vxlan(socket: &mut NetlinkSocket) -> Result<(), String> {
    let tunnel = Tunnel {
        vni: 1024,
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        port: 4789,
    };
    let device = VxlanLink {
        name: "cm-vxlan",
        tunnel: &tunnel,
        mac: [2, 0, 0, 0, 0, 3],
        mtu: 1450,
    };
    socket
        .execute_all(&[vxlan::create(&device)])
        .map_err(|error| error.to_string())
}

fn try_macvlan(socket: &mut NetlinkSocket, inner: &OwnedFd) -> Result<(), String> {
    let link = VlanLink {
        parent: BRIDGE,
        vlan: 7,
        host: "cm-vlan",
        inner: "eth1",
        mac: [2, 0, 0, 0, 0, 4],
        mtu: MTU,
        alias: OWNER,
    };
    links::create_macvlan_on_vlan(socket, &link, inner.as_fd()).map_err(veth_text)
}

fn try_nftables() -> Result<(), String> {
    let subnet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24));
    let container = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    let mut elements = Element::masquerade(subnet, &[subnet], OWNER);
    elements.push(Element::port(6, 8080, container, 80, OWNER));
    elements.push(Element::bridge(BRIDGE, OWNER));
    let attempt = || -> Result<(), NftError> {
        let table = Table::open()?;
        table.add(&elements)?;
        table.remove(&elements)
    };
    attempt().map_err(|error| error.to_string())
}

fn try_conntrack() -> Result<(), String> {
    let attempt = || -> Result<usize, NetlinkError> {
        conntrack::forget(&mut NetlinkSocket::netfilter()?, |_| true)
    };
    attempt().map(drop).map_err(|error| error.to_string())
}
