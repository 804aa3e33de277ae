//! TCP connections that acknowledge what they receive at once.
//!
//! Linux delays acknowledgements on a connection that both sides write to. `TCP_QUICKACK` turns that
//! off only until the next write, so it is set before every read: one system call saves 40 ms.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

/// The TCP keep-alive time: a host that lost its power, or a firewall that dropped the connection,
/// never closes it.
const KEEP_ALIVE_TIME: Duration = Duration::from_secs(15);

/// Connects to the host and port of a URI.
#[derive(Clone, Debug)]
pub struct QuickAckConnector(HttpConnector);

impl QuickAckConnector {
    /// A connector that fails if a connection is not established within `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        // The TLS layer above handles the scheme.
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_keepalive(Some(KEEP_ALIVE_TIME));
        connector.set_connect_timeout(Some(timeout));
        Self(connector)
    }
}

impl Service<Uri> for QuickAckConnector {
    type Response = QuickAckStream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<QuickAckStream>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(ready!(self.0.poll_ready(context)).map_err(io::Error::other))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        async {
            let stream = connecting.await.map_err(io::Error::other)?;
            Ok(QuickAckStream(stream))
        }
        .boxed()
    }
}

/// A TCP stream that acknowledges at once.
#[derive(Debug)]
pub struct QuickAckStream(TokioIo<TcpStream>);

impl Read for QuickAckStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // A failure costs only time, and the read reports a broken socket.
        let _ = self.0.inner().set_quickack(true);
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for QuickAckStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }
}

impl Connection for QuickAckStream {
    fn connected(&self) -> Connected {
        self.0.inner().connected()
    }
}

#[cfg(test)]
impl QuickAckStream {
    pub(super) fn acknowledges_at_once(&self) -> io::Result<bool> {
        self.0.inner().quickack()
    }
}
