//! The three that are measured, each in a network namespace of its own that stands for the host.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::netns::{self, Kind, handles};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::floor::Floor;
use crate::ours::Ours;
use crate::plugins::Plugins;
use crate::report::Samples;
use crate::turns::{Turn, take_turns};

/// Containers detached at once at the end.
const BURST: usize = 500;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Ours,
    Plugins,
    Floor,
}

/// What one contender needed.
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
    /// Anything to be done beforehand that is not measured.
    fn ready(&mut self, _container: &Container) -> Result<()> {
        Ok(())
    }
    fn attach(&mut self, container: &Container) -> Result<()>;
    fn detach(&mut self, container: &Container) -> Result<()>;
    /// Detaches all of them as fast as it can.
    fn detach_all(&mut self, containers: &[Container]) -> Result<()>;
}

impl Attach for Plugins {
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
    let all = [Contender::Ours, Contender::Plugins, Contender::Floor];
    let mut turns = take_turns(all.len()).into_iter();
    let threads = all.map(|contender| {
        let (plan, turn) = (plan.clone(), turns.next());
        std::thread::spawn(move || measure(contender, &plan, &turn.context("no turn")?))
    });
    let [ours, peer, floor] = threads.map(|thread| {
        let result = thread.join().map_err(|_| anyhow!("a thread panicked"));
        result.and_then(|result| result)
    });
    Ok([ours?, peer?, floor?])
}

fn measure(contender: Contender, plan: &Plan, turn: &Turn) -> Result<Figures> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])?;
    let directory = tempfile::Builder::new()
        .prefix("contrail-mesos-bench-")
        .tempdir()?;
    let mut contender: Box<dyn Attach> = match contender {
        Contender::Ours => Box::new(Ours::new(directory.path())?),
        Contender::Plugins => Box::new(Plugins::new(&directory.path().join("leases"))),
        Contender::Floor => Box::new(Floor::new(directory.path())?),
    };
    let host = Host {
        handles: directory.path().join("containers"),
    };
    fs::create_dir(&host.handles)?;
    // Our handles are on a memory file system, as below /run, where they are by default.
    let netns = subdirectory(directory.path(), "netns")?;
    mount(
        Some("bench"),
        &netns,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let figures = host.measure(contender.as_mut(), plan, turn);
    drop(contender);
    umount2(&netns, MntFlags::MNT_DETACH)?;
    figures
}

struct Host {
    handles: PathBuf,
}

impl Host {
    fn measure(&self, contender: &mut dyn Attach, plan: &Plan, turn: &Turn) -> Result<Figures> {
        let mut there = Vec::new();
        let mut figures = Figures::default();
        for count in &plan.present {
            turn.take(|| self.fill(contender, &mut there, *count))?;
            let mut level = Level::default();
            self.rounds(contender, plan.rounds, None, &mut level, turn)?;
            if plan.port_at.contains(count) {
                self.rounds(contender, plan.rounds, Some(20_000), &mut level, turn)?;
            }
            figures.levels.push(level);
        }
        turn.take(|| self.fill(contender, &mut there, BURST))?;
        let rest = there.split_off(BURST);
        turn.take(|| {
            let start = Instant::now();
            contender.detach_all(&there)?;
            figures.burst = Some(start.elapsed().as_secs_f64());
            contender.detach_all(&rest)?;
            for container in there.iter().chain(&rest) {
                handles::unpin(&container.path)?;
            }
            anyhow::Ok(())
        })?;
        Ok(figures)
    }

    fn fill(
        &self,
        contender: &mut dyn Attach,
        there: &mut Vec<Container>,
        count: usize,
    ) -> Result<()> {
        while there.len() < count {
            let container = self.container(&format!("present-{}", there.len()), None)?;
            contender.ready(&container)?;
            contender.attach(&container)?;
            there.push(container);
        }
        Ok(())
    }

    fn rounds(
        &self,
        contender: &mut dyn Attach,
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
                contender.ready(&container)?;
                timed(attach, || contender.attach(&container))?;
                timed(detach, || contender.detach(&container))
            })?;
            done.push(container);
        }
        done.iter()
            .try_for_each(|container| Ok(handles::unpin(&container.path)?))
    }

    fn container(&self, id: &str, port: Option<u16>) -> Result<Container> {
        let namespace = std::thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(netns::of_this_thread(Kind::Net)?)
        });
        let namespace = namespace
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?
            .context("cannot make a network namespace")?;
        let path = self.handles.join(id);
        handles::pin(&namespace, &path)?;
        Ok(Container {
            id: id.to_owned(),
            namespace,
            path,
            port,
        })
    }
}

fn timed(samples: &mut Samples, work: impl FnOnce() -> Result<()>) -> Result<()> {
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

/// The directory of a contender's own files.
pub(crate) fn subdirectory(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}
