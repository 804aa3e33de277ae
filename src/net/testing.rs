//! Namespaces for tests that need root: each test has a host of its own, and leaves nothing.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};

use super::netlink::NetlinkSocket;
use super::netns::{self, Kind};
use super::{links, sysctl};

/// Runs `test` in a network namespace of its own, on a thread of its own.
pub(crate) fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: run it with sudo"
    );
    let thread = std::thread::Builder::new()
        .name(std::thread::current().name().unwrap_or("test").to_owned())
        .spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
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

/// Like [`isolated`], for a test that awaits.
pub(crate) fn isolated_async<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    isolated(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
}

/// A new, empty network namespace. It lives as long as the descriptor.
pub(crate) fn namespace() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        netns::of_this_thread(Kind::Net).unwrap()
    })
    .join()
    .unwrap()
}

/// Runs `work` inside `namespace`.
pub(crate) fn inside<T: Send + 'static>(
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

/// Names of the links of this thread's namespace, without `lo`.
pub(crate) fn link_names() -> Vec<String> {
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

/// Runs an operator's command in this thread's namespace, and returns what it prints.
#[expect(
    clippy::disallowed_methods,
    reason = "tests look at the host as an operator does"
)]
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = std::process::Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("{program}, to look at what was made: {error}"));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap() + &errors
}

/// What `nft list ruleset` prints in this thread's namespace. For eyes and assertions only.
pub(crate) fn nft_ruleset() -> String {
    run("nft", "list ruleset")
}

#[test]
fn settings_are_written_only_when_they_differ() {
    isolated(|| {
        assert!(sysctl::set("net/ipv4/ip_forward", "1").unwrap());
        assert!(!sysctl::set("net/ipv4/ip_forward", "1").unwrap());
        assert!(!sysctl::set_if_there("net/ipv4/no_such_setting", "1").unwrap());
        assert!(sysctl::set("net/ipv4/no_such_setting", "1").is_err());
    });
}
