//! Watches a network namespace for links that go away.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::links::{self, RTM_DELLINK};
use super::netlink::{NetlinkError, NetlinkSocket};

const RTNLGRP_LINK: u32 = 1;
/// Room for about a thousand links that go away at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What the watch saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link of that name was deleted, or left the namespace.
    Deleted(String),
    /// The kernel dropped events: anything may be gone.
    Missed,
}

/// A running watch; ends when dropped.
#[derive(Debug)]
pub struct LinkWatch {
    stop: UnixStream,
}

impl LinkWatch {
    /// Starts a thread that hands every event of this thread's network namespace to `each`.
    pub fn start(mut each: impl FnMut(LinkEvent) + Send + 'static) -> Result<Self, NetlinkError> {
        let fail = |error| NetlinkError::Socket(error, "link events");
        let mut socket = NetlinkSocket::route()?;
        socket.socket().add_membership(RTNLGRP_LINK).map_err(fail)?;
        // A smaller buffer only means that events are missed sooner, which is told.
        let _ = socket.socket().set_rx_buf_sz(RECEIVE_BUFFER);
        let (stop, stopped) = UnixStream::pair().map_err(fail)?;
        std::thread::Builder::new()
            .name("cm-watch".to_owned())
            .spawn(move || {
                if let Err(error) = run(&mut socket, stopped, &mut each) {
                    log::error!(
                        "links are no longer watched, a lost interface will be noticed only at the next restart: {error}"
                    );
                }
            })
            .map_err(fail)?;
        Ok(Self { stop })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        // The thread also ends when this end closes.
        let _ = self.stop.write_all(b"x");
    }
}

fn run(
    socket: &mut NetlinkSocket,
    mut stopped: UnixStream,
    each: &mut impl FnMut(LinkEvent),
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
                // A port that leaves its bridge is announced as a deletion, too, of that family.
                && payload.first() == Some(&0)
                && let Ok(link) = links::parse(payload)
            {
                each(LinkEvent::Deleted(link.name));
            }
        });
        match received {
            Err(NetlinkError::Socket(error, _)) if is_overrun(&error) => each(LinkEvent::Missed),
            other => other?,
        }
    }
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// Waits for an event, or for the end: true.
fn wait(socket: &NetlinkSocket, stopped: &UnixStream) -> Result<bool, Errno> {
    let events: BorrowedFd<'_> = socket.socket().as_fd();
    let mut files = [
        PollFd::new(events, PollFlags::POLLIN),
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut files, PollTimeout::NONE)?;
    Ok(files[1].any().unwrap_or(false))
}
