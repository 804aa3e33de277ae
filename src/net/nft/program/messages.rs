//! The changes of a transaction as messages.

use netlink_bindings::nftables::{
    OpNewchainDo, OpNewruleDo, OpNewsetDo, OpNewsetelemDo, OpNewtableDo, PushExprAttrs,
};
use netlink_bindings::traits::Pusher as _;
use netlink_bindings::utils::{finalize_nested_header, push_nested_header};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::super::batch::{Message, header_of, request};
use super::super::element::comment;
use super::super::expressions::VERDICT_GOTO;
use super::{ElementKey, Hook, INTERVAL_END, SetKind, TableName, TableRule, TableSet};
use crate::net::netlink::Request;

/// The type of the values of a map of verdicts.
const VERDICT: u32 = 0xffff_ff00;

pub(super) fn new_table(name: TableName) -> Request {
    let action = format!("create the table {name}");
    request(Message::NewTable, NLM_F_CREATE, action, |buffer| {
        OpNewtableDo::encode_request(buffer, &header_of(name.family))
            .push_name_bytes(name.name.as_bytes())
            .push_userdata(&comment(name.description));
    })
}

pub(super) fn delete_table(name: TableName) -> Request {
    let action = format!("remove the table {name}");
    request(Message::DelTable, 0, action, |buffer| {
        OpNewtableDo::encode_request(buffer, &header_of(name.family))
            .push_name_bytes(name.name.as_bytes());
    })
}

pub(super) fn new_set(table: TableName, name: &str, id: u32, set: &TableSet) -> Request {
    let (key_type, key_length) = set.kind.key();
    let action = format!("create the set {name} of {table}");
    request(Message::NewSet, NLM_F_CREATE, action, |buffer| {
        let mut attributes = OpNewsetDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_flags(set.kind.flags())
            .push_key_type(key_type)
            .push_key_len(key_length)
            .push_id(id);
        match set.kind.values() {
            Some((kind, length)) => {
                attributes = attributes.push_data_type(kind).push_data_len(length);
            }
            None if set.kind.is_map() => attributes = attributes.push_data_type(VERDICT),
            None => {}
        }
        if set.kind.has_counters() {
            push_counter(attributes.as_vec_mut());
        }
        if let SetKind::Packets4 { size, timeout } | SetKind::Packets6 { size, timeout } = set.kind
        {
            attributes = attributes
                // The bindings write it in the byte order of the machine.
                .push_timeout(timeout.to_be())
                .nested_desc()
                .push_size(size)
                .end_nested();
        }
        attributes.push_userdata(&set_description(set));
    })
}

/// The expression that each element of a set gets. The bindings do not have it.
fn push_counter(buffer: &mut Vec<u8>) {
    const SET_EXPRESSION: u16 = 17;
    let expression = push_nested_header(buffer, SET_EXPRESSION);
    drop(
        PushExprAttrs::new(&mut *buffer)
            .nested_data_counter()
            .push_bytes(0)
            .push_packets(0),
    );
    finalize_nested_header(buffer, expression);
}

/// What `nft` prints of a set: the byte order of its key, and a comment.
fn set_description(set: &TableSet) -> Vec<u8> {
    const KEY_BYTE_ORDER: u8 = 0;
    const HOST_ORDER: u32 = 1;
    const COMMENT: u8 = 7;
    let mut bytes = Vec::new();
    if set.kind == SetKind::Interfaces {
        bytes.extend([KEY_BYTE_ORDER, 4]);
        bytes.extend(HOST_ORDER.to_ne_bytes());
    }
    let label: String = set.label.chars().filter(char::is_ascii).take(126).collect();
    bytes.extend([COMMENT, u8::try_from(label.len() + 1).unwrap_or(u8::MAX)]);
    bytes.extend(label.as_bytes());
    bytes.push(0);
    bytes
}

pub(super) fn delete_set(table: TableName, name: &str) -> Request {
    let action = format!("remove the set {name} of {table}");
    request(Message::DelSet, 0, action, |buffer| {
        OpNewsetDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_name_bytes(name.as_bytes());
    })
}

pub(super) fn flush_set(table: TableName, name: &str) -> Request {
    let action = format!("empty the set {name} of {table}");
    request(Message::DelElement, 0, action, |buffer| {
        OpNewsetelemDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_set_bytes(name.as_bytes());
    })
}

pub(super) fn element_message(
    table: TableName,
    set: &str,
    kind: Message,
    elements: &[(&ElementKey, &Option<String>)],
) -> Request {
    let (verb, flags) = match kind {
        Message::NewElement => ("add", NLM_F_CREATE),
        _ => ("remove", 0),
    };
    let is_addition = flags != 0;
    let action = format!("{verb} {} elements of {set} of {table}", elements.len());
    request(kind, flags, action, |buffer| {
        let mut list = OpNewsetelemDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_set_bytes(set.as_bytes())
            .nested_elements();
        for (key, chain) in elements {
            let mut element = list
                .nested_elem()
                .nested_key()
                .push_value(&key.bytes)
                .end_nested();
            if key.is_end {
                element = element.push_flags(&INTERVAL_END.to_be_bytes());
            }
            if let Some(chain) = chain.as_ref().filter(|_| is_addition) {
                element = element
                    .nested_data()
                    .nested_verdict()
                    .push_code(VERDICT_GOTO)
                    .push_chain_bytes(chain.as_bytes())
                    .end_nested()
                    .end_nested();
            }
            list = element.end_nested();
        }
    })
}

pub(super) fn new_chain(table: TableName, name: &str, hook: Option<Hook>) -> Request {
    const ACCEPT: u32 = 1;
    let action = format!("create the chain {name} of {table}");
    request(Message::NewChain, NLM_F_CREATE, action, |buffer| {
        let attributes = OpNewchainDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_name_bytes(name.as_bytes());
        if let Some(hook) = hook {
            attributes
                .nested_hook()
                .push_num(hook.number)
                .push_priority(hook.priority)
                .end_nested()
                .push_policy(ACCEPT)
                .push_type_bytes(hook.kind.name().as_bytes());
        }
    })
}

pub(super) fn flush_chain(table: TableName, name: &str) -> Request {
    let action = format!("empty the chain {name} of {table}");
    request(Message::DelRule, 0, action, |buffer| {
        OpNewruleDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_chain_bytes(name.as_bytes());
    })
}

pub(super) fn delete_chain(table: TableName, name: &str) -> Request {
    let action = format!("remove the chain {name} of {table}");
    request(Message::DelChain, 0, action, |buffer| {
        OpNewchainDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_name_bytes(name.as_bytes());
    })
}

pub(super) fn new_rule(table: TableName, chain: &str, rule: &TableRule) -> Request {
    let action = format!(
        "add the rule {:?} to the chain {chain} of {table}",
        rule.comment
    );
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    request(Message::NewRule, flags, action, |buffer| {
        let mut list = OpNewruleDo::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_chain_bytes(chain.as_bytes())
            .nested_expressions();
        list.as_vec_mut().extend(&rule.expressions);
        list.end_nested().push_userdata(&comment(&rule.comment));
    })
}
