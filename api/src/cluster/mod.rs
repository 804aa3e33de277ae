//! What managers and node daemons exchange about the cluster: the watch, and the nodes' reports.
//!
//! | request | body | response |
//! |---|---|---|
//! | `GET /v1/watch?node={node}[&since={revision}]` | | 200, a stream of lines, each a [`WatchItem`] |
//! | `PUT /v1/nodes/{node}` | [`NodeReport`] | 200 [`NodeAnswer`] |
//! | `GET /v1/nodes[?node={node}][&address={address}]` | | 200 [`NodeList`] |
//! | `PUT /v1/nodes/{node}/endpoints` | [`EndpointsReport`] | 200 `{}` |
//! | `DELETE /v1/nodes/{node}` | | 200 `{}`: the node is gone for good, its subnets are free |
//!
//! Authentication, authorisation, redirects to the leader and error responses are those of the
//! agents' API ([`agent_api`](crate::agent_api)): `{node}` is the name that a node sends in the
//! header [`AGENT_HEADER`](crate::agent_api::AGENT_HEADER), too.
//!
//! `address` selects the node that has the address itself, or whose subnets contain it.
//!
//! # The watch
//!
//! A stream begins with all objects: `snapshot`, a `put` for each object, `synced`. What a node
//! knew before and is not put between `snapshot` and `synced` is gone. Then follow `put` and
//! `delete` as things change, and a `heartbeat` at least every [`HEARTBEAT_INTERVAL`]. With `since`
//! a manager that still knows what changed after that revision leaves out the snapshot. A reader
//! that is too slow is disconnected, and resumes. A manager refuses a `since` that is later than all it
//! has published with status 409.
//!
//! Invariants: revisions of one stream never decrease, and a client never goes back to a lower one:
//! a manager that has been replaced must not withdraw what its successor added. A silent or closed
//! stream changes nothing. A snapshot without [`Object::EndpointsComplete`] of a node does not have that
//! node's endpoints yet: what a client knows of them stays, until it is put, or the node itself is gone.
//! In the same way, a snapshot without [`Object::ServicesComplete`] does not have all services and names of
//! tasks yet.
//! Kinds and keys that a client does not know are ignored, so managers are
//! upgraded first.

mod client;
mod groups;
mod lines;
mod objects;
mod report;
mod revision;
mod services;
mod status;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use client::{ClusterClient, WatchError, WatchStream};
pub use groups::{
    Admission, Endpoint, IngressRule, MAX_GROUP_NAME_BYTES, MAX_GROUPS, Membership, RuleSource,
    SecurityGroup, is_group_name,
};
pub use objects::{
    Node, NodeSubnets, Object, ObjectKey, Overlay, Underlay, Vtep, block_capacity, halves,
};
pub use report::{
    BlockReport, EndpointsReport, MAX_ENDPOINTS_REPORT_BYTES, MAX_REPORTED_ENDPOINTS, NodeAnswer,
    NodeReport, SubsystemReport, Versions,
};
pub use revision::{InvalidRevision, Revision};
pub use services::{
    Backend, BackendState, InvalidServiceKey, Reach, SERVICE_ZONE, Service, ServiceKey,
    ServiceProtocol, ServiceSettings, TASK_ZONE, TaskInstance, TaskName, TaskPort, Vip,
};
pub use status::{AddressOwner, NodeCondition, NodeList, NodeStatus};

/// How often a stream has a line at least. A client that reads nothing for three times as long
/// connects again.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The longest line of a stream, in bytes; a longer one ends the stream.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The UDP port of VXLAN (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchItem {
    /// All objects follow, each in a [`WatchItem::Put`], up to [`WatchItem::Synced`].
    Snapshot {
        /// The revision of the snapshot.
        revision: Revision,
    },
    /// An object is new, or has changed.
    Put {
        /// The revision after the change.
        revision: Revision,
        /// The whole object.
        object: Object,
    },
    /// An object is gone.
    Delete {
        /// The revision after the change.
        revision: Revision,
        /// Which.
        key: ObjectKey,
    },
    /// The snapshot is complete, or, without a snapshot, the stream goes on from `since`.
    Synced {
        /// The revision that the client has now.
        revision: Revision,
    },
    /// Nothing has changed.
    Heartbeat {
        /// The current revision.
        revision: Revision,
    },
    /// An item of a later version.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}
