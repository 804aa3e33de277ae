//! Where the rotation of each network's addresses goes on after a restart: one small file per
//! network.
//!
//! The leases alone do not tell: an address that was released just before the restart has none, and
//! would be leased again at once, while its neighbours still know its last holder. A file that is
//! missing or damaged only means that the rotation begins elsewhere. It needs no fsync: after a
//! power failure no neighbour knows a container.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Room for an address of each family.
const FILE_BYTES: usize = 80;

#[derive(Debug)]
pub(super) struct Positions {
    directory: PathBuf,
    files: HashMap<String, File>,
    /// What was read or written last, by network and whether the family is IPv6.
    known: HashMap<(String, bool), Option<IpAddr>>,
}

impl Positions {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("positions"),
            files: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// The address of that family at which the rotation goes on.
    pub(super) fn read(&mut self, network: &str, is_v6: bool) -> Option<IpAddr> {
        let key = (network.to_owned(), is_v6);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let address = self.read_file(network, is_v6);
        self.known.insert(key, address);
        address
    }

    fn read_file(&self, network: &str, is_v6: bool) -> Option<IpAddr> {
        let path = self.directory.join(network);
        // Anything but a small file is none of ours.
        let metadata = fs::symlink_metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES as u64 {
            return None;
        }
        let text = fs::read_to_string(path).ok()?;
        text.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .find(|address: &IpAddr| address.is_ipv6() == is_v6)
    }

    /// Records the positions of a network, of either family. Best effort.
    pub(super) fn write(&mut self, network: &str, positions: &[IpAddr]) {
        let mut text = String::new();
        for address in positions {
            self.known
                .insert((network.to_owned(), address.is_ipv6()), Some(*address));
            text += &address.to_string();
            text.push(' ');
        }
        // Always as long, so that one write replaces all of the previous text.
        while text.len() + 1 < FILE_BYTES {
            text.push(' ');
        }
        text.push('\n');
        let written = self
            .file(network)
            .and_then(|file| file.write_all_at(text.as_bytes(), 0));
        if let Err(error) = written {
            self.files.remove(network);
            log::debug!("network {network:?}: cannot record the last address: {error}");
        }
    }

    fn file(&mut self, network: &str) -> io::Result<&mut File> {
        if !self.files.contains_key(network) {
            fs::create_dir_all(&self.directory)?;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(self.directory.join(network))?;
            file.set_len(0)?;
            self.files.insert(network.to_owned(), file);
        }
        self.files
            .get_mut(network)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
