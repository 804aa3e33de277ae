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
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use contrail_mesos_api::http::TlsError;
use contrail_mesos_api::text::with_causes;

use crate::config::Config;
use crate::server::{Manager, StartError};

pub use config::{MasterModuleKind, ModuleConfigError, read};

/// Few, because the work mostly waits for nodes and the store.
const WORKER_THREADS: usize = 2;
/// How often the file of the overlays is read, and changes of the certificates are looked for.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);
/// The delay before the manager is started again, as in the DC/OS modules.
const RESTART_DELAY: Duration = Duration::from_secs(3);

/// Why a module cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum MasterModuleError {
    /// A certificate or key is invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There are no threads.
    #[error("cannot start the threads of the overlay module: {0}; check the limits of the master")]
    Threads(std::io::Error),
    /// The manager cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The thread ended before the manager ran.
    #[error("the overlay module failed while it started; see the log above")]
    Lost,
}

/// A manager that runs in this process. It ends when this is dropped.
#[derive(Debug)]
pub struct MasterModule {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
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
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("cm-overlay")
            .enable_all()
            .build()
            .map_err(MasterModuleError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let (started, first) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("cm-overlay".to_owned())
            .spawn(move || supervise(&runtime, &config, &started, &stopped))
            .map_err(MasterModuleError::Threads)?;
        let module = Self {
            stop,
            thread: Some(thread),
        };
        first.recv().map_err(|_| MasterModuleError::Lost)??;
        Ok(module)
    }
}

impl Drop for MasterModule {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic was logged by the thread.
            let _ = thread.join();
        }
    }
}

/// Runs the manager until it is stopped. If it cannot start the first time, it is not tried again.
fn supervise(
    runtime: &Runtime,
    config: &Config,
    started: &mpsc::Sender<Result<(), MasterModuleError>>,
    stopped: &watch::Receiver<bool>,
) {
    let mut has_run = false;
    loop {
        let run = || runtime.block_on(run(config, started, &mut has_run, stopped.clone()));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(None) => return,
            Ok(Some(problem)) => {
                log::error!("the overlay module starts again in {RESTART_DELAY:?}: {problem}");
            }
            // The creator of the module sees that nobody answers.
            Err(_) if !has_run => return,
            // The panic itself was printed.
            Err(_) => log::error!(
                "the overlay module panicked, which is a bug of contrail-mesos; it starts again in \
                 {RESTART_DELAY:?}"
            ),
        }
        let mut stopped = stopped.clone();
        let is_stopped = runtime.block_on(async {
            tokio::time::timeout(RESTART_DELAY, stopped.wait_for(|stopped| *stopped)).await
        });
        if is_stopped.is_ok() {
            return;
        }
    }
}

/// Returns why the manager must be started again; none if it was stopped.
async fn run(
    config: &Config,
    started: &mpsc::Sender<Result<(), MasterModuleError>>,
    has_run: &mut bool,
    mut stopped: watch::Receiver<bool>,
) -> Option<String> {
    // Before they are read, so that no change is missed.
    let certificates = stamps_of_certificates(config).await;
    let manager = match Manager::start(config.clone()).await {
        Ok(manager) => manager,
        Err(error) if *has_run => return Some(with_causes(&error)),
        Err(error) => {
            // The creator of the module waits for it.
            let _ = started.send(Err(error.into()));
            return None;
        }
    };
    log::info!("the overlay module listens for agents at {}", manager.url());
    if let Some(address) = manager.admin_address() {
        log::info!("admin listener at http://{address}");
    }
    if !*has_run {
        *has_run = true;
        let _ = started.send(Ok(()));
    }
    let problem = tokio::select! {
        () = follow(&manager, config.clone(), certificates) => Some("a part of it has ended".to_owned()),
        // An error means that the module is gone.
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    manager.stop().await;
    problem
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
