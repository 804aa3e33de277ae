//! Reading tables from the kernel.

use netlink_bindings::nftables::{
    Nfgenmsg, OpGetchainDump, OpGetgenDo, OpGetruleDump, OpGetsetDump, OpGetsetelemDump,
    OpGettableDump, OpNewsetelemDo,
};
use nix::errno::Errno;

use super::super::batch::{Message, header_of, request};
use super::super::element::read_comment;
use super::super::expressions::VERDICT_GOTO;
use super::{
    ChainKind, ElementKey, Hook, INTERVAL_END, Table, TableChain, TableName, TableRule, TableSet,
};
use crate::net::netlink::{NetlinkError, NetlinkSocket};

/// How often tables are listed that change meanwhile.
const MAX_DUMP_ATTEMPTS: usize = 5;
/// The flag of a table that is switched off.
const DORMANT: u32 = 1;

impl Table {
    /// Reads these tables as they are at one moment, if the host's tables do not change all the time.
    /// `desired` has the kinds of the sets.
    pub(in crate::net::nft) fn read_all(
        socket: &mut NetlinkSocket,
        names: &[TableName],
        desired: &[Option<Self>],
    ) -> Result<Vec<Option<Self>>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let before = generation(socket)?;
            let tables = names
                .iter()
                .enumerate()
                .map(|(index, name)| {
                    Self::read(socket, *name, desired.get(index).and_then(Option::as_ref))
                })
                .collect::<Result<_, _>>();
            // Containers that start and end change other tables all the time. A change of these tables
            // by somebody else is notified of, and makes a transaction fail.
            if generation(socket)? == before || attempt == MAX_DUMP_ATTEMPTS {
                return tables;
            }
            attempt += 1;
        }
    }

    fn read(
        socket: &mut NetlinkSocket,
        name: TableName,
        desired: Option<&Self>,
    ) -> Result<Option<Self>, NetlinkError> {
        let Some(flags) = table_flags(socket, name)? else {
            return Ok(None);
        };
        let mut table = Self {
            is_dormant: flags & DORMANT != 0,
            ..Self::default()
        };
        let mut found = Vec::new();
        let list = request(Message::GetSet, 0, "list sets", |buffer| {
            OpGetsetDump::encode_request(buffer, &header_of(name.family))
                .push_table_bytes(name.name.as_bytes());
        });
        socket.dump(&list, |bytes| {
            let (header, set) = OpGetsetDump::decode_request(bytes);
            if header.nfgen_family != name.family
                || set.get_table().map(std::ffi::CStr::to_bytes) != Ok(name.name.as_bytes())
            {
                return;
            }
            let Ok(set_name) = set.get_name() else {
                return;
            };
            found.push((
                set_name.to_string_lossy().into_owned(),
                set.get_flags().unwrap_or(0),
                set.get_key_len().unwrap_or(0),
            ));
        })?;
        for (set_name, flags, key_length) in found {
            let wanted = desired.and_then(|desired| desired.sets.get(&set_name));
            let kind = wanted
                .map(|wanted| wanted.kind)
                .filter(|kind| kind.flags() == flags && kind.key().1 == key_length);
            let Some(kind) = kind else {
                // Nobody needs to know what it has.
                table.unknown_sets.push(set_name);
                continue;
            };
            let label = wanted.map_or("", |wanted| &wanted.label);
            let mut set = TableSet::new(kind, label);
            if !kind.is_filled_apart() {
                read_elements(socket, name, &set_name, &mut set)?;
            }
            table.sets.insert(set_name, set);
        }
        table.read_chains(socket, name)?;
        Ok(Some(table))
    }

    fn read_chains(
        &mut self,
        socket: &mut NetlinkSocket,
        name: TableName,
    ) -> Result<(), NetlinkError> {
        let list = request(Message::GetChain, 0, "list chains", |buffer| {
            OpGetchainDump::encode_request(buffer, &header_of(name.family))
                .push_table_bytes(name.name.as_bytes());
        });
        socket.dump(&list, |bytes| {
            let (header, chain) = OpGetchainDump::decode_request(bytes);
            if header.nfgen_family != name.family
                || chain.get_table().map(std::ffi::CStr::to_bytes) != Ok(name.name.as_bytes())
            {
                return;
            }
            let Ok(chain_name) = chain.get_name() else {
                return;
            };
            let is_nat = chain.get_type().map(std::ffi::CStr::to_bytes) == Ok(b"nat");
            let kind = if is_nat {
                ChainKind::Nat
            } else {
                ChainKind::Filter
            };
            let hook = chain.get_hook().ok().and_then(|hook| {
                Some(Hook {
                    kind,
                    number: hook.get_num().ok()?,
                    priority: hook.get_priority().ok()?,
                })
            });
            let chain = TableChain {
                hook,
                rules: vec![],
            };
            let chain_name = chain_name.to_string_lossy().into_owned();
            self.chains.insert(chain_name, chain);
        })?;
        let list = request(Message::GetRule, 0, "list rules", |buffer| {
            OpGetruleDump::encode_request(buffer, &header_of(name.family))
                .push_table_bytes(name.name.as_bytes());
        });
        socket.dump(&list, |bytes| {
            let (header, rule) = OpGetruleDump::decode_request(bytes);
            if header.nfgen_family != name.family
                || rule.get_table().map(std::ffi::CStr::to_bytes) != Ok(name.name.as_bytes())
            {
                return;
            }
            let chain = rule.get_chain().map(|name| name.to_string_lossy());
            let chain = chain
                .ok()
                .and_then(|name| self.chains.get_mut(name.as_ref()));
            if let Some(chain) = chain {
                let comment = rule.get_userdata().ok().and_then(read_comment);
                chain.rules.push(TableRule {
                    comment: comment.unwrap_or_default(),
                    expressions: vec![],
                });
            }
        })
    }
}

