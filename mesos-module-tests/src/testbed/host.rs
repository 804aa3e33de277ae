//! A simulated host.

use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use log::error;
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Runtime;

use crate::testbed::init::READY;
use crate::testbed::install::Install;
use crate::testbed::leftovers::Leftovers;

/// A host: network, mount and process namespaces of its own, `/run` of its own, an address that
/// its containers can reach. Handles are cheap to clone; the host ends with the last one, or with
/// the process that started it.
#[derive(Clone, Debug)]
pub struct Host(Arc<HostProcess>);

/// Refers to a host without keeping it alive.
#[derive(Clone, Debug)]
pub struct WeakHost(Weak<HostProcess>);

impl WeakHost {
    /// The host, unless it has ended.
    pub fn upgrade(&self) -> Result<Host> {
        self.0.upgrade().map(Host).context("the host has ended")
    }
}

#[derive(Debug)]
struct HostProcess {
    /// util-linux's unshare. It is in the host's namespaces, and its child is the first process.
    unshare: Child,
    install: Install,
    name: String,
    directory: PathBuf,
    address: IpAddr,
    clusters: AtomicUsize,
    /// Its threads are in the host's network namespace. Only none while the host is dropped.
    runtime: Option<Runtime>,
}

/// Hosts that this process has started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

impl Host {
    /// Starts a host with that address. Needs root.
    pub fn start(address: IpAddr) -> Result<Self> {
        Self::with_addresses(address, &[])
    }

    /// Starts a host with an address and more of them.
    pub fn with_addresses(address: IpAddr, more: &[IpAddr]) -> Result<Self> {
        Self::with_options(address, more, None)
    }

    /// Starts a host whose files are those of the system in the directory `root`, with `ip` in it. Besides,
    /// it sees Mesos, the programs that cargo built, and its own directory. What it changes in the system
    /// is in memory, and its own.
    pub fn with_root(address: IpAddr, root: &Path) -> Result<Self> {
        Self::with_options(address, &[], Some(root))
    }

