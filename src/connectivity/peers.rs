//! Both ends of the probes: servers, whose sockets are in the network namespace in which they were
//! opened, and clients, which block and so run on a thread inside a namespace.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use contrail_mesos_api::text::Quoted;
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::task::JoinHandle;

use super::packets;
use crate::net::addressing::unspecified;

/// How many bytes a TCP probe sends and gets back.
const TCP_BYTES: usize = 16 * 1024;
/// How often a datagram is sent: a first one may be lost, as while a neighbour is looked for.
const ATTEMPTS: u16 = 3;
/// The protocol of raw sockets whose packets have their IP header.
const RAW: i32 = 255;

/// What a probe found: a text about success or failure.
pub(super) type ProbeOutcome = Result<String, String>;

/// Servers that echo what they get, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct EchoServers(Vec<JoinHandle<()>>);

impl Drop for EchoServers {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// The sockets of servers.
#[derive(Debug)]
pub(super) struct EchoSockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl EchoSockets {
    /// Opens the sockets in the calling thread's namespace.
    pub(super) fn open(addresses: &[IpAddr], port: u16) -> io::Result<Self> {
        let (mut tcp, mut udp) = (vec![], vec![]);
        for address in addresses {
            let listener = TcpListener::bind((*address, port))?;
            listener.set_nonblocking(true)?;
            tcp.push(listener);
            let socket = UdpSocket::bind((*address, port))?;
            socket.set_nonblocking(true)?;
            udp.push(socket);
        }
        Ok(Self { tcp, udp })
    }

    /// Starts the servers on the current runtime.
    pub(super) fn serve(self) -> io::Result<EchoServers> {
        let mut servers = EchoServers::default();
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            servers.0.push(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // Ends with its client.
                    tokio::spawn(echo(stream));
                }
            }));
        }
        for socket in self.udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            servers.0.push(tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                loop {
                    match socket.recv_from(&mut buffer).await {
                        // A short answer comes back whatever is wrong with long packets.
                        Ok((length, client)) => {
                            let answer = &buffer[..length.min(64)];
                            let _ = socket.send_to(answer, client).await;
                        }
                        // Of an earlier answer.
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                        Err(_) => break,
                    }
                }
            }));
        }
        Ok(servers)
    }
}

async fn echo(stream: tokio::net::TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        stream.readable().await?;
        let length = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opens a connection. Nothing is sent. `limit` is how long this and each of the others waits for an answer.
pub(super) fn connect(to: SocketAddr, limit: Duration) -> ProbeOutcome {
    match TcpStream::connect_timeout(&to, limit) {
        Ok(_) => Ok(format!("a connection to {to}")),
        Err(error) => Err(format!("no connection to {to}: {error}")),
    }
}

/// Sends bytes by TCP, and gets them back.
pub(super) fn tcp(to: SocketAddr, limit: Duration) -> ProbeOutcome {
    let exchange = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let sent: Vec<u8> = (0_u8..=255).cycle().take(TCP_BYTES).collect();
        stream.write_all(&sent)?;
        let mut received = vec![0; TCP_BYTES];
        stream.read_exact(&mut received)?;
        Ok(received == sent)
    };
    match exchange() {
        Ok(true) => Ok(format!("{TCP_BYTES} bytes to {to} and back")),
        Ok(false) => Err(format!("what came back from {to} is not what was sent")),
        Err(error) => Err(format!("TCP to {to}: {}", reason(&error))),
    }
}

/// Sends a datagram, and gets it back.
pub(super) fn udp(to: SocketAddr, limit: Duration) -> ProbeOutcome {
    let answered = exchange(to, limit, b"connectivity test", |answer| {
        answer == b"connectivity test"
    });
    answered.map_err(|error| format!("UDP to {to}: {}", reason(&error)))?;
    Ok(format!("a datagram to {to} and back"))
}

/// Asks a DNS server. Any answer is good.
pub(super) fn dns(server: SocketAddr, limit: Duration) -> ProbeOutcome {
    const IDENTIFIER: u16 = 0x636d;
    let query = packets::dns_query(IDENTIFIER);
    let is_answer = |answer: &[u8]| packets::is_dns_answer(answer, IDENTIFIER);
    exchange(server, limit, &query, is_answer)
        .map_err(|error| format!("the DNS server {server}: {}", reason(&error)))?;
    Ok(format!("the DNS server {server} answers"))
}

