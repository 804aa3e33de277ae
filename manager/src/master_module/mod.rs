//! The manager inside a mesos-master, for the modules with the names of the DC/OS overlay modules.
//!
//! ```text
//! config  parameters, the JSON file, and the environment of Mesos
//! ```
//!
//! Invariants: a fault of the configuration is known before the module is created. After that, nothing
//! ends the master: the manager runs on threads of its own, and waits for a store or a ZooKeeper that
//! is away. The file of the overlays and the certificates are followed; files with problems change
//! nothing.

mod config;

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use contrail_mesos_api::http::TlsError;
use contrail_mesos_api::overlay_modules::{Service, Supervisor, SupervisorError};
use contrail_mesos_api::text::with_causes;

use crate::config::Config;
use crate::server::{Manager, StartError};

pub use config::{MasterModuleKind, ModuleConfigError, read};

/// How often the file of the overlays is read, and changes of the certificates are looked for.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// Why a module cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum MasterModuleError {
    /// A certificate or key is invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The manager does not run.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError<StartError>),
}

/// A manager that runs in this process. It ends when this is dropped.
#[derive(Debug)]
pub struct MasterModule {
    _supervisor: Supervisor,
}

impl MasterModule {
    /// Starts the manager, and waits until it listens.
    pub fn start(config: Config) -> Result<Self, MasterModuleError> {
        for warning in &config.warnings {
            log::warn!("{warning}");
        }
        Manager::check(&config)?;
        let has_certificates = config
            .access
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        if config.access.tokens.is_empty() && !has_certificates && !config.listen.ip().is_loopback()
        {
            let address = config.listen;
            log::warn!(
                address:%;
                "everyone who reaches the overlay module can get and free subnets; set token_file, or \
                 certificate_file, key_file and client_ca_file"
            );
        }
        Ok(Self {
            _supervisor: Supervisor::start(ManagerService(config))?,
        })
    }
}

/// The manager of this configuration, and what changes while it runs.
struct ManagerService(Config);

/// A manager, with the stamps of the certificates that it has read.
struct RunningManager {
    manager: Manager,
    certificates: Vec<Option<FileStamp>>,
}

impl Service for ManagerService {
    type Running = RunningManager;
    type Error = StartError;

    async fn start(&self) -> Result<RunningManager, StartError> {
        let Self(config) = self;
        // Before they are read, so that no change is missed.
        let certificates = stamps_of_certificates(config).await;
        let manager = Manager::start(config.clone()).await?;
        log::info!("the overlay module listens for agents at {}", manager.url());
        if let Some(address) = manager.admin_address() {
            log::info!("admin listener at http://{address}");
        }
        Ok(RunningManager {
            manager,
            certificates,
        })
    }

    async fn failure(&self, running: &mut RunningManager) -> String {
        let certificates = std::mem::take(&mut running.certificates);
        follow(&running.manager, self.0.clone(), certificates).await;
        "a part of it has ended".to_owned()
    }

    async fn stop(running: RunningManager) {
        running.manager.stop().await;
    }
}

/// What differs when a file is replaced or written: its time of modification, its length and its inode.
type FileStamp = (SystemTime, u64, u64);

/// Those of the certificate, of its key and of the CAs; none of a file that cannot be read now.
async fn stamps_of_certificates(config: &Config) -> Vec<Option<FileStamp>> {
    let Some(tls) = &config.access.tls else {
        return vec![];
    };
    let identity = [&tls.identity.certificate, &tls.identity.key];
    let mut stamps = vec![];
    for path in identity.into_iter().chain(&tls.client_ca) {
        let metadata = tokio::fs::metadata(path).await.ok();
        stamps
            .push(metadata.and_then(|file| Some((file.modified().ok()?, file.len(), file.ino()))));
    }
    stamps
}

/// Applies changes of the file of the overlays, and of the certificates since these stamps.
async fn follow(manager: &Manager, mut config: Config, mut certificates: Vec<Option<FileStamp>>) {
    let Some(mut overlay) = config.overlay.clone() else {
        return std::future::pending().await;
    };
    let mut last_problem = None;
    let mut last_failure = None;
    loop {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        let file = overlay.file.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load_networks(&file)).await;
        let networks = match loaded {
            Ok(Ok(networks)) => {
                last_problem = None;
                Some(networks)
            }
            Ok(Err(error)) => {
                let problem = error.to_string();
                // A file that is being written is incomplete for a moment.
                let is_second = last_problem.as_ref() == Some(&(problem.clone(), false));
                if is_second {
                    log::error!("the overlays stay as they are: {problem}");
                }
                let is_logged =
                    is_second || last_problem.as_ref() == Some(&(problem.clone(), true));
                last_problem = Some((problem, is_logged));
                None
            }
            // It panicked, or the runtime ends.
            Err(_) => return,
        };
        let networks = networks.filter(|networks| *networks != overlay.networks);
        let present = stamps_of_certificates(&config).await;
        if networks.is_none() && present == certificates {
            continue;
        }
        let mut changed = overlay.clone();
        if let Some(networks) = networks {
            changed.networks = networks;
        }
        let mut new = config.clone();
        new.overlay = Some(changed.clone());
        // What fails is tried again.
        match tokio::task::block_in_place(|| manager.reload(&new)) {
            Ok(_) => {
                last_failure = None;
                let file = changed.file.display();
                log::info!(file:%; "the changed overlays and certificates are applied");
                (overlay, config, certificates) = (changed, new, present);
            }
            Err(error) => {
                let problem = with_causes(&error);
                if last_failure.as_ref() != Some(&problem) {
                    log::error!("the overlays and certificates stay as they are: {problem}");
                }
                last_failure = Some(problem);
            }
        }
    }
}
