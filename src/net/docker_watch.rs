//! Notifications about the rules for Docker, see [`docker`].
//!
//! Docker changes its chains one rule at a time: its start is about forty changes within a second. So
//! they are collected for a moment.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::host_watch::{NFNLGRP_NFTABLES, join_groups};
use super::netlink::{NetlinkError, NetlinkSocket};
use super::nft::docker;
use super::socket_filter::{self, Condition, PORT, TYPE};

/// How long changes are collected.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// A subscription to the notifications of one network namespace.
#[derive(Debug)]
pub struct DockerEvents {
    socket: NetlinkSocket,
    timer: TimerFd,
    is_collecting: bool,
    /// Readable when there are notifications, and when they have been collected.
    epoll: Epoll,
}

impl DockerEvents {
    /// Subscribes in the calling thread's network namespace. Changes by the socket with the port
    /// `own_port` are left out.
    pub fn subscribe(own_port: u32) -> Result<Self, NetlinkError> {
        let fail = |error: Errno| NetlinkError::Socket(error.into(), "notifications");
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let events = Self {
            socket: NetlinkSocket::netfilter()?,
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(fail)?,
            is_collecting: false,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?,
        };
        let kinds = docker::MESSAGES.map(u32::from).to_vec();
        let rules = [vec![
            Condition::Not(PORT, own_port),
            Condition::OneOf(TYPE, kinds),
        ]];
        // Without a filter, the watch is only woken more often.
        let _ = socket_filter::attach(events.socket.socket(), &rules);
        join_groups(&events.socket, &[NFNLGRP_NFTABLES])?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        events
            .epoll
            .add(events.socket.socket(), readable)
            .map_err(fail)?;
        events.epoll.add(&events.timer, readable).map_err(fail)?;
        Ok(events)
    }

    /// The descriptor that becomes readable when there is something to receive.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether changes have been
    /// collected.
    pub fn receive(&mut self) -> Result<bool, NetlinkError> {
        let fail = |error: Errno| NetlinkError::Socket(error.into(), "notifications");
        let mut is_changed = false;
        let has_missed = self
            .socket
            .receive_pending(|kind, payload| is_changed |= docker::is_change(kind, payload))?;
        if (is_changed || has_missed) && !self.is_collecting {
            let delay = Expiration::OneShot(TimeSpec::from_duration(QUIET_TIME));
            self.timer
                .set(delay, TimerSetTimeFlags::empty())
                .map_err(fail)?;
            self.is_collecting = true;
        }
        match self.timer.wait() {
            Ok(()) => {
                self.is_collecting = false;
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(error) => Err(fail(error)),
        }
    }
}
