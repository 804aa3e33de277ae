//! Routing by source: packets from the addresses of an interface leave by that interface, whatever
//! the other interfaces' routes say. Otherwise replies of a namespace's second interface leave by
//! its first one, and a reverse path filter drops them, there or on the way in.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::errno::Errno;

use super::addressing::NewRoute;
use super::netlink::{NetlinkError, NetlinkSocket, Request};

const RTM_NEWRULE: u16 = 32;
/// Before the rule for the main table.
const RULE_PRIORITY: u32 = 30_000;

/// A link whose addresses get routes of their own.
#[derive(Clone, Copy, Debug)]
pub struct SourceRouting<'a> {
    /// The link's index.
    pub index: u32,
    /// The routing table, used for this link alone.
    pub table: u32,
    /// The link's addresses.
    pub addresses: &'a [IpNet],
    /// What is on the link.
    pub on_link: &'a [IpNet],
    /// Destinations and their next hops.
    pub routes: &'a [(IpNet, IpAddr)],
}

impl SourceRouting<'_> {
    /// Adds the routes and rules. Tolerates those that are there already, as after an earlier
    /// interface, and a kernel without policy routing.
    pub fn apply(&self, socket: &mut NetlinkSocket) -> Result<(), NetlinkError> {
        let requests: Vec<Request> = self
            .on_link
            .iter()
            .map(|net| self.route(*net, None))
            .chain(
                self.routes
                    .iter()
                    .map(|(net, gateway)| self.route(*net, Some(*gateway))),
            )
            .chain(self.addresses.iter().map(|net| self.rule(*net)))
            .collect();
        for result in socket.execute(&requests)? {
            match result {
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(Errno::EEXIST | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
                    ) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn route(&self, destination: IpNet, gateway: Option<IpAddr>) -> Request {
        let route = NewRoute {
            destination,
            gateway,
            index: self.index,
            table: Some(self.table),
            metric: None,
        };
        route.request()
    }

    fn rule(&self, net: IpNet) -> Request {
        let mut message = RuleMessage::default();
        let header = &mut message.header;
        (header.family, header.src_len) = match net {
            IpNet::V4(_) => (AddressFamily::Inet, 32),
            IpNet::V6(_) => (AddressFamily::Inet6, 128),
        };
        header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(net.addr()),
            RuleAttribute::Priority(RULE_PRIORITY),
            RuleAttribute::Table(self.table),
        ];
        let action = format!(
            "route packets from {} by the table {}",
            net.addr(),
            self.table
        );
        Request::with_message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &message, action)
    }
}