/// The flags of a table; none if there is no such table.
fn table_flags(socket: &mut NetlinkSocket, name: TableName) -> Result<Option<u32>, NetlinkError> {
    let list = request(Message::GetTable, 0, "list tables", |buffer| {
        drop(OpGettableDump::encode_request(
            buffer,
            &header_of(name.family),
        ));
    });
    let mut flags = None;
    socket.dump(&list, |bytes| {
        let (header, table) = OpGettableDump::decode_request(bytes);
        if header.nfgen_family == name.family
            && table.get_name().map(std::ffi::CStr::to_bytes) == Ok(name.name.as_bytes())
        {
            flags = Some(table.get_flags().unwrap_or(0));
        }
    })?;
    Ok(flags)
}

fn read_elements(
    socket: &mut NetlinkSocket,
    name: TableName,
    set_name: &str,
    set: &mut TableSet,
) -> Result<(), NetlinkError> {
    let action = format!("list the elements of {set_name}");
    let list = request(Message::GetElement, 0, action, |buffer| {
        OpGetsetelemDump::encode_request(buffer, &header_of(name.family))
            .push_table_bytes(name.name.as_bytes())
            .push_set_bytes(set_name.as_bytes());
    });
    let result = socket.dump(&list, |bytes| {
        let (_, attributes) = OpNewsetelemDo::decode_request(bytes);
        let Ok(list) = attributes.get_elements() else {
            return;
        };
        for element in list.get_elem() {
            let Some(key) = element.get_key().ok().and_then(|key| key.get_value().ok()) else {
                continue;
            };
            let flags = element
                .get_flags()
                .ok()
                .and_then(|bytes| bytes.first_chunk::<4>())
                .map_or(0, |bytes| u32::from_be_bytes(*bytes));
            let verdict = element
                .get_data()
                .ok()
                .and_then(|data| data.get_verdict().ok());
            let chain = verdict.and_then(|verdict| {
                // Any other verdict is as wrong as another chain.
                let is_goto = verdict.get_code() == Ok(VERDICT_GOTO);
                let chain = verdict.get_chain().ok()?.to_string_lossy().into_owned();
                is_goto.then_some(chain)
            });
            let key = ElementKey {
                bytes: key.to_vec(),
                is_end: flags & INTERVAL_END != 0,
            };
            set.elements.insert(key, chain);
        }
    });
    match result {
        // It was removed meanwhile: the generation is another one.
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// The generation of the namespace's tables.
fn generation(socket: &mut NetlinkSocket) -> Result<u32, NetlinkError> {
    let action = "report the generation of the tables";
    let bytes = socket.get(&request(Message::GetGeneration, 0, action, |buffer| {
        drop(OpGetgenDo::encode_request(buffer, &Nfgenmsg::new()));
    }))?;
    let (_, attributes) = OpGetgenDo::decode_request(&bytes);
    attributes
        .get_id()
        .map_err(|error| NetlinkError::InvalidResponse {
            action: action.to_owned(),
            message: error.to_string(),
        })
}
