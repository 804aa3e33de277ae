//! What runs inside a process of Mesos for a module: it is started, and started again when it fails.
//!
//! Invariants: the creator of a module learns why the first start fails, and it is not tried again.
//! After that, nothing ends the process of Mesos: everything runs on threads of its own, and a panic is
//! a failure like others.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::text::with_causes;

/// Few, because the work mostly waits for others.
const WORKER_THREADS: usize = 2;
/// The name of all threads.
const THREAD_NAME: &str = "cm-overlay";
/// The delay before a service is started again, as in the DC/OS modules.
const RESTART_DELAY: Duration = Duration::from_secs(3);

/// What a module runs.
pub trait Service: Send + 'static {
    /// It, while it runs.
    type Running;
    /// Why it cannot start.
    type Error: std::error::Error + Send + 'static;

    /// Starts it.
    fn start(&self) -> impl Future<Output = Result<Self::Running, Self::Error>>;

    /// Waits until it fails, and returns why.
    fn failure(&self, running: &mut Self::Running) -> impl Future<Output = String>;

    /// Stops it.
    fn stop(running: Self::Running) -> impl Future<Output = ()>;
}

/// Why a service does not run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError<E: std::error::Error + 'static> {
    /// There are no threads.
    #[error("cannot start the threads of the overlay module: {0}; check the limits of the process")]
    Threads(io::Error),
    /// It cannot start.
    #[error(transparent)]
    Start(E),
    /// Its thread ended before it ran.
    #[error("the overlay module failed while it started; see the log above")]
    Lost,
}

/// A service that runs in this process. It ends when this is dropped.
#[derive(Debug)]
pub struct Supervisor {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts a service in the network namespace of the calling thread, and waits until it runs.
    pub fn start<S: Service>(service: S) -> Result<Self, SupervisorError<S::Error>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name(THREAD_NAME)
            .enable_all()
            .build()
            .map_err(SupervisorError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let (started, first) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || supervise(&runtime, &service, &started, &stopped))
            .map_err(SupervisorError::Threads)?;
        let supervisor = Self {
            stop,
            thread: Some(thread),
        };
        first
            .recv()
            .map_err(|_| SupervisorError::Lost)?
            .map_err(SupervisorError::Start)?;
        Ok(supervisor)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic was logged by the thread.
            let _ = thread.join();
        }
    }
}

/// Runs a service until it is stopped. If it cannot start the first time, it is not tried again.
fn supervise<S: Service>(
    runtime: &Runtime,
    service: &S,
    started: &mpsc::Sender<Result<(), S::Error>>,
    stopped: &watch::Receiver<bool>,
) {
    let mut has_run = false;
    loop {
        let run = || runtime.block_on(run(service, started, &mut has_run, stopped.clone()));
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

/// Returns why the service must be started again; none if it was stopped.
async fn run<S: Service>(
    service: &S,
    started: &mpsc::Sender<Result<(), S::Error>>,
    has_run: &mut bool,
    mut stopped: watch::Receiver<bool>,
) -> Option<String> {
    let mut running = match service.start().await {
        Ok(running) => running,
        Err(error) if *has_run => return Some(with_causes(&error)),
        Err(error) => {
            // The creator of the module waits for it.
            let _ = started.send(Err(error));
            return None;
        }
    };
    if !*has_run {
        *has_run = true;
        let _ = started.send(Ok(()));
    }
    let problem = tokio::select! {
        problem = service.failure(&mut running) => Some(problem),
        // An error means that the module is gone.
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    S::stop(running).await;
    problem
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no start")]
    struct NoStart;

    /// Counts starts and stops.
    #[derive(Clone, Default)]
    struct Counting {
        fails: bool,
        panics: bool,
        starts: Arc<AtomicUsize>,
        stops: Arc<AtomicUsize>,
    }

    impl Service for Counting {
        type Running = Arc<AtomicUsize>;
        type Error = NoStart;

        async fn start(&self) -> Result<Self::Running, NoStart> {
            self.starts.fetch_add(1, Ordering::SeqCst);
            assert!(!self.panics, "a panic of this test");
            if self.fails {
                return Err(NoStart);
            }
            Ok(self.stops.clone())
        }

        async fn failure(&self, _: &mut Self::Running) -> String {
            std::future::pending().await
        }

        async fn stop(running: Self::Running) {
            running.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn service_is_stopped_when_its_supervisor_is_dropped() {
        let service = Counting::default();
        let supervisor = Supervisor::start(service.clone()).unwrap();
        assert_eq!(service.starts.load(Ordering::SeqCst), 1);
        assert_eq!(service.stops.load(Ordering::SeqCst), 0);
        drop(supervisor);
        assert_eq!(service.stops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn first_start_that_fails_is_reported_and_not_repeated() {
        let failing = Counting {
            fails: true,
            ..Counting::default()
        };
        let error = Supervisor::start(failing.clone()).unwrap_err();
        assert!(matches!(error, SupervisorError::Start(NoStart)), "{error}");
        let panicking = Counting {
            panics: true,
            ..failing.clone()
        };
        let error = Supervisor::start(panicking).unwrap_err();
        assert!(matches!(error, SupervisorError::Lost), "{error}");
        assert_eq!(failing.starts.load(Ordering::SeqCst), 2);
        assert_eq!(failing.stops.load(Ordering::SeqCst), 0);
    }
}
