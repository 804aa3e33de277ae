//! All providers of one agent: which one serves a network, and which one made an intent.

use std::collections::HashSet;
use std::path::Path;

use tokio::sync::mpsc::UnboundedSender;

use super::bridge::BridgeProvider;
use super::{Intent, Lost, Provider, ProviderError, ProviderIntent};
use crate::config::{Network, NetworkProvider};
use crate::container::ContainerId;

/// The providers, sharing one state directory.
pub struct Providers {
    bridge: BridgeProvider,
}

impl Providers {
    /// Providers whose state lives below `state_dir`, and that report lost interfaces to `lost`.
    pub fn new(state_dir: &Path, lost: UnboundedSender<Lost>) -> Result<Self, ProviderError> {
        Ok(Self {
            bridge: BridgeProvider::new(state_dir, lost)?,
        })
    }

    /// The provider of a network.
    #[must_use]
    pub fn of(&self, network: &Network) -> &dyn Provider {
        match network.provider {
            NetworkProvider::Bridge(_) => &self.bridge,
        }
    }

    /// The provider that made an intent.
    #[must_use]
    pub fn of_intent(&self, intent: &Intent) -> &dyn Provider {
        match intent.provider {
            ProviderIntent::Bridge(_) => &self.bridge,
        }
    }

    /// As [`Provider::sweep`], of all of them.
    pub async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        self.bridge.sweep(known, damaged).await
    }
}
