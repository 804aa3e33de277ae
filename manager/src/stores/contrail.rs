//! Our objects in the VNC API: a cache that says what to look at. Writers read the object itself
//! first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::source::Source;
use crate::model::{CachedVm, Orphan};
use crate::vnc::FqName;

/// Our objects in the VNC API, by the last full listing and what was written since.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContrailView {
    pub source: Source,
    /// Boxed: a hash table over-allocates, and `CachedVm` is large.
    pub vms: HashMap<Uuid, Box<CachedVm>>,
    /// Virtual-routers by the name of their host.
    pub routers: HashMap<ArcStr, Router>,
    /// The networks of our containers.
    pub networks: HashMap<Arc<FqName>, Uuid>,
    /// When each was first seen to be an orphan.
    pub orphans: HashMap<Orphan, Instant>,
}

/// A virtual-router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Router {
    pub uuid: Uuid,
    pub address: Option<IpAddr>,
}
