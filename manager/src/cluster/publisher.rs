//! The only writer of the hub in a term: what it publishes comes from the allocator, from the
//! configuration, from the reports of nodes, and from the services.
//!
//! Invariants: changes of the allocator come first. A node that was answered is known to it, and one that
//! was released is not, when its next request is handled. A report is answered once it is published.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contrail_mesos_api::cluster::{EndpointsReport, Object, ObjectKey, SecurityGroup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::endpoints::{EndpointTable, EndpointsError};
use super::hub::Hub;
use super::metrics::EndpointMetrics;
use crate::error::ManagerError;
use crate::overlay::{Changes, ObjectChange};

/// How many requests wait before senders wait.
const QUEUE: usize = 1024;

/// Where what is published in a term comes from, besides the reports of nodes.
#[derive(Debug)]
pub(super) struct TermSources {
    /// The objects of the allocator when the term begins, and what all services share.
    pub allocated: Vec<Object>,
    /// The changes of these objects; none without overlays.
    pub changes: Option<Changes>,
    /// The changes of services; none without services. What they begin with is in `allocated`.
    pub services: Option<mpsc::Receiver<Vec<ObjectChange>>>,
    /// The security groups of the configuration.
    pub security_groups: watch::Receiver<Vec<SecurityGroup>>,
}

/// Publishes in one term. Clones share it; it ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    table: Arc<Mutex<EndpointTable>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// What the manager has of a node's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointsCheck {
    /// Whether it lacks the report with the digest that the node has.
    pub is_lacking: bool,
    /// Why endpoints of the last report are not published.
    pub problems: Vec<String>,
}

#[derive(Debug)]
enum Request {
    Report {
        node: String,
        report: EndpointsReport,
        reply: oneshot::Sender<Result<(), EndpointsError>>,
    },
    Check {
        node: String,
        digest: Option<String>,
        reply: oneshot::Sender<EndpointsCheck>,
    },
}

impl From<EndpointsError> for ManagerError {
    fn from(error: EndpointsError) -> Self {
        match error {
            EndpointsError::Unregistered => Self::Conflict(error.to_string()),
            EndpointsError::InvalidDigest => Self::invalid(error.to_string()),
        }
    }
}

fn term_ended() -> ManagerError {
    ManagerError::NotReady("its term has ended".to_owned())
}

impl Publisher {
    /// Begins a term of the hub, and follows the sources.
    pub(super) fn start(
        hub: Arc<Hub>,
        term: u64,
        mut sources: TermSources,
        metrics: EndpointMetrics,
    ) -> Self {
        let mut all = std::mem::take(&mut sources.allocated);
        let table = Arc::new(Mutex::new(EndpointTable::new(&all)));
        let security_groups = by_name(sources.security_groups.borrow_and_update().clone());
        let groups = security_groups.values().cloned();
        all.extend(groups.map(Object::SecurityGroup));
        hub.begin(term, all);
        let (requests, receiver) = mpsc::channel(QUEUE);
        let actor = Actor {
            hub,
            term,
            table: table.clone(),
            security_groups,
            metrics,
        };
        let task = tokio::spawn(actor.run(sources, receiver));
        Self {
            requests,
            table,
            _task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// Publishes the endpoints of a node.
    pub(super) async fn report(
        &self,
        node: &str,
        report: EndpointsReport,
    ) -> Result<(), ManagerError> {
        let node = node.to_owned();
        let answer = self.request(|reply| Request::Report {
            node,
            report,
            reply,
        });
        Ok(answer.await??)
    }

    /// Compares the digest of a node's report with what is published.
    pub(super) async fn check(
        &self,
        node: &str,
        digest: Option<String>,
    ) -> Result<EndpointsCheck, ManagerError> {
        let node = node.to_owned();
        self.request(|reply| Request::Check {
            node,
            digest,
            reply,
        })
        .await
    }

    /// The endpoints, for reading.
    pub(super) fn table(&self) -> MutexGuard<'_, EndpointTable> {
        lock(&self.table)
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, ManagerError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        sent.map_err(|_| term_ended())?;
        answer.await.map_err(|_| term_ended())
    }
}

fn lock(table: &Mutex<EndpointTable>) -> MutexGuard<'_, EndpointTable> {
    // No method panics between two changes that belong together.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by_name(groups: Vec<SecurityGroup>) -> BTreeMap<String, SecurityGroup> {
    let groups = groups.into_iter();
    groups.map(|group| (group.name.clone(), group)).collect()
}

