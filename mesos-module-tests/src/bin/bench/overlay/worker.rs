//! Threads in network namespaces of their own, which stand for hosts.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::netns::{self, Kind};
use nix::sched::{CloneFlags, setns, unshare};

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that has a network namespace and a state. Both end with the value.
pub(crate) struct Worker<S> {
    /// None only while the thread ends.
    jobs: Option<Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
    namespace: OwnedFd,
}

impl<S: 'static> Worker<S> {
    /// Starts the thread in a new namespace, where `init` makes the state.
    pub(crate) fn start(init: impl FnOnce() -> Result<S> + Send + 'static) -> Result<Self> {
        let (jobs, inbox) = channel::<Job<S>>();
        let (started, start) = channel();
        let thread = std::thread::spawn(move || {
            let made = enter_new_namespace().and_then(|namespace| Ok((init()?, namespace)));
            match made {
                Ok((mut state, namespace)) => {
                    // Without its owner there will be no jobs.
                    let _ = started.send(Ok(namespace));
                    for job in inbox {
                        job(&mut state);
                    }
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        });
        let namespace = start.recv().context("a thread of a host ended")??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            namespace,
        })
    }

    /// Runs a job on the thread, and returns its result.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = channel();
        let job = Box::new(move |state: &mut S| {
            // The receiver waits below.
            let _ = sender.send(job(state));
        });
        let jobs = self.jobs.as_ref().context("the host has ended")?;
        jobs.send(job).map_err(|_| anyhow!("the host has ended"))?;
        result.recv().context("a job of a host panicked")?
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn enter_new_namespace() -> Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])?;
    Ok(netns::of_this_thread(Kind::Net)?)
}

/// Runs `work` on a new thread in a namespace.
pub(crate) fn inside<T: Send + 'static>(
    namespace: impl AsFd,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let namespace = namespace.as_fd().try_clone_to_owned()?;
    Ok(std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    }))
}

/// The result of a thread.
pub(crate) fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread panicked"))
        .and_then(|result| result)
}
