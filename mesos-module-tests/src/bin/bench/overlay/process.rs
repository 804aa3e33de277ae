//! The programs that are measured: memory and CPU time, and a bare HTTP request to their API.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesos_module_tests::testbed::program;
use nix::unistd::{SysconfVar, sysconf};

/// How long a program may need for anything.
const TIMEOUT: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A program. It is killed when the value is dropped.
pub(crate) struct Process {
    child: Child,
    /// Where its API is.
    api: SocketAddr,
}

/// The memory of a process, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) peak: f64,
}

impl Process {
    /// Starts a program with a configuration file, in the namespace of this thread. Its log is beside
    /// the file.
    pub(crate) fn start(name: &str, config: &Path, api: SocketAddr) -> Result<Self> {
        let log = fs::File::create(config.with_extension("log"))?;
        let child = Command::new(program(name)?)
            .arg("--config")
            .arg(config)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, api })
    }

    /// Gets a path of its API: the status and the body.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.api, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let host = self.api;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response
            .split_once("\r\n\r\n")
            .context("an incomplete response")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Waits until a look at it finds something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        look: impl Fn(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            let found = look(self);
            if let Ok(Some(found)) = found {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("a program of the benchmark ended: {status}");
            }
            ensure!(
                started.elapsed() < TIMEOUT,
                "gave up waiting until {what}: {:?}",
                found.err()
            );
            sleep(POLL_INTERVAL);
        }
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(format!(
            "/proc/{}/{file}",
            self.child.id()
        ))?)
    }

    /// Its memory now and at most.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = self.proc("status")?;
        let value = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(kib.with_context(|| format!("no {name}"))?.parse::<f64>()? / 1024.0)
        };
        Ok(Memory {
            resident: value("VmRSS:")?,
            peak: value("VmHWM:")?,
        })
    }

    /// Its CPU time so far, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        // The name before them may contain spaces.
        let fields = stat.rsplit_once(')').context("no name in stat")?.1;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || -> Result<f64> { Ok(fields.next().context("a short stat")?.parse()?) };
        let sum = ticks()? + ticks()?;
        let rate = sysconf(SysconfVar::CLK_TCK)?.context("no clock rate")?;
        #[allow(clippy::cast_precision_loss, reason = "a hundred")]
        let rate = rate as f64;
        Ok(sum / rate)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
