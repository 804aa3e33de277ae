//! Reading our table from the kernel.

use std::collections::BTreeMap;

use netlink_bindings::nftables::{
    ExprOps, IterableDataAttrs, Nfgenmsg, OpGetgenDo, OpGetruleDump, OpGetsetelemDo,
    OpGetsetelemDump,
};
use netlink_bindings::utils::ErrorContext;
use netlink_packet_core::NlasIterator;
use nix::errno::Errno;

use super::batch::{Message, header, request};
use super::element::{self, Element, Set};
use super::ruleset::Chain;
use super::{NftError, TABLE, TableState, ruleset};
use crate::net::netlink::{NetlinkError, NetlinkSocket};

const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFPROTO_INET: u8 = 1;

/// A change of our table that a notification reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// A rule, chain or set was changed or removed, or the table.
    Structure,
    /// These elements were removed.
    RemovedElements(Vec<Element>),
}

/// The change of our table that a notification of the group `NFNLGRP_NFTABLES` reports. Additions
/// of tables, sets and elements are none: nothing of ours is missing then.
#[must_use]
pub fn table_change(kind: u16, payload: &[u8]) -> Option<TableChange> {
    let message = message_about(TABLE, kind, payload)?;
    let is_structure = [
        Message::DelTable,
        Message::NewChain,
        Message::DelChain,
        Message::NewRule,
        Message::DelRule,
        Message::DelSet,
    ]
    .iter()
    .any(|structure| *structure as u16 == message);
    let is_removal = Message::DelElement as u16 == message;
    if !is_structure && !is_removal {
        return None;
    }
    if is_structure {
        return Some(TableChange::Structure);
    }
    let (_, attributes) = OpGetsetelemDo::decode_request(payload);
    let name = attributes.get_set().ok()?;
    let set = Set::ALL
        .into_iter()
        .find(|set| set.name().as_bytes() == name.to_bytes())?;
    let mut elements = Vec::new();
    read_elements(set, payload, &mut elements);
    Some(TableChange::RemovedElements(elements))
}

/// The type of a message of the group `NFNLGRP_NFTABLES`, if it is about that table of family
/// `inet`.
pub(super) fn message_about(table: &str, kind: u16, payload: &[u8]) -> Option<u16> {
    let [message, subsystem] = kind.to_le_bytes();
    if subsystem != NFNL_SUBSYS_NFTABLES || payload.first() != Some(&NFPROTO_INET) {
        return None;
    }
    // Each kind of message has the table's name in its first attribute.
    let first = NlasIterator::new(payload.get(4..)?).flatten().next()?;
    (first.value().strip_suffix(&[0]) == Some(table.as_bytes())).then_some(message.into())
}

/// Whether a table has exactly these rules, in order.
pub(super) fn has_rules(
    socket: &mut NetlinkSocket,
    table: &str,
    chains: &[Chain],
) -> Result<bool, NetlinkError> {
    let mut comments: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let list = request(Message::GetRule, 0, "list our rules", |buffer| {
        OpGetruleDump::encode_request(buffer, &header()).push_table_bytes(table.as_bytes());
    });
    let result = socket.dump(&list, |bytes| {
        let (_, rule) = OpGetruleDump::decode_request(bytes);
        // Older kernels ignore the filter by table.
        if rule.get_table().map(std::ffi::CStr::to_bytes) != Ok(table.as_bytes()) {
            return;
        }
        let chain = rule
            .get_chain()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let comment = rule.get_userdata().ok().and_then(element::read_comment);
        comments
            .entry(chain)
            .or_default()
            .push(comment.unwrap_or_default());
    });
    match result {
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(false),
        other => other?,
    }
    Ok(comments.len() == chains.len()
        && chains.iter().all(|chain| {
            comments
                .get(chain.name)
                .is_some_and(|rules| rules.iter().eq(chain.rules.iter().map(|rule| rule.comment)))
        }))
}

/// The expression of a rule that has a single one, apart from counters and a comment of iptables.
pub(super) fn only_expression<'a, 'b>(
    expressions: &'b [Option<ExprOps<'a>>],
) -> Option<&'b ExprOps<'a>> {
    let is_effective = |expression: &&Option<ExprOps<'_>>| match expression {
        Some(ExprOps::Counter(_)) => false,
        Some(ExprOps::Match(found)) => found.get_name().ok() != Some(c"comment"),
        _ => true,
    };
    let mut others = expressions.iter().filter(is_effective);
    match (others.next(), others.next()) {
        (Some(expression), None) => expression.as_ref(),
        _ => None,
    }
}

impl TableState {
    /// The generation of the namespace's tables.
    pub(super) fn current_generation(&mut self) -> Result<u32, NftError> {
        let action = "report the generation of the tables";
        let bytes = self
            .socket
            .get(&request(Message::GetGeneration, 0, action, |buffer| {
                drop(OpGetgenDo::encode_request(buffer, &Nfgenmsg::new()));
            }))?;
        let (_, attributes) = OpGetgenDo::decode_request(&bytes);
        attributes.get_id().map_err(|error| {
            NftError::Netlink(NetlinkError::InvalidResponse {
                action: action.to_owned(),
                message: error.to_string(),
            })
        })
    }

    /// Whether the table has exactly our rules, in order.
    pub(super) fn has_expected_rules(&mut self) -> Result<bool, NftError> {
        Ok(has_rules(&mut self.socket, TABLE, &ruleset::CHAINS)?)
    }

    pub(super) fn elements(&mut self, set: Set) -> Result<Vec<Element>, NftError> {
        let list = request(
            Message::GetElement,
            0,
            format!("list the elements of {}", set.name()),
            |buffer| {
                OpGetsetelemDump::encode_request(buffer, &header())
                    .push_table_bytes(TABLE.as_bytes())
                    .push_set_bytes(set.name().as_bytes());
            },
        );
        let mut elements = Vec::new();
        match self
            .socket
            .dump(&list, |bytes| read_elements(set, bytes, &mut elements))
        {
            Ok(()) => Ok(elements),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The comment of the kernel's element with the same key, if there is one.
    pub(super) fn holder(&mut self, element: &Element) -> Option<String> {
        let bytes = self.socket.get(&element.get()).ok()?;
        let mut elements = Vec::new();
        read_elements(element.set, &bytes, &mut elements);
        elements.pop().map(|element| element.comment)
    }
}

pub(super) fn read_elements(set: Set, bytes: &[u8], elements: &mut Vec<Element>) {
    let (_, attributes) = OpGetsetelemDo::decode_request(bytes);
    let Ok(list) = attributes.get_elements() else {
        return;
    };
    for element in list.get_elem() {
        let value = |data: Result<IterableDataAttrs<'_>, ErrorContext>| {
            data.ok()?.get_value().ok().map(<[u8]>::to_vec)
        };
        if let Some(key) = value(element.get_key()) {
            elements.push(Element {
                set,
                key,
                key_end: element::read_key_end(element.get_buf()),
                data: value(element.get_data()),
                comment: element
                    .get_userdata()
                    .ok()
                    .and_then(element::read_comment)
                    .unwrap_or_default(),
            });
        }
    }
}
