//! All providers of one agent. Passes each request and each intent to the provider that serves it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::bridge::{BridgeIntent, BridgeProvider, MissingLease, group_findings};
use super::cni::{CniIntent, CniProvider, FailedDel};
use super::contrail::{self, ContrailIntent, ContrailProvider};
use super::ipam::{FamilyUsage, NetworkLease};
use super::none::{NoneIntent, NoneProvider};
use super::overlay::{OverlayError, OverlayNetworks, POLL_INTERVAL};
use super::stray::{HeldIntents, ProviderStray, ReadScope, StrayOrigin, SweepScope};
use super::{
    Attachment, Intent, LostInterface, NetworkRequest, Provider, ProviderError, ProviderErrors,
    ProviderIntent, Statistics,
};
use crate::config::{BridgeNetwork, Config, Network, NetworkProvider, OverlayNetwork};
use crate::net::links::Link;
use contrail_mesos_api::agent_api::Ports;
use contrail_mesos_api::container::ContainerId;

/// A teardown that is not complete although its container has ended. An agent retries it.
#[derive(Clone, Debug)]
pub enum PendingTeardown {
    /// At the vRouter agent or the manager.
    Contrail(contrail::PendingTeardown),
    /// Of a CNI network.
    Cni(Box<FailedDel>),
}

impl PendingTeardown {
    /// Whether this is the teardown of the container that `status` prints by this name.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        match self {
            Self::Contrail(teardown) => {
                let container = teardown.container.as_ref();
                teardown.vm_uuid.to_string() == name
                    || container.is_some_and(|container| container.to_string() == name)
            }
            Self::Cni(del) => del.container().to_string() == name,
        }
    }
}

/// The providers, which share one state directory.
pub struct Providers {
    bridge: BridgeProvider,
    overlays: OverlayNetworks,
    contrail: ContrailProvider,
    cni: CniProvider,
    none: NoneProvider,
}