    fn with_options(address: IpAddr, more: &[IpAddr], root: Option<&Path>) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces and run the real Mesos agent: run them as root"
        );
        let install = Install::find()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("contrail_test_{}_{number}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--fork", "--mount-proc"])
            .args(["--propagation", "private", "--kill-child", "--"])
            .arg(&install.testbed_host)
            // The underscore ends the number: no host is another's prefix.
            .arg(format!("--cgroups={name}_"))
            .arg("--directory")
            .arg(&directory);
        for address in [&[address], more].concat() {
            command.arg(format!("--address={}", IpNet::from(address)));
        }
        if let Some(root) = root {
            command.arg("--root").arg(root);
            for directory in install.directories() {
                command.arg("--bind").arg(directory);
            }
        }
        let unshare = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run unshare; is util-linux installed?")?;
        let mut inner = HostProcess {
            unshare,
            install,
            name,
            directory,
            address,
            clusters: AtomicUsize::new(0),
            runtime: None,
        };
        inner.wait_ready()?;
        inner.runtime = Some(runtime(inner.namespace())?);
        Ok(Self(Arc::new(inner)))
    }

    /// A handle that does not keep the host alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakHost {
        WeakHost(Arc::downgrade(&self.0))
    }

    /// The host's address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// A name that no other host of the machine has.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A directory that goes with the host.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The host's network namespace, for as long as the host lives.
    #[must_use]
    pub fn namespace(&self) -> PathBuf {
        self.0.namespace()
    }

    /// A process in the host's network and mount namespaces, as `ip link … netns PID` wants it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.unshare.id()
    }

    /// A command that will run on the host.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let pid = self.pid();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--")
            .arg(program);
        command
    }

    /// Lays a cable from a port of this host's bridge to an interface `uplink` of the host in which
    /// the process `pid` is.
    fn attach_cable(&self, port: &str, bridge: &str, pid: u32) -> Result<()> {
        // The other host's process id is the machine's, not this host's.
        let script =
            format!("ip link add {port} master {bridge} up type veth peer name uplink netns {pid}");
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.namespace().display()))
            .args(["--", "/bin/sh", "-ec", &script])
            .output()
            .context("cannot run nsenter")?;
        ensure!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Makes this host the switch `fabric` between others, each with a cable from its interface
    /// `uplink`. Their addresses must be of 192.0.2.0/24; `beyond` is what this host reaches by
    /// the switch, too.
    pub fn connect(&self, hosts: &[&Host], beyond: &[&str]) -> Result<()> {
        let own = self.address();
        self.sh("ip link add fabric type bridge && ip link set fabric up")?;
        for subnet in [&["192.0.2.0/24"], beyond].concat() {
            self.sh(&format!("ip route add {subnet} dev fabric src {own}"))?;
        }
        for (index, host) in hosts.iter().enumerate() {
            self.attach_cable(&format!("port{index}"), "fabric", host.pid())?;
            let address = host.address();
            // An address of its own, for a vRouter agent takes its last one off again: with the last
            // address of a link go its routes.
            host.sh(&format!(
                "ip address add {address}/24 dev uplink && ip link set uplink up"
            ))?;
        }
        Ok(())
    }

    /// Runs a shell script on the host and returns what it prints; fails as the script does.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.command("/bin/sh").args(["-ec", script]).output();
        let output = output.context("cannot run nsenter; is util-linux installed?")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{script:?} ended with {}: {printed}{errors}", output.status);
        }
        Ok(printed)
    }

    /// Runs `work` on a new thread in the host's network namespace. A panic of the work is passed on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = self.namespace();
        thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&namespace).map(|()| work()));
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a future in the host's network namespace. What it spawns lives on, in the same
    /// namespace, until the host ends.
    ///
    /// # Panics
    /// If the future does, or if the namespace is gone.
    pub fn block_on<F: Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send,
    {
        let runtime = self
            .0
            .runtime
            .as_ref()
            .expect("only a dropped host has none");
        self.run(|| runtime.block_on(future))
            .expect("a host's namespace lives as long as the host")
    }

    /// What there is on the host now, to compare with later.
    pub fn leftovers(&self) -> Result<Leftovers> {
        Leftovers::of(self)
    }

    pub(crate) fn install(&self) -> &Install {
        &self.0.install
    }

    pub(crate) fn next_cluster(&self) -> usize {
        self.0.clusters.fetch_add(1, Ordering::Relaxed)
    }
}

impl HostProcess {
    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.unshare.id()).into()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        if let Some(stdout) = self.unshare.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() == READY {
            return Ok(());
        }
        let mut errors = String::new();
        if let Some(mut stderr) = self.unshare.stderr.take() {
            stderr.read_to_string(&mut errors)?;
        }
        bail!("the host {} did not start: {errors}", self.name)
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // The first process takes this as the end of the host.
        drop(self.unshare.stdin.take());
        let mut errors = String::new();
        if let Some(mut stderr) = self.unshare.stderr.take() {
            // Its output only explains its status.
            let _ = stderr.read_to_string(&mut errors);
        }
        let ended = self.unshare.wait();
        if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
            let message = format!("the host {} ended with {ended:?}: {errors}", self.name);
            if thread::panicking() {
                error!("{message}");
            } else {
                panic!("{message}");
            }
        }
    }
}

/// Moves the calling thread into a network namespace for the rest of its life. Only threads that
/// this module starts call it; threads that they start are in the namespace, too.
fn enter(namespace: &Path) -> Result<()> {
    let file = File::open(namespace)
        .with_context(|| format!("no network namespace at {}", namespace.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {}", namespace.display()))
}

fn runtime(namespace: PathBuf) -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_thread_start(move || {
            // A thread that stayed outside would make the test talk to the machine.
            enter(&namespace).expect("cannot enter the host's network namespace");
        })
        .build()
        .context("cannot start the host's runtime")
}
