//! Notifications about what the data path of services depends on: the host's addresses, the rules that
//! close subnets, and the local routes of one program.

use std::os::fd::{AsFd as _, BorrowedFd};

use super::host_watch::{RTM_DELADDR, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, join_groups};
use super::local_routes::RT_TABLE_LOCAL;
use super::netlink::{NetlinkError, NetlinkSocket};
use super::routes::RTM_DELROUTE;
use super::rules::RTM_DELRULE;
use super::socket_filter::{self, Condition, Field, TYPE};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWRULE: u16 = 32;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV6_RULE: u32 = 19;
/// Where the payload of a route's message has its table and protocol.
const ROUTE_TABLE: usize = 4;
const ROUTE_PROTOCOL: usize = 5;

/// A subscription to the notifications of one network namespace.
#[derive(Debug)]
pub struct ServiceEvents {
    socket: NetlinkSocket,
    protocol: u8,
}

impl ServiceEvents {
    /// Subscribes in the calling thread's network namespace. The local routes have the number
    /// `protocol`.
    pub fn subscribe(protocol: u8) -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::route()?;
        let kinds = |kinds: &[u16]| {
            let kinds = kinds.iter().map(|kind| u32::from(*kind)).collect();
            Condition::OneOf(TYPE, kinds)
        };
        let byte = |offset, value: u8| Condition::OneOf(Field::Byte(offset), vec![value.into()]);
        let rules = [
            vec![kinds(&[RTM_NEWADDR, RTM_DELADDR, RTM_NEWRULE, RTM_DELRULE])],
            vec![
                kinds(&[RTM_DELROUTE]),
                byte(20, RT_TABLE_LOCAL),
                byte(21, protocol),
            ],
        ];
        // Without a filter, the watch is only woken more often.
        let _ = socket_filter::attach(socket.socket(), &rules);
        join_groups(
            &socket,
            &[
                RTNLGRP_IPV4_IFADDR,
                RTNLGRP_IPV6_IFADDR,
                RTNLGRP_IPV4_ROUTE,
                RTNLGRP_IPV6_ROUTE,
                RTNLGRP_IPV4_RULE,
                RTNLGRP_IPV6_RULE,
            ],
        )?;
        Ok(Self { socket, protocol })
    }

    /// The descriptor that becomes readable when there are notifications.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.socket().as_fd()
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether anything may have
    /// changed.
    pub fn receive(&mut self) -> Result<bool, NetlinkError> {
        let protocol = self.protocol;
        let mut has_changed = false;
        let has_missed = self.socket.receive_pending(|kind, payload| {
            has_changed |= match kind {
                RTM_NEWADDR | RTM_DELADDR | RTM_NEWRULE | RTM_DELRULE => true,
                RTM_DELROUTE => {
                    payload.get(ROUTE_TABLE) == Some(&RT_TABLE_LOCAL)
                        && payload.get(ROUTE_PROTOCOL) == Some(&protocol)
                }
                _ => false,
            };
        })?;
        Ok(has_changed || has_missed)
    }
}
