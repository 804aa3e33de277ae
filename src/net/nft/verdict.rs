//! What the rules of other programs do with one packet: their base chains of a hook, read from the kernel
//! and followed rule by rule, as far as their expressions are understood.
//!
//! Only reads. A rule with an expression that is not understood is taken as one that does not match, and
//! counted: so a packet that is said to be dropped is dropped, and one that is said to pass may be dropped
//! by such a rule.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use netlink_bindings::nftables::{
    ExprOps, IterableDataAttrs, OpGetchainDump, OpGetruleDump, OpGetsetelemDo, OpGettableDo,
};
use nix::errno::Errno;

use super::TABLE;
use super::batch::{Message, NFPROTO_BRIDGE, NFPROTO_INET, header_of, request};
use super::element::read_comment;
use super::expressions::{NFPROTO_IPV4, NFPROTO_IPV6, family_of, octets};
use crate::net::netlink::{NetlinkError, NetlinkSocket};

const NFPROTO_UNSPEC: u8 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: u32 = 0xffff_fffd;
const GOTO: u32 = 0xffff_fffc;
const RETURN: u32 = 0xffff_fffb;
/// The bit of a packet that opens a connection in `ct state`.
const CT_STATE_NEW: u32 = 8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const REGISTER_BYTES: usize = 64;
/// How deep chains may call each other: the kernel's own limit.
const MAX_DEPTH: usize = 16;

/// Where packets pass chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketHook {
    /// Packets to this namespace itself.
    Input,
    /// Packets that pass through it.
    Forward,
    /// Packets of this namespace itself.
    Output,
}

impl PacketHook {
    fn number(self) -> u32 {
        match self {
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
        }
    }

    /// Its name, as `nft` prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }
}

/// The first packet of a connection. Its source port is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPacket {
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// The number of its IP protocol.
    pub protocol: u8,
    /// Its destination port.
    pub port: u16,
    /// The interface by which it comes in.
    pub input: Option<String>,
    /// The interface by which it leaves.
    pub output: Option<String>,
}

/// What drops a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallDrop {
    /// The family of the table, as `nft` prints it.
    pub family: &'static str,
    /// The name of the table.
    pub table: String,
    /// The name of the chain.
    pub chain: String,
    /// The number of the rule in its chain, from 1; none if it is the policy of the chain.
    pub rule: Option<usize>,
    /// The comment of the rule.
    pub comment: Option<String>,
}

/// What the rules of other programs do with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallVerdict {
    /// What drops it first, if anything does.
    pub drop: Option<FirewallDrop>,
    /// How many rules that could drop it were not understood.
    pub not_understood: usize,
}

#[derive(Clone, Debug)]
enum RuleVerdict {
    Continue,
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
}

/// A rule, judged for the packet.
#[derive(Clone, Debug)]
struct JudgedRule {
    verdict: RuleVerdict,
    is_understood: bool,
    comment: Option<String>,
}

#[derive(Clone, Debug)]
struct BaseChain {
    family: u8,
    table: String,
    name: String,
    priority: i32,
    drops_by_policy: bool,
}

type ChainKey = (u8, String, String);

