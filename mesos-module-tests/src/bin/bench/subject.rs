//! The three subjects of the benchmark, each in its own network namespace, which stands for a host.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::netns::handles::{pin, unpin};
use contrail_mesos::net::netns::{self, Kind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::cni_plugins::CniPlugins;
use crate::contrail_mesos::ContrailMesos;
use crate::netlink_baseline::NetlinkBaseline;
use crate::report::Samples;
use crate::round_robin::{Turn, take_turns};

/// Containers detached at once at the end.
const BURST: usize = 500;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    ContrailMesos,
    CniPlugins,
    NetlinkBaseline,
}

/// What one subject needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) levels: Vec<Level>,
    /// Seconds for [`BURST`] detaches at once.
    pub(crate) burst: Option<f64>,
}

/// What it needed with so many containers present.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    pub(crate) attach: Samples,
    pub(crate) detach: Samples,
    pub(crate) attach_port: Samples,
    pub(crate) detach_port: Samples,
}

/// A container of the benchmark: a network namespace with a handle.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) namespace: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) port: Option<u16>,
}

/// Something that can attach and detach.
pub(crate) trait Attach {
    fn attach(&mut self, container: &Container) -> Result<()>;
    fn detach(&mut self, container: &Container) -> Result<()>;
    /// Detaches all of them as fast as it can.
    fn detach_all(&mut self, containers: &[Container]) -> Result<()>;
}

impl Attach for CniPlugins {
    fn attach(&mut self, container: &Container) -> Result<()> {
        self.add(&container.id, &container.path, container.port)
    }

    fn detach(&mut self, container: &Container) -> Result<()> {
        self.delete(&container.id, &container.path, container.port)
    }

