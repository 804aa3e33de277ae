//! Classic BPF filters of netlink sockets: the kernel drops notifications that nobody needs before
//! they wake a thread.
//!
//! Each attach makes the kernel send about ten notifications of two kilobytes about a new veth
//! pair. A filter sees the first message of a datagram, from its header on.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// The most instructions that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

/// A field of a message in the machine's byte order, by its offset in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    /// One byte.
    Byte(u32),
    /// Two bytes.
    Half(u32),
    /// Four bytes.
    Word(u32),
}

/// The type of the message.
pub(crate) const TYPE: Field = Field::Half(4);
/// The port of the socket whose request the notification is about.
pub(crate) const PORT: Field = Field::Word(12);

impl Field {
    fn load(self) -> Instruction {
        let (code, offset) = match self {
            Self::Byte(offset) => (LOAD_BYTE, offset),
            Self::Half(offset) => (LOAD_HALF, offset),
            Self::Word(offset) => (LOAD_WORD, offset),
        };
        Instruction::new(code, 0, 0, offset)
    }

    /// The value as a load returns it: loads take fields to be in network byte order.
    fn value(self, value: u32) -> u32 {
        match self {
            Self::Byte(_) => value & 0xff,
            Self::Half(_) => u32::from(u16::try_from(value & 0xffff).map_or(0, u16::to_be)),
            Self::Word(_) => value.to_be(),
        }
    }
}

/// A condition on a message.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// The field has one of these values. At most 200.
    OneOf(Field, Vec<u32>),
    /// The field has another value.
    Not(Field, u32),
    /// The field has any of these bits.
    AnyBit(Field, u32),
    /// The field has none of these bits.
    NoBit(Field, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

impl Instruction {
    fn new(code: u16, if_true: u8, if_false: u8, operand: u32) -> Self {
        Self {
            code,
            if_true,
            if_false,
            operand,
        }
    }
}

/// The program that accepts a message if all conditions of any of `rules` hold.
fn program(rules: &[Vec<Condition>]) -> Vec<Instruction> {
    let mut program = Vec::new();
    for rule in rules {
        let mut body = Vec::new();
        // The positions of the jumps to the next rule.
        let mut exits = Vec::new();
        for condition in rule {
            match condition {
                Condition::OneOf(field, values) => {
                    body.push(field.load());
                    for (index, value) in values.iter().enumerate() {
                        // Over the remaining comparisons and the exit.
                        let skip = u8::try_from(values.len() - index).unwrap_or(u8::MAX);
                        body.push(Instruction::new(
                            JUMP_IF_EQUAL,
                            skip,
                            0,
                            field.value(*value),
                        ));
                    }
                }
                Condition::Not(field, value) => {
                    body.push(field.load());
                    body.push(Instruction::new(JUMP_IF_EQUAL, 0, 1, field.value(*value)));
                }
                Condition::AnyBit(field, bits) => {
                    body.push(field.load());
                    body.push(Instruction::new(JUMP_IF_ANY_BIT, 1, 0, field.value(*bits)));
                }
                Condition::NoBit(field, bits) => {
                    body.push(field.load());
                    body.push(Instruction::new(JUMP_IF_ANY_BIT, 0, 1, field.value(*bits)));
                }
            }
            exits.push(body.len());
            body.push(Instruction::new(JUMP, 0, 0, 0));
        }
        body.push(Instruction::new(RETURN, 0, 0, u32::MAX));
        for exit in exits {
            body[exit].operand = u32::try_from(body.len() - exit - 1).unwrap_or(0);
        }
        program.extend(body);
    }
    program.push(Instruction::new(RETURN, 0, 0, 0));
    program
}

/// Lets the kernel drop every message for which none of `rules` holds, each a list of conditions
/// that all must hold. Without a filter everything is received, so an error does no harm.
pub(crate) fn attach(socket: impl AsFd, rules: &[Vec<Condition>]) -> io::Result<()> {
    let program = program(rules);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let filters: Vec<SockFilter> = program
        .iter()
        .map(|one| SockFilter::new(one.code, one.if_true, one.if_false, one.operand))
        .collect();
    SockRef::from(&socket).attach_filter(&filters)
}

/// Lets every message pass again.
pub(crate) fn detach(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).detach_filter()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does.
    fn accepts(rules: &[Vec<Condition>], message: &[u8]) -> bool {
        let program = program(rules);
        let mut accumulator = 0;
        let mut next = 0;
        loop {
            let one = program[next];
            next += 1;
            let offset = usize::try_from(one.operand).unwrap();
            let taken = match one.code {
                LOAD_WORD | LOAD_HALF | LOAD_BYTE => {
                    let length = [4, 2, 1][usize::from((one.code - LOAD_WORD) / 8)];
                    let Some(bytes) = message.get(offset..offset + length) else {
                        return false;
                    };
                    accumulator = bytes
                        .iter()
                        .fold(0, |sum: u32, byte| (sum << 8) | u32::from(*byte));
                    continue;
                }
                JUMP => {
                    next += offset;
                    continue;
                }
                RETURN => return one.operand != 0,
                JUMP_IF_EQUAL => accumulator == one.operand,
                _ => accumulator & one.operand != 0,
            };
            next += usize::from(if taken { one.if_true } else { one.if_false });
        }
    }

    fn message(kind: u16, index: u32) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(index.to_ne_bytes());
        bytes
    }

    #[test]
    fn filter_accepts_what_any_rule_accepts() {
        let many: Vec<u32> = (1000..1200).collect();
        let rules = [
            vec![Condition::OneOf(TYPE, vec![17])],
            vec![
                Condition::OneOf(TYPE, vec![16, 21]),
                Condition::OneOf(Field::Word(20), many),
            ],
            vec![
                Condition::OneOf(TYPE, vec![80]),
                Condition::Not(Field::Word(20), 5),
                Condition::AnyBit(Field::Word(20), 4),
                Condition::NoBit(Field::Word(20), 2),
            ],
        ];
        for (kind, index, expected) in [
            (17, 3, true),
            (16, 1000, true),
            (21, 1199, true),
            (16, 1200, false),
            (18, 1000, false),
            (80, 4, true),
            (80, 5, false),
            (80, 6, false),
            (80, 8, false),
        ] {
            assert_eq!(
                accepts(&rules, &message(kind, index)),
                expected,
                "type {kind}, index {index}"
            );
        }
        // A message that is too short for a rule is dropped.
        assert!(!accepts(&rules[1..], &message(16, 1000)[..18]));
    }
}
