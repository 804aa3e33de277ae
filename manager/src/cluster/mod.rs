//! What is published to the nodes, and what they report.
//!
//! ```text
//! overlay_state the state as the master module of DC/OS answers it
//! hub           the published objects of the term, and the watches that read them
//! publisher     the only writer of the hub: allocations, security groups and endpoints
//! endpoints     the endpoints that each node has reported in this term: pure
//! reachability  which endpoints reach which, for operators: pure
//! nodes         what each node has reported in this term, and who is connected
//! metrics       metrics of the watches and of endpoints
//! ```
//!
//! Invariants: only a leader publishes: what is in the store of the allocations, what the configuration
//! says, what nodes have reported of their own subnets, and the services of tasks. The term of a revision
//! is the generation of that store, which grows with each leader, also where a manager runs alone and has
//! no election, and where there are services but no overlays: then nodes are known, but get nothing.

mod endpoints;
mod hub;
mod metrics;
mod nodes;
mod overlay_state;
mod publisher;
mod reachability;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use contrail_mesos_api::cluster::{
    AddressOwner, Endpoint, EndpointsReport, Node, NodeAnswer, NodeList, NodeReport, NodeStatus,
    Object, Revision, SecurityGroup,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Config, OverlayOptions, term_file};
use crate::error::ManagerError;
use crate::fence::{Fence, Leadership};
use crate::overlay::{
    Allocator, AllocatorError, EndpointUsage, OverlayConfig, OverlayUsage, Store, StoreError,
    StoreSubject, open_store,
};
use crate::services::{self, OverlayNetworks, Services};
use endpoints::EndpointCounts;
use hub::{Hub, HubLimits, Subscription, WatchError};
use nodes::{NodeTable, bounded};
use publisher::{Publisher, TermSources};

pub(crate) use metrics::{EndpointMetrics, WatchMetrics};
pub(crate) use nodes::{NodeAction, NodeEvent};
pub(crate) use reachability::{Members, Reachability, Rules, Sources, Traffic};

/// The longest name of a node: that of a host.
const MAX_NAME_BYTES: usize = 253;
/// How often nodes that are gone are looked for.
const RELEASE_INTERVAL: Duration = Duration::from_secs(10);

/// How often the term is begun if another manager writes meanwhile.
const ATTEMPTS: usize = 3;

/// The nodes of a manager with a table `[overlay]` or `[services]`, and the overlays.
#[derive(Debug)]
pub(crate) struct Cluster {
    fence: Fence,
    store: Arc<dyn Store>,
    /// None without overlays.
    options: Mutex<Option<OverlayOptions>>,
    services: Option<Arc<Services>>,
    /// Those of the configuration.
    security_groups: watch::Sender<Vec<SecurityGroup>>,
    hub: Arc<Hub>,
    nodes: Arc<NodeTable>,
    term: Mutex<Option<Term>>,
    metrics: WatchMetrics,
    endpoint_metrics: EndpointMetrics,
}

/// What there is in a term in which this manager leads.
#[derive(Debug)]
struct Term {
    /// The number that it has in the election.
    number: u64,
    /// The term of revisions.
    generation: u64,
    /// None without overlays.
    allocator: Option<Allocator>,
    publisher: Publisher,
    _services: Option<AbortOnDropHandle<()>>,
}

impl From<AllocatorError> for ManagerError {
    fn from(error: AllocatorError) -> Self {
        match error {
            AllocatorError::InvalidName(_) | AllocatorError::InvalidAddress(_) => {
                Self::invalid(error.to_string())
            }
            AllocatorError::AddressTaken { .. } | AllocatorError::EndpointsExhausted { .. } => {
                Self::Conflict(error.to_string())
            }
            AllocatorError::Store(_) | AllocatorError::Stopped => {
                Self::Allocations(error.to_string())
            }
        }
    }
}

impl From<WatchError> for ManagerError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::NotPublishing => Self::NotReady(error.to_string()),
            WatchError::Ahead { .. } => Self::Conflict(error.to_string()),
        }
    }
}

