//! The sockets of one address, and the tasks that serve them.
//!
//! Invariants: a client that sends nothing, or half a message, or reads nothing, holds up nobody else, and
//! not for long. The number of connections is bounded, in total and for each client: the one that has been
//! idle for the longest time makes room for a new one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::message::Transport;
use super::server::{Reaction, Server};

/// The largest query by UDP.
const MAX_QUERY_BYTES: usize = 4096;
/// How many tasks read queries from the socket: as many as there are threads.
const UDP_RECEIVERS: usize = super::THREADS;
/// The buffer for queries that wait to be read: some thousand.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// How many connections wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a new connection may take until its first query, and any connection for a whole message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many queries of a connection are answered at once; more wait to be read.
const MAX_PIPELINED: usize = 16;
/// The part of the connections that one client may have.
const CLIENT_DIVISOR: usize = 4;
/// How long nothing is accepted after a failure, such as for want of descriptors.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// The sockets of an address.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Sockets {
    /// Opens both, also if this host does not have the address yet.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
        // Without it, a burst of queries is lost sooner.
        let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        udp.bind(&address.into())?;
        let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
        // Connections of an earlier run may still be ending.
        tcp.set_reuse_address(true)?;
        tcp.bind(&address.into())?;
        tcp.listen(BACKLOG)?;
        Ok(Self {
            udp: udp.into(),
            tcp: tcp.into(),
        })
    }

    /// Serves them until it is dropped.
    pub(crate) async fn serve(self, server: Arc<Server>, connections: Arc<Connections>) {
        let (udp, tcp) = match (
            UdpSocket::from_std(self.udp),
            TcpListener::from_std(self.tcp),
        ) {
            (Ok(udp), Ok(tcp)) => (udp, tcp),
            (Err(error), _) | (_, Err(error)) => {
                log::error!("cannot serve DNS: {error}");
                return;
            }
        };
        let udp = Arc::new(udp);
        // They end with this set.
        let mut receivers = JoinSet::new();
        for _ in 0..UDP_RECEIVERS {
            receivers.spawn(serve_udp(Arc::clone(&server), Arc::clone(&udp)));
        }
        serve_tcp(server, tcp, connections).await;
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(socket)
}

/// As [`Server::react`], whatever happens.
fn react(server: &Server, packet: &[u8], source: SocketAddr, transport: Transport) -> Reaction {
    let reaction = catch_unwind(AssertUnwindSafe(|| {
        server.react(packet, source.ip(), transport)
    }));
    // The panic itself was printed.
    reaction.unwrap_or(Reaction::Ignore)
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; MAX_QUERY_BYTES];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                log::debug!("cannot receive DNS queries: {error}");
                sleep(ACCEPT_DELAY).await;
                continue;
            }
        };
        match react(&server, &buffer[..length], source, Transport::Udp) {
            Reaction::Ignore => {}
            Reaction::Respond(bytes) => send(&socket, &bytes, source),
            Reaction::Later(later) => {
                let (server, socket) = (Arc::clone(&server), Arc::clone(&socket));
                tokio::spawn(async move {
                    if let Some(bytes) = server.finish(later).await {
                        send(&socket, &bytes, source);
                    }
                });
            }
        }
    }
}

/// Sends a response; if that is not possible at once, the client asks again.
fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(bytes, client) {
        log::debug!("cannot respond to {client}: {error}");
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener, connections: Arc<Connections>) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::debug!("cannot accept DNS connections: {error}");
                // Perhaps one that is idle has what is needed.
                connections.close_oldest(None);
                sleep(ACCEPT_DELAY).await;
                continue;
            }
        };
        let Some(place) = connections.enter(client.ip()) else {
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let gauge = server.metrics().connections.clone();
            gauge.inc();
            if let Err(error) = serve_connection(&server, stream, client, &place).await {
                log::debug!("connection of {client}: {error}");
            }
            gauge.dec();
        });
    }
}

