//! The embedded default: a Linux bridge a network.
//!
//! - A container's veth pair is made in one request, its inner end straight inside the namespace.
//! - The bridge is made by the first container and removed with the last; so is the nftables
//!   table. A bridge that we did not make is used as it is, and never changed or removed; an
//!   interface of that name that is no bridge is an error.
//! - Everything that we make says in its alias or comment which instance it belongs to, so that
//!   several instances on one host leave each other alone.
//! - Kernel settings that are needed (forwarding, `route_localnet` of the bridge) are written
//!   where they differ. Forwarding is not turned off again: others may have come to need it.
//!
//! An attach or detach that was begun ends as it would have, even when nobody waits for it any
//! more; a detach waits for the attach that it undoes.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_blocking;

use self::host::Host;
use self::registry::Registry;
use super::ipam::{self, Holder, Ipam};
use super::mark::Tag;
use super::{
    AddressRequest, Attachment, BoxError, Intent, Lost, NetworkRequest, Provider, ProviderError,
    ProviderIntent, Statistics, counters, failed, refused,
};
use crate::config::{BridgeNetwork, NetworkProvider};
use crate::net::link_reaper::LinkReaper;
use crate::net::link_watch::LinkWatch;
use crate::net::netns;
use crate::net::nft::Table;
use contrail_mesos_api::container::ContainerId;

mod attach;
mod detach;
mod elements;
mod host;
mod plan;
mod registry;
mod repair;
#[cfg(test)]
mod tests;

/// What the bridge provider needs to undo an attach, and to do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BridgeIntent {
    /// The bridge's interface name.
    pub bridge: String,
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// The bridge's own addresses, of every family that the network has.
    #[serde(default)]
    pub bridge_addresses: Vec<IpNet>,
    /// Whether what leaves the network's subnet does so with the host's address.
    #[serde(default)]
    pub masquerade: bool,
    /// Whether a frame may leave by the bridge port that it came in by.
    #[serde(default)]
    pub hairpin: bool,
    /// Destinations that the container reaches by the gateway.
    #[serde(default)]
    pub routes: Vec<IpNet>,
}

/// The provider `bridge`, in the network namespace where it was made.
#[derive(Debug)]
pub struct BridgeProvider {
    inner: Arc<Inner>,
    _watch: LinkWatch,
}

/// What the provider's threads share.
#[derive(Debug)]
struct Inner {
    tag: Tag,
    ipam: Ipam,
    host: Host,
    table: Table,
    reaper: LinkReaper,
    registry: Registry,
}

/// Our part of an intent; of another provider's intent, a part that names nothing.
fn own(intent: &Intent) -> &BridgeIntent {
    static NOTHING: BridgeIntent = BridgeIntent {
        bridge: String::new(),
        host_interface: String::new(),
        bridge_addresses: Vec::new(),
        masquerade: false,
        hairpin: false,
        routes: Vec::new(),
    };
    match &intent.provider {
        ProviderIntent::Bridge(own) => own,
        ProviderIntent::Contrail(_) | ProviderIntent::Cni(_) => &NOTHING,
    }
}

/// The configuration of a network of ours.
fn network(request: &NetworkRequest) -> Result<&BridgeNetwork, ProviderError> {
    match &request.network.provider {
        NetworkProvider::Bridge(network) => Ok(network),
        NetworkProvider::Contrail(_) | NetworkProvider::Cni(_) => Err(refused(
            &request.network.name,
            "is no network of provider \"bridge\"",
        )),
    }
}

fn holder(intent: &Intent) -> Holder {
    Holder {
        container: intent.container.clone(),
        interface: intent.interface.clone(),
    }
}

/// Runs file and netlink work where it may block.
async fn blocking<T: Send + 'static>(
    network: &str,
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(failed(network, "finish a piece of work", error)))
}