impl Providers {
    /// Creates providers that keep their state in the configured directory and report lost
    /// interfaces to `lost`. Needs a tokio runtime.
    pub fn new(
        config: &Config,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, ProviderError> {
        let bridge = BridgeProvider::new(&config.state_dir, lost.clone())?;
        Ok(Self {
            overlays: OverlayNetworks::from_file(bridge.node_state(), config.deadlines.prepare),
            bridge,
            contrail: ContrailProvider::new(config, lost.clone())?,
            cni: CniProvider::new(config, lost)?,
            none: NoneProvider,
        })
    }

    /// Waits until the node daemon has published the overlays of `requests`, for a part of the time
    /// for a prepare. Whether it has, `validate` says. Returns until when `reserve` may wait for blocks: all
    /// that a launch waits for takes that part of the time together.
    pub async fn wait_for_overlays(&self, requests: &[NetworkRequest]) -> Instant {
        self.overlays.wait(requests).await
    }

    /// See [`Provider::validate`].
    pub fn validate(&self, request: &NetworkRequest) -> Result<(), ProviderErrors> {
        match &request.network.provider {
            NetworkProvider::Bridge(network) => self.bridge.validate(request, network),
            NetworkProvider::Overlay(network) => {
                let network = self.overlays.requested(request, network)?;
                self.bridge.validate(request, &network)
            }
            NetworkProvider::Contrail(network) => self.contrail.validate(request, network),
            NetworkProvider::Cni(network) => self.cni.validate(request, network),
            NetworkProvider::None => self.none.validate(request, &()),
        }
    }

    /// See [`Provider::plan`].
    pub async fn plan(&self, request: &NetworkRequest) -> Result<Vec<String>, ProviderErrors> {
        match &request.network.provider {
            NetworkProvider::Bridge(network) => self.bridge.plan(request, network).await,
            NetworkProvider::Overlay(network) => {
                let network = self.overlays.requested(request, network)?;
                self.bridge.plan(request, &network).await
            }
            NetworkProvider::Contrail(network) => self.contrail.plan(request, network).await,
            NetworkProvider::Cni(network) => self.cni.plan(request, network).await,
            NetworkProvider::None => self.none.plan(request, &()).await,
        }
    }

    /// See [`Provider::reserve`]. Waits for another block of an overlay until `deadline`.
    pub async fn reserve(
        &self,
        request: &NetworkRequest,
        deadline: Instant,
    ) -> Result<Intent, ProviderError> {
        Ok(match &request.network.provider {
            NetworkProvider::Bridge(network) => {
                TypedIntent::Bridge(self.bridge.reserve(request, network).await?)
            }
            NetworkProvider::Overlay(network) => {
                TypedIntent::Bridge(self.reserve_on_overlay(request, network, deadline).await?)
            }
            NetworkProvider::Contrail(network) => {
                TypedIntent::Contrail(self.contrail.reserve(request, network).await?)
            }
            NetworkProvider::Cni(network) => {
                TypedIntent::Cni(self.cni.reserve(request, network).await?)
            }
            NetworkProvider::None => TypedIntent::None(self.none.reserve(request, &()).await?),
        }
        .into())
    }

    /// As [`Provider::reserve`]. Where this host borrows blocks, it waits for another one if all
    /// addresses are in use. The lease comes first, and then it is looked whether the block is still
    /// this host's: the node daemon withdraws a block first, and then looks for leases.
    async fn reserve_on_overlay(
        &self,
        request: &NetworkRequest,
        overlay: &OverlayNetwork,
        deadline: Instant,
    ) -> Result<Intent<BridgeIntent>, ProviderError> {
        loop {
            let network = self.overlays.requested(request, overlay)?;
            let reserved = self.bridge.reserve(request, &network).await;
            if !network.has_blocks {
                return reserved;
            }
            match reserved {
                Ok(intent) => {
                    let now = self.overlays.requested(request, overlay);
                    let is_kept = now.as_ref().is_ok_and(|now| {
                        let mut addresses = intent.addresses.iter();
                        addresses.all(|net| now.subnets().any(|block| block.contains(&net.addr())))
                    });
                    if is_kept {
                        return Ok(intent);
                    }
                    for error in self
                        .bridge
                        .release(&intent)
                        .await
                        .err()
                        .into_iter()
                        .flatten()
                    {
                        log::warn!("a block was given back meanwhile: {error}");
                    }
                    now?;
                }
                Err(ProviderError::Exhausted { .. }) if Instant::now() < deadline => {
                    sleep(POLL_INTERVAL).await;
                }
                Err(ProviderError::Exhausted {
                    network,
                    family,
                    range,
                }) => {
                    return Err(ProviderError::NoBlock {
                        network,
                        family,
                        overlay: overlay.overlay.clone(),
                        blocks: range,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// See [`Provider::release`].
    pub async fn release(&self, intent: &Intent) -> Result<(), ProviderErrors> {
        match intent.into() {
            TypedIntent::Bridge(intent) => self.bridge.release(&intent).await,
            TypedIntent::Contrail(intent) => self.contrail.release(&intent).await,
            TypedIntent::Cni(intent) => self.cni.release(&intent).await,
            TypedIntent::None(intent) => self.none.release(&intent).await,
        }
    }

    /// See [`Provider::start`].
    pub fn start(&self, intents: &[&Intent]) {
        let intents = IntentsByProvider::new(intents.iter().copied());
        intents.bridge.start(&self.bridge);
        intents.contrail.start(&self.contrail);
        intents.cni.start(&self.cni);
        intents.none.start(&self.none);
    }

    /// See [`Provider::attach_all`].
    pub async fn attach_all(
        &self,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderErrors> {
        let intents = IntentsByProvider::new(intents.iter().copied());
        let (bridge, contrail, cni, none) = tokio::join!(
            intents.bridge.attach_all(&self.bridge, namespace),
            intents.contrail.attach_all(&self.contrail, namespace),
            intents.cni.attach_all(&self.cni, namespace),
            intents.none.attach_all(&self.none, namespace),
        );
        let mut attachments =
            ProviderErrors::collect_results([bridge, contrail, cni, none])?.concat();
        attachments.sort_by_key(|(position, _)| *position);
        Ok(attachments
            .into_iter()
            .map(|(_, attachment)| attachment)
            .collect())
    }

    /// See [`Provider::detach_all`].
    pub async fn detach_all(&self, intents: &[&Intent]) -> Result<(), ProviderErrors> {
        let intents = IntentsByProvider::new(intents.iter().copied());
        // A container without a network has nothing to detach.
        let (bridge, contrail, cni) = tokio::join!(
            intents.bridge.detach_all(&self.bridge),
            intents.contrail.detach_all(&self.contrail),
            intents.cni.detach_all(&self.cni),
        );
        ProviderErrors::collect_results([bridge, contrail, cni]).map(drop)
    }

    /// See [`Provider::check_unused`].
    pub fn check_unused(&self, request: &NetworkRequest) -> Result<(), ProviderError> {
        match &request.network.provider {
            NetworkProvider::Bridge(_) | NetworkProvider::Overlay(_) => {
                self.bridge.check_unused(request)
            }
            NetworkProvider::Contrail(_) => self.contrail.check_unused(request),
            NetworkProvider::Cni(_) => self.cni.check_unused(request),
            NetworkProvider::None => self.none.check_unused(request),
        }
    }

    /// Whether there is a record of what plugins made for this container. Blocks.
    pub(crate) fn has_record(&self, container: &ContainerId) -> bool {
        self.cni.has_record(container)
    }

    /// The subnets of a network on this host, as far as they are known here. Blocks on the file system
    /// for an overlay.
    pub(crate) fn subnets(&self, network: &Network) -> Vec<IpNet> {
        match &network.provider {
            NetworkProvider::Overlay(overlay) => self.overlays.subnets(overlay),
            _ => network.subnets(),
        }
    }

    /// The bridge network that a network is on this host now; none of other providers. Blocks on the file
    /// system for an overlay.
    pub(crate) fn bridge_network(
        &self,
        network: &Network,
    ) -> Option<Result<BridgeNetwork, OverlayError>> {
        match &network.provider {
            NetworkProvider::Bridge(bridge) => Some(Ok(bridge.clone())),
            NetworkProvider::Overlay(overlay) => Some(self.overlays.bridge_network(overlay)),
            NetworkProvider::Contrail(_) | NetworkProvider::Cni(_) | NetworkProvider::None => None,
        }
    }

    /// How many addresses of a network are in use, a family each. Blocks on the file system.
    pub(crate) fn usage(
        &self,
        name: &str,
        network: &BridgeNetwork,
    ) -> Result<Vec<FamilyUsage>, ProviderError> {
        self.bridge.usage(name, network)
    }

    /// The leases of an address, of any network. Blocks on the file system.
    pub(crate) fn leases_of(&self, address: IpAddr) -> Result<Vec<NetworkLease>, ProviderError> {
        self.bridge.leases_of(address)
    }

    /// Leases addresses that a container without an intent has, on a network of provider `bridge` or
    /// `overlay`. Blocks.
    pub(crate) fn hold_addresses(
        &self,
        network: &str,
        container: &ContainerId,
        interface: &str,
        addresses: &[IpAddr],
    ) -> Result<(), ProviderError> {
        self.bridge
            .hold_addresses(network, container, interface, addresses)
    }

    /// The links of this instance that name containers, each with the container's file name, of which
    /// very long ones are cut. Blocks.
    pub(crate) fn container_links(&self) -> Result<Vec<(String, Link)>, ProviderError> {
        self.bridge.container_links()
    }

    /// See [`Provider::remove_container`].
    pub async fn remove_container(&self, container: &ContainerId) -> Result<(), ProviderErrors> {
        let (bridge, contrail, cni) = tokio::join!(
            self.bridge.remove_container(container),
            self.contrail.remove_container(container),
            self.cni.remove_container(container),
        );
        ProviderErrors::collect_results([bridge, contrail, cni]).map(drop)
    }

    /// See [`Provider::adopt`].
    pub async fn adopt(&self, intent: &Intent) -> Result<(), ProviderError> {
        match intent.into() {
            TypedIntent::Bridge(intent) => self.bridge.adopt(&intent).await,
            TypedIntent::Contrail(intent) => self.contrail.adopt(&intent).await,
            TypedIntent::Cni(intent) => self.cni.adopt(&intent).await,
            TypedIntent::None(intent) => self.none.adopt(&intent).await,
        }
    }

    /// See [`Provider::sweep`].
    pub async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        let known = IntentsByProvider::new(known);
        let (bridge, contrail, cni) = tokio::join!(
            self.bridge.sweep(&known.bridge.intents, damaged),
            self.contrail.sweep(&known.contrail.intents, damaged),
            self.cni.sweep(&known.cni.intents, damaged),
        );
        ProviderErrors::collect_results([bridge, contrail, cni]).map(drop)
    }

    /// What this instance made and belongs to no container of the scope. Blocks.
    pub fn strays(&self, scope: &Arc<ReadScope>) -> Result<Vec<ProviderStray>, ProviderErrors> {
        let read = || scope().map(|scope| ScopeByProvider::new(&scope));
        let strays = [
            self.bridge.strays(|| read().map(|all| all.bridge)),
            self.contrail.strays(|| read().map(|all| all.contrail)),
            self.cni.strays(|| read().map(|all| all.cni)),
        ];
        ProviderErrors::collect_results(strays).map(|strays| strays.concat())
    }

    /// Removes those of `strays` that still belong to no container of the scope, while others are
    /// attached and run. Errors of one provider do not stop the others.
    pub async fn remove_strays(
        &self,
        strays: Vec<ProviderStray>,
        scope: &Arc<ReadScope>,
    ) -> Result<(), ProviderErrors> {
        let (mut bridge, mut contrail, mut cni) = (Vec::new(), Vec::new(), Vec::new());
        for stray in strays {
            match stray.origin {
                StrayOrigin::Bridge(stray) => bridge.push(stray),
                StrayOrigin::Contrail(stray) => contrail.push(stray),
                StrayOrigin::Cni(stray) => cni.push(stray),
            }
        }
        let read = || {
            let scope = Arc::clone(scope);
            move || scope().map(|scope| ScopeByProvider::new(&scope))
        };
        let mut results = Vec::new();
        // The addresses of the bridges' containers are free last.
        if !cni.is_empty() {
            let read = read();
            let scope = move || read().map(|all| all.cni);
            results.push(self.cni.remove_strays(cni, scope).await);
        }
        if !contrail.is_empty() {
            let read = read();
            let scope = move || read().map(|all| all.contrail);
            results.push(self.contrail.remove_strays(contrail, scope).await);
        }
        if !bridge.is_empty() {
            let read = read();
            let scope = move || read().map(|all| all.bridge);
            results.push(self.bridge.remove_strays(bridge, scope).await);
        }
        ProviderErrors::collect_results(results).map(drop)
    }

    /// The addresses of attached containers without their lease. Blocks.
    #[must_use]
    pub fn missing_leases(&self, attached: &[Intent]) -> Vec<MissingLease> {
        self.bridge
            .missing_leases(&IntentsByProvider::new(attached).bridge.intents)
    }

    /// Leases the addresses that attached containers have without a lease. `attached` reads their
    /// intents, and keeps them attached until its deadline.
    pub async fn restore_leases<G: 'static>(
        &self,
        attached: impl FnOnce() -> Result<HeldIntents<G>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        let attached = move || {
            let held = attached()?;
            Ok(HeldIntents {
                guard: held.guard,
                deadline: held.deadline,
                intents: IntentsByProvider::new(&held.intents).bridge.intents,
            })
        };
        self.bridge.restore_leases(attached).await
    }

    /// See [`ContrailProvider::pending_teardowns`] and [`CniProvider::failed_dels`]. Blocks on the
    /// file system.
    #[must_use]
    pub fn pending_teardowns(&self) -> Vec<PendingTeardown> {
        let contrail = self.contrail.pending_teardowns().into_iter();
        let cni = self.cni.failed_dels().into_iter();
        contrail
            .map(PendingTeardown::Contrail)
            .chain(cni.map(|del| PendingTeardown::Cni(Box::new(del))))
            .collect()
    }

    /// The containers of this host as the managers have them; none without networks of Contrail.
    pub async fn contrail_ports(&self) -> Option<Result<Vec<Ports>, ProviderError>> {
        self.contrail.ports().await
    }

    /// Whether this host has an interface or a port file of that container. Blocks.
    pub fn has_contrail_traces(&self, ports: &Ports) -> Result<bool, ProviderError> {
        self.contrail.has_traces(ports)
    }

    /// How long an attach to networks of Contrail may take; none without them.
    #[must_use]
    pub fn contrail_deadline(&self) -> Option<Duration> {
        self.contrail.deadline()
    }

    /// Deletes the objects of a container that this host does not have.
    pub async fn delete_contrail_objects(
        &self,
        machine: Uuid,
        container: Option<&ContainerId>,
    ) -> Result<(), ProviderError> {
        self.contrail.delete_objects(machine, container).await
    }

    /// Gives up a pending teardown: removes what this host still has of it, and returns what may be left
    /// elsewhere, a sentence each.
    pub async fn abandon_teardown(
        &self,
        teardown: &PendingTeardown,
    ) -> Result<Vec<String>, ProviderErrors> {
        match teardown {
            PendingTeardown::Contrail(teardown) => {
                Ok(self.contrail.abandon_teardown(teardown).await?)
            }
            PendingTeardown::Cni(del) => Ok(self.cni.abandon_del(del).await?),
        }
    }

    /// Gives up the records of a container's CNI interfaces that cannot be read, as
    /// [`Providers::abandon_teardown`]. Blocks.
    pub fn abandon_records(&self, container: &ContainerId) -> Result<Vec<String>, ProviderError> {
        self.cni.abandon_records(container)
    }

    /// Retries a pending teardown now. Does nothing if it is complete already.
    pub async fn retry_teardown(&self, teardown: &PendingTeardown) -> Result<(), ProviderErrors> {
        match teardown {
            PendingTeardown::Contrail(teardown) => {
                Ok(self.contrail.retry_teardown(teardown).await?)
            }
            PendingTeardown::Cni(del) => self.cni.retry_del(del).await,
        }
    }

    /// See [`Provider::statistics`].
    pub async fn statistics(&self, intent: &Intent) -> Result<Statistics, ProviderError> {
        match intent.into() {
            TypedIntent::Bridge(intent) => self.bridge.statistics(&intent).await,
            TypedIntent::Contrail(intent) => self.contrail.statistics(&intent).await,
            TypedIntent::Cni(intent) => self.cni.statistics(&intent).await,
            TypedIntent::None(intent) => self.none.statistics(&intent).await,
        }
    }

    /// See [`Provider::inspect`].
    pub async fn inspect(
        &self,
        intent: &Intent,
        attachment: Option<&Attachment>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Vec<String> {
        match intent.into() {
            TypedIntent::Bridge(intent) => {
                let mut findings = self.bridge.inspect(&intent, attachment, namespace).await;
                findings.extend(group_findings(&intent).await);
                findings
            }
            TypedIntent::Contrail(intent) => {
                self.contrail.inspect(&intent, attachment, namespace).await
            }
            TypedIntent::Cni(intent) => self.cni.inspect(&intent, attachment, namespace).await,
            TypedIntent::None(intent) => self.none.inspect(&intent, attachment, namespace).await,
        }
    }
}

/// An intent in the type of the provider that made it.
enum TypedIntent {
    Bridge(Intent<BridgeIntent>),
    Contrail(Intent<ContrailIntent>),
    Cni(Intent<CniIntent>),
    None(Intent<NoneIntent>),
}

impl From<&Intent> for TypedIntent {
    fn from(intent: &Intent) -> Self {
        match &intent.provider {
            ProviderIntent::Bridge(part) => Self::Bridge(intent.with_provider(part.clone())),
            ProviderIntent::Contrail(part) => Self::Contrail(intent.with_provider(part.clone())),
            ProviderIntent::Cni(part) => Self::Cni(intent.with_provider(part.clone())),
            ProviderIntent::None(part) => Self::None(intent.with_provider(part.clone())),
        }
    }
}

impl From<TypedIntent> for Intent {
    fn from(intent: TypedIntent) -> Self {
        match intent {
            TypedIntent::Bridge(intent) => {
                intent.with_provider(ProviderIntent::Bridge(intent.provider.clone()))
            }
            TypedIntent::Contrail(intent) => {
                intent.with_provider(ProviderIntent::Contrail(intent.provider.clone()))
            }
            TypedIntent::Cni(intent) => {
                intent.with_provider(ProviderIntent::Cni(intent.provider.clone()))
            }
            TypedIntent::None(intent) => {
                intent.with_provider(ProviderIntent::None(intent.provider.clone()))
            }
        }
    }
}

/// Intents, grouped by the provider that made them.
#[derive(Default)]
struct IntentsByProvider {
    bridge: ProviderIntents<BridgeIntent>,
    contrail: ProviderIntents<ContrailIntent>,
    cni: ProviderIntents<CniIntent>,
    none: ProviderIntents<NoneIntent>,
}

impl IntentsByProvider {
    fn new<'a>(intents: impl IntoIterator<Item = &'a Intent>) -> Self {
        let mut grouped = Self::default();
        for (position, intent) in intents.into_iter().enumerate() {
            match intent.into() {
                TypedIntent::Bridge(intent) => grouped.bridge.push(position, intent),
                TypedIntent::Contrail(intent) => grouped.contrail.push(position, intent),
                TypedIntent::Cni(intent) => grouped.cni.push(position, intent),
                TypedIntent::None(intent) => grouped.none.push(position, intent),
            }
        }
        grouped
    }
}

/// A scope, by the provider whose strays it decides.
struct ScopeByProvider {
    bridge: SweepScope<BridgeIntent>,
    contrail: SweepScope<ContrailIntent>,
    cni: SweepScope<CniIntent>,
}

impl ScopeByProvider {
    fn new(scope: &SweepScope) -> Self {
        let intents = IntentsByProvider::new(&scope.intents);
        Self {
            bridge: SweepScope {
                intents: intents.bridge.intents,
                others: scope.others.clone(),
            },
            contrail: SweepScope {
                intents: intents.contrail.intents,
                others: scope.others.clone(),
            },
            cni: SweepScope {
                intents: intents.cni.intents,
                others: scope.others.clone(),
            },
        }
    }
}

/// The intents that one provider made.
struct ProviderIntents<P> {
    intents: Vec<Intent<P>>,
    /// The position of each intent among the intents of all providers.
    positions: Vec<usize>,
}

// Derived, it would require `P: Default`.
impl<P> Default for ProviderIntents<P> {
    fn default() -> Self {
        Self {
            intents: Vec::new(),
            positions: Vec::new(),
        }
    }
}

impl<P> ProviderIntents<P> {
    fn push(&mut self, position: usize, intent: Intent<P>) {
        self.intents.push(intent);
        self.positions.push(position);
    }

    fn start(&self, provider: &impl Provider<Intent = P>) {
        if !self.intents.is_empty() {
            provider.start(&self.intents);
        }
    }

    /// The attachments, each with the position of its intent.
    async fn attach_all(
        &self,
        provider: &impl Provider<Intent = P>,
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<(usize, Attachment)>, ProviderErrors> {
        if self.intents.is_empty() {
            return Ok(vec![]);
        }
        let attachments = provider.attach_all(&self.intents, namespace).await?;
        Ok(self.positions.iter().copied().zip(attachments).collect())
    }

    async fn detach_all(&self, provider: &impl Provider<Intent = P>) -> Result<(), ProviderErrors> {
        if self.intents.is_empty() {
            return Ok(());
        }
        provider.detach_all(&self.intents).await
    }
}
