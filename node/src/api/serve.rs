//! Serves the API on its sockets.
//!
//! Invariants: the unix socket is root's alone from the moment in which it can be connected to. A
//! peer that sends nothing is disconnected, and the number of connections is bounded.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// How many connections a socket serves at once. Others wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may wait for the whole head of a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection lives.
const MAX_CONNECTION_AGE: Duration = Duration::from_mins(5);
/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The delay after a connection cannot be accepted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Why the unix socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiSocketError {
    /// Something else is there.
    #[error("{} exists and is not a socket; remove it, or write another socket in [node]", .0.display())]
    Occupied(PathBuf),
    /// The kernel refuses.
    #[error("cannot listen at {}: {error}", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The listening unix socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ApiSocket {
    /// Listens at `path`, in place of a socket that an earlier daemon left. Only the owner of this
    /// process may connect.
    pub fn bind(path: &Path) -> Result<Self, ApiSocketError> {
        let failed = |error| ApiSocketError::Listen {
            path: path.to_owned(),
            error,
        };
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(ApiSocketError::Occupied(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(directory) = path.parent() {
                    std::fs::create_dir_all(directory).map_err(failed)?;
                }
            }
            Err(error) => return Err(failed(error)),
        }
        // Nobody knows this name, so nobody connects before the mode is set.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&temporary, mode)
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // The next daemon replaces it as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves on the unix socket until the future is dropped.
pub async fn serve_unix(socket: ApiSocket, router: Router) {
    let places = places();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => retry_later(&error).await,
        }
    }
}

/// Serves by TCP until the future is dropped.
pub async fn serve_tcp(listener: TcpListener, router: Router) {
    let places = places();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => retry_later(&error).await,
        }
    }
}

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_CONNECTIONS))
}

async fn retry_later(error: &io::Error) {
    // Out of file descriptors, or the peer has already disconnected.
    log::debug!(error:%; "cannot accept a connection of the API");
    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A peer that goes away is its own business.
    let _ = tokio::time::timeout(MAX_CONNECTION_AGE, connection).await;
}
