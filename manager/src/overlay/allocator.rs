//! Gives nodes their tunnel endpoints and subnets, in the term of a leader.
//!
//! Invariants: nothing is published, and no node is answered, before the store has it. Requests that
//! arrive while a write runs are written together. After a write whose outcome is unknown, or that
//! another manager came before, everything is read again, and nobody is answered until then. While the
//! store cannot be reached, nodes that need nothing new are answered, and others are refused. What is
//! published stays.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contrail_mesos_api::cluster::{BlockReport, NodeAnswer, NodeReport, Object, ObjectKey};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::allocation::{Allocation, RecordChange};
use super::config::OverlayConfig;
use super::error::AllocatorError;
use super::store::{Generation, MAX_WRITE_BYTES, MAX_WRITES, RecordWrite, Store, StoreError};
use super::usage::{EndpointUsage, OverlayUsage};

/// How often a write is tried if another manager comes before it, or its outcome is unknown.
const ATTEMPTS: usize = 3;
/// How many requests wait for the allocator before senders wait.
const QUEUE: usize = 1024;

/// A change of the published objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectChange {
    /// An object is new, or has changed.
    Put(Object),
    /// An object is gone.
    Delete(ObjectKey),
}

/// Gives nodes their tunnel endpoints and subnets, in one term. Clones share its state; it ends with
/// the last of them. Once another allocator has loaded the same store, no write of this one succeeds
/// before it has read what that one wrote.
#[derive(Clone, Debug)]
pub struct Allocator {
    generation: u64,
    published: Arc<Mutex<Published>>,
    requests: mpsc::Sender<Request>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// The changes of the published objects after [`Allocator::load`], in order.
#[derive(Debug)]
pub struct Changes(mpsc::UnboundedReceiver<Vec<ObjectChange>>);

impl Changes {
    /// The next changes, never empty; none once the allocator has ended.
    pub async fn next(&mut self) -> Option<Vec<ObjectChange>> {
        self.0.recv().await
    }
}

/// What others see: always what the store has.
#[derive(Debug, Default)]
struct Published {
    objects: BTreeMap<ObjectKey, Object>,
    usage: Vec<OverlayUsage>,
    endpoint_usage: Vec<EndpointUsage>,
    /// What could not be given, by node.
    problems: BTreeMap<String, Vec<String>>,
}

impl Allocator {
    /// Reads the store, keeps earlier leaders from writing, and applies the configuration. Run it
    /// inside the fence, when a term begins. Publish [`Allocator::objects`] first, and then the
    /// changes: there are none before the first call of another method.
    pub async fn load(
        store: Arc<dyn Store>,
        config: OverlayConfig,
    ) -> Result<(Self, Changes), AllocatorError> {
        let mut actor = Actor {
            store,
            allocation: Allocation::new(config),
            generation: None,
            unpublished: Unpublished::All,
            published: Arc::default(),
        };
        let mut attempt = 1;
        while let Err(error) = actor.refresh().await {
            actor.read_again_after(error, &mut attempt)?;
        }
        actor.publish();
        // It is set once everything is read.
        let generation = actor.generation.map_or(0, |generation| generation.0);
        let (requests, receiver) = mpsc::channel(QUEUE);
        // Each entry follows a completed write, which is slower than its reader.
        let (sender, changes) = mpsc::unbounded_channel();
        let allocator = Self {
            generation,
            published: actor.published.clone(),
            requests,
            _task: Arc::new(AbortOnDropHandle::new(tokio::spawn(
                actor.run(receiver, sender),
            ))),
        };
        Ok((allocator, Changes(changes)))
    }

    /// The generation of the store when this allocator had loaded it: later than that of all that
    /// earlier allocators have published.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Registers a node, or renews its registration. It writes nothing if nothing changes. The node
    /// is also in [`Changes`] before this returns.
    pub async fn register(
        &self,
        name: &str,
        report: &NodeReport,
    ) -> Result<NodeAnswer, AllocatorError> {
        let (name, address) = (name.to_owned(), report.address);
        let blocks = report.blocks.clone();
        self.request(|reply| Request::Register {
            name,
            address,
            blocks,
            reply,
        })
        .await
    }

    /// Gives back all that a node has: it must be gone for good. Returns whether it was registered.
    pub async fn release(&self, name: &str) -> Result<bool, AllocatorError> {
        let name = name.to_owned();
        self.request(|reply| Request::Release { name, reply }).await
    }