impl Cluster {
    /// Starts what works in the background; none without a table `[overlay]` or `[services]`. It reads
    /// nothing until the manager leads.
    pub(crate) fn start(
        config: &Config,
        fence: &Fence,
        services: Option<Arc<Services>>,
        background: &mut JoinSet<()>,
    ) -> Option<Arc<Self>> {
        let state_file = match (&config.overlay, &config.services) {
            (Some(overlay), _) => overlay.state_file.clone(),
            (None, Some(services)) => term_file(services),
            (None, None) => return None,
        };
        let metrics = WatchMetrics::default();
        let cluster = Arc::new(Self {
            fence: fence.clone(),
            store: open_store(
                config.zookeeper.as_ref(),
                &state_file,
                StoreSubject::OVERLAY,
            ),
            options: Mutex::new(config.overlay.clone()),
            services,
            security_groups: watch::Sender::new(config.security_groups.clone()),
            hub: Hub::new(HubLimits::default(), metrics.clone()),
            nodes: Arc::default(),
            term: Mutex::default(),
            metrics,
            endpoint_metrics: EndpointMetrics::default(),
        });
        let running = cluster.clone();
        background.spawn(async move {
            tokio::join!(running.end_terms(), running.release_gone_nodes());
        });
        Some(cluster)
    }

    fn options(&self) -> MutexGuard<'_, Option<OverlayOptions>> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn term(&self) -> MutexGuard<'_, Option<Term>> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the allocations, and publishes them. Runs inside the fence, in this term.
    pub(crate) async fn begin(&self, term: u64) -> Result<(), ManagerError> {
        // It is repeated within a term when what is provisioned has changed.
        if self.current().is_ok() {
            return Ok(());
        }
        let networks = self.networks();
        let (generation, allocator, changes) = match &networks {
            Some(networks) => {
                let loaded = Allocator::load(self.store.clone(), networks.clone()).await?;
                let (allocator, changes) = loaded;
                (allocator.generation(), Some(allocator), Some(changes))
            }
            None => (claim_generation(self.store.as_ref()).await?, None, None),
        };
        self.nodes.begin();
        let mut objects = allocator.as_ref().map_or_else(Vec::new, Allocator::objects);
        let mut service_changes = None;
        let services = self.services.as_ref().map(|services| {
            objects.push(Object::ServiceSettings(services.settings()));
            let (sender, receiver) = mpsc::channel(services::QUEUE);
            service_changes = Some(receiver);
            services.begin(self.fence.clone(), sender)
        });
        if services.is_none() {
            // Nodes withdraw what an earlier configuration published.
            objects.push(Object::ServicesComplete);
        }
        let sources = TermSources {
            allocated: objects,
            changes,
            services: service_changes,
            security_groups: self.security_groups.subscribe(),
        };
        let metrics = self.endpoint_metrics.clone();
        *self.term() = Some(Term {
            number: term,
            generation,
            allocator: allocator.clone(),
            publisher: Publisher::start(self.hub.clone(), generation, sources, metrics),
            _services: services,
        });
        log::info!(term, revision:% = Revision { term: generation, counter: 0 }; "publishing to nodes");
        // It was reloaded meanwhile.
        let latest = self.networks();
        if let (Some(allocator), Some(latest)) = (allocator, latest)
            && networks.as_ref() != Some(&latest)
        {
            allocator.reconfigure(latest).await?;
        }
        Ok(())
    }

    /// The configured overlays, if there are any.
    fn networks(&self) -> Option<OverlayConfig> {
        let options = self.options();
        options.as_ref().map(|options| options.networks.clone())
    }

