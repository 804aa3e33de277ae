//! How much of the overlays is used.

use ipnet::IpNet;

/// How much of one overlay's subnet is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayUsage {
    /// The overlay's name.
    pub overlay: String,
    /// Whether nodes get new subnets of it.
    pub enabled: bool,
    /// Whether its parts are blocks that nodes borrow, of which a node may have several or none.
    pub lends_blocks: bool,
    /// The subnet of all nodes together.
    pub subnet: IpNet,
    /// The prefix length of a part.
    pub prefix: u8,
    /// How many parts nodes have. A node has one, unless parts are blocks.
    pub used: u64,
    /// How many more can be given. Parts of another size or of an earlier configuration make it
    /// smaller than the rest of `total`.
    pub free: u64,
    /// How many parts there are in all, at most `u64::MAX`.
    pub total: u64,
}

/// How much of a subnet of the tunnel endpoints is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUsage {
    /// The subnet.
    pub subnet: IpNet,
    /// How many nodes have an address of it.
    pub used: u64,
    /// How many more nodes can get one.
    pub free: u64,
    /// How many there are in all, at most `u64::MAX`.
    pub total: u64,
}