    /// Applies another configuration to all nodes. After an error it is in force as well, but some
    /// nodes have no new subnets yet; they get them when they register, or when this is repeated.
    pub async fn reconfigure(&self, config: OverlayConfig) -> Result<(), AllocatorError> {
        let config = Box::new(config);
        self.request(|reply| Request::Reconfigure { config, reply })
            .await
    }

    /// All objects that are published now.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        lock(&self.published).objects.values().cloned().collect()
    }

    /// How much of each overlay is used: an entry for each overlay and family.
    #[must_use]
    pub fn usage(&self) -> Vec<OverlayUsage> {
        lock(&self.published).usage.clone()
    }

    /// How much of the tunnel endpoints' subnets is used: an entry for each family.
    #[must_use]
    pub fn endpoint_usage(&self) -> Vec<EndpointUsage> {
        lock(&self.published).endpoint_usage.clone()
    }

    /// What nodes could not be given, by the node's name: the problems of the last answer.
    #[must_use]
    pub fn problems(&self) -> BTreeMap<String, Vec<String>> {
        lock(&self.published).problems.clone()
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, AllocatorError>>) -> Request,
    ) -> Result<T, AllocatorError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        sent.map_err(|_| AllocatorError::Stopped)?;
        answer.await.map_err(|_| AllocatorError::Stopped)?
    }
}

fn lock(published: &Mutex<Published>) -> MutexGuard<'_, Published> {
    // Its fields are replaced one by one, each of which is right alone.
    published.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call of the allocator.
#[derive(Debug)]
enum Request {
    Register {
        name: String,
        address: IpAddr,
        blocks: Vec<BlockReport>,
        reply: oneshot::Sender<Result<NodeAnswer, AllocatorError>>,
    },
    Release {
        name: String,
        reply: oneshot::Sender<Result<bool, AllocatorError>>,
    },
    Reconfigure {
        config: Box<OverlayConfig>,
        reply: oneshot::Sender<Result<(), AllocatorError>>,
    },
}

/// The answer to a registration or release.
enum Answer {
    Node(Result<NodeAnswer, AllocatorError>),
    Released(bool),
}

/// What the store has, but [`Published`] has not yet.
enum Unpublished {
    Nodes(BTreeSet<String>),
    All,
}

/// The owner of the state and of the store.
struct Actor {
    store: Arc<dyn Store>,
    allocation: Allocation,
    /// The generation of the state; none if it must be read again.
    generation: Option<Generation>,
    unpublished: Unpublished,
    published: Arc<Mutex<Published>>,
}

