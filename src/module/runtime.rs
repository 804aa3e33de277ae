//! The tokio runtime of the module. Created at the first use, and runs until the agent exits.

use std::sync::OnceLock;

use contrail_mesos_api::log_line;
use tokio::runtime::{Builder, Handle, Runtime};

/// Few, because calls mostly wait for the kernel and every agent has these threads.
const WORKER_THREADS: usize = 2;

/// The runtime's handle, or why the runtime could not be created.
pub(super) fn handle() -> Result<&'static Handle, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(WORKER_THREADS)
                .thread_name("contrail-mesos")
                .enable_all()
                .build()
                .map_err(|error| {
                    format!(
                        "contrail-mesos: cannot start the {WORKER_THREADS} threads of its runtime: \
                         {error}; check the agent's limits of processes and open files"
                    )
                })
        })
        .as_ref()
        .map(Runtime::handle)
        .map_err(Clone::clone)
}

/// Starts logging to standard error, like the agent. `CONTRAIL_MESOS_LOG` sets the level, by default
/// `info`.
pub(super) fn start_logging() {
    let environment = env_logger::Env::new().filter_or("CONTRAIL_MESOS_LOG", "info");
    // Fails if there already is a logger, which is then used.
    let _ = env_logger::Builder::from_env(environment)
        .format(|out, record| {
            let time = out.timestamp();
            log_line::write(out, time, record)
        })
        .try_init();
}