/// Why a connection ends before its client closes it.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it sends nothing, or reads nothing")]
    Timeout,
    #[error("what it sends is no query")]
    Malformed,
    #[error("there are newer ones")]
    Displaced,
}

async fn serve_connection(
    server: &Arc<Server>,
    mut stream: TcpStream,
    client: SocketAddr,
    place: &Place,
) -> Result<(), ConnectionError> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = Vec::new();
    let mut responses = FuturesUnordered::new();
    let mut is_ended = false;
    // For the rest of a message, or for the next one.
    let mut deadline = Instant::now() + MESSAGE_TIMEOUT;
    loop {
        let is_idle = responses.is_empty() && buffer.is_empty();
        if is_ended && responses.is_empty() {
            return Ok(());
        }
        let displaced = place.wait(is_idle);
        let had_part = !buffer.is_empty();
        let may_read = !is_ended && responses.len() < MAX_PIPELINED;
        tokio::select! {
            read = timeout_at(deadline, reader.read_buf(&mut buffer)), if may_read => match read {
                Ok(read) => {
                    is_ended = read? == 0;
                    if !had_part {
                        deadline = Instant::now() + MESSAGE_TIMEOUT;
                    }
                }
                Err(_) => return Err(ConnectionError::Timeout),
            },
            Some(response) = responses.next() => {
                if let Some(response) = response {
                    write(&mut writer, response).await?;
                }
                deadline = Instant::now() + IDLE_TIMEOUT;
            }
            () = displaced => return Err(ConnectionError::Displaced),
        }
        while responses.len() < MAX_PIPELINED
            && let Some(message) = take_message(&mut buffer)?
        {
            deadline = Instant::now() + IDLE_TIMEOUT;
            match react(server, &message, client, Transport::Tcp) {
                Reaction::Ignore => return Err(ConnectionError::Malformed),
                Reaction::Respond(bytes) => write(&mut writer, bytes).await?,
                Reaction::Later(later) => responses.push(server.finish(later)),
            }
        }
    }
}

/// The next message of a stream, if it is complete.
fn take_message(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ConnectionError> {
    let Some(length) = buffer.first_chunk() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > MAX_QUERY_BYTES {
        return Err(ConnectionError::Malformed);
    }
    if buffer.len() < 2 + length {
        return Ok(None);
    }
    let message = buffer[2..2 + length].to_vec();
    buffer.drain(..2 + length);
    Ok(Some(message))
}

async fn write(
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    response: Vec<u8>,
) -> Result<(), ConnectionError> {
    let Ok(length) = u16::try_from(response.len()) else {
        return Ok(());
    };
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(response);
    timeout(MESSAGE_TIMEOUT, writer.write_all(&framed))
        .await
        .map_err(|_| ConnectionError::Timeout)??;
    Ok(())
}

/// The connections of all addresses.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    table: Mutex<Table>,
    closed: prometheus_client::metrics::counter::Counter,
}

#[derive(Debug, Default)]
struct Table {
    count: usize,
    /// How many each client has.
    clients: HashMap<IpAddr, usize>,
    next: u64,
    /// Those that are idle, in the order in which they became so: whose they are, and how to close them.
    idle: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
}

