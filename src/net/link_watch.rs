//! Watches a network namespace for links that disappear.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::links::{self, RTM_DELLINK};
use super::netlink::{NetlinkError, NetlinkSocket};
use super::socket_filter::{self, Condition, TYPE};

const RTNLGRP_LINK: u32 = 1;
/// Enough for about a thousand deletions at once.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// An event of a [`LinkWatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link of that name was deleted, or left the namespace.
    Deleted(String),
    /// The kernel dropped events, so any link may be gone.
    Missed,
}

/// A running watch. It ends when it is dropped.
#[derive(Debug)]
pub struct LinkWatch {
    stop: UnixStream,
}

impl LinkWatch {
    /// Starts a thread that passes the events of the calling thread's network namespace to
    /// `on_event`.
    pub fn start(
        mut on_event: impl FnMut(LinkEvent) + Send + 'static,
    ) -> Result<Self, NetlinkError> {
        let fail = |error| NetlinkError::Socket(error, "link events");
        let mut socket = NetlinkSocket::route()?;
        socket.socket().add_membership(RTNLGRP_LINK).map_err(fail)?;
        // Without the filter, the thread is only woken more often; with a smaller buffer, `Missed`
        // is only more likely.
        let deletions = [vec![Condition::OneOf(TYPE, vec![RTM_DELLINK.into()])]];
        let _ = socket_filter::attach(socket.socket(), &deletions);
        let _ = socket.socket().set_rx_buf_sz(RECEIVE_BUFFER_BYTES);
        let (stop, stopped) = UnixStream::pair().map_err(fail)?;
        std::thread::Builder::new()
            .name("cm-watch".to_owned())
            .spawn(move || {
                if let Err(error) = run(&mut socket, stopped, &mut on_event) {
                    log::error!(
                        "links are no longer watched, so a lost interface is noticed only when the agent restarts: {error}"
                    );
                }
            })
            .map_err(fail)?;
        Ok(Self { stop })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        // If this fails, the thread ends when the stream is closed.
        let _ = self.stop.write_all(b"x");
    }
}

fn run(
    socket: &mut NetlinkSocket,
    mut stopped: UnixStream,
    on_event: &mut impl FnMut(LinkEvent),
) -> Result<(), NetlinkError> {
    loop {
        match wait(socket, &stopped) {
            Ok(true) => {
                let _ = stopped.read(&mut [0]);
                return Ok(());
            }
            Ok(false) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(NetlinkError::Socket(error.into(), "link events")),
        }
        let received = socket.receive(|kind, _, _, payload| {
            if kind == RTM_DELLINK
                // A port that leaves its bridge is also reported as a deletion, of family AF_BRIDGE.
                && payload.first() == Some(&0)
                && let Ok(link) = links::parse(payload)
            {
                on_event(LinkEvent::Deleted(link.name));
            }
        });
        match received {
            Err(NetlinkError::Socket(error, _)) if is_overrun(&error) => {
                on_event(LinkEvent::Missed);
            }
            other => other?,
        }
    }
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// Waits for an event, or until the watch is dropped. Returns whether it was dropped.
fn wait(socket: &NetlinkSocket, stopped: &UnixStream) -> Result<bool, Errno> {
    let events: BorrowedFd<'_> = socket.socket().as_fd();
    let mut files = [
        PollFd::new(events, PollFlags::POLLIN),
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut files, PollTimeout::NONE)?;
    Ok(files[1].any().unwrap_or(false))
}
