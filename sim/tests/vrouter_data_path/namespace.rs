//! Network namespaces that end with the test, and connection attempts in them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use contrail_mesos::net::netns;

/// How long to wait for an expected event on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(40);

/// Waits for an event that has to happen.
pub(crate) fn wait_for(event: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT_TIMEOUT;
    while !done() {
        assert!(Instant::now() < end, "timed out waiting for {event}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[expect(clippy::disallowed_methods, reason = "tests act as an operator does")]
fn command(program: &str) -> Command {
    Command::new(program)
}

fn sh(mut command: Command, script: &str) -> String {
    let output = command.args(["sh", "-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace, and the process that keeps it.
pub(crate) struct Namespace {
    process: Child,
    pub(crate) address: IpAddr,
}

impl Namespace {
    pub(crate) fn new(address: IpAddr) -> Self {
        let mut process = command("unshare")
            .args([
                "--net",
                "--",
                "sh",
                "-c",
                "ip link set lo up && echo ready && exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "these tests make network namespaces: run them as root"
        );
        Self { process, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = command("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .arg("--");
        command
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        sh(self.command(), script)
    }

    /// Runs a closure inside.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = netns::of_pid(self.pid(), netns::Kind::Net).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(netns::run_in(namespace, work)).unwrap()
    }

    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.inside(move || TcpListener::bind(("::", port)).unwrap())
    }

    /// Reads each connection to its end, and responds with the number of bytes. Returns the number of
    /// connections.
    pub(crate) fn serve(&self, port: u16) -> Arc<AtomicUsize> {
        let listener = self.listen(port);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    let count = stream.read_to_end(&mut all).unwrap_or(0);
                    let _ = stream.write_all(count.to_string().as_bytes());
                });
            }
        });
        connections
    }

    /// Responds to each datagram with the address of its sender.
    pub(crate) fn serve_udp(&self, port: u16) {
        let socket = self.inside(move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
    }

    /// Sends a datagram, and returns the address that [`Self::serve_udp`] saw.
    pub(crate) fn ask_udp(&self, address: IpAddr, port: u16) -> Option<IpAddr> {
        self.inside(move || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
            let timeout = Some(Duration::from_millis(1500));
            socket.set_read_timeout(timeout).ok()?;
            socket.connect((address, port)).ok()?;
            socket.send(b"?").ok()?;
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).ok()?;
            std::str::from_utf8(&answer[..length]).ok()?.parse().ok()
        })
    }

    fn connect(&self, address: IpAddr, port: u16) -> Option<TcpStream> {
        self.inside(move || {
            let to = SocketAddr::from((address, port));
            TcpStream::connect_timeout(&to, Duration::from_millis(1500)).ok()
        })
    }

    pub(crate) fn reaches(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port).is_some()
    }

    pub(crate) fn carries(&self, address: IpAddr, port: u16, size: usize) -> bool {
        let Some(mut stream) = self.connect(address, port) else {
            return false;
        };
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let mut answer = String::new();
        let carried = stream
            .write_all(&vec![7; size])
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
            .and_then(|()| stream.read_to_string(&mut answer));
        carried.is_ok() && answer == size.to_string()
    }

    pub(crate) fn reaches_from(&self, source: &str, address: IpAddr, port: u16) -> bool {
        let script = format!(
            "nsenter --net=/proc/{}/ns/net bash -c 'ip route replace {address} dev eth0 src {source} \
             && timeout 1.5 bash -c \"</dev/tcp/{address}/{port}\"; result=$?; \
             ip route delete {address}; exit $result'",
            self.pid()
        );
        let status = command("bash")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    }

    pub(crate) fn pings(&self, address: &str) -> bool {
        let mut command = self.command();
        command.args(["ping", "-c", "2", "-W", "1", "-q", address]);
        command.stdout(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
