//! Listeners: they accept connections, with optional TLS, and serve HTTP on them.
//!
//! ```text
//! connections  who may have a connection
//! descriptors  how many connections the limit of open files allows
//! body         reads the body of a request
//! hosts        by which names a listener without authentication may be addressed
//! tls          certificates
//! metrics      metrics of connections
//! ```
//!
//! Invariants: whatever peers do, a new connection is served at once, as long as not all places are
//! taken by requests in progress; a peer that does not send what it has to is disconnected in a
//! bounded time; connections leave enough file descriptors for the manager's own work.

mod body;
mod connections;
mod descriptors;
mod hosts;
mod metrics;
mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

pub(super) use body::{BodyLimits, discard, receive_body};
pub(super) use connections::Connections;
pub(super) use descriptors::Allotment;
pub(super) use hosts::{AllowedHosts, check_host};
pub(super) use metrics::ConnectionMetrics;
pub(super) use tls::server_config;

use crate::log_gate::LogGate;
use connections::Connection;
use metrics::CloseReason;

/// The time limit of a handshake, which takes milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a response may wait for its peer to accept more of it, or to answer at all.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// The delay after a connection cannot be accepted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// How often a line about connections of one address is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// How many connections may be closing beyond the limit.
const CLOSING_CONNECTIONS: usize = 32;

/// The peer of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// The common name and the DNS names in its certificate.
    pub names: Arc<[String]>,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
}

/// What a listener needs to serve.
#[derive(Debug)]
pub(super) struct Serving {
    pub router: Router,
    pub connections: Arc<Connections>,
    /// How long a connection may wait for the whole head of the next request.
    pub idle_timeout: Duration,
    /// Ends the listener, and each connection after its request.
    pub stop: CancellationToken,
}

/// What all connections of a listener share.
struct Shared {
    serving: Serving,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Keeps failed handshakes from flooding the log.
    log: LogGate,
}

impl Listener {
    /// Listens, with TLS if there is a configuration, which the sender of `tls` may replace.
    pub(super) async fn bind(
        address: SocketAddr,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { socket, tls })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until it is stopped and the last connection has ended.
    pub(super) async fn serve(self, serving: Serving) {
        let places = serving.connections.limits().total + CLOSING_CONNECTIONS;
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared {
            serving,
            tls: self.tls,
            log: LogGate::new(LOG_INTERVAL),
        });
        let mut tasks = JoinSet::new();
        let accept = async {
            loop {
                // Waits for connections that are closing. The semaphore is never closed.
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                while tasks.try_join_next().is_some() {}
                let (stream, address) = match self.socket.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or the peer has already disconnected.
                        if let Some(left_out) = shared.log.pass(None) {
                            log::warn!(error:%, left_out; "cannot accept a connection");
                        }
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                        continue;
                    }
                };
                let connection = match shared.serving.connections.admit(address.ip()) {
                    Ok(connection) => connection,
                    Err(reason) => {
                        if let Some(left_out) = shared.log.pass(Some(address.ip())) {
                            log::warn!(
                                peer:% = address, left_out;
                                "connection refused: {}", reason.explanation()
                            );
                        }
                        continue;
                    }
                };
                let shared = shared.clone();
                tasks.spawn(async move {
                    shared.serve(stream, address, Arc::new(connection)).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = shared.serving.stop.cancelled() => {}
        }
        drop(self.socket);
        while tasks.join_next().await.is_some() {}
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream, address: SocketAddr, connection: Arc<Connection>) {
        // If this fails, small responses are delayed, but nothing breaks.
        let _ = stream.set_nodelay(true);
        // If this fails, a peer that is gone keeps its connection for longer.
        let timeout = u32::try_from(SEND_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &timeout);
        let peer = Peer {
            address,
            names: Arc::new([]),
        };
        let Some(tls) = &self.tls else {
            return self.serve_http(stream, peer, connection).await;
        };
        // The current certificate, which a reload may have replaced.
        let tls = TlsAcceptor::from(tls.borrow().clone());
        let handshake = tokio::select! {
            handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&tls, stream)) => handshake,
            () = connection.closed() => return,
            () = self.serving.stop.cancelled() => return,
        };
        let (reason, problem) = match handshake {
            Ok(Ok((stream, names))) => {
                let peer = Peer { names, ..peer };
                return self.serve_http(stream, peer, connection).await;
            }
            Ok(Err(error)) => (CloseReason::HandshakeFailed, error.to_string()),
            Err(_) => (
                CloseReason::HandshakeTimeout,
                format!("nothing within {HANDSHAKE_TIMEOUT:?}"),
            ),
        };
        connection.count_closed(reason);
        if let Some(left_out) = self.log.pass(Some(address.ip())) {
            log::warn!(peer:% = address, error = problem, left_out; "TLS handshake failed");
        }
    }

    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: Peer,
        connection: Arc<Connection>,
    ) {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer.clone()));
            request.extensions_mut().insert(connection.clone());
            let mut router = self.serving.router.clone();
            let connection = connection.clone();
            async move {
                let response = router.call(request).await?;
                let success = response.status().is_success();
                // Until it is written, the connection must not make room for another one: the peer
                // would repeat a request that has been handled.
                let response = response.map(|body| RespondingBody {
                    body,
                    responding: Responding {
                        connection,
                        success,
                    },
                });
                Ok::<_, Infallible>(response)
            }
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.serving.idle_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut http = pin!(http);
        let mut stopping = false;
        loop {
            tokio::select! {
                result = http.as_mut() => {
                    if result.is_err_and(|error| error.is_timeout()) {
                        connection.count_closed(CloseReason::IdleTimeout);
                    }
                    return;
                }
                () = connection.closed() => return,
                () = self.serving.stop.cancelled(), if !stopping => {
                    stopping = true;
                    http.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The body of a response. Its connection waits for its peer once it has been written as a whole, or
/// never will be: hyper drops a body in the same step in which it writes the end of it.
struct RespondingBody {
    body: Body,
    responding: Responding,
}

/// Marks a connection as waiting when the response is over.
struct Responding {
    connection: Arc<Connection>,
    success: bool,
}

impl Drop for Responding {
    fn drop(&mut self) {
        self.connection.set_waiting(self.success);
    }
}

impl HttpBody for RespondingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // A stream has no end: its connection may make room as soon as it only waits.
        if frame.is_pending() {
            let Responding {
                connection,
                success,
            } = &self.responding;
            connection.set_waiting(*success);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream, and the names in the peer's certificate.
async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<(TlsStream<TcpStream>, Arc<[String]>)> {
    let stream = tls.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let names = certificates
        .and_then(<[_]>::first)
        .map_or_else(Vec::new, |certificate| tls::names_of(certificate));
    Ok((stream, names.into()))
}
