//! A file, for a manager that is alone.
//!
//! Invariants: the file is replaced as a whole, and is on the disk before a write returns. A lock
//! keeps a second manager on this machine from using it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use atomic_write_file::AtomicWriteFile;
use contrail_mesos_api::files::read_regular_file;
use contrail_mesos_api::text::excerpt;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Generation, RecordWrite, Snapshot, Store, StoreError, StoreSubject, first_generation};

const LAYOUT: u32 = 1;

/// A file. Clones share it.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: PathBuf,
    subject: StoreSubject,
    opened: Arc<Mutex<Option<Opened>>>,
}

/// What is in the file.
#[derive(Debug)]
struct Opened {
    contents: Contents,
    /// Keeps others out.
    lock: Flock<File>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    layout: u32,
    generation: u64,
    nodes: BTreeMap<String, Box<RawValue>>,
}

impl FileStore {
    /// The file of that path with what nodes have. It is created by the first write.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self::of(path, StoreSubject::OVERLAY)
    }

    /// The file of that path with what the subject says.
    #[must_use]
    pub fn of(path: &Path, subject: StoreSubject) -> Self {
        Self {
            path: path.to_owned(),
            subject,
            opened: Arc::default(),
        }
    }

    fn store(&self) -> String {
        format!("the file {}", self.path.display())
    }

    fn refused(&self, what: &str, error: &io::Error) -> StoreError {
        StoreError::Refused {
            store: self.store(),
            problem: format!("{what}: {error}; see state_file in {}", self.subject.table),
        }
    }

    /// Takes the lock, unless this store has it, and reads the file.
    fn open(&self) -> Result<Snapshot, StoreError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = match opened.take() {
            Some(opened) => opened.lock,
            None => self.lock()?,
        };
        let contents = self.read()?;
        let snapshot = Snapshot {
            generation: Generation(contents.generation),
            records: contents
                .nodes
                .iter()
                .map(|(name, record)| (name.clone(), record.get().as_bytes().to_vec()))
                .collect(),
        };
        *opened = Some(Opened { contents, lock });
        Ok(snapshot)
    }

    fn lock(&self) -> Result<Flock<File>, StoreError> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)
                .map_err(|error| self.refused("cannot create its directory", &error))?;
        }
        let path = self.path.with_added_extension("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| self.refused("cannot open its lock", &error))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| StoreError::Refused {
            store: self.store(),
            problem: "another manager uses it: stop that one, or configure [zookeeper] for both"
                .to_owned(),
        })
    }

    fn read(&self) -> Result<Contents, StoreError> {
        let bytes = match read_regular_file(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Contents {
                    layout: LAYOUT,
                    generation: first_generation(),
                    nodes: BTreeMap::new(),
                });
            }
            Err(error) => return Err(self.refused("cannot read it", &error)),
        };
        let invalid = |problem: String| StoreError::Invalid {
            store: self.store(),
            problem: format!(
                "{problem}; restore it from a backup, or remove it, which {}",
                self.subject.loss
            ),
        };
        let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| {
            // It quotes the file.
            invalid(excerpt(error.to_string().as_bytes()))
        })?;
        if contents.layout != LAYOUT {
            let layout = contents.layout;
            return Err(invalid(format!(
                "its layout {layout} is not {LAYOUT}, the known one"
            )));
        }
        Ok(contents)
    }

    fn commit(
        &self,
        generation: Generation,
        writes: Vec<RecordWrite>,
    ) -> Result<Generation, StoreError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let conflict = || StoreError::Conflict {
            store: self.store(),
        };
        let opened = opened.as_mut().ok_or_else(conflict)?;
        if Generation(opened.contents.generation) != generation {
            return Err(conflict());
        }
        let mut contents = opened.contents.clone();
        contents.generation += 1;
        for write in writes {
            let (name, record) = match write {
                RecordWrite::Create { name, record } | RecordWrite::Replace { name, record } => {
                    (name, Some(record))
                }
                RecordWrite::Delete { name } => (name, None),
            };
            match record {
                None => drop(contents.nodes.remove(&name)),
                Some(record) => {
                    let record = serde_json::from_slice(&record).map_err(|error| {
                        self.refused("a record is not JSON", &io::Error::from(error))
                    })?;
                    contents.nodes.insert(name, record);
                }
            }
        }
        self.replace(&contents)?;
        opened.contents = contents;
        Ok(Generation(opened.contents.generation))
    }

    /// Replaces the file, and waits until it is on the disk.
    fn replace(&self, contents: &Contents) -> Result<(), StoreError> {
        let open = || -> io::Result<AtomicWriteFile> {
            let mut bytes = serde_json::to_vec_pretty(contents)?;
            bytes.push(b'\n');
            let mut file = AtomicWriteFile::open(&self.path)?;
            file.write_all(&bytes)?;
            Ok(file)
        };
        let file = open().map_err(|error| self.refused("cannot write it", &error))?;
        // It may have taken its place before the directory could not be written to the disk.
        file.commit().map_err(|error| StoreError::Unknown {
            store: self.store(),
            problem: error.to_string(),
        })
    }

    /// Runs work that waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| {
            Err(StoreError::Unknown {
                store: self.store(),
                problem: error.to_string(),
            })
        })
    }
}

