//! A scripted server for tests, which can also misbehave.
//!
//! Like the real servers it writes head and body separately, with Nagle's algorithm on.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A received request.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl ReceivedRequest {
    /// The value of the first header with this name, which must be in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `METHOD path`, without the query.
    #[must_use]
    pub fn line(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Answer(u16, String),
    /// A status and a header; the body is `{}`.
    WithHeader(u16, &'static str, &'static str),
    /// Closes the connection without a response.
    Close,
    /// Closes it in the middle of the body.
    Truncate,
    /// Keeps the connection open without a response.
    Hang,
    /// These bytes; then closes the connection.
    Raw(&'static [u8]),
    /// An endless body of this content type. Every message of the channel is written to every such
    /// connection, each with a write of its own; an empty message closes them.
    Stream(&'static str, broadcast::Sender<Vec<u8>>),
    /// As [`Self::Stream`], with these bytes first.
    StreamAfter(&'static str, Vec<u8>, broadcast::Sender<Vec<u8>>),
    /// A complete body of this content type, without a length.
    Unsized(&'static str, Vec<u8>),
}

/// A response with status 200.
pub fn ok(body: &impl ToString) -> Reply {
    Reply::Answer(200, body.to_string())
}

type Handler = dyn Fn(&ReceivedRequest, usize) -> Reply + Send + Sync;

/// A running server. Dropping it stops it.
pub struct ScriptedServer {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    task: JoinHandle<()>,
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ScriptedServer {
    /// Starts a server on a free port of the loopback address. `script` gets each request and the
    /// number of requests before it.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub async fn start(
        script: impl Fn(&ReceivedRequest, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(None, script).await
    }

    /// As [`Self::start`], with TLS.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&ReceivedRequest, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(any, tls, script).await
    }

    /// As [`Self::start_with`], at an address.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub async fn start_at(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&ReceivedRequest, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(vec![]));
        let (log, script): (_, Arc<Handler>) = (Arc::clone(&requests), Arc::new(script));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script, tls) = (Arc::clone(&log), Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    // The client fails too.
                    let _ = match tls {
                        None => serve(stream, &log, &*script).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &log, &*script).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Every request so far.
    ///
    /// # Panics
    ///
    /// If the script panicked.
    #[must_use]
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// Method and path of every request so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(ReceivedRequest::line).collect()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    log: &Mutex<Vec<ReceivedRequest>>,
    script: &Handler,
) -> io::Result<()> {
    let mut buffer = vec![];
    while let Some(request) = read(&mut stream, &mut buffer).await? {
        let before = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        let (status, header, body) = match script(&request, before) {
            Reply::Answer(status, body) => (status, String::new(), body),
            Reply::WithHeader(status, name, value) => {
                (status, format!("{name}: {value}\r\n"), "{}".to_owned())
            }
            Reply::Close => return Ok(()),
            Reply::Truncate => {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":";
                stream.write_all(half).await?;
                return stream.shutdown().await;
            }
            Reply::Hang => std::future::pending().await,
            Reply::Unsized(kind, body) => {
                stream.write_all(&unsized_head(kind)).await?;
                stream.write_all(&body).await?;
                return stream.shutdown().await;
            }
            Reply::Stream(kind, feed) => return follow(stream, kind, &[], &feed).await,
            Reply::StreamAfter(kind, first, feed) => {
                return follow(stream, kind, &first, &feed).await;
            }
            Reply::Raw(bytes) => {
                stream.write_all(bytes).await?;
                return stream.shutdown().await;
            }
        };
        // A vRouter agent sends this reason phrase with every status.
        let head = format!(
            "HTTP/1.1 {status} OK\r\n{header}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// The head of a response whose body has no length.
fn unsized_head(kind: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n").into_bytes()
}

async fn follow<S: AsyncWrite + Unpin>(
    mut stream: S,
    kind: &str,
    first: &[u8],
    feed: &broadcast::Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut parts = feed.subscribe();
    stream.write_all(&unsized_head(kind)).await?;
    stream.write_all(first).await?;
    stream.flush().await?;
    while let Ok(part) = parts.recv().await {
        if part.is_empty() {
            return stream.shutdown().await;
        }
        stream.write_all(&part).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<ReceivedRequest>> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            break String::from_utf8(std::mem::replace(buffer, rest)).unwrap();
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let mut lines = head.lines();
    let mut request = lines
        .next()
        .unwrap_or_default()
        .split(' ')
        .map(str::to_owned);
    let (method, path) = (request.next().unwrap(), request.next().unwrap());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut received = ReceivedRequest {
        method,
        path,
        headers,
        body: String::new(),
    };
    let length = received
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let rest = buffer.split_off(length);
    received.body = String::from_utf8(std::mem::replace(buffer, rest)).unwrap();
    Ok(Some(received))
}
