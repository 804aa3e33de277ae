//! The addresses that containers of this host have, as the node daemon learns of them: from the leases
//! and the checkpoints.
//!
//! Invariants: only the library writes them. A container's address is leased before the container has
//! an interface, and until the interface is gone.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::isolator::checkpoint::{Checkpoints, StoredCheckpoint};
use contrail_mesos_api::text::excerpt;

/// The directory with a directory of leases for each network, for notifications.
#[must_use]
pub fn leases_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("networks")
}

/// The addresses that are leased on any network. Blocks on the file system.
pub fn leased(state_dir: &Path) -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for network in entries(&leases_directory(state_dir))? {
        // A network without leases has no directory.
        for lease in entries(&network)? {
            let name = lease.file_name().and_then(|name| name.to_str());
            addresses.extend(name.and_then(|name| name.parse::<IpAddr>().ok()));
        }
    }
    Ok(addresses)
}

/// What a directory has, or nothing if it is none.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(vec![])
        }
        Err(error) => Err(error),
    }
}

/// The addresses of all containers that have a checkpoint. An error says which checkpoint cannot be
/// read, for a person. Blocks on the file system.
pub fn checkpointed(state_dir: &Path) -> Result<BTreeSet<IpAddr>, String> {
    let all = Checkpoints::new(state_dir).load_all();
    let mut addresses = BTreeSet::new();
    for stored in all.map_err(|error| error.to_string())? {
        match stored {
            StoredCheckpoint::Intact { checkpoint, .. } => {
                let intents = checkpoint.networks.iter().map(|network| &network.intent);
                addresses
                    .extend(intents.flat_map(|intent| intent.addresses.iter().map(IpNet::addr)));
            }
            StoredCheckpoint::Damaged { error, .. } => return Err(excerpt(error.as_bytes())),
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_of_all_networks_are_found_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(leased(directory.path()).unwrap(), BTreeSet::new());
        let networks = leases_directory(directory.path());
        for (network, file) in [
            ("blue", "10.0.0.2"),
            ("blue", "fd00::2"),
            ("red", "10.0.1.2"),
            ("red", "not-an-address"),
        ] {
            std::fs::create_dir_all(networks.join(network)).unwrap();
            std::fs::write(networks.join(network).join(file), "{}").unwrap();
        }
        std::fs::write(networks.join(".lock"), "").unwrap();
        let expected = ["10.0.0.2", "10.0.1.2", "fd00::2"].map(|one| one.parse().unwrap());
        assert_eq!(leased(directory.path()).unwrap(), expected.into());
        assert_eq!(checkpointed(directory.path()).unwrap(), BTreeSet::new());
        let container = directory.path().join("containers").join("one");
        std::fs::create_dir_all(&container).unwrap();
        std::fs::write(container.join("intent.json"), "{").unwrap();
        checkpointed(directory.path()).unwrap_err();
    }
}