/// Judges a packet at a hook of the calling thread's network namespace. Tables of this program are left
/// out: what they do is known otherwise.
pub fn judge(hook: PacketHook, packet: &FirstPacket) -> Result<FirewallVerdict, NetlinkError> {
    let mut socket = NetlinkSocket::netfilter()?;
    let mut bases = base_chains(&mut socket, hook, packet)?;
    if bases.is_empty() {
        return Ok(FirewallVerdict::default());
    }
    // Lookups in sets need a socket of their own while the rules are listed.
    let mut sets = NetlinkSocket::netfilter()?;
    let mut rules: HashMap<ChainKey, Vec<JudgedRule>> = HashMap::new();
    let list = request(Message::GetRule, 0, "list the rules", |buffer| {
        drop(OpGetruleDump::encode_request(
            buffer,
            &header_of(NFPROTO_UNSPEC),
        ));
    });
    socket.dump(&list, |bytes| {
        let (header, rule) = OpGetruleDump::decode_request(bytes);
        let (Ok(table), Ok(chain)) = (rule.get_table(), rule.get_chain()) else {
            return;
        };
        let family = header.nfgen_family;
        let table = table.to_string_lossy().into_owned();
        let is_of_hook = bases
            .iter()
            .any(|base| base.family == family && base.table == table);
        if !is_of_hook {
            return;
        }
        let expressions: Vec<Option<ExprOps<'_>>> = match rule.get_expressions() {
            Ok(list) => list
                .get_elem()
                .map(|expression| expression.get_data().ok())
                .collect(),
            Err(_) => vec![],
        };
        let mut judged = judge_rule(&expressions, packet, |set, key| {
            set_has(&mut sets, family, &table, set, key).ok()
        });
        judged.comment = rule.get_userdata().ok().and_then(read_comment);
        let key = (family, table, chain.to_string_lossy().into_owned());
        rules.entry(key).or_default().push(judged);
    })?;
    bases.sort_by_key(|base| base.priority);
    let mut verdict = FirewallVerdict::default();
    for base in &bases {
        let mut walk = Walk {
            rules: &rules,
            base,
            not_understood: 0,
        };
        let result = walk.chain(&base.name, 0);
        verdict.not_understood += walk.not_understood;
        let drop = |chain: &str, rule, comment| FirewallDrop {
            family: family_name(base.family),
            table: base.table.clone(),
            chain: chain.to_owned(),
            rule,
            comment,
        };
        verdict.drop = match result {
            Outcome::Drop {
                chain,
                rule,
                comment,
            } => Some(drop(&chain, Some(rule), comment)),
            Outcome::End if base.drops_by_policy => Some(drop(&base.name, None, None)),
            Outcome::Accept | Outcome::End => None,
        };
        if verdict.drop.is_some() {
            break;
        }
    }
    Ok(verdict)
}

fn family_name(family: u8) -> &'static str {
    match family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        NFPROTO_BRIDGE => "bridge",
        _ => "other",
    }
}

fn base_chains(
    socket: &mut NetlinkSocket,
    hook: PacketHook,
    packet: &FirstPacket,
) -> Result<Vec<BaseChain>, NetlinkError> {
    let mut bases = Vec::new();
    let list = request(Message::GetChain, 0, "list the chains", |buffer| {
        drop(OpGetchainDump::encode_request(
            buffer,
            &header_of(NFPROTO_UNSPEC),
        ));
    });
    let own_family = family_of(packet.destination);
    socket.dump(&list, |bytes| {
        let (header, chain) = OpGetchainDump::decode_request(bytes);
        let family = header.nfgen_family;
        if family != NFPROTO_INET && family != own_family {
            return;
        }
        let Ok(found) = chain.get_hook() else {
            return;
        };
        let is_filter = chain.get_type().map(std::ffi::CStr::to_bytes) == Ok(b"filter");
        let (Ok(table), Ok(name)) = (chain.get_table(), chain.get_name()) else {
            return;
        };
        let table = table.to_string_lossy().into_owned();
        if found.get_num() != Ok(hook.number()) || !is_filter || table.starts_with(TABLE) {
            return;
        }
        bases.push(BaseChain {
            family,
            table,
            name: name.to_string_lossy().into_owned(),
            priority: found.get_priority().unwrap_or(0),
            drops_by_policy: chain.get_policy() == Ok(DROP),
        });
    })?;
    Ok(bases)
}

enum Outcome {
    Accept,
    Drop {
        chain: String,
        rule: usize,
        comment: Option<String>,
    },
    /// The end of the chain, or a return.
    End,
}

/// Follows the rules from a base chain.
struct Walk<'a> {
    rules: &'a HashMap<ChainKey, Vec<JudgedRule>>,
    base: &'a BaseChain,
    not_understood: usize,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, depth: usize) -> Outcome {
        let key = (self.base.family, self.base.table.clone(), name.to_owned());
        let Some(rules) = self.rules.get(&key).filter(|_| depth <= MAX_DEPTH) else {
            return Outcome::End;
        };
        for (rule, number) in rules.iter().zip(1..) {
            if !rule.is_understood {
                self.not_understood += 1;
                continue;
            }
            match &rule.verdict {
                RuleVerdict::Continue => {}
                RuleVerdict::Accept => return Outcome::Accept,
                RuleVerdict::Drop => {
                    return Outcome::Drop {
                        chain: name.to_owned(),
                        rule: number,
                        comment: rule.comment.clone(),
                    };
                }
                RuleVerdict::Return => return Outcome::End,
                RuleVerdict::Goto(target) => return self.chain(target, depth + 1),
                RuleVerdict::Jump(target) => match self.chain(target, depth + 1) {
                    Outcome::End => {}
                    other => return other,
                },
            }
        }
        Outcome::End
    }
}

