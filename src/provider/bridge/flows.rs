//! Flows of UDP and SCTP that began before a port mapping came or went. The kernel would go on
//! treating them as before, and a client that keeps its source port would never be answered.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::BridgeIntent;
use super::driver::{mapped_addresses, protocol_number};
use crate::net::addressing;
use crate::net::conntrack::{self, Flow};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::provider::{Intent, Protocol};

/// The translation of packets to a port of the host.
struct Translation {
    protocol: u8,
    host_port: u16,
    target: SocketAddr,
}

impl Translation {
    fn concerns(&self, flow: &Flow) -> bool {
        flow.protocol == self.protocol
            && flow.destination.port() == self.host_port
            && flow.destination.is_ipv4() == self.target.is_ipv4()
    }
}

/// The translations of an intent whose flows outlive them: a TCP client notices a reset, and begins
/// again.
fn translations(intent: &Intent<BridgeIntent>) -> Vec<Translation> {
    intent
        .ports
        .iter()
        .filter(|port| port.protocol != Protocol::Tcp)
        .flat_map(|port| {
            mapped_addresses(intent).map(|address| Translation {
                protocol: protocol_number(port.protocol),
                host_port: port.host_port,
                target: SocketAddr::new(address, port.container_port),
            })
        })
        .collect()
}

/// After the ports of `intents` were mapped: forgets flows to them that another target answers, or
/// nobody. Best effort.
pub(super) fn forget_untranslated(intents: &[&Intent<BridgeIntent>]) {
    let translations: Vec<_> = intents
        .iter()
        .flat_map(|intent| translations(intent))
        .collect();
    if translations.is_empty() {
        return;
    }
    report(
        intents,
        local_addresses().and_then(|local| {
            // A flow to the same port of another machine is none of the mapping's.
            forget(|flow| {
                let destination = flow.destination.ip();
                let is_local = local.contains(&destination) || destination.is_loopback();
                is_local
                    && translations.iter().any(|translation| {
                        translation.concerns(flow) && flow.reply_source != translation.target
                    })
            })
        }),
    );
}

/// After the mappings of the intent's ports were removed: forgets flows that the container answered.
/// Best effort.
pub(super) fn forget_translated(intent: &Intent<BridgeIntent>) {
    let translations = translations(intent);
    if translations.is_empty() {
        return;
    }
    report(
        &[intent],
        forget(|flow| {
            translations.iter().any(|translation| {
                translation.concerns(flow) && flow.reply_source == translation.target
            })
        }),
    );
}

fn forget(is_stale: impl FnMut(&Flow) -> bool) -> Result<usize, NetlinkError> {
    conntrack::forget(&mut NetlinkSocket::netfilter()?, is_stale)
}

fn local_addresses() -> Result<HashSet<IpAddr>, NetlinkError> {
    let addresses = addressing::addresses(&mut NetlinkSocket::route()?)?;
    Ok(addresses.into_iter().map(|(_, net)| net.addr()).collect())
}

fn report(intents: &[&Intent<BridgeIntent>], forgotten: Result<usize, NetlinkError>) {
    let container = match intents {
        [intent] => intent.container.to_string(),
        // Every container with mapped ports, after a repair.
        _ => "*".to_owned(),
    };
    match forgotten {
        Ok(0) => {}
        Ok(count) => log::info!(
            container:% = container;
            "{count} flows of clients of mapped ports begin again"
        ),
        Err(error) => log::warn!(
            container:% = container;
            "a client of a mapped port that keeps its source port may not be answered until it pauses for some minutes: {error}"
        ),
    }
}
