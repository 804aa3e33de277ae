//! What is still to be told to the vRouter agent and the manager about containers that are gone.
//!
//! A file `<state_dir>/contrail/debts/<machine>.json` is there, durable, from before the first
//! step of a container's end until after its last. The steps, in this order, for an agent that no
//! longer has the configuration of a container does not forget its ports:
//!
//! 1. the vRouter agent is told;
//! 2. links and port files are removed;
//! 3. the manager is told.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atomic_write_file::AtomicWriteFile;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::{BoxError, Inner, blocking};

/// How long the vRouter agent may take for its step.
const VROUTER: Duration = Duration::from_secs(3);
/// How long the managers may take for theirs.
const MANAGER: Duration = Duration::from_secs(10);

/// What is left to be done for a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Debt {
    /// The uuid of its virtual-machine object.
    pub(super) machine: Uuid,
    /// Its links on the host.
    #[serde(default)]
    pub(super) links: Vec<String>,
}

/// The debts of one state directory.
pub(super) struct Debts {
    directory: PathBuf,
    /// Each with a gate for whoever settles it.
    known: Mutex<HashMap<Uuid, Known>>,
}

#[derive(Clone)]
struct Known {
    debt: Debt,
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl Debts {
    /// Those that are there. Blocks on the file system.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let debts = Self {
            directory: state_dir.join("contrail").join("debts"),
            known: Mutex::default(),
        };
        debts.look()?;
        Ok(debts)
    }

    /// Learns of debts that others left, such as the command line. Blocks on the file system.
    pub(super) fn look(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read =
                std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Debt>(&text)?));
            match read {
                Ok(debt) if self.path(debt.machine) == path => self.learn(debt),
                Ok(_) => log::warn!("{} is not named after what it says", path.display()),
                // It was settled in between.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => log::warn!("cannot read {}: {error}", path.display()),
            }
        }
        Ok(())
    }

    fn path(&self, machine: Uuid) -> PathBuf {
        self.directory.join(format!("{machine}.json"))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Known>> {
        // Each use is one step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, debt: Debt) {
        self.known().entry(debt.machine).or_insert_with(|| Known {
            debt,
            gate: Arc::default(),
        });
    }

    /// The machines that something is owed for.
    pub(super) fn machines(&self) -> Vec<Uuid> {
        self.known().keys().copied().collect()
    }

    /// Makes a debt durable.
    pub(super) async fn incur(&self, debt: Debt) -> Result<(), BoxError> {
        let path = self.path(debt.machine);
        let text = serde_json::to_vec(&debt)?;
        self.learn(debt);
        blocking(move || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = AtomicWriteFile::open(&path)?;
            file.write_all(&text)?;
            Ok(file.commit()?)
        })
        .await
    }

    async fn forgive(&self, machine: Uuid) -> Result<(), BoxError> {
        let path = self.path(machine);
        blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        })
        .await?;
        self.known().remove(&machine);
        Ok(())
    }
}

impl Inner {
    /// Settles a debt, if there is one. What is missing otherwise is said in words.
    pub(super) async fn settle(&self, machine: Uuid) -> Result<(), String> {
        let Some(known) = self.debts.known().get(&machine).cloned() else {
            return Ok(());
        };
        let _gate = known.gate.lock().await;
        if !self.debts.known().contains_key(&machine) {
            return Ok(());
        }
        self.pay(&known.debt)
            .await
            .map_err(|error| error.to_string())
    }

    async fn pay(&self, debt: &Debt) -> Result<(), BoxError> {
        let machine = debt.machine;
        self.vrouter
            .unregister(machine, Instant::now() + VROUTER)
            .await?;
        for link in &debt.links {
            self.reaper.delete(link.clone()).await?;
        }
        let files = self.files.clone();
        blocking(move || Ok(files.remove(machine)?)).await?;
        self.manager
            .delete(machine, Instant::now() + MANAGER)
            .await?;
        self.debts.forgive(machine).await
    }
}
