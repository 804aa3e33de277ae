//! The network namespace of a container: by its handle, or, of an operator's attachment, by who has the
//! other end of its interface.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::isolator::attacher::Attacher;
use crate::isolator::checkpoint::Checkpoint;
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::net::netns::processes::OccupiedNamespaces;
use crate::net::netns::{self, Kind};
use crate::provider::{Intent, ProviderIntent};

/// Where `ip netns` keeps its handles.
const NAMED_NAMESPACES: &str = "/run/netns";

/// Opens the namespace of a container. The error says why it cannot be found. Blocks.
pub(super) async fn open(
    attacher: &Attacher,
    checkpoint: &Checkpoint,
    intent: &Intent,
) -> Result<OwnedFd, String> {
    if let Some(handle) = attacher.handle(checkpoint) {
        return netns::of_path(&handle).map_err(|error| error.to_string());
    }
    if let Some(namespace) = of_process(intent) {
        return Ok(namespace);
    }
    let entries = fs::read_dir(NAMED_NAMESPACES).into_iter().flatten();
    for entry in entries.flatten() {
        if let Some(namespace) = with_interface(&entry.path(), intent).await {
            return Ok(namespace);
        }
    }
    Err("no process and no name below /run/netns has it".to_owned())
}

/// The namespace of a process that has the other end of the host's interface.
fn of_process(intent: &Intent) -> Option<OwnedFd> {
    let host_interface = match &intent.provider {
        ProviderIntent::Bridge(bridge) => &bridge.host_interface,
        ProviderIntent::Contrail(contrail) => &contrail.host_interface,
        ProviderIntent::Cni(_) | ProviderIntent::None(_) => return None,
    };
    let mut socket = NetlinkSocket::route().ok()?;
    let link = links::by_name(&mut socket, host_interface).ok()??;
    let processes = OccupiedNamespaces::list().ok()?;
    let by_number = processes.by_number(&mut socket).ok()?;
    let process = by_number.get(&link.peer_namespace?)?;
    netns::of_pid(*process, Kind::Net).ok()
}

/// The namespace of a handle, if it has the container's interface.
async fn with_interface(path: &Path, intent: &Intent) -> Option<OwnedFd> {
    let namespace = netns::of_path(path).ok()?;
    let inside = namespace.try_clone().ok()?;
    let (name, mac) = (intent.interface.clone(), intent.mac);
    let is_it = netns::run_in(inside, move || {
        let mut socket = NetlinkSocket::route().ok()?;
        let link = links::by_name(&mut socket, &name).ok()??;
        Some(link.mac == mac.0)
    });
    (is_it.await.ok()? == Some(true)).then_some(namespace)
}