/// A connection in the table.
#[derive(Debug)]
struct Place {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    pub(crate) fn new(
        max: usize,
        closed: prometheus_client::metrics::counter::Counter,
    ) -> Arc<Self> {
        Arc::new(Self {
            max,
            table: Mutex::default(),
            closed,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection of a client; none if all others, or all of its own, are busy.
    fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let (count, of_client) = {
            let table = self.table();
            let of_client = table.clients.get(&client).copied();
            (table.count, of_client.unwrap_or_default())
        };
        let has_too_many = of_client >= (self.max / CLIENT_DIVISOR).max(1);
        let displaced = has_too_many.then_some(client);
        if (has_too_many || count >= self.max) && !self.close_oldest(displaced) {
            return None;
        }
        let mut table = self.table();
        table.count += 1;
        *table.clients.entry(client).or_default() += 1;
        drop(table);
        Some(Place {
            connections: Arc::clone(self),
            client,
        })
    }

    /// Closes the connection, of this client if one is given, that has been idle for the longest time.
    /// Returns whether there was one.
    fn close_oldest(&self, client: Option<IpAddr>) -> bool {
        let oldest = {
            let mut table = self.table();
            let mut idle = table.idle.iter();
            let oldest = idle.find(|(_, (of, _))| client.is_none_or(|client| client == *of));
            let number = oldest.map(|(number, _)| *number);
            number.and_then(|number| table.idle.remove(&number))
        };
        let Some((_, close)) = oldest else {
            return false;
        };
        self.closed.inc();
        // It may be ending by itself.
        let _ = close.send(());
        true
    }
}

impl Place {
    /// Ends when the connection has to make room: never while it is busy.
    async fn wait(&self, is_idle: bool) {
        if !is_idle {
            std::future::pending::<()>().await;
        }
        let (close, closed) = oneshot::channel();
        let number = {
            let mut table = self.connections.table();
            let number = table.next;
            table.next += 1;
            table.idle.insert(number, (self.client, close));
            number
        };
        let _listed = Listed {
            connections: &self.connections,
            number,
        };
        // An error means that it was closed, too.
        let _ = closed.await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.count -= 1;
        if let Some(count) = table.clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                table.clients.remove(&self.client);
            }
        }
    }
}

/// A connection among the idle ones.
struct Listed<'a> {
    connections: &'a Connections,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.connections.table().idle.remove(&self.number);
    }
}

