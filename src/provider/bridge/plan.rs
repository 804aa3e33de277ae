//! Saying what an attach would do, from the same data that it is done by.

use super::super::inside;
use super::super::{Intent, ProviderError};
use super::attach::{bridge_failed, check_port, inner, needs_hairpin};
use super::host::Words;
use super::{Inner, failed, own};
use crate::net::netlink::NetlinkSocket;

impl Inner {
    /// What `attach` would do, in words.
    pub(super) fn plan(&self, intent: &Intent) -> Result<Vec<String>, ProviderError> {
        let network = &intent.network;
        let own = own(intent);
        for port in &intent.ports {
            check_port(intent, *port)?;
        }
        let mut steps: Vec<String> = intent
            .addresses
            .iter()
            .map(|net| format!("lease {} of network {network}", net.addr()))
            .collect();
        let mut elements = self.network_elements(intent, false);
        elements.extend(self.port_elements(intent));
        if !elements.is_empty() {
            let nft = self
                .table
                .plan(&elements)
                .map_err(|error| failed(network, "look at the nftables table", error))?;
            steps.extend(nft);
        }
        let spec = self.bridge_spec(intent);
        let mut socket =
            NetlinkSocket::route().map_err(|error| failed(network, "look at the host", error))?;
        let changes = self
            .host
            .changes(&mut socket, &spec)
            .map_err(|error| bridge_failed(intent, error))?;
        steps.extend(
            changes
                .iter()
                .map(|change| Words(change, &own.bridge).to_string()),
        );
        steps.push(format!(
            "create the veth pair {} (port of {}, up) and {} (in the container), MAC {}, MTU {}{}",
            own.host_interface,
            own.bridge,
            intent.interface,
            intent.mac,
            intent.mtu,
            if needs_hairpin(intent) {
                ", hairpin"
            } else {
                ""
            }
        ));
        steps.extend(inside::plan(&inner(intent)));
        Ok(steps)
    }
}
