//! The real ZooKeeper on a host: Debian's package `zookeeper`, one server, its data in the host's
//! directory.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::testbed::Host;
use crate::testbed::agent::WAIT_TIMEOUT;

const PROGRAM: &str = "/usr/share/java/zookeeper.jar";

/// A server. It ends with the value, or with the thread that started it.
pub struct ZooKeeper {
    host: Host,
    address: SocketAddr,
    directory: PathBuf,
    process: Option<Child>,
}

impl ZooKeeper {
    /// Starts a server on a host, and waits until it answers.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        ensure!(
            Path::new(PROGRAM).is_file(),
            "{PROGRAM} is missing: install the Debian package zookeeper"
        );
        let address = SocketAddr::new(host.address(), port);
        let directory = host.directory().join(format!("zookeeper-{port}"));
        fs::create_dir_all(directory.join("data"))?;
        let text = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress={}\n\
             admin.enableServer=false\ntickTime=200\nmaxSessionTimeout=60000\n",
            directory.join("data").display(),
            address.ip()
        );
        fs::write(directory.join("zoo.cfg"), text)?;
        let mut zookeeper = Self {
            host: host.clone(),
            address,
            directory,
            process: None,
        };
        zookeeper.run()?;
        Ok(zookeeper)
    }

    /// `zk://`, the server, and this path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("zk://{}{path}", self.address)
    }

    /// The server's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Starts the server, which does not run, with what it knew.
    pub fn run(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "ZooKeeper runs already");
        let log = File::options().create(true).append(true).open(self.log())?;
        // All of these replace themselves by what follows, so that the child is the server.
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.namespace().display()))
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .args(["java", "-Xmx128m", "-cp", PROGRAM])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(self.directory.join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run nsenter; is util-linux installed?")?;
        self.process = Some(child);
        let started = Instant::now();
        while !self.host.run(|| answers(self.address))? {
            let ended = self
                .process
                .as_mut()
                .and_then(|child| child.try_wait().ok()?);
            ensure!(
                ended.is_none() && started.elapsed() < WAIT_TIMEOUT,
                "ZooKeeper does not start:\n{}",
                fs::read_to_string(self.log())?
            );
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills the server; what it knows stays.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.process.take().context("ZooKeeper does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops the server with SIGSTOP: connections stay open but get no response.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets the server go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.process.as_ref().context("ZooKeeper does not run")?;
        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        Ok(())
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        if self.process.is_some()
            && let Err(error) = self.kill()
        {
            log::error!("cannot end ZooKeeper: {error:#}");
        }
    }
}

/// Whether the server responds with its version.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"srvr")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("Zookeeper version"))
}