/// Whether something else has the port of an address: which addresses it may have.
pub(crate) fn describe_busy(address: SocketAddr) -> String {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, address.port()).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, address.port()).into(),
    };
    format!(
        "another program listens at {address} or {any}; let it listen at addresses of its own, such as \
         with bind-interfaces of dnsmasq"
    )
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::super::access::Access;
    use super::super::forward::ForwardLimits;
    use super::super::message::{QueryFlags, query};
    use super::super::upstreams::Upstreams;
    use super::super::zones::tests::zones;
    use super::*;

    const WEB: &str = "web.marathon.l4lb.thisdcos.directory.";

    /// A server on loopback, and its connections.
    fn start(max_connections: usize) -> (SocketAddr, Arc<Server>, Arc<Connections>) {
        let metrics: Arc<super::super::DnsMetrics> = Arc::default();
        let connections = Connections::new(max_connections, metrics.connections_closed.clone());
        let limits = ForwardLimits {
            questions: 10,
            queries: 10,
        };
        let config = contrail_mesos::config::DnsServer {
            upstreams: Some(vec![]),
            ..Default::default()
        };
        let upstreams = Arc::new(Upstreams::new(&config));
        let server = Arc::new(Server::new(Access::new(vec![]), upstreams, metrics, limits));
        server.change_zones(|all| *all = zones());
        let sockets = loop {
            // A port that is free for both.
            let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = probe.local_addr().unwrap();
            drop(probe);
            if let Ok(sockets) = Sockets::open(address) {
                break sockets;
            }
        };
        let address = sockets.udp.local_addr().unwrap();
        tokio::spawn(sockets.serve(Arc::clone(&server), Arc::clone(&connections)));
        (address, server, connections)
    }

    fn packet(id: u16, name: &str) -> Vec<u8> {
        let question = Query::query(Name::from_str(name).unwrap(), RecordType::A);
        query(id, &question, QueryFlags::default(), false).unwrap()
    }

    fn framed(packet: &[u8]) -> Vec<u8> {
        let length = u16::try_from(packet.len()).unwrap();
        [&length.to_be_bytes(), packet].concat()
    }

    async fn read(stream: &mut TcpStream) -> Message {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    }

    /// Fails unless the server closes the connection without another byte.
    async fn expect_end(stream: &mut TcpStream) {
        let mut rest = vec![];
        // With or without a reset.
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, [] as [u8; 0]);
    }

    #[tokio::test]
    async fn udp_query_is_answered_and_garbage_is_not() {
        let (address, server, _) = start(10);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let mut response = packet(1, WEB);
        response[2] |= 0x80;
        for garbage in [&[][..], &[0; 5], &response] {
            socket.send(garbage).await.unwrap();
        }
        socket.send(&packet(2, WEB)).await.unwrap();
        let mut buffer = vec![0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        let message = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!((message.metadata.id, message.answers.len()), (2, 1));
        assert_eq!(server.metrics().malformed.get(), 3);
    }

    #[tokio::test]
    async fn connection_carries_many_queries_in_any_pieces() {
        let (address, ..) = start(10);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let all: Vec<u8> = (0..100).flat_map(|id| framed(&packet(id, WEB))).collect();
        for piece in all.chunks(33) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut ids = vec![];
        for _ in 0..100 {
            let message = read(&mut stream).await;
            assert_eq!(message.answers.len(), 1);
            ids.push(message.metadata.id);
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
        // What is refused does not end the connection; what was asked before its end is answered.
        stream
            .write_all(&framed(&packet(7, "a.example.")))
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let message = read(&mut stream).await;
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        expect_end(&mut stream).await;
    }

    #[tokio::test]
    async fn malformed_message_ends_the_connection() {
        let (address, ..) = start(10);
        let mut response = packet(1, WEB);
        response[2] |= 0x80;
        for malformed in [
            vec![0, 0],
            vec![0xff, 0xff],
            framed(&[0; 5]),
            framed(&response),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&malformed).await.unwrap();
            expect_end(&mut stream).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_whole_message_is_closed() {
        let (address, server, _) = start(10);
        let query = framed(&packet(1, WEB));
        for part in [0, 1, 2, query.len() - 1] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&query[..part]).await.unwrap();
            expect_end(&mut stream).await;
        }
        while server.metrics().connections.get() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn longest_idle_connection_makes_room_for_a_new_one() {
        let (address, server, connections) = start(8);
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        for stream in [&mut second, &mut first] {
            stream.write_all(&framed(&packet(1, WEB))).await.unwrap();
            read(stream).await;
        }
        while connections.table().idle.len() < 2 {
            tokio::task::yield_now().await;
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(&framed(&packet(3, WEB))).await.unwrap();
        assert_eq!(read(&mut third).await.metadata.id, 3);
        expect_end(&mut second).await;
        first.write_all(&framed(&packet(4, WEB))).await.unwrap();
        assert_eq!(read(&mut first).await.metadata.id, 4);
        assert_eq!(server.metrics().connections_closed.get(), 1);
    }

    #[test]
    fn connections_are_limited_in_total_and_for_each_client() {
        let connections =
            Connections::new(8, prometheus_client::metrics::counter::Counter::default());
        let enter = |last: u8| connections.enter([192, 0, 2, last].into());
        let mut places: Vec<_> = [1, 1].map(|last| enter(last).unwrap()).into();
        // It has its quarter, and all of them are busy.
        assert!(enter(1).is_none());
        places.extend([2, 2, 3, 3, 4, 4].map(|last| enter(last).unwrap()));
        assert!(enter(5).is_none());
        places.remove(0);
        assert!(enter(1).is_some());
        drop(places);
        let table = connections.table();
        assert_eq!((table.count, table.clients.len()), (0, 0));
    }

    #[tokio::test]
    async fn hundreds_of_silent_connections_stop_nobody() {
        let (address, ..) = start(64);
        let mut silent = vec![];
        for _ in 0..400 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&framed(&packet(3, WEB))).await.unwrap();
        assert_eq!(read(&mut stream).await.metadata.id, 3);
    }
}