impl BridgeProvider {
    /// A provider that keeps its leases below `state_dir`, and tells `lost` of interfaces that go
    /// away without a detach. Works in the network namespace of the calling thread, in which all
    /// later calls have to be made, too. Changes nothing on the host.
    pub fn new(state_dir: &Path, lost: UnboundedSender<Lost>) -> Result<Self, ProviderError> {
        let fail = |error: BoxError| failed("*", "set up the bridge provider", error);
        let tag = Tag::of(state_dir);
        let inner = Arc::new(Inner {
            ipam: Ipam::new(state_dir),
            host: Host::new(state_dir, tag.clone()),
            tag,
            table: Table::open().map_err(|error| fail(error.into()))?,
            reaper: LinkReaper::start().map_err(|error| fail(error.into()))?,
            registry: Registry::default(),
        });
        let watch = repair::watch(Arc::clone(&inner), lost).map_err(|error| fail(error.into()))?;
        Ok(Self {
            inner,
            _watch: watch,
        })
    }

    /// Puts back whatever is missing of the host's side of every attached container: bridges,
    /// ports, the nftables table. Says what was.
    pub async fn repair(&self) -> Result<Vec<String>, ProviderError> {
        let inner = Arc::clone(&self.inner);
        blocking("*", move || inner.repair()).await
    }

