//! The namespaces, links and files of all containers on the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use uuid::Uuid;

use super::testbed::Testbed;
use crate::testbed::{agent, leftovers};

/// The node.
#[derive(Debug)]
pub(super) struct Node {
    /// The containers with a handle to their namespace, and the addresses inside.
    pub(super) addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The host's ends of interfaces.
    pub(super) taps: BTreeSet<String>,
    /// Containers with a checkpoint.
    pub(super) checkpoints: BTreeSet<String>,
    /// Containers whose teardown is pending.
    pub(super) pending_teardowns: BTreeSet<String>,
    /// Virtual machines and interfaces with a file for the vRouter agent.
    pub(super) port_files: BTreeSet<(Uuid, Uuid)>,
}

impl Node {
    pub(super) fn read(testbed: &Testbed) -> Result<Self> {
        let host = &testbed.node;
        let mut addresses = BTreeMap::new();
        // Each line has a container's name, or one of its addresses: "1: eth0 inet 5.5.5.3/24 …".
        let text = host.sh("for n in $(ls -A /run/netns); do echo $n; \
             ip netns exec $n ip -o address show scope global || true; done")?;
        let mut container = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [name] => {
                    name.clone_into(&mut container);
                    addresses.insert(container.clone(), BTreeSet::new());
                }
                [_, _, _, prefix, ..] => {
                    let address = prefix
                        .split('/')
                        .next()
                        .unwrap_or_default()
                        .parse()
                        .with_context(|| line.to_owned())?;
                    addresses
                        .get_mut(&container)
                        .context("an address without a container")?
                        .insert(address);
                }
                _ => {}
            }
        }
        let links = testbed.node_links()?;
        let state = agent::state_dir(host);
        let mut port_files = BTreeSet::new();
        for machine in names(&testbed.vrouter.port_files())? {
            for name in names(&testbed.vrouter.port_files().join(&machine))? {
                let interface = name.parse().with_context(|| format!("port file {name}"))?;
                port_files.insert((machine.parse()?, interface));
            }
        }
        Ok(Self {
            addresses,
            taps: links,
            checkpoints: names(&state.join("containers"))?,
            pending_teardowns: names(&state.join("contrail/pending-teardown"))?,
            port_files,
        })
    }

    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.addresses.keys().cloned().collect()
    }
}

impl Testbed {
    /// The links that exist now, without those from before the first container and those that the
    /// data path uses itself.
    fn node_links(&self) -> Result<BTreeSet<String>> {
        let before = self.clean.to_string();
        let known = |link: &String| {
            link.starts_with("cvr")
                || before.lines().any(|line| {
                    line.strip_prefix("link ")
                        .is_some_and(|known| known.split('@').next() == Some(link))
                })
        };
        Ok(leftovers::links(&self.node)?
            .into_iter()
            // `tap@if2` is a link and its peer.
            .map(|link| link.split('@').next().unwrap_or_default().to_owned())
            .filter(|link| !known(link))
            .collect())
    }
}

/// The names of a directory's entries. Empty if the directory does not exist.
fn names(directory: &Path) -> Result<BTreeSet<String>> {
    if !directory.is_dir() {
        return Ok(BTreeSet::new());
    }
    std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| !name.starts_with('.')))
        .collect()
}