fn exchange(
    to: SocketAddr,
    limit: Duration,
    datagram: &[u8],
    is_answer: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let socket = UdpSocket::bind((unspecified(to.is_ipv4()), 0))?;
    socket.connect(to)?;
    let mut last = timed_out();
    for _ in 0..ATTEMPTS {
        socket.send(datagram)?;
        match wait_for(&socket, limit, &is_answer) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn wait_for(
    socket: &UdpSocket,
    limit: Duration,
    is_answer: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let mut buffer = [0; 2048];
    loop {
        socket.set_read_timeout(Some(remaining(deadline)?))?;
        let length = socket.recv(&mut buffer)?;
        if buffer.get(..length).is_some_and(&is_answer) {
            return Ok(());
        }
    }
}

fn timed_out() -> io::Error {
    ErrorKind::TimedOut.into()
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(timed_out());
    }
    Ok(left)
}

/// Sends echo requests until one is answered.
pub(super) fn ping(to: IpAddr, limit: Duration) -> ProbeOutcome {
    let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    let answered = || -> io::Result<bool> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
        for sequence in 0..ATTEMPTS {
            socket.send(&packets::echo_request(to.is_ipv4(), identifier, sequence))?;
            let deadline = Instant::now() + limit;
            let mut buffer = [0; 2048];
            while let Ok(left) = remaining(deadline) {
                socket.set_read_timeout(Some(left))?;
                match socket.read(&mut buffer) {
                    Ok(length) => {
                        let received = &buffer[..length];
                        if packets::is_echo_reply(received, to.is_ipv4(), identifier) {
                            return Ok(true);
                        }
                    }
                    Err(error) if is_timeout(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    };
    match answered() {
        Ok(true) => Ok(format!("{to} answers")),
        Ok(false) => Err(format!("{to} does not answer")),
        Err(error) => Err(format!("cannot ping {to}: {}", reason(&error))),
    }
}

/// Sends a packet of the MTU that must not be fragmented, and then one of one byte more, which must be
/// refused.
pub(super) fn mtu(from: IpAddr, to: SocketAddr, mtu: u32, limit: Duration) -> ProbeOutcome {
    let bytes = usize::try_from(mtu).unwrap_or(usize::MAX);
    let socket = UdpSocket::bind((from, 0))
        .and_then(|socket| socket.connect(to).map(|()| socket))
        .map_err(|error| format!("UDP to {to}: {error}"))?;
    let source = socket
        .local_addr()
        .map_err(|error| format!("UDP to {to}: {error}"))?;
    let domain = Domain::for_address(to);
    let raw = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))
        .map_err(|error| format!("no raw socket: {error}"))?;
    let destination = SockAddr::from(SocketAddr::new(to.ip(), 0));
    let send = |bytes| match packets::udp_packet(source, to, bytes) {
        Some(packet) => raw.send_to(&packet, &destination).map(drop),
        None => Err(ErrorKind::InvalidInput.into()),
    };
    let mut answered = Err(timed_out());
    for _ in 0..ATTEMPTS {
        send(bytes).map_err(|error| {
            format!(
                "a packet of {bytes} bytes, the MTU of the network, cannot be sent: {}",
                reason(&error)
            )
        })?;
        answered = wait_for(&socket, limit, |_| true);
        if answered.is_ok() {
            break;
        }
    }
    answered.map_err(|_| {
        format!("packets of {bytes} bytes, the MTU of the network, do not arrive at {to}")
    })?;
    match send(bytes + 1) {
        Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => Ok(format!(
            "packets of {bytes} bytes arrive, and longer ones are refused"
        )),
        Err(error) => Err(format!(
            "a packet of {} bytes: {}",
            bytes + 1,
            reason(&error)
        )),
        Ok(()) => Err(format!(
            "a packet of {} bytes can be sent, though the MTU of the network is {bytes}",
            bytes + 1
        )),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn reason(error: &io::Error) -> String {
    if is_timeout(error) {
        "no answer".to_owned()
    } else {
        Quoted(error.to_string().as_bytes()).to_string()
    }
}
