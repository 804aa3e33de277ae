//! The node daemon inside a mesos-agent, for the modules with the names of the DC/OS overlay modules.
//!
//! ```text
//! config   parameters, the JSON file, and the environment of Mesos
//! masters  where the managers are
//! ```
//!
//! Invariants: a fault of the configuration is known before the module is created. After that, nothing
//! ends the agent: the daemon runs on threads of its own, and is started again when a part of it ends.

mod config;
mod masters;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos_api::text::{Quoted, with_causes};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

pub use config::{AgentModuleConfig, AgentModuleKind, ModuleConfigError};
pub use masters::MasterError;

use crate::cni_files::CniFilesSubsystem;
use crate::daemon::{self, Daemon, StartError, SubsystemsError};
use crate::masquerade::MasqueradeSubsystem;
use crate::namespace_lock::{NamespaceLock, NamespaceLockError};
use crate::subsystem::Subsystem;

/// Few, because the work mostly waits for managers and the kernel.
const WORKER_THREADS: usize = 2;
/// The delay before the daemon is started again, as in the DC/OS modules.
const RESTART_DELAY: Duration = Duration::from_secs(3);

/// Why a module cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum AgentModuleError {
    /// The process may not change the network.
    #[error("the overlay module needs an agent that runs as root")]
    NotRoot,
    /// The directory of the CNI configurations cannot be made.
    #[error("cannot make the directory of the CNI configurations {path}: {error}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// There are no threads.
    #[error("cannot start the threads of the overlay module: {0}; check the limits of the agent")]
    Threads(std::io::Error),
    /// The daemon cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Another daemon runs in the network namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceLockError),
    /// The subsystems cannot be set up.
    #[error(transparent)]
    Subsystems(#[from] SubsystemsError),
    /// The kernel's network cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The thread ended before the daemon ran.
    #[error("the overlay module failed while it started; see the log above")]
    Lost,
}

/// A daemon that runs in this process. It ends when this is dropped; what it has set up stays.
#[derive(Debug)]
pub struct AgentModule {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AgentModule {
    /// Starts the daemon in the network namespace of the calling thread, and waits until it runs.
    pub fn start(config: AgentModuleConfig) -> Result<Self, AgentModuleError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(AgentModuleError::NotRoot);
        }
        for warning in &config.warnings {
            log::warn!("{warning}");
        }
        if let Some(cni) = &config.cni {
            // network/cni does not start without it.
            std::fs::create_dir_all(&cni.directory).map_err(|error| {
                AgentModuleError::Directory {
                    path: Quoted(cni.directory.as_os_str().as_encoded_bytes()).to_string(),
                    error,
                }
            })?;
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("cm-overlay")
            .enable_all()
            .build()
            .map_err(AgentModuleError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let (started, first) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("cm-overlay".to_owned())
            .spawn(move || supervise(&runtime, &config, &started, &stopped))
            .map_err(AgentModuleError::Threads)?;
        let module = Self {
            stop,
            thread: Some(thread),
        };
        first.recv().map_err(|_| AgentModuleError::Lost)??;
        Ok(module)
    }
}

impl Drop for AgentModule {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic was logged by the thread.
            let _ = thread.join();
        }
    }
}

/// Runs the daemon until it is stopped. If it cannot start the first time, it is not tried again.
fn supervise(
    runtime: &Runtime,
    config: &AgentModuleConfig,
    started: &mpsc::Sender<Result<(), AgentModuleError>>,
    stopped: &watch::Receiver<bool>,
) {
    let mut has_run = false;
    loop {
        let run = || runtime.block_on(run(config, started, &mut has_run, stopped.clone()));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(End::Stopped) => return,
            Ok(End::Failed(problem)) => {
                log::error!("the overlay module starts again in {RESTART_DELAY:?}: {problem}");
            }
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

/// How a run of the daemon ended.
enum End {
    Stopped,
    Failed(String),
}

async fn run(
    config: &AgentModuleConfig,
    started: &mpsc::Sender<Result<(), AgentModuleError>>,
    has_run: &mut bool,
    mut stopped: watch::Receiver<bool>,
) -> End {
    let (mut daemon, _only) = match start(config).await {
        Ok(started) => started,
        Err(error) if *has_run => return End::Failed(with_causes(&error)),
        Err(error) => {
            // The creator of the module waits for it.
            let _ = started.send(Err(error));
            return End::Stopped;
        }
    };
    let node = &config.config.node;
    let name = &node.name;
    let managers: Vec<_> = node.managers.iter().map(ToString::to_string).collect();
    log::info!(node = name, managers = managers.join(", "); "the overlay module runs");
    if let Some(address) = daemon.listen() {
        log::info!("API of the overlay module at http://{address}");
    }
    if !*has_run {
        *has_run = true;
        let _ = started.send(Ok(()));
    }
    let end = tokio::select! {
        failure = daemon.failed() => End::Failed(failure),
        // An error means that the module is gone.
        _ = stopped.wait_for(|stopped| *stopped) => End::Stopped,
    };
    daemon.stop().await;
    end
}

/// Starts the daemon, with the lock that is held while it runs.
async fn start(config: &AgentModuleConfig) -> Result<(Daemon, NamespaceLock), AgentModuleError> {
    let lock = NamespaceLock::acquire(&config.config.state_dir)?;
    let mut subsystems: Vec<Box<dyn Subsystem>> = daemon::subsystems(&config.config)?;
    let state_dir = &config.config.state_dir;
    let cni = config.cni.clone();
    // An earlier run may have made bridges, if this one does not.
    subsystems.push(Box::new(MasqueradeSubsystem::new(cni.is_some())?));
    subsystems.push(Box::new(CniFilesSubsystem::new(state_dir, cni)));
    let daemon = Daemon::start_in_agent(&config.config, config.hash(), subsystems).await?;
    Ok((daemon, lock))
}
