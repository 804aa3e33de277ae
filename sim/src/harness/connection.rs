//! Connections that can be cut, and that write as the real servers do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

const END_OF_HEADER: &[u8] = b"\r\n\r\n";

/// Where the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// Nowhere: the client closes it.
    Never,
    /// Before the next response.
    BeforeResponse,
    /// One byte after the header of the next response.
    InBody,
}

/// Accepts connections.
pub(crate) struct CuttableListener {
    pub(crate) tcp: TcpListener,
    /// Whether header and body of a response are written apart.
    pub(crate) split_writes: bool,
}

/// A connection.
pub(crate) struct Connection {
    stream: TcpStream,
    peer: Peer,
    split_writes: bool,
}

/// The client of a connection, as the handler of a request sees it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    cut: Arc<AtomicU8>,
    label_http_1_1: Arc<AtomicBool>,
}

impl Peer {
    /// Labels the next response HTTP/1.1 although it is framed as HTTP/1.0.
    pub(crate) fn label_http_1_1(&self) {
        self.label_http_1_1.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    fn is_cut(&self, cut: Cut) -> bool {
        self.cut.load(Ordering::SeqCst) == cut as u8
    }
}

impl Listener for CuttableListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.tcp).await;
        // Nagle's algorithm is what makes split writes slow; nothing else may wait for it.
        let _ = stream.set_nodelay(!self.split_writes);
        let connection = Connection {
            stream,
            peer: Peer {
                address,
                cut: Arc::new(AtomicU8::new(Cut::Never as u8)),
                label_http_1_1: Arc::default(),
            },
            split_writes: self.split_writes,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.io().peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.peer.is_cut(Cut::BeforeResponse) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = bytes;
        let mut relabelled;
        if bytes.starts_with(b"HTTP/1.0 ") && self.peer.label_http_1_1.load(Ordering::SeqCst) {
            relabelled = bytes.to_vec();
            relabelled[7] = b'1';
            bytes = &relabelled;
        }
        let mut windows = bytes.windows(END_OF_HEADER.len());
        let header = windows
            .position(|window| window == END_OF_HEADER)
            .filter(|_| bytes.starts_with(b"HTTP/1."))
            .map(|end| end + END_OF_HEADER.len());
        if self.peer.is_cut(Cut::InBody) {
            let end = header.map_or(1, |end| end + 1).min(bytes.len());
            bytes = &bytes[..end];
        } else if let Some(end) = header.filter(|_| self.split_writes) {
            bytes = &bytes[..end];
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if self.peer.is_cut(Cut::InBody) && matches!(written, Poll::Ready(Ok(_))) {
            self.peer.cut(Cut::BeforeResponse);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
