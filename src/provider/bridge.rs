//! The embedded default: a Linux bridge a network.
use serde::{Deserialize, Serialize};

/// What the bridge provider needs to undo an attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BridgeIntent {
    /// The bridge's interface name.
    pub bridge: String,
    /// The host's end of the veth pair.
    pub host_interface: String,
}
