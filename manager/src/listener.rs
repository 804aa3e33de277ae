//! Listeners with optional TLS.
//!
//! Handshakes run concurrently and have a deadline, so that a silent peer does not block others.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::config::Tls;
use contrail_mesos_api::http::TlsError;
use contrail_mesos_api::http::tls::{certificates, private_key};

/// The time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many handshakes run at once; further connections wait in the kernel.
const MAX_HANDSHAKES: usize = 256;

/// The peer of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// The common name and the DNS names in its certificate.
    pub names: Arc<[String]>,
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A stream with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    local: SocketAddr,
    accepted: mpsc::Receiver<(Box<dyn Stream>, Peer)>,
    task: AbortHandle,
}

impl std::fmt::Debug for dyn Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Stream")
    }
}

impl Listener {
    /// Listens, with TLS if there is a configuration, which the sender of `tls` may replace.
    pub(super) async fn bind(
        address: SocketAddr,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(MAX_HANDSHAKES);
        let task = tokio::spawn(accept(listener, tls, sender));
        Ok(Self {
            local,
            accepted,
            task: task.abort_handle(),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl axum::serve::Listener for Listener {
    type Io = Box<dyn Stream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            address: self.local,
            names: Arc::new([]),
        })
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    accepted: mpsc::Sender<(Box<dyn Stream>, Peer)>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.len() >= MAX_HANDSHAKES {
            handshakes.join_next().await;
        }
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, or the peer has already disconnected.
                log::warn!(error:%; "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // If this fails, small responses are delayed, but nothing breaks.
        let _ = stream.set_nodelay(true);
        let peer = Peer {
            address,
            names: Arc::new([]),
        };
        match &tls {
            None => {
                if accepted.send((Box::new(stream), peer)).await.is_err() {
                    return;
                }
            }
            Some(tls) => {
                // The current certificate, which a reload may have replaced.
                let tls = TlsAcceptor::from(tls.borrow().clone());
                let accepted = accepted.clone();
                handshakes.spawn(async move {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&tls, stream, peer)).await {
                        // An error means that the manager is stopping.
                        Ok(Ok(done)) => drop(accepted.send(done).await),
                        Ok(Err(error)) => {
                            log::warn!(peer:% = address, error:%; "TLS handshake failed");
                        }
                        Err(_) => {
                            log::warn!(peer:% = address; "TLS handshake timed out after {HANDSHAKE_TIMEOUT:?}");
                        }
                    }
                });
            }
        }
    }
}

async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
    peer: Peer,
) -> io::Result<(Box<dyn Stream>, Peer)> {
    let stream = tls.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let names = certificates
        .and_then(<[_]>::first)
        .map_or_else(Vec::new, |certificate| names_of(certificate));
    let peer = Peer {
        names: names.into(),
        ..peer
    };
    Ok((Box::new(stream), peer))
}

/// The common name and the DNS names in a verified certificate.
fn names_of(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return vec![];
    };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<String> = common
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push((*name).to_owned());
            }
        }
    }
    names
}

/// The TLS configuration. Reads certificate files, which blocks.
pub(super) fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let identity = &tls.identity;
    let config = builder.with_single_cert(
        certificates(&identity.certificate)?,
        private_key(&identity.key)?,
    )?;
    Ok(Arc::new(config))
}