async fn next_change(changes: Option<&mut Changes>) -> Option<Vec<ObjectChange>> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

async fn next_service_change(
    changes: Option<&mut mpsc::Receiver<Vec<ObjectChange>>>,
) -> Option<Vec<ObjectChange>> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

struct Actor {
    hub: Arc<Hub>,
    term: u64,
    table: Arc<Mutex<EndpointTable>>,
    security_groups: BTreeMap<String, SecurityGroup>,
    metrics: EndpointMetrics,
}

impl Actor {
    async fn run(mut self, mut sources: TermSources, mut requests: mpsc::Receiver<Request>) {
        loop {
            tokio::select! {
                biased;
                changes = next_change(sources.changes.as_mut()) => {
                    let Some(changes) = changes else { return };
                    let all = lock(&self.table).follow(changes);
                    self.publish(all);
                }
                changed = sources.security_groups.changed() => {
                    // The sender ends with the manager.
                    if changed.is_err() {
                        return;
                    }
                    let groups = sources.security_groups.borrow_and_update().clone();
                    self.set_security_groups(by_name(groups));
                }
                // These are rare, so requests do not wait long.
                changes = next_service_change(sources.services.as_mut()) => {
                    match changes {
                        Some(changes) => self.hub.publish(self.term, changes),
                        // What is published stays until the term ends.
                        None => sources.services = None,
                    }
                }
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    self.serve(request);
                }
            }
        }
    }

    fn publish(&self, changes: Vec<ObjectChange>) {
        let of_endpoints = changes.iter().filter(|change| {
            matches!(
                change,
                ObjectChange::Put(Object::Endpoint(_))
                    | ObjectChange::Delete(ObjectKey::Endpoint { .. })
            )
        });
        self.metrics.count_changes(of_endpoints.count());
        self.hub.publish(self.term, changes);
    }

    fn serve(&self, request: Request) {
        // A caller that does not wait any more is no problem.
        match request {
            Request::Report {
                node,
                report,
                reply,
            } => {
                let _ = reply.send(self.report(&node, report));
            }
            Request::Check {
                node,
                digest,
                reply,
            } => {
                let table = lock(&self.table);
                let check = EndpointsCheck {
                    is_lacking: digest.is_some_and(|digest| table.lacks(&node, &digest)),
                    problems: table.problems(&node),
                };
                drop(table);
                let _ = reply.send(check);
            }
        }
    }

    fn set_security_groups(&mut self, new: BTreeMap<String, SecurityGroup>) {
        let gone = self.security_groups.keys();
        let gone = gone.filter(|name| !new.contains_key(*name));
        let deletes = gone.map(|name| {
            let name = name.clone();
            ObjectChange::Delete(ObjectKey::SecurityGroup { name })
        });
        // The hub leaves out what is as before.
        let puts = new.values().cloned();
        let puts = puts.map(|group| ObjectChange::Put(Object::SecurityGroup(group)));
        let all = puts.chain(deletes).collect();
        self.publish(all);
        self.security_groups = new;
    }

    fn report(&self, node: &str, report: EndpointsReport) -> Result<(), EndpointsError> {
        let mut table = lock(&self.table);
        let before = table.problems(node);
        let changes = table.report(node, report)?;
        let problems = table.problems(node);
        drop(table);
        self.metrics.count_report();
        if problems != before && !problems.is_empty() {
            let problems = problems.join("; ");
            log::warn!(node, problems; "containers of a node are not published");
        }
        self.publish(changes);
        Ok(())
    }
}
