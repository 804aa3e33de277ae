//! What the host's side of the networks must be: a pure function of the containers that are there.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::registry::NetworkForm;
use crate::net::nft::Element;
use crate::net::rules::Rule;
use crate::node_state::NodeState;
use crate::provider::ownership::OwnerTag;

/// The desired state of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BridgeSpec {
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) addresses: Vec<IpNet>,
    /// Whether mapped ports on the host's 127.0.0.1 reach its containers.
    pub(super) reaches_loopback: bool,
    /// Whether its containers reach each other by the host's IP layer only, as their groups allow.
    pub(super) isolates: bool,
    /// Whether it must not tell a container that another one is on its link, in another subnet: the
    /// blocks of an overlay move between hosts.
    pub(super) sends_no_redirects: bool,
    /// The number of the instance's routing table.
    pub(super) table: u32,
}

impl BridgeSpec {
    /// What the bridge `name` must be for containers of `forms`, which are on that bridge.
    pub(super) fn new(owner: &OwnerTag, name: &str, forms: &[NetworkForm]) -> Self {
        let addresses = bridge_addresses(forms);
        let v4_count = addresses.iter().filter(|net| net.addr().is_ipv4()).count();
        let isolates = forms.iter().any(|form| form.isolates);
        let is_overlay = forms.iter().any(|form| form.overlay.is_some());
        Self {
            name: name.to_owned(),
            mac: owner.bridge_mac(name),
            mtu: forms.iter().map(|form| form.mtu).max().unwrap_or_default(),
            addresses,
            sends_no_redirects: isolates || (is_overlay && v4_count > 1),
            reaches_loopback: forms.iter().any(|form| form.maps_loopback),
            isolates,
            table: owner.routing_table(),
        }
    }

    /// The subnets that the host keeps closed to packets that nobody allowed.
    pub(super) fn closed_subnets(&self) -> BTreeSet<IpNet> {
        let addresses: &[IpNet] = if self.isolates { &self.addresses } else { &[] };
        addresses.iter().map(IpNet::trunc).collect()
    }

    /// The routing rules that keep them closed.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let subnets = self.closed_subnets().into_iter();
        subnets
            .flat_map(|subnet| Rule::of_subnet(subnet, self.table))
            .collect()
    }

    pub(super) fn has_v4(&self) -> bool {
        self.addresses.iter().any(|net| net.addr().is_ipv4())
    }

    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(|net| net.addr().is_ipv6())
    }
}

/// The addresses of a bridge. A link has the same IPv6 address only once, so the one with the
/// shortest prefix serves for all.
fn bridge_addresses(forms: &[NetworkForm]) -> Vec<IpNet> {
    let mut addresses: Vec<IpNet> = Vec::new();
    for net in forms.iter().flat_map(|form| &form.bridge_addresses) {
        if addresses.contains(net) {
            continue;
        }
        let same_v6 = addresses
            .iter_mut()
            .find(|other| net.addr().is_ipv6() && other.addr() == net.addr());
        match same_v6 {
            Some(other) if other.prefix_len() > net.prefix_len() => *other = *net,
            Some(_) => {}
            None => addresses.push(*net),
        }
    }
    addresses
}

/// The subnets that containers of `forms` send to with their own addresses, because they are on an
/// overlay: those that the node daemon published last, or else those of their launches.
pub(super) fn cluster_subnets(forms: &[NetworkForm], state: Option<&NodeState>) -> Vec<IpNet> {
    let overlays = forms.iter().filter_map(|form| form.overlay.as_ref());
    match state {
        Some(state) if overlays.clone().next().is_some() => state.cluster_subnets.clone(),
        _ => overlays
            .flat_map(|overlay| &overlay.cluster_subnets)
            .copied()
            .collect(),
    }
}

/// The nftables elements that the containers of one bridge share. `more` are subnets of containers
/// that other processes of this instance attached, `cluster` their [`cluster_subnets`].
pub(super) fn shared_elements(
    owner: &OwnerTag,
    forms: &[NetworkForm],
    more: &[IpNet],
    cluster: &[IpNet],
) -> Vec<Element> {
    let Some(first) = forms.first() else {
        return Vec::new();
    };
    let label = owner.network_label(&first.network);
    let subnets = |is_needed: fn(&NetworkForm) -> bool| -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = forms
            .iter()
            .filter(|form| is_needed(form))
            .flat_map(|form| &form.bridge_addresses)
            .map(IpNet::trunc)
            .collect();
        if !nets.is_empty() {
            nets.extend(more);
        }
        // Joins subnets that contain or touch each other.
        IpNet::aggregate(&nets)
    };
    let mut elements = Vec::new();
    let with_ports = subnets(|form| form.maps_ports);
    if !with_ports.is_empty() {
        elements.push(Element::bridge(&first.bridge, &label));
        for net in with_ports {
            for sources in local_sources(net, forms) {
                elements.push(Element::local(sources, net, &label));
            }
        }
    }
    // Packets between the subnets of one bridge keep their addresses.
    let mut all = subnets(|_| true);
    all.extend(cluster);
    for net in subnets(|form| form.masquerade) {
        elements.extend(Element::masquerade(net, &all, &label));
    }
    elements
}

