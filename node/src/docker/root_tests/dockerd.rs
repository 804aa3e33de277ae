//! A Docker of a test's own, in the network and mount namespaces of the thread that starts it.
#![expect(
    clippy::disallowed_methods,
    reason = "tests run Docker as an operator does"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::until;

const BUSYBOX: &str = "/bin/busybox";
/// The image that all containers have.
pub(super) const IMAGE: &str = "busybox";

static STARTED: AtomicUsize = AtomicUsize::new(0);

/// It ends with everything that it has made.
pub(super) struct Dockerd {
    directory: TempDir,
    /// The name of its cgroups, which no other one has.
    cgroup: String,
    child: Option<Child>,
}

impl Dockerd {
    /// Starts it with an image, and waits until it answers. The calling thread must have a mount
    /// namespace of its own.
    pub(super) fn start() -> Self {
        // Docker writes there, whatever its options.
        for directory in ["/run", "/etc/docker"] {
            fs::create_dir_all(directory).unwrap();
            let none: Option<&str> = None;
            let tmpfs = Some("tmpfs");
            mount(tmpfs, directory, tmpfs, MsFlags::empty(), none).unwrap();
        }
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let mut dockerd = Self {
            directory: tempfile::tempdir().unwrap(),
            cgroup: format!("contrail-mesos-test-{}-{number}", std::process::id()),
            child: None,
        };
        dockerd.resume();
        dockerd.import();
        dockerd
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Starts it again, with what it had.
    pub(super) fn resume(&mut self) {
        let path = |name: &str| self.directory.path().join(name);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(path("log"))
            .unwrap();
        let mut command = Command::new("dockerd");
        command
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(["--storage-driver", "vfs"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--cgroup-parent", &format!("/{}", self.cgroup)])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().expect("docker.io is installed"));
        until("Docker answers", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "Docker has ended: {}", self.log());
            self.output(&["version"]).status.success()
        });
    }

    /// Ends it as its service does. Its containers end with it.
    pub(super) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.child.take().unwrap().wait().unwrap();
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        kill(pid, signal).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let host = format!("unix://{}", self.socket().display());
        let mut command = Command::new("docker");
        command.arg("--host").arg(host).args(arguments);
        command.env("HOME", self.directory.path());
        command.output().unwrap()
    }

    /// Runs a command of its command line, whose words are separated by a space.
    pub(super) fn docker(&self, arguments: &str) -> String {
        let words: Vec<_> = arguments.split(' ').collect();
        let output = self.output(&words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "docker {arguments}: {errors}\n{}",
            self.log()
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Whether a command succeeds.
    pub(super) fn succeeds(&self, arguments: &str) -> bool {
        let words: Vec<_> = arguments.split(' ').collect();
        self.output(&words).status.success()
    }

    /// Starts a container on a network.
    pub(super) fn run_container(&self, name: &str, network: &str) {
        self.docker(&format!(
            "run --detach --name {name} --network {network} --stop-timeout 1 {IMAGE} /bin/busybox sleep 1000"
        ));
    }

    /// Makes the image, without a registry.
    fn import(&self) {
        let root = self.directory.path().join("root");
        let archive = self.directory.path().join("root.tar");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox-static is installed");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(tar.unwrap().success());
        self.docker(&format!("import {} {IMAGE}", archive.display()));
    }

    /// The processes whose arguments name this Docker's directory.
    fn processes(&self) -> Vec<Pid> {
        let directory = self.directory.path().display().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let named = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let arguments = fs::read(process.path().join("cmdline")).ok()?;
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            arguments.contains(&directory).then(|| Pid::from_raw(pid))
        });
        named.collect()
    }

    /// Unmounts what it has mounted in its directory.
    fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let own = targets.filter(|target| Path::new(target).starts_with(self.directory.path()));
        // The last one may be inside of an earlier one.
        for target in own.collect::<Vec<_>>().into_iter().rev() {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }

    /// Kills the processes of its cgroups, and removes these.
    fn remove_cgroups(&self) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        for hierarchy in hierarchies {
            remove_cgroup(&hierarchy.path().join(&self.cgroup));
        }
    }
}

fn remove_cgroup(cgroup: &Path) {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return;
    };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path());
    }
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
        // It may have ended since it was listed.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let deadline = std::time::Instant::now() + super::WAIT;
    while fs::remove_dir(cgroup).is_err() && cgroup.exists() {
        if std::time::Instant::now() > deadline {
            eprintln!("the cgroup {} cannot be removed", cgroup.display());
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // A failed test may have stopped it in the middle of anything.
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            let _ = kill(pid, Signal::SIGCONT);
            let _ = kill(pid, Signal::SIGTERM);
            let _ = child.wait();
        }
        // Shims outlive a Docker that was killed.
        let mut left = self.processes();
        for _ in 0..500 {
            for pid in &left {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            if left.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            left = self.processes();
        }
        self.remove_cgroups();
        self.unmount();
    }
}
