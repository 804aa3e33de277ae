//! Services on virtual networks: objects of Contrail for services whose backends are on its networks.
//!
//! ```text
//! plan      what services become on Contrail: pure
//! objects   the objects of an address, with their names: pure
//! snapshot  the objects that exist, and the interfaces of backends
//! apply     writes what differs
//! names     names of services in a virtual DNS server, and the link-local service for DNS
//! ```
//!
//! The address of a service is an instance-ip in the network of services. Below it, one floating-ip
//! refers to the interfaces of all backends and maps the ports; vRouters balance connections over
//! them. That is what Contrail's own load balancers become. An address of a floating-ip-pool, for clients
//! outside, is a floating-ip of that pool, without an instance-ip. Invariants:
//!
//! - Objects of services have an owner of their own. No other object is changed or deleted, except that
//!   one entry is ours in the list of link-local services, known by its name.
//! - Nothing is taken away while the sources of the services are not trusted.
//! - A name is answered once its address forwards, and no longer than that.
//! - All writes are in a term of this manager. It compares everything at the beginning of each term,
//!   after a failure that leaves uncertain what exists, and from time to time. No task can cause that.
//! - What one address cannot have does not delay the others.

mod apply;
mod names;
mod objects;
mod plan;
mod snapshot;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{ContrailInterface, DesiredService, ServiceProblem};
use crate::config::{Config, ServicesContrailOptions};
use crate::containers::Containers;
use crate::contrail::Contrail;
use crate::error::ManagerError;
use crate::lead::Readiness;
use crate::vnc::VncClient;
use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::cluster::ServiceKey;

use objects::Naming;
use snapshot::{Interface, Snapshot};

/// The delays after a failure.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
/// The least delay after a failure, also if the services change.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long to collect changes before they are applied.
const COALESCE: Duration = Duration::from_millis(200);
/// How often everything is compared without a change.
const RESYNC_INTERVAL: Duration = Duration::from_mins(5);

/// Services with their addresses.
pub(crate) type ServiceMap = BTreeMap<ServiceKey, (Vec<IpAddr>, DesiredService)>;

/// What services there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceObjectsInput {
    /// All services that are known.
    pub services: Arc<ServiceMap>,
    /// Whether these are all services, so that what others had may be taken away.
    pub is_trusted: bool,
}

/// What became of the services on Contrail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceObjectsStatus {
    /// How many addresses forward.
    pub addresses: usize,
    /// What cannot be expressed, or was refused; ordered.
    pub problems: Vec<ServiceProblem>,
    /// Why not everything was written; it is retried.
    pub failure: Option<String>,
}

/// What came of a comparison that has ended.
#[derive(Debug)]
struct Written {
    status: ServiceObjectsStatus,
    /// Whether everything must be read again.
    must_read: bool,
    /// Whether it is repeated although nothing failed.
    is_waiting: bool,
}

/// The only writer of the objects of services.
#[derive(Debug)]
pub(crate) struct ServiceObjects {
    client: VncClient,
    containers: Arc<Containers>,
    options: ServicesContrailOptions,
    naming: Naming,
    /// What exists, as far as it is known; none if it must be read.
    snapshot: Option<Snapshot>,
    /// The interfaces of backends that were found.
    interfaces: BTreeMap<ContrailInterface, Interface>,
    status: watch::Sender<ServiceObjectsStatus>,
}

/// Starts the writer of the objects of services in the background. It waits until the manager leads,
/// and ends with the input or the readiness.
pub(crate) fn spawn(
    contrail: &Contrail,
    config: &Config,
    options: ServicesContrailOptions,
    input: watch::Receiver<ServiceObjectsInput>,
    ready: watch::Receiver<Readiness>,
    background: &mut JoinSet<()>,
) -> watch::Receiver<ServiceObjectsStatus> {
    let (objects, status) = ServiceObjects::new(
        contrail.containers.clone(),
        contrail.client.clone(),
        config,
        options,
    );
    background.spawn(objects.run(input, ready));
    status
}

impl ServiceObjects {
    /// A writer that has not read anything yet.
    pub(crate) fn new(
        containers: Arc<Containers>,
        client: VncClient,
        config: &Config,
        options: ServicesContrailOptions,
    ) -> (Self, watch::Receiver<ServiceObjectsStatus>) {
        let (status, receiver) = watch::channel(ServiceObjectsStatus::default());
        let naming = Naming {
            cluster: config.defaults.cluster.clone(),
            network: options.network.clone(),
        };
        let objects = Self {
            client,
            containers,
            options,
            naming,
            snapshot: None,
            interfaces: BTreeMap::new(),
            status,
        };
        (objects, receiver)
    }

