//! The counters of a container's interface.

use super::{BoxError, ProviderError, Statistics, blocking, failed};
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;

/// The counters of the container whose host end is the link `name`.
pub(super) async fn of_host_end(network: &str, name: String) -> Result<Statistics, ProviderError> {
    let action = format!("read the counters of {name}");
    blocking(move || {
        let mut socket = NetlinkSocket::route()?;
        let link = links::by_name(&mut socket, &name)?.ok_or("the interface is gone")?;
        let counters = link.counters;
        // The container has sent what the host end receives.
        Ok::<_, BoxError>(Statistics {
            rx_packets: counters.tx_packets,
            rx_bytes: counters.tx_bytes,
            rx_errors: counters.tx_errors,
            rx_dropped: counters.tx_dropped,
            tx_packets: counters.rx_packets,
            tx_bytes: counters.rx_bytes,
            tx_errors: counters.rx_errors,
            tx_dropped: counters.rx_dropped,
        })
    })
    .await
    .map_err(|error| failed(network, action, error))
}

/// The counters of the container's own interface `link`.
pub(super) fn of_container_end(link: &Link) -> Statistics {
    let counters = link.counters;
    Statistics {
        rx_packets: counters.rx_packets,
        rx_bytes: counters.rx_bytes,
        rx_errors: counters.rx_errors,
        rx_dropped: counters.rx_dropped,
        tx_packets: counters.tx_packets,
        tx_bytes: counters.tx_bytes,
        tx_errors: counters.tx_errors,
        tx_dropped: counters.tx_dropped,
    }
}
