//! What an intent means to the host: its elements of the nftables table and its bridge.

use ipnet::IpNet;

use super::super::{Intent, PortMapping, Protocol};
use super::host::BridgeSpec;
use super::{Inner, own};
use crate::net::nft::Element;

impl Inner {
    /// Elements that lead from the host's ports to this container.
    pub(super) fn port_elements(&self, intent: &Intent) -> Vec<Element> {
        intent
            .ports
            .iter()
            .flat_map(|port| self.elements_of_port(intent, *port))
            .collect()
    }

    pub(super) fn elements_of_port(&self, intent: &Intent, port: PortMapping) -> Vec<Element> {
        let protocol = match port.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        };
        let mark = self.tag.of_container(intent, &own(intent).host_interface);
        let first = |is_v4: bool| {
            let mut of_family = intent.addresses.iter().map(IpNet::addr);
            of_family.find(|address| address.is_ipv4() == is_v4)
        };
        [first(true), first(false)]
            .into_iter()
            .flatten()
            .map(|address| {
                Element::port(
                    protocol,
                    port.host_port,
                    address,
                    port.container_port,
                    &mark,
                )
            })
            .collect()
    }

    /// Elements that all containers of the network share: those that this one needs, or all.
    pub(super) fn network_elements(&self, intent: &Intent, all: bool) -> Vec<Element> {
        let own = own(intent);
        let mark = self.tag.of_network(&intent.network);
        let mut elements = Vec::new();
        if all || !intent.ports.is_empty() {
            elements.push(Element::bridge(&own.bridge, &mark));
            for net in &own.bridge_addresses {
                elements.push(Element::local(net.trunc(), &mark));
            }
        }
        if all || own.masquerade {
            for net in &own.bridge_addresses {
                elements.extend(Element::masquerade(net.trunc(), &mark));
            }
        }
        elements
    }

    pub(super) fn bridge_spec(&self, intent: &Intent) -> BridgeSpec {
        let own = own(intent);
        BridgeSpec {
            name: own.bridge.clone(),
            mac: self.tag.bridge_mac(&own.bridge),
            mtu: intent.mtu,
            addresses: own.bridge_addresses.clone(),
            reaches_loopback: !intent.ports.is_empty()
                && intent.addresses.iter().any(|net| net.addr().is_ipv4()),
        }
    }
}