impl Actor {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        changes: mpsc::UnboundedSender<Vec<ObjectChange>>,
    ) {
        let mut received = vec![];
        while requests.recv_many(&mut received, MAX_WRITES).await > 0 {
            let mut batch = vec![];
            for request in std::mem::take(&mut received) {
                if let Request::Reconfigure { config, reply } = request {
                    self.serve(std::mem::take(&mut batch), &changes).await;
                    let applied = self.reconfigure(*config).await;
                    send(&changes, self.publish());
                    let _ = reply.send(applied.map_err(AllocatorError::from));
                } else {
                    batch.push(request);
                }
            }
            self.serve(batch, &changes).await;
        }
    }

    /// Writes, publishes and answers registrations and releases.
    async fn serve(
        &mut self,
        batch: Vec<Request>,
        changes: &mpsc::UnboundedSender<Vec<ObjectChange>>,
    ) {
        if batch.is_empty() {
            return;
        }
        let mut attempt = 1;
        let written = loop {
            match self.write_batch(&batch).await {
                Ok(answers) => break Ok(answers),
                Err(error) => {
                    if let Err(error) = self.read_again_after(error, &mut attempt) {
                        break Err(error);
                    }
                }
            }
        };
        let answers = match written {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) => {
                log::error!(error:%, requests = batch.len(); "cannot write the allocations of nodes");
                let answer = |request| self.answer_from_memory(request, &error);
                batch.iter().map(answer).collect::<Vec<_>>()
            }
        };
        let mut published = lock(&self.published);
        for (request, answer) in batch.iter().zip(&answers) {
            match (request, answer) {
                (Request::Register { name, .. }, Ok(Answer::Node(Ok(answer)))) => {
                    if answer.problems.is_empty() {
                        published.problems.remove(name);
                    } else {
                        let problems = answer.problems.clone();
                        published.problems.insert(name.clone(), problems);
                    }
                }
                (Request::Release { name, .. }, Ok(_)) => drop(published.problems.remove(name)),
                _ => {}
            }
        }
        drop(published);
        send(changes, self.publish());
        for (request, answer) in batch.into_iter().zip(answers) {
            // A caller that does not wait any more is no problem.
            match (request, answer) {
                (Request::Register { reply, .. }, Ok(Answer::Node(answer))) => {
                    let _ = reply.send(answer);
                }
                (Request::Register { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
                (Request::Release { reply, .. }, Ok(Answer::Released(known))) => {
                    let _ = reply.send(Ok(known));
                }
                (Request::Release { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
                _ => {}
            }
        }
    }

    /// Applies a request to the state. Returns its answer, and the change that must be written first.
    fn apply(&mut self, request: &Request) -> (Answer, Option<RecordChange>) {
        match request {
            Request::Register {
                name,
                address,
                blocks,
                ..
            } => match self.allocation.register(name, *address, blocks) {
                Ok((change, answer)) => (Answer::Node(Ok(answer)), change),
                Err(error) => (Answer::Node(Err(error)), None),
            },
            Request::Release { name, .. } => {
                let change = self.allocation.release(name);
                (Answer::Released(change.is_some()), change)
            }
            // It is served elsewhere.
            Request::Reconfigure { .. } => (Answer::Released(false), None),
        }
    }

    /// Answers a request that needs no write; others are refused.
    fn answer_from_memory(
        &mut self,
        request: &Request,
        error: &StoreError,
    ) -> Result<Answer, AllocatorError> {
        if self.generation.is_none() {
            // The store may have given it back.
            return Err(error.clone().into());
        }
        match self.apply(request) {
            (answer, None) => Ok(answer),
            (_, Some(change)) => {
                self.allocation.undo(vec![change]);
                Err(error.clone().into())
            }
        }
    }

    /// Applies all requests, and writes the changes. Returns the answers.
    async fn write_batch(&mut self, batch: &[Request]) -> Result<Vec<Answer>, StoreError> {
        self.refresh().await?;
        let mut answers = Vec::with_capacity(batch.len());
        let mut changes = self.allocation.end_rests(Instant::now().into_std());
        for request in batch {
            let (answer, change) = self.apply(request);
            answers.push(answer);
            changes.extend(change);
        }
        self.write(changes).await?;
        Ok(answers)
    }

    async fn reconfigure(&mut self, config: OverlayConfig) -> Result<(), StoreError> {
        self.allocation.set_config(config);
        self.unpublished = Unpublished::All;
        lock(&self.published).problems.clear();
        let mut attempt = 1;
        while let Err(error) = self.settle().await {
            self.read_again_after(error, &mut attempt)?;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), StoreError> {
        self.refresh().await?;
        let changes = self.allocation.settle();
        self.write(changes).await
    }

    /// After a write that another manager came before, or whose outcome is unknown, the state is read
    /// again, and the work is repeated. Returns other errors, and the one of the last attempt.
    fn read_again_after(
        &mut self,
        error: StoreError,
        attempt: &mut usize,
    ) -> Result<(), StoreError> {
        if !matches!(
            error,
            StoreError::Conflict { .. } | StoreError::Unknown { .. }
        ) {
            return Err(error);
        }
        self.generation = None;
        if *attempt == ATTEMPTS {
            return Err(error);
        }
        *attempt += 1;
        log::warn!(error:%; "reading the allocations of nodes again");
        Ok(())
    }

    /// Reads the state, if it must be read again, and makes every earlier reader do so as well.
    async fn refresh(&mut self) -> Result<(), StoreError> {
        if self.generation.is_some() {
            return Ok(());
        }
        let snapshot = self.store.load().await?;
        let config = self.allocation.config().clone();
        let loaded = Allocation::load(config, snapshot.records);
        self.allocation = loaded.map_err(|error| StoreError::Invalid {
            store: self.store.description(),
            problem: format!(
                "{error}; restore it, or release one of these nodes by removing its record"
            ),
        })?;
        self.unpublished = Unpublished::All;
        let generation = self.store.write(snapshot.generation, vec![]).await?;
        self.generation = Some(generation);
        let changes = self.allocation.settle();
        self.write(changes).await
    }

    /// Writes changes, in one transaction or more. Those that are not written are undone.
    async fn write(&mut self, changes: Vec<RecordChange>) -> Result<(), StoreError> {
        let mut rest = changes;
        while !rest.is_empty() {
            let later = rest.split_off(transaction_len(&rest));
            let writes = rest.iter().filter_map(record_write).collect();
            // It is set whenever there is something to write.
            let generation = self.generation.unwrap_or(Generation(0));
            match self.store.write(generation, writes).await {
                Ok(generation) => self.generation = Some(generation),
                Err(error) => {
                    rest.extend(later);
                    self.allocation.undo(rest);
                    return Err(error);
                }
            }
            if let Unpublished::Nodes(names) = &mut self.unpublished {
                names.extend(rest.into_iter().map(|change| change.name));
            }
            rest = later;
        }
        Ok(())
    }

    /// Publishes what the store has. Returns the changes.
    fn publish(&mut self) -> Vec<ObjectChange> {
        let unpublished =
            std::mem::replace(&mut self.unpublished, Unpublished::Nodes(BTreeSet::new()));
        let mut published = lock(&self.published);
        let changes = match unpublished {
            Unpublished::Nodes(names) => {
                if names.is_empty() {
                    return vec![];
                }
                let now = names.into_iter().map(|name| {
                    let object = self.allocation.node(&name).map(Object::Node);
                    (ObjectKey::Node { name }, object)
                });
                now.filter_map(|(key, object)| replace(&mut published.objects, key, object))
                    .collect()
            }
            Unpublished::All => {
                let now: BTreeMap<ObjectKey, Object> = self
                    .allocation
                    .objects()
                    .map(|object| (object.key(), object))
                    .collect();
                // An overlay goes after the nodes that had a part of it.
                let gone: Vec<ObjectKey> = published
                    .objects
                    .keys()
                    .rev()
                    .filter(|key| !now.contains_key(key))
                    .cloned()
                    .collect();
                let put = now.into_iter().map(|(key, object)| (key, Some(object)));
                put.chain(gone.into_iter().map(|key| (key, None)))
                    .filter_map(|(key, object)| replace(&mut published.objects, key, object))
                    .collect()
            }
        };
        published.usage = self.allocation.usage();
        published.endpoint_usage = self.allocation.endpoint_usage();
        changes
    }
}

/// Replaces an object. Returns the change, if it is one.
fn replace(
    objects: &mut BTreeMap<ObjectKey, Object>,
    key: ObjectKey,
    object: Option<Object>,
) -> Option<ObjectChange> {
    if objects.get(&key) == object.as_ref() {
        return None;
    }
    if let Some(object) = object {
        objects.insert(key, object.clone());
        Some(ObjectChange::Put(object))
    } else {
        objects.remove(&key);
        Some(ObjectChange::Delete(key))
    }
}

fn send(sender: &mpsc::UnboundedSender<Vec<ObjectChange>>, changes: Vec<ObjectChange>) {
    if !changes.is_empty() {
        // Nobody may be interested.
        let _ = sender.send(changes);
    }
}

/// How many of the first changes fit into one transaction: at least one. A transaction has a node
/// only once.
fn transaction_len(changes: &[RecordChange]) -> usize {
    let mut names = HashSet::new();
    let mut bytes = 0;
    for (index, change) in changes.iter().enumerate() {
        bytes += record_write(change).map_or(0, |write| write.len());
        let fits = index < MAX_WRITES && bytes <= MAX_WRITE_BYTES;
        if !names.insert(&change.name) || (!fits && index > 0) {
            return index;
        }
    }
    changes.len()
}

fn record_write(change: &RecordChange) -> Option<RecordWrite> {
    let name = change.name.clone();
    match (&change.before, &change.after) {
        (None, Some(record)) => Some(RecordWrite::Create {
            name,
            record: record.to_bytes(),
        }),
        (Some(_), Some(record)) => Some(RecordWrite::Replace {
            name,
            record: record.to_bytes(),
        }),
        (Some(_), None) => Some(RecordWrite::Delete { name }),
        (None, None) => None,
    }
}