    fn detach_all(&mut self, containers: &[Container]) -> Result<()> {
        // As network/cni does: one process each, all of them at once.
        let plugins = &*self;
        std::thread::scope(|scope| {
            let threads: Vec<_> = containers
                .chunks(containers.len().div_ceil(16).max(1))
                .map(|chunk| {
                    scope.spawn(move || {
                        chunk.iter().try_for_each(|container| {
                            plugins.delete(&container.id, &container.path, container.port)
                        })
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Containers present, in ascending order.
    pub(crate) present: Vec<usize>,
    /// At which of these with a mapped port, too.
    pub(crate) port_at: Vec<usize>,
    /// Attaches and detaches at each.
    pub(crate) rounds: usize,
}

/// Measures all three, in the order of their names here, each in a namespace of its own. They
/// take turns, round by round, so that whatever else the machine does meets all of them.
pub(crate) fn measure_all(plan: &Plan) -> Result<[Figures; 3]> {
    let all = [
        Subject::ContrailMesos,
        Subject::CniPlugins,
        Subject::NetlinkBaseline,
    ];
    let mut turns = take_turns(all.len()).into_iter();
    let threads = all.map(|subject| {
        let (plan, turn) = (plan.clone(), turns.next());
        std::thread::spawn(move || measure(subject, &plan, &turn.context("no turn")?))
    });
    let [ours, peer, floor] = threads.map(|thread| {
        let result = thread.join().map_err(|_| anyhow!("a thread panicked"));
        result.and_then(|result| result)
    });
    Ok([ours?, peer?, floor?])
}

fn measure(subject: Subject, plan: &Plan, turn: &Turn) -> Result<Figures> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])?;
    let directory = tempfile::Builder::new()
        .prefix("contrail-mesos-bench-")
        .tempdir()?;
    let mut subject: Box<dyn Attach> = match subject {
        Subject::ContrailMesos => Box::new(ContrailMesos::new(directory.path())?),
        Subject::CniPlugins => Box::new(CniPlugins::new(&directory.path().join("leases"))),
        Subject::NetlinkBaseline => Box::new(NetlinkBaseline::new(directory.path())?),
    };
    let host = Host {
        handles: directory.path().join("containers"),
    };
    fs::create_dir(&host.handles)?;
    // Our handles and the files below /etc are on a memory file system, as below /run, where they are
    // by default.
    let run = subdirectory(directory.path(), "run")?;
    mount(
        Some("bench"),
        &run,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let figures = host.measure(subject.as_mut(), plan, turn);
    drop(subject);
    umount2(&run, MntFlags::MNT_DETACH)?;
    figures
}

struct Host {
    handles: PathBuf,
}

impl Host {
    fn measure(&self, subject: &mut dyn Attach, plan: &Plan, turn: &Turn) -> Result<Figures> {
        let mut there = Vec::new();
        let mut figures = Figures::default();
        for count in &plan.present {
            turn.take(|| self.fill(subject, &mut there, *count))?;
            let mut level = Level::default();
            self.rounds(subject, plan.rounds, None, &mut level, turn)?;
            if plan.port_at.contains(count) {
                self.rounds(subject, plan.rounds, Some(20_000), &mut level, turn)?;
            }
            figures.levels.push(level);
        }
        turn.take(|| self.fill(subject, &mut there, BURST))?;
        let rest = there.split_off(BURST);
        turn.take(|| {
            let start = Instant::now();
            subject.detach_all(&there)?;
            figures.burst = Some(start.elapsed().as_secs_f64());
            subject.detach_all(&rest)?;
            for container in there.iter().chain(&rest) {
                unpin(&container.path)?;
            }
            anyhow::Ok(())
        })?;
        Ok(figures)
    }

    fn fill(
        &self,
        subject: &mut dyn Attach,
        there: &mut Vec<Container>,
        count: usize,
    ) -> Result<()> {
        while there.len() < count {
            let container = self.container(&format!("present-{}", there.len()), None)?;
            subject.attach(&container)?;
            there.push(container);
        }
        Ok(())
    }

    fn rounds(
        &self,
        subject: &mut dyn Attach,
        rounds: usize,
        port: Option<u16>,
        level: &mut Level,
        turn: &Turn,
    ) -> Result<()> {
        // Kept to the end: the kernel's work at the end of a namespace would be in somebody's way.
        let mut done = Vec::new();
        for round in 0..rounds {
            let port = port.map(|port| port + u16::try_from(round).unwrap_or_default());
            let container = self.container(&format!("round-{round}"), port)?;
            let (attach, detach) = match port {
                None => (&mut level.attach, &mut level.detach),
                Some(_) => (&mut level.attach_port, &mut level.detach_port),
            };
            turn.take(|| {
                timed(attach, || subject.attach(&container))?;
                timed(detach, || subject.detach(&container))
            })?;
            done.push(container);
        }
        done.iter()
            .try_for_each(|container| Ok(unpin(&container.path)?))
    }

    fn container(&self, id: &str, port: Option<u16>) -> Result<Container> {
        Container::new(&self.handles, id, port)
    }
}

impl Container {
    /// Makes a network namespace, and its handle in this directory.
    pub(crate) fn new(handles: &Path, id: &str, port: Option<u16>) -> Result<Self> {
        let namespace = std::thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(netns::of_this_thread(Kind::Net)?)
        });
        let namespace = namespace
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?
            .context("cannot make a network namespace")?;
        let path = handles.join(id);
        pin(&namespace, &path)?;
        Ok(Self {
            id: id.to_owned(),
            namespace,
            path,
            port,
        })
    }
}

pub(crate) fn timed(samples: &mut Samples, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (cpu, start) = (cpu()?, Instant::now());
    work()?;
    let wall = start.elapsed().as_secs_f64() * 1e3;
    samples.add(wall, self::cpu()? - cpu);
    Ok(())
}

/// CPU time of this process and of the children that it has waited for, in milliseconds.
fn cpu() -> Result<f64> {
    let time = |usage: Usage| {
        let microseconds =
            usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        // Exact up to 2^53 µs, which is longer than any run.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        let milliseconds = microseconds as f64 / 1e3;
        milliseconds
    };
    Ok(time(getrusage(UsageWho::RUSAGE_SELF)?) + time(getrusage(UsageWho::RUSAGE_CHILDREN)?))
}

/// The directory of a subject's own files.
pub(crate) fn subdirectory(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}
