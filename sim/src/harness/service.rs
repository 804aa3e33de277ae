//! The listening socket of a simulated server, which can be unplugged and plugged in again.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::connection::{CuttableListener, Peer};
use super::lock;

/// The port is free once the aborted task has ended, which may be a moment after unplugging.
const REBIND_INTERVAL: Duration = Duration::from_millis(10);
const MAX_REBINDS: u32 = 500;

/// A server's socket and the task that serves it.
pub(crate) struct Service {
    options: ServiceOptions,
    address: SocketAddr,
    router: Router,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How a server is served.
pub(crate) struct ServiceOptions {
    /// What the log calls it.
    pub(crate) name: String,
    /// Whether header and body of a response are written apart.
    pub(crate) split_writes: bool,
    /// Whether clients can reach it; shared with its [`Frontend`](super::Frontend).
    pub(crate) online: Arc<AtomicBool>,
    /// What else ends when it is unplugged.
    pub(crate) on_unplug: Box<dyn Fn() + Send + Sync>,
}

impl Service {
    /// Serves a router on a listener, with the runtime.
    pub(crate) fn start(
        options: ServiceOptions,
        listener: TcpListener,
        router: Router,
    ) -> io::Result<Self> {
        let service = Self {
            options,
            address: listener.local_addr()?,
            router,
            task: Mutex::new(None),
        };
        service.serve(listener);
        Ok(service)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is_online(&self) -> bool {
        self.options.online.load(Ordering::SeqCst)
    }

    fn serve(&self, tcp: TcpListener) {
        self.options.online.store(true, Ordering::SeqCst);
        let name = self.options.name.clone();
        let listener = CuttableListener {
            tcp,
            split_writes: self.options.split_writes,
        };
        let service = self
            .router
            .clone()
            .into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, service).await {
                log::error!("{name} ended: {error}");
            }
        });
        *lock(&self.task) = Some(task);
    }

    /// Refuses connections from now on, and cuts those that are open at their next request.
    pub(crate) fn unplug(&self) {
        self.options.online.store(false, Ordering::SeqCst);
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
        (self.options.on_unplug)();
    }

    /// Accepts connections again, at the same address.
    pub(crate) async fn plug(&self) -> io::Result<()> {
        if self.is_online() {
            return Ok(());
        }
        let mut attempts = 0;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) if attempts >= MAX_REBINDS => return Err(error),
                Err(_) => attempts += 1,
            }
            tokio::time::sleep(REBIND_INTERVAL).await;
        };
        self.serve(listener);
        Ok(())
    }
}