    /// Ends the watches at the end of each term.
    async fn end_terms(&self) {
        let mut leadership = self.fence.leadership();
        loop {
            let now = leadership.borrow_and_update().clone();
            if let Leadership::Leading { term } = now {
                self.fence.term_ended(term).await;
                // If it is regained meanwhile, it goes on: nobody else has written.
                let ended = self
                    .term()
                    .take_if(|current| current.number == term && self.fence.term() != Some(term));
                if let Some(ended) = ended {
                    self.hub.end(ended.generation);
                }
            } else if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// Both of the current term. There is no allocator without overlays.
    fn current(&self) -> Result<(Option<Allocator>, Publisher), ManagerError> {
        let current = self.fence.term();
        let term = self.term();
        let term = term.as_ref().filter(|term| Some(term.number) == current);
        let not_ready = || ManagerError::NotReady("it is preparing to lead".to_owned());
        let term = term.ok_or_else(not_ready)?;
        Ok((term.allocator.clone(), term.publisher.clone()))
    }

    /// The allocator of the current term, if there are overlays.
    fn allocator(&self) -> Result<Option<Allocator>, ManagerError> {
        Ok(self.current()?.0)
    }

    /// Applies another configuration. Logs if that fails: the allocator keeps it, and the next leader
    /// repeats it.
    pub(crate) fn reload(self: &Arc<Self>, new: &OverlayOptions) {
        *self.options() = Some(new.clone());
        if let Some(services) = &self.services {
            services.set_overlays(OverlayNetworks::of(&new.networks));
        }
        let Ok(Some(allocator)) = self.allocator() else {
            // It begins with the new one.
            return;
        };
        let (cluster, networks) = (self.clone(), new.networks.clone());
        tokio::spawn(async move {
            let work = async { Ok(allocator.reconfigure(networks).await?) };
            if let Err(error) = cluster.fence.run_in_term(work).await {
                log::error!(error:%; "cannot apply the overlays' configuration to all nodes; reload it again");
            }
        });
    }

    /// Publishes these security groups, now or when a term begins.
    pub(crate) fn set_security_groups(&self, groups: Vec<SecurityGroup>) {
        self.security_groups.send_replace(groups);
    }

    /// Begins a watch of a node.
    pub(crate) fn watch(
        &self,
        node: &str,
        since: Option<Revision>,
    ) -> Result<NodeWatch, ManagerError> {
        check_name(node)?;
        self.current()?;
        let subscription = self.hub.subscribe(since)?;
        self.nodes.connect(node);
        Ok(NodeWatch {
            subscription,
            nodes: self.nodes.clone(),
            node: node.to_owned(),
        })
    }

    /// Registers a node, or renews its registration.
    pub(crate) async fn report(
        &self,
        name: &str,
        report: NodeReport,
    ) -> Result<NodeAnswer, ManagerError> {
        check_name(name)?;
        check_address(report.address)?;
        let report = bounded(report);
        let (allocator, publisher) = self.current()?;
        let Some(allocator) = allocator else {
            return Ok(self.report_without_overlays(name, report));
        };
        let is_known = self.is_registered(name);
        let work = async { Ok(allocator.register(name, &report).await?) };
        match self.fence.run_in_term(work).await {
            Ok(mut answer) => {
                let address = report.address;
                let digest = report.endpoints.clone();
                if !is_known {
                    log::info!(node = name, address:%; "node registered");
                    self.nodes.add_registration(name, address);
                }
                self.nodes.keep_report(name, report, &answer.problems);
                let endpoints = publisher.check(name, digest).await?;
                answer.send_endpoints = endpoints.is_lacking;
                answer.problems.extend(endpoints.problems);
                Ok(answer)
            }
            Err(error) => {
                let is_refused = !error.is_transient();
                if is_refused && self.nodes.keep_refusal(name, &error.to_string()) {
                    let address = report.address;
                    log::warn!(node = name, address:%, error:%; "node refused");
                }
                Err(error)
            }
        }
    }

    /// Keeps the report of a node that is given nothing.
    fn report_without_overlays(&self, name: &str, report: NodeReport) -> NodeAnswer {
        let address = report.address;
        if self.nodes.keep_report(name, report, &[]) {
            log::info!(node = name, address:%; "node registered");
            self.nodes.add_registration(name, address);
        }
        NodeAnswer {
            node: None,
            problems: vec![],
            send_endpoints: false,
        }
    }

    /// Publishes the endpoints of a node instead of those before.
    pub(crate) async fn report_endpoints(
        &self,
        name: &str,
        report: EndpointsReport,
    ) -> Result<(), ManagerError> {
        check_name(name)?;
        let (allocator, publisher) = self.current()?;
        if allocator.is_none() {
            // No network of this manager isolates groups.
            return Ok(());
        }
        publisher.report(name, report).await
    }

    /// Frees all that a node has.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ManagerError> {
        check_name(name)?;
        let details = "deleted at the API".to_owned();
        self.release(name, NodeAction::Deleted, details).await
    }

    async fn release(
        &self,
        name: &str,
        action: NodeAction,
        details: String,
    ) -> Result<(), ManagerError> {
        let (allocator, publisher) = self.current()?;
        let Some(allocator) = allocator else {
            self.nodes.remove(name, action, details);
            return Ok(());
        };
        let work = async { Ok(allocator.release(name).await?) };
        if self.fence.run_in_term(work).await? {
            log::warn!(node = name, reason = details; "node released: its subnets are free");
            self.nodes.remove(name, action, details);
        }
        // Once it answers, the release is published too.
        publisher.check(name, None).await?;
        Ok(())
    }

    /// Releases the nodes that have been gone for the configured time.
    async fn release_gone_nodes(&self) {
        loop {
            tokio::time::sleep(RELEASE_INTERVAL).await;
            let release_after = self
                .options()
                .as_ref()
                .and_then(|options| options.release_after);
            let Some(release_after) = release_after else {
                continue;
            };
            if self.current().is_err() {
                continue;
            }
            let registered = self.registered();
            let names = registered.iter().map(|node| node.name.as_str());
            for (name, gone) in self.nodes.gone(names, release_after) {
                let details = format!("gone for {} s", gone.as_secs());
                let released = self.release(name, NodeAction::Released, details).await;
                if let Err(error) = released {
                    log::warn!(node = name, error:%; "cannot release a node that is gone; retrying");
                }
            }
        }
    }

    /// The registered nodes, ordered by name.
    fn registered(&self) -> Vec<Node> {
        let objects = self.hub.definitions().into_iter();
        objects
            .filter_map(|object| match object {
                Object::Node(node) => Some(node),
                _ => None,
            })
            .collect()
    }

    fn is_registered(&self, name: &str) -> bool {
        self.hub.has_node(name)
    }

    /// All nodes; an error if this manager does not publish.
    pub(crate) fn list(&self) -> Result<NodeList, ManagerError> {
        let (_, publisher) = self.current()?;
        let mut list = self.list_with(|_| true)?;
        publisher.table().complete_statuses(&mut list.nodes);
        Ok(list)
    }

    /// All nodes, with the problems of the allocation and of the subsystems with such names.
    fn list_with(&self, has_problems: fn(&str) -> bool) -> Result<NodeList, ManagerError> {
        let allocator = self.allocator()?;
        let problems = allocator.map_or_else(BTreeMap::new, |allocator| allocator.problems());
        let revision = self.hub.revision().ok_or(WatchError::NotPublishing)?;
        let registered = self.registered();
        let nodes = self
            .nodes
            .statuses(&registered, revision, &problems, has_problems);
        Ok(NodeList {
            revision,
            nodes,
            containers: vec![],
        })
    }

    /// All nodes, and the current revision; none if this manager does not publish.
    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        self.list().map(|list| list.nodes).unwrap_or_default()
    }

