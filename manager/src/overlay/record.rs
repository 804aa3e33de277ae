//! The stored record of a node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use contrail_mesos_api::text::{Quoted, excerpt};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The version of the layout of records without blocks.
const LAYOUT: u32 = 1;
/// That of records with blocks, which earlier versions of the manager refuse.
const BLOCKS_LAYOUT: u32 = 2;
/// The longest name of a node: that of a host in the DNS.
const MAX_NAME_BYTES: usize = 253;
/// The shortest block that can be divided into halves with an address for a container each.
const MAX_PREFIX: u8 = 29;
const MAX_PREFIX6: u8 = 125;
/// The prefix lengths that IPv4 blocks may have. Those of IPv6 have as many addresses.
pub(super) const BLOCK_PREFIXES: RangeInclusive<u8> = 26..=30;
/// The prefix length of IPv4 blocks, if the file does not say.
pub(super) const DEFAULT_BLOCK_PREFIX: u8 = 28;

/// A node, and what it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeRecord {
    layout: u32,
    /// The node's name.
    pub(super) name: String,
    /// Its address in the underlay.
    pub(super) address: IpAddr,
    /// The address of its tunnel endpoint; none if the subnet of the endpoints has changed and the
    /// new one is used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vtep: Option<Ipv4Addr>,
    /// The IPv6 address of its tunnel endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vtep6: Option<Ipv6Addr>,
    /// Its blocks by the name of the overlay, which may no longer be configured.
    #[serde(default)]
    pub(super) overlays: BTreeMap<String, NodeBlocks>,
}

/// A node's blocks of one overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeBlocks {
    /// Those in use: at most one of each family.
    #[serde(default)]
    pub(super) subnets: Vec<IpNet>,
    /// Those that it had while the overlay had another subnet. Containers may still have their
    /// addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) retired: Vec<IpNet>,
    /// Blocks that it has borrowed. Those are in use that lie in the overlay's subnet, while the overlay
    /// lends blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) blocks: Vec<IpNet>,
    /// Blocks that it has given back, which no other node gets for some time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) resting: Vec<IpNet>,
    /// How often it has given blocks back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) returned: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl NodeRecord {
    /// A record without any allocation.
    pub(super) fn new(name: &str, address: IpAddr) -> Self {
        Self {
            layout: LAYOUT,
            name: name.to_owned(),
            address,
            vtep: None,
            vtep6: None,
            overlays: BTreeMap::new(),
        }
    }

    /// The text that is stored.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let has_blocks = self.overlays.values().any(NodeBlocks::has_lent);
        let record = Self {
            layout: if has_blocks { BLOCKS_LAYOUT } else { LAYOUT },
            ..self.clone()
        };
        // Serialization of addresses and strings cannot fail.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// Reads what is stored under a name. Returns why it cannot be right, if it cannot.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Layout {
            layout: u32,
        }
        // It quotes the record.
        let shown = |error: serde_json::Error| excerpt(error.to_string().as_bytes());
        let Layout { layout } = serde_json::from_slice(bytes).map_err(shown)?;
        if ![LAYOUT, BLOCKS_LAYOUT].contains(&layout) {
            return Err(format!(
                "its layout {layout} is not one of {LAYOUT} and {BLOCKS_LAYOUT}, the known ones: a later \
                 version of the manager wrote it"
            ));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(shown)?;
        record.check(name)?;
        // It is that of the record's text, not of what the record has.
        Ok(Self {
            layout: LAYOUT,
            ..record
        })
    }

    fn check(&self, name: &str) -> Result<(), String> {
        if self.name != name || !is_node_name(name) {
            return Err("its name is another one, or not that of a node".to_owned());
        }
        if !is_node_address(self.address) {
            return Err(format!("{} is not the address of a host", self.address));
        }
        for (overlay, blocks) in &self.overlays {
            for block in blocks.lent() {
                let prefix = block.prefix_len().checked_sub(block.max_prefix_len() - 32);
                let is_block = prefix.is_some_and(|prefix| BLOCK_PREFIXES.contains(&prefix));
                if block != block.trunc() || !is_block {
                    return Err(format!("{block}, of an overlay, is not a block"));
                }
            }
            for block in blocks.subnets.iter().chain(&blocks.retired).copied() {
                let longest = match block {
                    IpNet::V4(_) => MAX_PREFIX,
                    IpNet::V6(_) => MAX_PREFIX6,
                };
                if block != block.trunc() || !(1..=longest).contains(&block.prefix_len()) {
                    return Err(format!(
                        "{block}, of an overlay, is not the subnet of a node"
                    ));
                }
            }
            let v4 = |block: &&IpNet| matches!(block, IpNet::V4(_));
            let count4 = blocks.subnets.iter().filter(v4).count();
            if count4 > 1 || blocks.subnets.len() - count4 > 1 {
                let overlay = Quoted(overlay.as_bytes());
                return Err(format!(
                    "it has several subnets of one family in the overlay {overlay}"
                ));
            }
        }
        Ok(())
    }

    /// All blocks, those in use and those that are retired.
    pub(super) fn blocks(&self) -> impl Iterator<Item = IpNet> {
        self.overlays.values().flat_map(NodeBlocks::all)
    }

    /// The addresses of the tunnel endpoint.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.vtep.map(IpAddr::V4);
        v4.into_iter().chain(self.vtep6.map(IpAddr::V6))
    }
}

impl NodeBlocks {
    fn all(&self) -> impl Iterator<Item = IpNet> {
        let subnets = self.subnets.iter().chain(&self.retired).copied();
        subnets.chain(self.lent())
    }

    /// The blocks that it has borrowed or given back.
    pub(super) fn lent(&self) -> impl Iterator<Item = IpNet> {
        self.blocks.iter().chain(&self.resting).copied()
    }

    /// Whether it has or had blocks, of which earlier versions of the manager know nothing.
    fn has_lent(&self) -> bool {
        self.returned > 0 || self.lent().next().is_some()
    }

    /// The block in use of the same family as a subnet.
    pub(super) fn current(&self, family_of: IpNet) -> Option<IpNet> {
        let same = |block: &&IpNet| is_same_family(**block, family_of);
        self.subnets.iter().find(same).copied()
    }
}

/// Whether both are IPv4, or both IPv6.
pub(super) fn is_same_family(one: IpNet, other: IpNet) -> bool {
    matches!(
        (one, other),
        (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))
    )
}

/// Whether it can be the name of a node, and of a node of ZooKeeper.
pub(super) fn is_node_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether it can be the underlay address of a node. It is in its shortest form.
pub(super) fn is_node_address(address: IpAddr) -> bool {
    address == address.to_canonical() && !address.is_unspecified() && !address.is_multicast()
}
