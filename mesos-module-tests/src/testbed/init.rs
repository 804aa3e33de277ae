//! The first process of a simulated host.
//!
//! It makes the host from inside its fresh namespaces, reaps what ends there, and when its standard
//! input closes (the test has dropped the host, or has been killed) ends every process of the host
//! and removes its cgroups, mounts and files. The namespaces end with it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::testbed::cgroups;

/// What the host prints when it is set up.
pub const READY: &str = "ready";

/// The configuration of a host.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// The beginning of the names of its cgroups.
    #[arg(long)]
    pub cgroups: String,
    /// The directory with everything that it writes.
    #[arg(long)]
    pub directory: PathBuf,
    /// Its addresses, on the loopback interface.
    #[arg(long)]
    pub address: Vec<String>,
    /// A directory with another system, whose files it has instead of the machine's. What it changes is
    /// in memory.
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Directories of the machine that it sees with another system, too.
    #[arg(long)]
    pub bind: Vec<PathBuf>,
}

/// Is the host until standard input closes.
pub fn main(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::getpid().as_raw() == 1,
        "this is the first process of a simulated host; the testbed starts it"
    );
    if let Some(root) = &options.root {
        enter_root(root, options)?;
    }
    set_up(options)?;
    println!("{READY}");
    io::stdout().flush()?;
    let (closed, closing) = mpsc::channel();
    thread::spawn(move || {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        // The receiver lives as long as the process.
        let _ = closed.send(());
    });
    while closing.recv_timeout(Duration::from_millis(10)).is_err() {
        reap();
    }
    tear_down(options)
}

/// Makes a system the root of this mount namespace, with a layer in memory above it.
fn enter_root(root: &Path, options: &Options) -> Result<()> {
    let none: Option<&str> = None;
    let layers = options.directory.join("root");
    fs::create_dir_all(&layers)?;
    mount(
        Some("tmpfs"),
        &layers,
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .with_context(|| format!("cannot mount a tmpfs on {}", layers.display()))?;
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| layers.join(name));
    for directory in [&upper, &work, &merged] {
        fs::create_dir(directory)?;
    }
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        root.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(data.as_str()),
    )
    .with_context(|| format!("cannot mount {} with a layer above", root.display()))?;
    let inside = |path: &Path| merged.join(path.strip_prefix("/").unwrap_or(path));
    let system = [Path::new("/dev"), Path::new("/sys")].into_iter();
    let binds = options.bind.iter().map(PathBuf::as_path);
    for path in system.chain([options.directory.as_path()]).chain(binds) {
        let target = inside(path);
        fs::create_dir_all(&target)?;
        let flags = if path == options.directory {
            MsFlags::MS_BIND
        } else {
            MsFlags::MS_BIND | MsFlags::MS_REC
        };
        mount(Some(path), &target, none, flags, none)
            .with_context(|| format!("cannot bind {}", path.display()))?;
    }
    let proc = inside(Path::new("/proc"));
    mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), none)
        .context("cannot mount /proc")?;
    std::env::set_current_dir(&merged)?;
    // The former root is above the new one, until it is gone.
    nix::unistd::pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot unmount the machine's files")?;
    std::env::set_current_dir("/").context("no root")
}

fn set_up(options: &Options) -> Result<()> {
    let none: Option<&str> = None;
    // Namespaces with names, and the state of Mesos and of plugins, are this host's own.
    for directory in ["/run", "/var/lib/cni"] {
        // If a plugin made it, its state would be the machine's, and that of all hosts.
        fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
        mount(
            Some("tmpfs"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .with_context(|| format!("cannot mount a tmpfs on {directory}"))?;
    }
    // The second is what umount leaves behind.
    for directory in ["/run/netns", "/run/mount"] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    ip(&["link", "set", "lo", "up"])?;
    for address in &options.address {
        ip(&["address", "add", address, "dev", "lo"])?;
    }
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let path = Path::new("/proc/sys").join(setting);
        if path.exists() {
            fs::write(&path, "1").with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.context("cannot run ip; is iproute2 installed?")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {errors}",
        arguments.join(" ")
    );
    Ok(())
}

/// Whether anything is left that could end.
fn reap() -> bool {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(status) if status.pid().is_some() => {}
            Ok(_) | Err(Errno::EINTR) => return true,
            Err(_) => return false,
        }
    }
}

fn tear_down(options: &Options) -> Result<()> {
    // In the order in which one depends on the other; the first failure must not stop the rest.
    let mut failures = Vec::new();
    // Every other process. There may be none.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let mut left = 1000;
    while reap() && left > 0 {
        thread::sleep(Duration::from_millis(5));
        left -= 1;
    }
    if left == 0 {
        failures.push("processes do not end".to_owned());
    }
    if let Err(error) = cgroups::remove(&options.cgroups) {
        failures.push(format!("{error:#}"));
    }
    if let Err(error) = remove_directory(&options.directory) {
        failures.push(format!("{error:#}"));
    }
    if !failures.is_empty() {
        bail!("the host leaves something behind: {}", failures.join("; "));
    }
    Ok(())
}

/// Unmounts what is mounted under a directory, then removes it.
pub fn remove_directory(directory: &Path) -> Result<()> {
    for target in mounts_under(directory)?.iter().rev() {
        umount2(target, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The mount points under a directory, in the order in which they were mounted.
pub fn mounts_under(directory: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|mount| mount.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|target| target.starts_with(directory))
        .collect())
}
