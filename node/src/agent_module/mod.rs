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

use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos_api::overlay_modules::{Service, Supervisor, SupervisorError};
use contrail_mesos_api::text::Quoted;

pub use config::{AgentModuleConfig, AgentModuleKind, ModuleConfigError};
pub use masters::MasterError;

use crate::cni_files::CniFilesSubsystem;
use crate::daemon::{self, Daemon, StartError, SubsystemsError};
use crate::masquerade::MasqueradeSubsystem;
use crate::namespace_lock::{NamespaceLock, NamespaceLockError};
use crate::subsystem::Subsystem;

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
    /// The daemon does not run.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError<AgentDaemonError>),
}

/// Why the daemon of a module cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentDaemonError {
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
}

/// A daemon that runs in this process. It ends when this is dropped; what it has set up stays.
#[derive(Debug)]
pub struct AgentModule {
    _supervisor: Supervisor,
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
        Ok(Self {
            _supervisor: Supervisor::start(DaemonService(config))?,
        })
    }
}

/// The daemon of this configuration.
struct DaemonService(AgentModuleConfig);

impl Service for DaemonService {
    /// With the lock that is held while it runs.
    type Running = (Daemon, NamespaceLock);
    type Error = AgentDaemonError;

    async fn start(&self) -> Result<(Daemon, NamespaceLock), AgentDaemonError> {
        let Self(AgentModuleConfig { config, cni, .. }) = self;
        let lock = NamespaceLock::acquire(&config.state_dir)?;
        let mut subsystems: Vec<Box<dyn Subsystem>> = daemon::subsystems(config)?;
        // An earlier run may have made bridges, if this one does not.
        subsystems.push(Box::new(MasqueradeSubsystem::new(cni.is_some())?));
        let cni_files = CniFilesSubsystem::new(&config.state_dir, cni.clone());
        subsystems.push(Box::new(cni_files));
        let daemon = Daemon::start_in_agent(config, self.0.hash(), subsystems).await?;
        let name = &config.node.name;
        let managers = config.node.managers.iter().map(ToString::to_string);
        let managers: Vec<_> = managers.collect();
        log::info!(node = name, managers = managers.join(", "); "the overlay module runs");
        if let Some(address) = daemon.listen() {
            log::info!("API of the overlay module at http://{address}");
        }
        Ok((daemon, lock))
    }

    async fn failure(&self, (daemon, _): &mut (Daemon, NamespaceLock)) -> String {
        daemon.failed().await
    }

    async fn stop((daemon, _lock): (Daemon, NamespaceLock)) {
        daemon.stop().await;
    }
}
