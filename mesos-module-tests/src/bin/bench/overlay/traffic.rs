//! Traffic between two namespaces: a TCP stream, small UDP packets there and back, and the first
//! packet of a new container.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::worker::{inside, join};

const BUFFER_BYTES: usize = 128 << 10;
/// The payload of a small packet, in bytes.
const SMALL: usize = 32;
/// How long a peer may say nothing.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After how long the first packet is sent again.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

/// A container that takes part, and its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) namespace: Arc<OwnedFd>,
    pub(crate) v4: IpAddr,
    pub(crate) v6: Option<IpAddr>,
}

/// Sends by one TCP connection for so long. Returns what the server received, in Gbit/s.
pub(crate) fn throughput(client: &Place, server: &Place, length: Duration) -> Result<f64> {
    let (ready, port) = channel();
    let receiver = inside(&*server.namespace, move || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        // The other end waits for it.
        let _ = ready.send(listener.local_addr()?.port());
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut received, started) = (0_usize, Instant::now());
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                count => received += count,
            }
        }
        // Exact up to 2^53 bytes.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        let bits = received as f64 * 8.0;
        Ok(bits / started.elapsed().as_secs_f64() / 1e9)
    })?;
    let port = port.recv().context("the server has ended")?;
    let address = SocketAddr::new(server.v4, port);
    let sender = inside(&*client.namespace, move || {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let buffer = vec![0x55; BUFFER_BYTES];
        let started = Instant::now();
        while started.elapsed() < length {
            stream.write_all(&buffer)?;
        }
        Ok(())
    })?;
    join(sender)?;
    join(receiver)
}

/// Returns all UDP packets, until it is dropped.
pub(crate) struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    port: u16,
}

impl Echo {
    pub(crate) fn start(namespace: impl AsFd) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let end = ends.clone();
        let (ready, port) = channel();
        let thread = inside(namespace, move || {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let _ = ready.send(socket.local_addr()?.port());
            let mut buffer = [0; 2048];
            while !end.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((count, peer)) => {
                        socket.send_to(&buffer[..count], peer)?;
                    }
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        Ok(Self {
            ends,
            thread: Some(thread),
            port: port.recv().context("the server has ended")?,
        })
    }

    fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(error) = join(thread)
        {
            log::error!("a server of the benchmark failed: {error:#}");
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn client(server: SocketAddr) -> Result<UdpSocket> {
    let unspecified: IpAddr = match server {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

/// Sends small packets there and back, one after another. Returns the time of each, in microseconds.
pub(crate) fn round_trips(
    from: &Place,
    to: &Place,
    echo: &Echo,
    length: Duration,
) -> Result<Vec<f64>> {
    let server = echo.at(to.v4);
    let times = inside(&*from.namespace, move || {
        let socket = client(server)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let (mut buffer, mut times) = ([0; SMALL], vec![]);
        let started = Instant::now();
        while started.elapsed() < length {
            let sent = Instant::now();
            socket.send(&[0x55; SMALL])?;
            let count = socket.recv(&mut buffer).context("a packet was lost")?;
            ensure!(count == SMALL, "{count} bytes came back");
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    })?;
    join(times)
}

/// How long it takes until the first packet of a new container comes back, in milliseconds.
pub(crate) fn first_packet(from: impl AsFd, to: IpAddr, echo: &Echo) -> Result<f64> {
    let server = echo.at(to);
    let time = inside(from, move || {
        let started = Instant::now();
        // Right after the attach an IPv6 address may not be usable yet, which counts.
        let socket = loop {
            match client(server) {
                Ok(socket) => break socket,
                Err(error) if started.elapsed() > TIMEOUT => return Err(error),
                Err(_) => std::thread::yield_now(),
            }
        };
        socket.set_read_timeout(Some(REPEAT_AFTER))?;
        let mut buffer = [0; SMALL];
        while started.elapsed() < TIMEOUT {
            // The kernel reports an unreachable gateway here.
            let sent = socket.send(&[0x55; SMALL]);
            if sent.is_ok() && socket.recv(&mut buffer).is_ok() {
                return Ok(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        bail!("the first packet to {to} never came back")
    })?;
    join(time)
}
