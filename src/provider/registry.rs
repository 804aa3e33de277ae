//! All providers of one agent: which one serves a network, and which one made an intent.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use futures::future::join_all;
use tokio::sync::mpsc::UnboundedSender;

use super::bridge::BridgeProvider;
use super::cni::CniProvider;
use super::contrail::ContrailProvider;
use super::{Attachment, Intent, Lost, Provider, ProviderError, ProviderIntent};
use crate::config::{Config, Network, NetworkProvider};
use contrail_mesos_api::container::ContainerId;

/// The providers, sharing one state directory.
pub struct Providers {
    bridge: BridgeProvider,
    contrail: ContrailProvider,
    cni: CniProvider,
}

impl Providers {
    /// Providers that keep their state in the configured directory, and report lost interfaces to
    /// `lost`. Needs a tokio runtime.
    pub fn new(config: &Config, lost: UnboundedSender<Lost>) -> Result<Self, ProviderError> {
        Ok(Self {
            bridge: BridgeProvider::new(&config.state_dir, lost.clone())?,
            contrail: ContrailProvider::new(config, lost.clone())?,
            cni: CniProvider::new(config, lost)?,
        })
    }

    fn all(&self) -> [&dyn Provider; 3] {
        [&self.bridge, &self.contrail, &self.cni]
    }

    /// The provider of a network.
    #[must_use]
    pub fn of(&self, network: &Network) -> &dyn Provider {
        match network.provider {
            NetworkProvider::Bridge(_) => &self.bridge,
            NetworkProvider::Contrail(_) => &self.contrail,
            NetworkProvider::Cni(_) => &self.cni,
        }
    }

    /// The provider that made an intent.
    #[must_use]
    pub fn of_intent(&self, intent: &Intent) -> &dyn Provider {
        match intent.provider {
            ProviderIntent::Bridge(_) => &self.bridge,
            ProviderIntent::Contrail(_) => &self.contrail,
            ProviderIntent::Cni(_) => &self.cni,
        }
    }

    /// As [`Provider::start`], whoever serves the container's networks.
    pub fn start(&self, intents: &[&Intent]) {
        for (provider, own) in self.by_provider(intents) {
            provider.start(&own.intents);
        }
    }

    /// As [`Provider::attach_all`], whoever serves the container's networks.
    pub async fn attach_all(
        &self,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, Vec<ProviderError>> {
        let parts = self.by_provider(intents);
        let attached = join_all(
            parts
                .iter()
                .map(|(provider, own)| provider.attach_all(&own.intents, namespace)),
        )
        .await;
        let mut made: Vec<(usize, Attachment)> = Vec::new();
        let mut errors = Vec::new();
        for (result, (_, own)) in attached.into_iter().zip(parts) {
            match result {
                Ok(attachments) => made.extend(own.places.into_iter().zip(attachments)),
                Err(failed) => errors.extend(failed),
            }
        }
        if errors.is_empty() {
            made.sort_by_key(|(place, _)| *place);
            Ok(made.into_iter().map(|(_, made)| made).collect())
        } else {
            Err(errors)
        }
    }

    /// As [`Provider::detach_all`], whoever serves the container's networks.
    pub async fn detach_all(&self, intents: &[&Intent]) -> Result<(), Vec<ProviderError>> {
        let parts = self.by_provider(intents);
        let detached = parts
            .iter()
            .map(|(provider, own)| provider.detach_all(&own.intents));
        all(join_all(detached).await)
    }

    /// As [`Provider::sweep`], of all of them.
    pub async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        let swept = self.all().map(|provider| provider.sweep(known, damaged));
        all(join_all(swept).await)
    }

    /// A container's intents, by who made them.
    fn by_provider<'a>(&self, intents: &[&'a Intent]) -> Vec<(&dyn Provider, Own<'a>)> {
        let own = |provider: &dyn Provider| {
            let of_provider = intents
                .iter()
                .enumerate()
                .filter(|(_, intent)| std::ptr::addr_eq(self.of_intent(intent), provider));
            let (places, intents) = of_provider.map(|(place, intent)| (place, *intent)).unzip();
            Own { places, intents }
        };
        self.all()
            .into_iter()
            .map(|provider| (provider, own(provider)))
            .filter(|(_, own)| !own.intents.is_empty())
            .collect()
    }
}

/// What one provider has of a container.
struct Own<'a> {
    /// Where each intent stands among all of the container's.
    places: Vec<usize>,
    intents: Vec<&'a Intent>,
}

fn all(results: Vec<Result<(), Vec<ProviderError>>>) -> Result<(), Vec<ProviderError>> {
    let errors: Vec<ProviderError> = results
        .into_iter()
        .filter_map(Result::err)
        .flatten()
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}
