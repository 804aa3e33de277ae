//! ZooKeeper, for several managers.
//!
//! ```text
//! <path>/overlay/generation     {layout, base}; its version counts the writes, each of which sets it
//! <path>/overlay/nodes/<name>   a record: that of a node
//! ```
//!
//! Other subjects have another directory instead of `overlay`.
//!
//! Invariants: every write is one transaction with a set of `generation` on the condition that its
//! version is the one that was read. A request that was sent on an earlier connection and arrives
//! late fails that condition, once anything else has been written. The session is the store's own:
//! the election's is not slowed down by large reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use contrail_mesos_api::text::excerpt;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;
use zookeeper_client::{Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

use super::{Generation, RecordWrite, Snapshot, Store, StoreError, StoreSubject, first_generation};
use crate::election::ZooKeeper;

const LAYOUT: u32 = 1;
/// How many records are read concurrently.
const CONCURRENT_READS: usize = 64;
/// How often a read is repeated because others write meanwhile.
const READ_ATTEMPTS: usize = 5;
/// The shortest time limit of a request.
const MIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The nodes of ZooKeeper.
pub struct ZooKeeperStore {
    options: ZooKeeper,
    subject: StoreSubject,
    /// The session, once there is one.
    client: Mutex<Option<Client>>,
    /// The base that was read last.
    base: AtomicU64,
}

/// The content of the node `generation`.
#[derive(Serialize, Deserialize)]
struct Header {
    layout: u32,
    /// The generation at the version 0.
    base: u64,
}

impl Header {
    fn bytes(base: u64) -> Vec<u8> {
        let layout = LAYOUT;
        // Serialization of numbers cannot fail.
        serde_json::to_vec(&Self { layout, base }).unwrap_or_default()
    }
}

impl std::fmt::Debug for ZooKeeperStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ZooKeeperStore")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl ZooKeeperStore {
    /// The nodes below the path of these options with what nodes of the cluster have. Connects when it is
    /// first used.
    #[must_use]
    pub fn new(options: ZooKeeper) -> Self {
        Self::of(options, StoreSubject::OVERLAY)
    }

    /// The same with what the subject says.
    #[must_use]
    pub fn of(options: ZooKeeper, subject: StoreSubject) -> Self {
        Self {
            options,
            subject,
            client: Mutex::default(),
            base: AtomicU64::default(),
        }
    }

    fn store(&self) -> String {
        format!("ZooKeeper {}{}", self.options.servers, self.directory())
    }

    fn directory(&self) -> String {
        format!("{}/{}", self.options.path, self.subject.directory)
    }

    fn generation_path(&self) -> String {
        format!("{}/generation", self.directory())
    }

    fn nodes_path(&self) -> String {
        format!("{}/nodes", self.directory())
    }

    fn node_path(&self, name: &str) -> String {
        format!("{}/{name}", self.nodes_path())
    }

    fn time_limit(&self) -> Duration {
        self.options.session_timeout.max(MIN_TIMEOUT)
    }

    fn unavailable(&self, problem: impl std::fmt::Display) -> StoreError {
        StoreError::Unavailable {
            store: self.store(),
            problem: problem.to_string(),
        }
    }

    fn invalid(&self, problem: impl Into<String>) -> StoreError {
        StoreError::Invalid {
            store: self.store(),
            problem: problem.into(),
        }
    }

    /// The error of a request that writes nothing.
    fn read_error(&self, error: &Error) -> StoreError {
        match error {
            Error::NoAuth | Error::AuthFailed => StoreError::Refused {
                store: self.store(),
                problem: "access is denied; check user and password_file in [zookeeper]".to_owned(),
            },
            other => self.unavailable(other),
        }
    }

    /// The session. Begins another one if the last has ended.
    async fn client(&self) -> Result<Client, StoreError> {
        let mut current = self.client.lock().await;
        if let Some(client) = &*current
            && !client.state().is_terminated()
        {
            return Ok(client.clone());
        }
        *current = None;
        let connected = timeout(self.time_limit(), self.options.connect()).await;
        let client = connected
            .map_err(|_| self.unavailable("no connection in time"))?
            .map_err(|error| self.read_error(&error))?;
        Ok(current.insert(client).clone())
    }

    async fn read(&self) -> Result<Snapshot, StoreError> {
        let client = self.client().await?;
        let read = async {
            self.prepare(&client).await?;
            for _ in 0..READ_ATTEMPTS {
                if let Some(snapshot) = self.read_once(&client).await? {
                    return Ok(snapshot);
                }
            }
            Err(Error::Throttled)
        };
        let snapshot = timeout(self.time_limit(), read)
            .await
            .map_err(|_| self.unavailable("no answer in time"))?
            .map_err(|error| match error {
                Error::Throttled => self.unavailable("others write all the time"),
                error => self.read_error(&error),
            })?;
        let (header, version, records) = snapshot;
        match serde_json::from_slice::<Header>(&header) {
            Ok(Header {
                layout: LAYOUT,
                base,
            }) => {
                self.base.store(base, Ordering::Relaxed);
                let generation = generation(base, version);
                Ok(Snapshot {
                    generation,
                    records,
                })
            }
            Ok(Header { layout, .. }) => Err(self.invalid(format!(
                "its layout {layout} is not {LAYOUT}, the known one: a later version of the manager wrote it"
            ))),
            Err(error) => Err(self.invalid(format!(
                "{} was not written by a manager ({}); delete it, or configure another path",
                self.generation_path(),
                excerpt(error.to_string().as_bytes())
            ))),
        }
    }

    /// Creates the nodes that hold the others.
    async fn prepare(&self, client: &Client) -> Result<(), Error> {
        let options = CreateMode::Persistent.with_acls(self.options.acls());
        let nodes = self.nodes_path();
        self.options.make_directory(client, &nodes).await?;
        let header = Header::bytes(first_generation());
        let path = self.generation_path();
        match client.create(&path, &header, &options).await {
            Ok(_) | Err(Error::NodeExists) => {}
            Err(error) => return Err(error),
        }
        // The server that answers may otherwise be behind the one that was written to.
        client.sync(&path).await
    }

    /// Reads the header and all records; none if somebody wrote meanwhile.
    async fn read_once(&self, client: &Client) -> Result<Option<Contents>, Error> {
        let generation_path = self.generation_path();
        let (header, stat) = client.get_data(&generation_path).await?;
        let names = client.list_children(&self.nodes_path()).await?;
        let records: Result<Vec<(String, Vec<u8>)>, Error> = stream::iter(names)
            .map(|name| async move {
                let (record, _) = client.get_data(&self.node_path(&name)).await?;
                Ok((name, record))
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await;
        let after = client.check_stat(&generation_path).await?;
        if after.is_none_or(|after| after.version != stat.version) {
            return Ok(None);
        }
        Ok(Some((header, stat.version, records?)))
    }

    async fn commit(
        &self,
        expected: Generation,
        writes: &[RecordWrite],
    ) -> Result<Generation, StoreError> {
        let client = self.client().await?;
        let options = CreateMode::Persistent.with_acls(self.options.acls());
        let base = self.base.load(Ordering::Relaxed);
        let Some(version) = version(base, expected) else {
            return Err(StoreError::Conflict {
                store: self.store(),
            });
        };
        let mut transaction = client.new_multi_writer();
        let mut add = || {
            let header = Header::bytes(base);
            transaction.add_set_data(&self.generation_path(), &header, Some(version))?;
            for write in writes {
                let path = self.node_path(write.name());
                match write {
                    RecordWrite::Create { record, .. } => {
                        transaction.add_create(&path, record, &options)?;
                    }
                    RecordWrite::Replace { record, .. } => {
                        transaction.add_set_data(&path, record, None)?;
                    }
                    RecordWrite::Delete { .. } => transaction.add_delete(&path, None)?,
                }
            }
            Ok::<_, Error>(())
        };
        add().map_err(|error| StoreError::Refused {
            store: self.store(),
            problem: error.to_string(),
        })?;
        let unknown = |problem: String| StoreError::Unknown {
            store: self.store(),
            problem,
        };
        let committed = timeout(self.time_limit(), transaction.commit()).await;
        match committed.map_err(|_| unknown("no answer in time".to_owned()))? {
            Ok(results) => match results.first() {
                Some(MultiWriteResult::SetData { stat }) => Ok(generation(base, stat.version)),
                _ => Err(unknown("an answer of another form".to_owned())),
            },
            Err(MultiWriteError::OperationFailed { index, source }) => {
                Err(self.write_error(index, &source))
            }
            Err(MultiWriteError::RequestFailed { source }) => Err(unknown(source.to_string())),
        }
    }

    /// Why a transaction was refused at one of its operations.
    fn write_error(&self, index: usize, error: &Error) -> StoreError {
        match error {
            // The answer to this would be to give everything again, as in an empty store.
            Error::NoNode if index == 0 => self.invalid(format!(
                "{} was deleted while this manager leads; restore it, or restart the manager to begin \
                 with what is left",
                self.generation_path()
            )),
            Error::BadVersion | Error::NoNode | Error::NodeExists => StoreError::Conflict {
                store: self.store(),
            },
            Error::NoAuth | Error::AuthFailed => self.read_error(error),
            other => StoreError::Refused {
                store: self.store(),
                problem: other.to_string(),
            },
        }
    }
}

/// The header, its version, and all records.
type Contents = (Vec<u8>, i32, Vec<(String, Vec<u8>)>);

/// A version may become negative after two billion writes: its bits count.
fn generation(base: u64, version: i32) -> Generation {
    Generation(base.saturating_add(version.cast_unsigned().into()))
}

/// The version of a generation; none if it had another base.
fn version(base: u64, generation: Generation) -> Option<i32> {
    let version = u32::try_from(generation.0.checked_sub(base)?).ok()?;
    Some(version.cast_signed())
}

impl Store for ZooKeeperStore {
    fn description(&self) -> String {
        self.store()
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        self.read().boxed()
    }

    fn write(
        &self,
        generation: Generation,
        writes: Vec<RecordWrite>,
    ) -> BoxFuture<'_, Result<Generation, StoreError>> {
        async move { self.commit(generation, &writes).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_survive_as_generations() {
        for number in [0, 1, i32::MAX, i32::MIN] {
            assert_eq!(version(7, generation(7, number)), Some(number));
        }
        assert!(generation(7, 2) > generation(7, 1));
        assert_eq!(version(8, generation(7, 0)), None);
    }
}
