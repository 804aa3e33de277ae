//! Strays: what this program left on the host, and what belongs to no container any more. A sweep
//! removes them when the agent starts, `contrail-mesos check` at any time.
//!
//! Invariants: an object is a stray only if it has the names or marks of this instance. What exists is
//! listed before the containers are read: whatever a container has, its checkpoint names before it is
//! made. Strays that are to be removed are looked for once more, under the locks that attaches respect.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;

use super::bridge::BridgeStray;
use super::cni::CniStray;
use super::contrail::ContrailStray;
use super::ownership::truncated;
use super::{Intent, ProviderErrors, ProviderIntent};
use contrail_mesos_api::container::ContainerId;

/// What a stray is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrayKind {
    /// The host end of an interface.
    Interface,
    /// A bridge without ports.
    Bridge,
    /// An element of a set of the nftables table.
    NftablesElement,
    /// The routing rules that keep a subnet closed.
    RoutingRules,
    /// The lease of an address.
    Lease,
    /// The lease of an address that an attached container has is missing.
    MissingLease,
    /// The vRouter agent's port files of a container.
    PortFiles,
    /// The record of what CNI plugins made.
    CniRecord,
    /// The teardown of a container that has ended is not complete.
    PendingTeardown,
    /// The handle of a network namespace.
    NamespaceHandle,
    /// The files of a container below /etc.
    EtcFiles,
    /// The file system of those files, without a container.
    EtcMount,
    /// A checkpoint that cannot be read.
    DamagedCheckpoint,
    /// A container that is alive without a checkpoint.
    LivingContainer,
    /// The checkpoint of a container that the agent does not know.
    UnknownContainer,
    /// Objects in Contrail for a container that this host does not have.
    ContrailObjects,
    /// The objects in Contrail of an attached container are missing.
    MissingObjects,
}

impl StrayKind {
    /// The code that JSON has.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Bridge => "bridge",
            Self::NftablesElement => "nftables-element",
            Self::RoutingRules => "routing-rules",
            Self::Lease => "lease",
            Self::MissingLease => "missing-lease",
            Self::PortFiles => "port-files",
            Self::CniRecord => "cni-record",
            Self::PendingTeardown => "pending-teardown",
            Self::NamespaceHandle => "namespace-handle",
            Self::EtcFiles => "etc-files",
            Self::EtcMount => "etc-mount",
            Self::DamagedCheckpoint => "damaged-checkpoint",
            Self::LivingContainer => "living-container",
            Self::UnknownContainer => "unknown-container",
            Self::ContrailObjects => "contrail-objects",
            Self::MissingObjects => "missing-objects",
        }
    }
}

impl fmt::Display for StrayKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.code())
    }
}

/// The containers of this host: what belongs to none of them is a stray.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepScope<P = ProviderIntent> {
    /// Everything that containers have.
    pub intents: Vec<Intent<P>>,
    /// Containers whose intents are not known. Whatever names them stays.
    pub others: HashSet<ContainerId>,
}

impl<P> Default for SweepScope<P> {
    fn default() -> Self {
        Self {
            intents: Vec::new(),
            others: HashSet::new(),
        }
    }
}

/// What attached containers have, and what keeps them attached.
#[derive(Debug)]
pub struct HeldIntents<G, P = ProviderIntent> {
    /// Keeps the containers from being detached while it exists.
    pub guard: G,
    /// When it does so no more. Nothing is given to the containers after that.
    pub deadline: Instant,
    /// What they have.
    pub intents: Vec<Intent<P>>,
}

/// Reads which containers there are at that moment.
pub type ReadScope = dyn Fn() -> Result<SweepScope, ProviderErrors> + Send + Sync;

/// A stray of one of the providers.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderStray {
    /// What it is.
    pub kind: StrayKind,
    /// Its name on this host.
    pub object: String,
    /// The container that it names, by the file name, of which very long ones are cut.
    pub container: Option<String>,
    /// The network that it names.
    pub network: Option<String>,
    pub(super) origin: StrayOrigin,
}

impl ProviderStray {
    /// Whether it names the container with that file name.
    #[must_use]
    pub fn names(&self, file_name: &str) -> bool {
        let container = self.container.as_deref();
        container.is_some_and(|container| truncated(container) == truncated(file_name))
    }

    /// Whose address it is, if it is a lease.
    #[must_use]
    pub fn lease(&self) -> Option<(IpAddr, &ContainerId)> {
        match &self.origin {
            StrayOrigin::Bridge(BridgeStray::Lease(lease)) => {
                Some((lease.address, &lease.holder.as_ref()?.container))
            }
            _ => None,
        }
    }
}

/// The provider whose stray it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StrayOrigin {
    Bridge(BridgeStray),
    Contrail(ContrailStray),
    Cni(CniStray),
}
