//! Network and mount namespaces for root tests. Each test has its own, which disappear with the test.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "each of them fails the test that calls it, by a panic"
)]

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::links;
use super::netlink::NetlinkSocket;
use super::netns::{self, Kind};

/// Runs `test` in network and mount namespaces of its own, on a thread of its own.
pub fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: run it with sudo"
    );
    let thread = std::thread::Builder::new()
        .name(std::thread::current().name().unwrap_or("test").to_owned())
        .spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .expect("namespaces of its own");
            let none: Option<&str> = None;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).expect("mounts of its own");
            let mut socket = NetlinkSocket::route().unwrap();
            socket.execute_all(&[links::set_up("lo", None)]).unwrap();
            test()
        })
        .unwrap();
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Like [`isolated`], for an asynchronous test.
pub fn isolated_async<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    isolated(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
}

/// Gives this thread, and those that it starts, a mount namespace of the test's own.
pub fn unshare_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
}

/// Creates an empty network namespace, which exists as long as the descriptor.
pub fn namespace() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        netns::of_this_thread(Kind::Net).unwrap()
    })
    .join()
    .unwrap()
}

/// Runs `work` inside `namespace`.
pub fn inside<T: Send + 'static>(
    namespace: impl AsFd,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let namespace = namespace.as_fd().try_clone_to_owned().unwrap();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(netns::run_in(namespace, work))
            .unwrap()
    })
    .join()
    .unwrap()
}

/// The sorted names of the links of this thread's namespace, without `lo`.
pub fn link_names() -> Vec<String> {
    let mut socket = NetlinkSocket::route().unwrap();
    let mut names: Vec<_> = links::all(&mut socket)
        .unwrap()
        .into_iter()
        .map(|link| link.name)
        .filter(|name| name != "lo")
        .collect();
    names.sort();
    names
}

/// Runs a command in this thread's namespace, and returns its output.
#[expect(
    clippy::disallowed_methods,
    reason = "tests inspect the host with an operator's commands"
)]
pub fn run(program: &str, arguments: &str) -> String {
    let output = std::process::Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap() + &errors
}

/// The output of `nft list ruleset` in this thread's namespace.
pub fn nft_ruleset() -> String {
    run("nft", "list ruleset")
}
