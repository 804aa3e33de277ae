//! Notifications about tables that somebody else has changed.

use std::os::fd::{AsFd as _, BorrowedFd};

use netlink_packet_core::NlasIterator;

use super::batch::{Message, NFPROTO_BRIDGE, NFPROTO_INET, message_type};
use crate::net::host_watch::{NFNLGRP_NFTABLES, join_groups};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::socket_filter::{self, Condition, Field, PORT, TYPE};

/// A subscription to the notifications of one network namespace.
#[derive(Debug)]
pub struct TableEvents {
    socket: NetlinkSocket,
    table: &'static str,
}

impl TableEvents {
    /// Subscribes in the calling thread's network namespace to changes of the tables of that name, of
    /// the families `inet` and `bridge`. Changes by the socket with the port `own_port` are left out.
    pub fn subscribe(table: &'static str, own_port: u32) -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::netfilter()?;
        // Without a filter, the watch is only woken more often.
        let _ = socket_filter::attach(socket.socket(), &filter(table, own_port));
        join_groups(&socket, &[NFNLGRP_NFTABLES])?;
        Ok(Self { socket, table })
    }

    /// The descriptor that becomes readable when there are notifications.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.socket().as_fd()
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether somebody else may
    /// have changed the tables.
    pub fn receive(&mut self) -> Result<bool, NetlinkError> {
        let mut has_changed = false;
        let table = self.table;
        let has_missed = self.socket.receive_pending(|kind, payload| {
            has_changed |= is_about(table, kind, payload);
        })?;
        Ok(has_changed || has_missed)
    }
}

fn is_about(table: &str, kind: u16, payload: &[u8]) -> bool {
    const NFNL_SUBSYS_NFTABLES: u8 = 10;
    let [_, subsystem] = kind.to_le_bytes();
    let family = payload.first().copied();
    let is_family = family == Some(NFPROTO_INET) || family == Some(NFPROTO_BRIDGE);
    if subsystem != NFNL_SUBSYS_NFTABLES || !is_family {
        return false;
    }
    // Each kind of message has the table's name in its first attribute.
    let first = payload
        .get(4..)
        .and_then(|attributes| NlasIterator::new(attributes).flatten().next());
    first.is_some_and(|name| name.value().strip_suffix(&[0]) == Some(table.as_bytes()))
}

/// Passes changes of tables by others, but of elements only those of the tables of
/// that name: containers change elements of other tables. The filter sees only the first of the messages about a transaction.
fn filter(table: &str, own_port: u32) -> [Vec<Condition>; 2] {
    let is_foreign = || Condition::Not(PORT, own_port);
    let is_other = |message: Message| Condition::Not(TYPE, message_type(message).into());
    // The name follows the headers of the message, of netfilter and of the attribute.
    let name = table.as_bytes().chunks_exact(4).zip((24..).step_by(4));
    let has_name = name.filter_map(|(bytes, offset)| {
        let word = u32::from_ne_bytes(bytes.try_into().ok()?);
        Some(Condition::OneOf(Field::Word(offset), vec![word]))
    });
    [
        vec![
            is_foreign(),
            is_other(Message::NewGeneration),
            is_other(Message::NewElement),
            is_other(Message::DelElement),
        ],
        [is_foreign()].into_iter().chain(has_name).collect(),
    ]
}