/// The [`unrouted_sources`] of any of `forms` that have addresses in `subnet`.
fn local_sources(subnet: IpNet, forms: &[NetworkForm]) -> Vec<(IpAddr, IpAddr)> {
    let mut all: Vec<(IpAddr, IpAddr)> = forms
        .iter()
        .filter(|form| form.maps_ports)
        .filter(|form| {
            let mut nets = form.bridge_addresses.iter();
            nets.any(|net| subnet.contains(&net.trunc()))
        })
        .flat_map(|form| unrouted_sources(subnet, &form.routes))
        .collect();
    all.sort_unstable();
    let mut joined: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in all {
        match joined.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// The addresses of clients of mapped ports that a container of `subnet` does not answer by its
/// gateway: its neighbours in the subnet, and everything that its routes do not lead to. Such a
/// client must appear with the bridge's address.
fn unrouted_sources(subnet: IpNet, routes: &[IpNet]) -> Vec<(IpAddr, IpAddr)> {
    let is_v4 = subnet.addr().is_ipv4();
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let address = |number: u128| -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if is_v4 => Ipv4Addr::from_bits(number).into(),
            _ => Ipv6Addr::from_bits(number).into(),
        }
    };
    let range = |net: &IpNet| (number(net.network()), number(net.broadcast()));
    let max = if is_v4 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    let (first, last) = range(&subnet);
    // What the routes lead to, without the subnet. Without any route, the gateway is the default.
    let mut behind_routes = Vec::new();
    for (start, end) in routes
        .iter()
        .filter(|route| route.addr().is_ipv4() == is_v4)
        .map(range)
        .chain(routes.is_empty().then_some((0, max)))
    {
        behind_routes.extend(first.checked_sub(1).map(|before| (start, end.min(before))));
        behind_routes.extend(last.checked_add(1).map(|after| (start.max(after), end)));
    }
    behind_routes.retain(|(start, end)| start <= end);
    behind_routes.sort_unstable();
    let mut sources = Vec::new();
    let mut next = Some(0);
    for (start, end) in behind_routes {
        if let Some(from) = next.filter(|from| *from < start) {
            sources.push((address(from), address(start - 1)));
        }
        next = next.and_then(|from| Some(from.max(end.checked_add(1)?)));
    }
    sources.extend(
        next.filter(|from| *from <= max)
            .map(|from| (address(from), address(max))),
    );
    sources
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::OverlayPart;
    use contrail_mesos_api::cluster::Revision;

    fn form(addresses: &[&str]) -> NetworkForm {
        NetworkForm {
            network: "blue".to_owned(),
            bridge: "blue0".to_owned(),
            bridge_addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            mtu: 1500,
            masquerade: true,
            maps_ports: false,
            maps_loopback: false,
            routes: Vec::new(),
            overlay: None,
            isolates: false,
        }
    }

    fn described(forms: &[NetworkForm]) -> Vec<String> {
        let owner = OwnerTag::new(Path::new("/nonexistent"));
        shared_elements(&owner, forms, &[], &cluster_subnets(forms, None))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn bridge_has_the_addresses_of_all_forms() {
        let owner = OwnerTag::new(Path::new("/nonexistent"));
        let mut forms = [
            form(&["10.32.0.1/24", "fd00:32::1/64"]),
            form(&["10.32.0.1/16", "fd00:32::1/48"]),
            form(&["10.64.0.1/16", "fd00:64::1/64"]),
        ];
        forms[1].mtu = 1400;
        let spec = BridgeSpec::new(&owner, "blue0", &forms);
        let addresses: Vec<_> = spec.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            addresses,
            [
                "10.32.0.1/24",
                "fd00:32::1/48",
                "10.32.0.1/16",
                "10.64.0.1/16",
                "fd00:64::1/64"
            ]
        );
        assert_eq!(spec.mtu, 1500);
    }

    #[test]
    fn subnets_of_isolated_groups_are_closed() {
        let owner = OwnerTag::new(Path::new("/nonexistent"));
        let mut forms = [
            form(&["10.32.0.1/24", "fd00:32::1/64"]),
            form(&["10.32.0.1/24", "fd00:32::1/64"]),
            form(&["10.64.0.1/16"]),
        ];
        assert_eq!(BridgeSpec::new(&owner, "blue0", &forms).rules(), []);
        for form in &mut forms {
            form.isolates = true;
        }
        forms[1].maps_ports = true;
        let spec = BridgeSpec::new(&owner, "blue0", &forms);
        let subnets: Vec<String> = spec
            .closed_subnets()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(subnets, ["10.32.0.0/24", "10.64.0.0/16", "fd00:32::/64"]);
        assert_eq!(spec.rules().len(), 3 + 3 + 2);
    }

    #[test]
    fn shared_elements_of_overlapping_subnets_do_not_overlap() {
        let both = described(&[form(&["10.32.0.1/24"]), form(&["10.32.0.1/16"])]);
        assert_eq!(both, described(&[form(&["10.32.0.1/16"])]));
        let moved = described(&[form(&["10.32.0.1/24"]), form(&["10.64.0.1/16"])]);
        assert_eq!(moved.len(), 6, "{moved:#?}");
        for gap in ["0.0.0.0-10.31.255.255", "10.32.1.0-10.63.255.255"] {
            assert!(
                moved.iter().filter(|element| element.contains(gap)).count() == 2,
                "{moved:#?}"
            );
        }
        let mut plain = form(&["10.32.0.1/24"]);
        plain.masquerade = false;
        assert_eq!(
            described(std::slice::from_ref(&plain)),
            Vec::<String>::new()
        );
        plain.maps_ports = true;
        let local = described(&[plain]);
        assert_eq!(local.len(), 2, "{local:?}");
    }

    #[test]
    fn packets_to_the_cluster_are_not_masqueraded() {
        let mut overlay = form(&["9.0.1.1/25", "fd09::1/65"]);
        let cluster = |nets: &[&str]| {
            Some(OverlayPart {
                name: "vxlan-1".to_owned(),
                cluster_subnets: nets.iter().map(|net| net.parse().unwrap()).collect(),
            })
        };
        overlay.overlay = cluster(&["9.0.0.0/8", "fd09::/16"]);
        let destinations = |elements: &[String]| -> Vec<String> {
            let destination = |element: &String| {
                let (_, rest) = element.split_once(" . ").unwrap();
                rest.split(' ').next().unwrap().to_owned()
            };
            elements.iter().map(destination).collect()
        };
        assert_eq!(
            destinations(&described(std::slice::from_ref(&overlay))),
            [
                "0.0.0.0-8.255.255.255",
                "10.0.0.0-223.255.255.255",
                "::-fd08:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fd0a::-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ]
        );
        // Up to the end, and beyond what is masqueraded at all.
        overlay.overlay = cluster(&["8.0.0.0/5", "128.0.0.0/1", "240.0.0.0/8", "8000::/1"]);
        assert_eq!(
            destinations(&described(std::slice::from_ref(&overlay))),
            [
                "0.0.0.0-7.255.255.255",
                "16.0.0.0-127.255.255.255",
                "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ]
        );
        // A network of this host only is unknown to the other hosts.
        let plain = form(&["10.32.0.1/24"]);
        let state = NodeState::new(
            "agent-1".to_owned(),
            Revision::default(),
            vec![],
            vec!["11.0.0.0/8".parse().unwrap()],
        );
        assert_eq!(cluster_subnets(&[plain], Some(&state)), []);
        // The file is newer than the launches.
        assert_eq!(
            cluster_subnets(&[overlay], Some(&state)),
            state.cluster_subnets
        );
    }

    fn sources(subnet: &str, routes: &[&str]) -> Vec<String> {
        let routes: Vec<IpNet> = routes.iter().map(|route| route.parse().unwrap()).collect();
        unrouted_sources(subnet.parse().unwrap(), &routes)
            .into_iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect()
    }

    #[test]
    fn unrouted_sources_are_the_subnet_and_what_no_route_leads_to() {
        let subnet = "10.1.0.0/16";
        for default in [&[][..], &["0.0.0.0/0"], &["0.0.0.0/1", "128.0.0.0/1"]] {
            assert_eq!(sources(subnet, default), ["10.1.0.0-10.1.255.255"]);
        }
        assert_eq!(
            sources(subnet, &["10.0.0.0/8"]),
            [
                "0.0.0.0-9.255.255.255",
                "10.1.0.0-10.1.255.255",
                "11.0.0.0-255.255.255.255"
            ]
        );
        let all = ["0.0.0.0-255.255.255.255"];
        assert_eq!(sources(subnet, &["10.1.2.0/24"]), all);
        assert_eq!(sources(subnet, &["fd00::/8"]), all);
        assert_eq!(
            sources(subnet, &["192.0.2.0/24", "192.0.2.128/25", "10.1.0.0/15"]),
            [
                "0.0.0.0-9.255.255.255",
                "10.1.0.0-192.0.1.255",
                "192.0.3.0-255.255.255.255"
            ]
        );
        assert_eq!(
            sources("fd00:1::/64", &["::/0"]),
            ["fd00:1::-fd00:1::ffff:ffff:ffff:ffff"]
        );
        assert_eq!(
            sources("fd00:1::/64", &["8000::/1"]),
            [
                "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fd00:1::-fd00:1::ffff:ffff:ffff:ffff"
            ]
        );
    }
}
