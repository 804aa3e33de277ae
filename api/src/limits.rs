//! The limits of one container, which agents and managers share. Beyond them a request is refused
//! before any of its parts is looked at.

/// The most networks, and so interfaces, of a container.
pub const MAX_NETWORKS: usize = 16;
/// The most addresses that a container may request.
pub const MAX_ADDRESSES: usize = 64;
/// The most port mappings of a container, counted for each protocol.
pub const MAX_PORT_MAPPINGS: usize = 256;
/// The most labels and groups of a container's networks.
pub const MAX_LABELS: usize = 512;
/// The most bytes of the labels and groups of a container's networks.
pub const MAX_LABEL_BYTES: usize = 64 << 10;
/// The longest id of a container without those of its parents, in bytes.
pub const MAX_CONTAINER_ID_BYTES: usize = 255;
/// The most containers in which a container may be nested.
pub const MAX_CONTAINER_DEPTH: usize = 32;