    /// As [`Provider::attach_all`], of one network.
    async fn attach(
        &self,
        intent: &Intent,
        namespace: BorrowedFd<'_>,
    ) -> Result<Attachment, ProviderError> {
        let network = &intent.network;
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| failed(network, "keep the container's namespace open", error))?;
        let entry = self.inner.registry.begin(intent)?;
        let inner = Arc::clone(&self.inner);
        netns::on_own_thread("cm-attach", move |thread| {
            inner.attach(thread, &entry, &namespace)
        })
        .await
        .map_err(|error| failed(network, "attach", error))??;
        Ok(Attachment {
            addresses: intent.addresses.clone(),
            gateways: intent.gateways.clone(),
            mac: intent.mac,
            dns: intent.dns.clone(),
        })
    }

    /// As [`Provider::detach_all`], of one network.
    async fn detach(&self, intent: &Intent) -> Result<(), Vec<ProviderError>> {
        let network = intent.network.clone();
        let owned = Arc::new(intent.clone());
        let (inner, of) = (Arc::clone(&self.inner), Arc::clone(&owned));
        let mut errors: Vec<_> = blocking(&network, move || inner.stop(&of))
            .await
            .err()
            .into_iter()
            .collect();
        let link = own(intent).host_interface.clone();
        if let Err(error) = self.inner.reaper.delete(link.clone()).await {
            // The address stays taken: the interface may still answer to it.
            errors.push(failed(
                &network,
                format!("remove the interface {link}"),
                error,
            ));
            return Err(errors);
        }
        let inner = Arc::clone(&self.inner);
        let rest = spawn_blocking(move || inner.finish(&owned)).await;
        errors
            .extend(rest.unwrap_or_else(|error| vec![failed(&network, "finish a detach", error)]));
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// The intent of a request that was given `addresses`.
fn intent(request: &NetworkRequest, network: &BridgeNetwork, addresses: Vec<IpNet>) -> Intent {
    let bridge_addresses: Vec<IpNet> = [
        network
            .v4
            .as_ref()
            .and_then(|v4| IpNet::new(v4.gateway.into(), v4.subnet.prefix_len()).ok()),
        network
            .v6
            .as_ref()
            .and_then(|v6| IpNet::new(v6.gateway.into(), v6.subnet.prefix_len()).ok()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let gateways = bridge_addresses
        .iter()
        .map(IpNet::addr)
        .filter(|gateway| {
            addresses
                .iter()
                .any(|net| net.addr().is_ipv4() == gateway.is_ipv4())
        })
        .collect();
    Intent {
        container: request.container.clone(),
        network: request.network.name.clone(),
        interface: request.interface.clone(),
        addresses,
        gateways,
        mac: request.container.mac(&request.interface),
        mtu: network.mtu,
        ports: request.ports.clone(),
        dns: request.network.dns.clone().unwrap_or_default(),
        provider: ProviderIntent::Bridge(BridgeIntent {
            bridge: network.bridge.clone(),
            host_interface: request.container.host_interface(&request.interface),
            bridge_addresses,
            masquerade: network.masquerade,
            hairpin: network.hairpin,
            routes: network.routes.clone(),
        }),
    }
}

#[async_trait]
impl Provider for BridgeProvider {
    fn validate(&self, request: &NetworkRequest) -> Result<(), Vec<ProviderError>> {
        let network = network(request).map_err(|error| vec![error])?;
        let name = &request.network.name;
        let mut errors = ipam::check(name, network, &request.addresses);
        let is_name = (1..=15).contains(&request.interface.len())
            && request
                .interface
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            errors.push(refused(
                name,
                format!(
                    "{:?} is no name for an interface; 1 to 15 letters and digits are",
                    request.interface
                ),
            ));
        }
        let mut seen = HashMap::new();
        for port in &request.ports {
            if port.host_port == 0 || port.container_port == 0 {
                errors.push(refused(
                    name,
                    "port 0 cannot be mapped; ports are 1 to 65535",
                ));
            }
            if seen.insert((port.protocol, port.host_port), port).is_some() {
                errors.push(refused(
                    name,
                    format!(
                        "port {}/{} of the host is mapped twice",
                        port.host_port, port.protocol
                    ),
                ));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    async fn plan(&self, request: &NetworkRequest) -> Result<Vec<String>, Vec<ProviderError>> {
        self.validate(request)?;
        let (inner, request) = (Arc::clone(&self.inner), request.clone());
        let network = request.network.name.clone();
        blocking(&network, move || {
            let network = self::network(&request)?;
            let addresses =
                inner
                    .ipam
                    .preview(&request.network.name, network, &request.addresses)?;
            inner.plan(&intent(&request, network, addresses))
        })
        .await
        .map_err(|error| vec![error])
    }

    async fn reserve(&self, request: &NetworkRequest) -> Result<Intent, ProviderError> {
        let (inner, request) = (Arc::clone(&self.inner), request.clone());
        let name = request.network.name.clone();
        blocking(&name, move || {
            let network = self::network(&request)?;
            let holder = Holder {
                container: request.container.clone(),
                interface: request.interface.clone(),
            };
            let requests: &[AddressRequest] = &request.addresses;
            let addresses =
                inner
                    .ipam
                    .reserve(&request.network.name, network, &holder, requests)?;
            Ok(intent(&request, network, addresses))
        })
        .await
    }

    async fn attach_all(
        &self,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, Vec<ProviderError>> {
        let attached = intents.iter().map(|intent| self.attach(intent, namespace));
        let mut made = Vec::new();
        let mut errors = Vec::new();
        for result in join_all(attached).await {
            match result {
                Ok(attachment) => made.push(attachment),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(made)
        } else {
            Err(errors)
        }
    }

    async fn detach_all(&self, intents: &[&Intent]) -> Result<(), Vec<ProviderError>> {
        let detached = intents.iter().map(|intent| self.detach(intent));
        let errors: Vec<_> = join_all(detached)
            .await
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

    async fn adopt(&self, intent: &Intent) -> Result<(), ProviderError> {
        let (inner, intent) = (Arc::clone(&self.inner), intent.clone());
        let network = intent.network.clone();
        blocking(&network, move || inner.adopt(&intent)).await
    }

    async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        let (known, damaged) = (known.to_vec(), damaged.clone());
        let inner = Arc::clone(&self.inner);
        let errors = spawn_blocking(move || inner.sweep(&known, &damaged))
            .await
            .unwrap_or_else(|error| vec![failed("*", "finish a sweep", error)]);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    async fn statistics(&self, intent: &Intent) -> Result<Statistics, ProviderError> {
        counters::of_host_end(&intent.network, own(intent).host_interface.clone()).await
    }
}
