//! Connections that can be cut, and that write as the real server does.

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

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// When the client wants.
    Not,
    /// At the next answer.
    Now,
    /// One byte after the header of the next answer.
    InBody,
}

/// Takes connections in.
pub(crate) struct Wire {
    pub(crate) tcp: TcpListener,
    pub(crate) split: bool,
}

/// A connection.
pub(crate) struct Pipe {
    stream: TcpStream,
    peer: Peer,
    split: bool,
}

/// The other end, as a request knows it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    cut: Arc<AtomicU8>,
    called_1_1: Arc<AtomicBool>,
}

impl Peer {
    /// The next answer is HTTP/1.0 in how it ends, and calls itself HTTP/1.1.
    pub(crate) fn call_it_1_1(&self) {
        self.called_1_1.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self, how: Cut) {
        self.cut.store(how as u8, Ordering::SeqCst);
    }

    fn is(&self, how: Cut) -> bool {
        self.cut.load(Ordering::SeqCst) == how as u8
    }
}

impl Listener for Wire {
    type Io = Pipe;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.tcp).await;
        // Where header and body are written together nothing may wait for an acknowledgement.
        let _ = stream.set_nodelay(!self.split);
        let cut = Arc::new(AtomicU8::new(Cut::Not as u8));
        let pipe = Pipe {
            stream,
            peer: Peer {
                address,
                cut,
                called_1_1: Arc::default(),
            },
            split: self.split,
        };
        (pipe, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

impl Connected<IncomingStream<'_, Wire>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Wire>) -> Self {
        stream.io().peer.clone()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.peer.is(Cut::Now) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = bytes;
        let mut renamed;
        if bytes.starts_with(b"HTTP/1.0 ") && self.peer.called_1_1.load(Ordering::SeqCst) {
            renamed = bytes.to_vec();
            renamed[7] = b'1';
            bytes = &renamed;
        }
        let mut windows = bytes.windows(END_OF_HEADER.len());
        let header = windows
            .position(|window| window == END_OF_HEADER)
            .filter(|_| bytes.starts_with(b"HTTP/1."))
            .map(|end| end + END_OF_HEADER.len());
        if self.peer.is(Cut::InBody) {
            let end = header.map_or(1, |end| end + 1).min(bytes.len());
            bytes = &bytes[..end];
        } else if let Some(end) = header.filter(|_| self.split) {
            bytes = &bytes[..end];
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if self.peer.is(Cut::InBody) && matches!(written, Poll::Ready(Ok(_))) {
            self.peer.cut(Cut::Now);
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