    /// The current revision; none if this manager does not publish.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.hub.revision()
    }

    /// The published objects but those of endpoints.
    pub(crate) fn definitions(&self) -> Vec<Object> {
        self.hub.definitions()
    }

    /// The published security groups.
    pub(crate) fn security_groups(&self) -> Vec<SecurityGroup> {
        let objects = self.hub.definitions().into_iter();
        objects
            .filter_map(|object| match object {
                Object::SecurityGroup(group) => Some(group),
                _ => None,
            })
            .collect()
    }

    /// The published endpoints, ordered by node and id; empty if this manager does not lead.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let current = self.current();
        current.map_or(vec![], |(_, publisher)| publisher.table().published())
    }

    /// The containers that have an address: those that nodes have reported, and those of tasks if this
    /// manager follows Mesos for services.
    pub(crate) fn containers_with(&self, address: IpAddr) -> Vec<AddressOwner> {
        let endpoints = self.endpoints().into_iter();
        let endpoints = endpoints.filter(|endpoint| endpoint.addresses.contains(&address));
        let mut owners: Vec<AddressOwner> = match &self.services {
            Some(services) => services.containers_with(address),
            None => vec![],
        };
        // A task says more of the same container.
        let of_nodes = endpoints
            .filter(|_| owners.is_empty())
            .map(|endpoint| AddressOwner {
                node: Some(endpoint.node.clone()),
                container: Some(endpoint.id.clone()),
                task: None,
                framework: None,
                network: None,
            });
        let of_nodes: Vec<AddressOwner> = of_nodes.collect();
        owners.extend(of_nodes);
        owners.sort();
        owners
    }

    /// How many endpoints there are.
    pub(crate) fn endpoint_counts(&self) -> EndpointCounts {
        let current = self.current();
        current.map_or(EndpointCounts::default(), |(_, publisher)| {
            publisher.table().counts()
        })
    }

    /// The last events of nodes, the latest first.
    pub(crate) fn events(&self) -> Vec<NodeEvent> {
        self.nodes.events()
    }

    /// How much of each overlay is used; empty if this manager does not lead.
    pub(crate) fn usage(&self) -> (Vec<OverlayUsage>, Vec<EndpointUsage>) {
        match self.allocator() {
            Ok(Some(allocator)) => (allocator.usage(), allocator.endpoint_usage()),
            Ok(None) | Err(_) => (vec![], vec![]),
        }
    }

    /// For how long this manager has published, if it does.
    pub(crate) fn published_for(&self) -> Duration {
        self.nodes.age()
    }

    /// The metrics of the nodes' endpoints.
    pub(crate) fn endpoint_metrics(&self) -> &EndpointMetrics {
        &self.endpoint_metrics
    }

    /// The metrics of the watches.
    pub(crate) fn metrics(&self) -> &WatchMetrics {
        &self.metrics
    }
}