impl Store for FileStore {
    fn description(&self) -> String {
        self.store()
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        self.blocking(Self::open).boxed()
    }

    fn write(
        &self,
        generation: Generation,
        writes: Vec<RecordWrite>,
    ) -> BoxFuture<'_, Result<Generation, StoreError>> {
        self.blocking(move |store| store.commit(generation, writes))
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str) -> RecordWrite {
        let record = format!("{{\"name\": \"{name}\"}}").into_bytes();
        let name = name.to_owned();
        RecordWrite::Create { name, record }
    }

    fn names(snapshot: &Snapshot) -> Vec<&str> {
        let names = snapshot.records.iter().map(|(name, _)| name.as_str());
        names.collect()
    }

    #[tokio::test]
    async fn written_records_are_read_by_the_next_manager() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/overlay.json");
        let store = FileStore::new(&path);
        let snapshot = store.load().await.unwrap();
        assert_eq!(names(&snapshot), [""; 0]);
        let first = snapshot.generation;
        let writes = vec![create("a"), create("b")];
        let second = store.write(first, writes).await.unwrap();
        let refused = store.write(first, vec![create("c")]).await;
        assert!(
            matches!(refused, Err(StoreError::Conflict { .. })),
            "{refused:?}"
        );
        let delete = RecordWrite::Delete {
            name: "a".to_owned(),
        };
        let third = store.write(second, vec![delete]).await.unwrap();

        let other = FileStore::new(&path);
        let locked = other.load().await;
        assert!(
            matches!(locked, Err(StoreError::Refused { .. })),
            "{locked:?}"
        );
        drop(store);
        let snapshot = other.load().await.unwrap();
        assert_eq!((names(&snapshot), snapshot.generation), (vec!["b"], third));
        // Nodes know the last generation: a lost file does not begin below it.
        fs::remove_file(&path).unwrap();
        let lost = other.load().await.unwrap();
        assert!(
            lost.records.is_empty() && lost.generation >= first,
            "{lost:?}"
        );
    }

    #[tokio::test]
    async fn damaged_file_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overlay.json");
        let store = FileStore::new(&path);
        let generation = store.load().await.unwrap().generation;
        store.write(generation, vec![create("a")]).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            &text[..text.len() / 2],
            "",
            "[]",
            &text.replace("\"layout\": 1", "\"layout\": 2"),
            &text.replace("\"nodes\"", "\"more\\u001b[31m\""),
        ] {
            fs::write(&path, damaged).unwrap();
            let invalid = store.load().await;
            assert!(
                matches!(invalid, Err(StoreError::Invalid { .. })),
                "{invalid:?}"
            );
            let error = invalid.unwrap_err().to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[tokio::test]
    async fn failed_write_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overlay.json");
        let store = FileStore::new(&path);
        let first = store.load().await.unwrap().generation;
        // A directory is in the place of the file.
        fs::create_dir(&path).unwrap();
        let failed = store.write(first, vec![create("a")]).await;
        assert!(
            matches!(failed, Err(StoreError::Unknown { .. })),
            "{failed:?}"
        );
        fs::remove_dir(&path).unwrap();
        let again = store.load().await.unwrap();
        assert_eq!(names(&again), [""; 0]);
        store
            .write(again.generation, vec![create("b")])
            .await
            .unwrap();
        assert_eq!(names(&store.load().await.unwrap()), ["b"]);
    }
}