/// Whether a set has a key, as the kernel finds it: intervals contain keys, too.
fn set_has(
    socket: &mut NetlinkSocket,
    family: u8,
    table: &str,
    set: &str,
    key: &[u8],
) -> Result<bool, NetlinkError> {
    let action = format!("look up a key in the set {set}");
    let get = request(Message::GetElement, 0, action, |buffer| {
        drop(
            OpGetsetelemDo::encode_request(buffer, &header_of(family))
                .push_table_bytes(table.as_bytes())
                .push_set_bytes(set.as_bytes())
                .nested_elements()
                .nested_elem()
                .nested_key()
                .push_value(key)
                .end_nested()
                .end_nested()
                .end_nested(),
        );
    });
    match socket.get(&get) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the set of a table of this program, of the family `inet`, has an address: not if there is no
/// such set.
pub(super) fn address_in_set(
    socket: &mut NetlinkSocket,
    table: &str,
    set: &str,
    address: IpAddr,
) -> Result<bool, NetlinkError> {
    let key = octets(address);
    set_has(socket, NFPROTO_INET, table, set, &key)
}

/// Whether there is a table of that name, of the family `inet`.
pub(super) fn table_exists(socket: &mut NetlinkSocket, table: &str) -> Result<bool, NetlinkError> {
    let action = format!("look for the table {table}");
    let get = request(Message::GetTable, 0, action, |buffer| {
        drop(
            OpGettableDo::encode_request(buffer, &header_of(NFPROTO_INET))
                .push_name_bytes(table.as_bytes()),
        );
    });
    match socket.get(&get) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The registers of a rule: bytes that are known.
struct Registers([Option<u8>; REGISTER_BYTES]);

impl Registers {
    fn offset(register: u32) -> Option<usize> {
        let register = usize::try_from(register).ok()?;
        match register {
            1..=4 => Some((register - 1) * 16),
            8..=23 => Some((register - 8) * 4),
            _ => None,
        }
    }

    fn store(&mut self, register: u32, bytes: Option<&[u8]>, length: usize) {
        let Some(start) = Self::offset(register) else {
            return;
        };
        // The rest of the last word is zero.
        for index in 0..length.next_multiple_of(4) {
            if let Some(byte) = self.0.get_mut(start + index) {
                *byte = bytes.map(|bytes| bytes.get(index).copied().unwrap_or(0));
            }
        }
    }

    fn load(&self, register: u32, length: usize) -> Option<Vec<u8>> {
        let start = Self::offset(register)?;
        self.0.get(start..start + length)?.iter().copied().collect()
    }
}

/// Judges a rule for a packet; `set_has` looks up a key in a set of the rule's table.
fn judge_rule(
    expressions: &[Option<ExprOps<'_>>],
    packet: &FirstPacket,
    mut set_has: impl FnMut(&str, &[u8]) -> Option<bool>,
) -> JudgedRule {
    let mut registers = Registers([None; REGISTER_BYTES]);
    let mut rule = JudgedRule {
        verdict: RuleVerdict::Continue,
        is_understood: true,
        comment: None,
    };
    for expression in expressions {
        let matches = match expression {
            Some(expression) => judge_expression(
                expression,
                packet,
                &mut registers,
                &mut set_has,
                &mut rule.verdict,
            ),
            None => None,
        };
        match matches {
            Some(true) => {}
            // Whatever the others are.
            Some(false) => {
                rule.verdict = RuleVerdict::Continue;
                rule.is_understood = true;
                return rule;
            }
            None => rule.is_understood = false,
        }
    }
    if matches!(rule.verdict, RuleVerdict::Continue) {
        rule.is_understood = true;
    }
    rule
}

/// Whether an expression matches; none if that is not known.
fn judge_expression(
    expression: &ExprOps<'_>,
    packet: &FirstPacket,
    registers: &mut Registers,
    set_has: &mut impl FnMut(&str, &[u8]) -> Option<bool>,
    verdict: &mut RuleVerdict,
) -> Option<bool> {
    match expression {
        ExprOps::Counter(_) | ExprOps::Log(_) => Some(true),
        ExprOps::Meta(_) | ExprOps::Payload(_) | ExprOps::Ct(_) | ExprOps::Bitwise(_) => {
            load(expression, packet, registers).map(|()| true)
        }
        ExprOps::Cmp(_) | ExprOps::Range(_) | ExprOps::Lookup(_) => {
            compare(expression, registers, set_has)
        }
        ExprOps::Match(found) if found.get_name().ok() == Some(c"comment") => Some(true),
        ExprOps::Immediate(immediate) => {
            let data = immediate.get_data().ok()?;
            match verdict_of(&data) {
                Some(found) => {
                    *verdict = found;
                    Some(true)
                }
                None if data.get_value().is_ok() => Some(true),
                None => None,
            }
        }
        ExprOps::Reject(_) => {
            *verdict = RuleVerdict::Drop;
            Some(true)
        }
        ExprOps::Target(target) => {
            if target.get_name() == Ok(c"REJECT") {
                *verdict = RuleVerdict::Drop;
            }
            Some(true)
        }
        _ => None,
    }
}

/// Stores what an expression reads of the packet, or computes, in its register; unknown bytes if that is
/// not known.
fn load(expression: &ExprOps<'_>, packet: &FirstPacket, registers: &mut Registers) -> Option<()> {
    match expression {
        ExprOps::Meta(meta) => {
            let (Ok(register), Ok(key)) = (meta.get_dreg(), meta.get_key()) else {
                // It sets something of the packet.
                return Some(());
            };
            let value = meta_value(key, packet);
            let length = value.as_ref().map_or(16, Vec::len);
            registers.store(register, value.as_deref(), length);
            Some(())
        }
        ExprOps::Payload(payload) => {
            let Ok(register) = payload.get_dreg() else {
                return Some(());
            };
            let (base, offset) = (payload.get_base().ok()?, payload.get_offset().ok()?);
            let length = usize::try_from(payload.get_len().ok()?).ok()?;
            let value = payload_value(base, offset, length, packet);
            registers.store(register, value.as_deref(), length);
            Some(())
        }
        ExprOps::Ct(ct) => {
            const STATE: u32 = 0;
            let Ok(register) = ct.get_dreg() else {
                return Some(());
            };
            let value = (ct.get_key() == Ok(STATE)).then(|| CT_STATE_NEW.to_ne_bytes());
            let length = if value.is_some() { 4 } else { 16 };
            registers.store(register, value.as_ref().map(<[u8; 4]>::as_slice), length);
            Some(())
        }
        ExprOps::Bitwise(bitwise) => {
            let length = usize::try_from(bitwise.get_len().ok()?).ok()?;
            let (from, to) = (bitwise.get_sreg().ok()?, bitwise.get_dreg().ok()?);
            let value = registers.load(from, length).and_then(|bytes| {
                let mask = bitwise.get_mask().ok()?.get_value().ok()?;
                let xor = bitwise.get_xor().ok()?.get_value().ok()?;
                let pairs = bytes.iter().zip(mask).zip(xor);
                Some(
                    pairs
                        .map(|((byte, mask), xor)| (byte & mask) ^ xor)
                        .collect::<Vec<u8>>(),
                )
            });
            registers.store(to, value.as_deref(), length);
            Some(())
        }
        _ => None,
    }
}

/// Whether a register has a value; none if that is not known.
fn compare(
    expression: &ExprOps<'_>,
    registers: &Registers,
    set_has: &mut impl FnMut(&str, &[u8]) -> Option<bool>,
) -> Option<bool> {
    match expression {
        ExprOps::Cmp(cmp) => {
            let data = cmp.get_data().ok()?;
            let expected = data.get_value().ok()?;
            let value = registers.load(cmp.get_sreg().ok()?, expected.len())?;
            let order = value.as_slice().cmp(expected);
            Some(match cmp.get_op().ok()? {
                0 => order.is_eq(),
                1 => order.is_ne(),
                2 => order.is_lt(),
                3 => order.is_le(),
                4 => order.is_gt(),
                5 => order.is_ge(),
                _ => return None,
            })
        }
        ExprOps::Range(range) => {
            let (from, to) = (range.get_from_data().ok()?, range.get_to_data().ok()?);
            let (from, to) = (from.get_value().ok()?, to.get_value().ok()?);
            let value = registers.load(range.get_sreg().ok()?, from.len())?;
            let is_inside = value.as_slice() >= from && value.as_slice() <= to;
            Some(is_inside == (range.get_op().ok()? == 0))
        }
        ExprOps::Lookup(lookup) => {
            const INVERTED: u32 = 1;
            // The specification from which the bindings are generated has these attributes in another
            // order: the kernel's source register is their set's id, and its destination register,
            // which only a map has, their source register.
            if lookup.get_sreg().is_ok() {
                return None;
            }
            let set = lookup.get_set().ok()?.to_string_lossy().into_owned();
            let is_inverted = lookup.get_flags().is_ok_and(|flags| flags & INVERTED != 0);
            let register = lookup.get_set_id().ok()?;
            // The length of its keys is not in the rule: that of what is known, longest first.
            let mut found = None;
            for length in [16, 8, 4, 2, 1] {
                let Some(key) = registers.load(register, length) else {
                    continue;
                };
                if let Some(has) = set_has(&set, &key) {
                    found = Some(has);
                    break;
                }
            }
            Some(found? != is_inverted)
        }
        _ => None,
    }
}

fn verdict_of(data: &IterableDataAttrs<'_>) -> Option<RuleVerdict> {
    let found = data.get_verdict().ok()?;
    let chain = || {
        let name = found.get_chain().ok()?;
        Some(name.to_string_lossy().into_owned())
    };
    match found.get_code().ok()? {
        DROP => Some(RuleVerdict::Drop),
        ACCEPT => Some(RuleVerdict::Accept),
        JUMP => chain().map(RuleVerdict::Jump),
        GOTO => chain().map(RuleVerdict::Goto),
        RETURN => Some(RuleVerdict::Return),
        _ => None,
    }
}

fn meta_value(key: u32, packet: &FirstPacket) -> Option<Vec<u8>> {
    let is_v4 = packet.destination.is_ipv4();
    let name = |name: &Option<String>| {
        let mut bytes = name.clone()?.into_bytes();
        bytes.resize(16, 0);
        Some(bytes)
    };
    let index = |name: &Option<String>| {
        let index = nix::net::if_::if_nametoindex(name.as_deref()?).ok()?;
        Some(index.to_ne_bytes().to_vec())
    };
    match key {
        1 => {
            let ethertype = if is_v4 {
                ETHERTYPE_IPV4
            } else {
                ETHERTYPE_IPV6
            };
            Some(ethertype.to_be_bytes().to_vec())
        }
        4 => index(&packet.input),
        5 => index(&packet.output),
        6 => name(&packet.input),
        7 => name(&packet.output),
        15 => Some(vec![family_of(packet.destination)]),
        16 => Some(vec![packet.protocol]),
        _ => None,
    }
}

fn payload_value(base: u32, offset: u32, length: usize, packet: &FirstPacket) -> Option<Vec<u8>> {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let is_v4 = packet.destination.is_ipv4();
    let (source, destination) = (octets(packet.source), octets(packet.destination));
    let mut known: BTreeMap<usize, u8> = BTreeMap::new();
    let mut set = |start: usize, bytes: &[u8]| known.extend((start..).zip(bytes.iter().copied()));
    match base {
        NETWORK if is_v4 => {
            set(9, &[packet.protocol]);
            set(12, &source);
            set(16, &destination);
        }
        NETWORK => {
            set(6, &[packet.protocol]);
            set(8, &source);
            set(24, &destination);
        }
        TRANSPORT => set(2, &packet.port.to_be_bytes()),
        _ => return None,
    }
    let start = usize::try_from(offset).ok()?;
    (start..start + length)
        .map(|index| known.get(&index).copied())
        .collect()
}

#[cfg(test)]
mod root_tests;
