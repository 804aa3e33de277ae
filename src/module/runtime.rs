//! The library's own small runtime. Built at the first use, never shut down: the agent outlives
//! it by nothing.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// Enough for work that waits for the kernel, and little enough to live in every agent.
const WORKERS: usize = 2;

/// The runtime, or why there is none.
pub(super) fn handle() -> Result<&'static Handle, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .thread_name("contrail-mesos")
                .enable_all()
                .build()
                .map_err(|error| {
                    format!(
                        "contrail-mesos: cannot start the {WORKERS} threads of its runtime: \
                         {error}; check the agent's limits on processes and open files"
                    )
                })
        })
        .as_ref()
        .map(Runtime::handle)
        .map_err(Clone::clone)
}

/// Starts logging to standard error, where the agent's own log goes. `CONTRAIL_MESOS_LOG` has the
/// level, `info` without it.
pub(super) fn start_logging() {
    let environment = env_logger::Env::new().filter_or("CONTRAIL_MESOS_LOG", "info");
    // Fails when there is a logger already, which is then the one to use.
    let _ = env_logger::Builder::from_env(environment).try_init();
}