    /// Applies every input while the manager is ready.
    async fn run(
        mut self,
        mut input: watch::Receiver<ServiceObjectsInput>,
        mut ready: watch::Receiver<Readiness>,
    ) {
        let mut delays = BACKOFF.delays();
        let mut term = None;
        loop {
            if ready
                .wait_for(|ready| ready.unready.is_none())
                .await
                .is_err()
            {
                return;
            }
            let now = self.containers.fence().term();
            if now != term {
                // Another manager may have written meanwhile.
                self.forget();
                term = now;
            }
            let wanted = input.borrow_and_update().clone();
            if self.apply(&wanted).await {
                delays = BACKOFF.delays();
                tokio::select! {
                    changed = input.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        sleep(COALESCE).await;
                    }
                    () = sleep(RESYNC_INTERVAL) => {}
                }
            } else {
                // One address that fails does not delay others for longer than this.
                sleep(MIN_RETRY_DELAY).await;
                tokio::select! {
                    changed = input.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = sleep(delays.next_delay()) => {}
                }
            }
        }
    }

    /// Forgets what exists, so that it is read again.
    fn forget(&mut self) {
        self.snapshot = None;
        self.interfaces.clear();
    }

    /// Applies this input and publishes what came of it. Returns whether everything was written.
    pub(crate) async fn apply(&mut self, input: &ServiceObjectsInput) -> bool {
        let is_old = |snapshot: &Snapshot| snapshot.read_at.elapsed() >= RESYNC_INTERVAL;
        if self.snapshot.as_ref().is_some_and(is_old) {
            self.forget();
        }
        let fence = self.containers.fence().clone();
        // Boxed: the future of a whole comparison is large.
        let work = Box::pin(self.write(input));
        let applied = fence.run_in_term(work).await;
        let (status, is_waiting) = match applied {
            Ok(written) => {
                if written.must_read {
                    self.forget();
                }
                (written.status, written.is_waiting)
            }
            Err(error) => {
                self.forget();
                let before = self.status.borrow().clone();
                let failure = Some(error.to_string());
                (ServiceObjectsStatus { failure, ..before }, true)
            }
        };
        let is_complete = status.failure.is_none() && !is_waiting;
        self.status.send_if_modified(|before| {
            if *before == status {
                return false;
            }
            match &status.failure {
                Some(error) if before.failure != status.failure => {
                    log::warn!(error; "cannot write all services to Contrail; retrying");
                }
                None if before.failure.is_some() => log::info!("all services are in Contrail"),
                _ => {}
            }
            *before = status;
            true
        });
        is_complete
    }

    async fn write(&mut self, input: &ServiceObjectsInput) -> Result<Written, ManagerError> {
        // Taken: if this future is dropped, what it knew is not known any more.
        let mut snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => self.read_snapshot(Instant::now()).await?,
        };
        let space = plan::AddressSpace {
            network: &snapshot.network,
            pools: &snapshot.pools,
        };
        let plan = plan::plan(&input.services, space);
        self.find_interfaces(&plan).await?;
        let mut outcome = apply::Outcome {
            problems: plan.problems.clone(),
            failures: vec![],
            must_read: false,
            is_waiting: false,
        };
        let records = names::desired_records(&plan, &snapshot);
        if input.is_trusted {
            self.delete_records(&records, &mut snapshot, &mut outcome)
                .await;
        }
        self.write_vips(&plan, input, &mut snapshot, &mut outcome)
            .await;
        self.write_records(&records, &plan, &mut snapshot, &mut outcome)
            .await;
        // Last: no name has these addresses any more.
        if input.is_trusted {
            self.delete_vips(&plan, &mut snapshot, &mut outcome).await;
        }
        self.write_link_local(&mut snapshot, &mut outcome).await;
        let addresses = snapshot
            .vips
            .values()
            .filter(|vip| {
                let forwards = |of: &snapshot::ActualFloatingIp| !of.interfaces.is_empty();
                vip.floating_ip.as_ref().is_some_and(forwards)
            })
            .count();
        self.snapshot = Some(snapshot);
        Ok(Written {
            must_read: outcome.must_read,
            is_waiting: outcome.is_waiting,
            status: outcome.status(addresses),
        })
    }
}