/// The next generation of the store, whose records stay as they are. A manager that has read it before must read
/// it again.
async fn claim_generation(store: &dyn Store) -> Result<u64, StoreError> {
    let mut attempt = 1;
    loop {
        let generation = store.load().await?.generation;
        match store.write(generation, vec![]).await {
            Ok(generation) => return Ok(generation.0),
            Err(StoreError::Conflict { .. } | StoreError::Unknown { .. }) if attempt < ATTEMPTS => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn check_name(name: &str) -> Result<(), ManagerError> {
    // The characters are those of an agent's name, which the authentication has checked.
    if (1..=MAX_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(ManagerError::invalid(format!(
        "a node's name of {} bytes is not between 1 and {MAX_NAME_BYTES}",
        name.len()
    )))
}

/// Other nodes send packets to it.
fn check_address(address: IpAddr) -> Result<(), ManagerError> {
    let canonical = address.to_canonical();
    if canonical.is_loopback() || canonical.is_unspecified() || canonical.is_multicast() {
        let message = format!("{address} is not an address that other nodes can reach");
        return Err(ManagerError::invalid(message));
    }
    Ok(())
}

/// A watch of a node, which counts as connected meanwhile.
#[derive(Debug)]
pub(crate) struct NodeWatch {
    subscription: Subscription,
    nodes: Arc<NodeTable>,
    node: String,
}

impl NodeWatch {
    /// The next lines; none if the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.subscription.next().await
    }

    /// Notes that the manager stops.
    pub(crate) fn stop(&mut self) {
        self.subscription.stop();
    }
}

impl Drop for NodeWatch {
    fn drop(&mut self) {
        self.nodes.disconnect(&self.node);
    }
}
