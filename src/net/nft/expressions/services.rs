//! Expressions of the rules for services.

use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

use super::{
    Expressions, META_TRANSPORT_PROTOCOL, NFPROTO_IPV4, REG_1, REG_VERDICT, REG32_00, REG32_04,
    Side, TRANSPORT_HEADER, push_string,
};

const DESTINATION_TRANSLATION: u32 = 1;
const META_OUTPUT_INTERFACE: u32 = 7;
const META_INPUT_INTERFACE: u32 = 6;
/// The registers for the source, behind those of the longest key.
const SOURCE_REGISTER: u32 = REG32_00 + 8;
const TCP: u8 = 6;
/// The same on all hosts and after each restart, so that a client stays at its backend.
const HASH_SEED: u32 = 0x006d_6573;

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net::nft) enum Choice {
    /// At random, among so many.
    Random(u32),
    /// By the client's address, among so many.
    BySource(u32),
    /// The first one.
    First,
}

/// How many 32-bit registers an address of that family takes.
fn words(family: u8) -> u32 {
    if family == NFPROTO_IPV4 { 1 } else { 4 }
}

impl Expressions {
    /// Loads `ip daddr . meta l4proto . th dport`, or the same of IPv6, and returns the next register.
    fn load_frontend(&mut self, family: u8) -> u32 {
        let protocol = REG32_00 + words(family);
        self.address(family, Side::Destination, REG32_00);
        self.meta(META_TRANSPORT_PROTOCOL, protocol);
        self.payload(TRANSPORT_HEADER, 2, 2, protocol + 1);
        protocol + 2
    }

    /// `ip daddr . meta l4proto . th dport vmap @map`, or the same of IPv6
    pub(in crate::net::nft) fn verdict_of_frontend(&mut self, family: u8, map: &str) {
        self.family(family);
        self.load_frontend(family);
        self.lookup(map, REG32_00, Some(REG_VERDICT));
    }

    /// `ip daddr . meta l4proto . th dport @set`, or the same of IPv6
    pub(in crate::net::nft) fn frontend_in(&mut self, family: u8, set: &str) {
        self.family(family);
        self.load_frontend(family);
        self.lookup(set, REG32_00, None);
    }

    /// `dnat to ip daddr . meta l4proto . th dport . numgen random mod 3 map @map`, or another choice,
    /// or the same of IPv6
    pub(in crate::net::nft) fn balance(&mut self, family: u8, map: &str, choice: Choice) {
        // Without it `nft` would not know what the addresses are.
        self.family(family);
        let slot = self.load_frontend(family);
        match choice {
            Choice::Random(modulus) => self.random(modulus, slot),
            Choice::BySource(modulus) => {
                self.address(family, Side::Source, SOURCE_REGISTER);
                self.hash(SOURCE_REGISTER, 4 * words(family), modulus, slot);
            }
            Choice::First => self.constant(slot, &[0; 4]),
        }
        self.lookup(map, REG32_00, Some(REG_1));
        let port = if family == NFPROTO_IPV4 {
            super::REG32_01
        } else {
            REG32_04
        };
        self.next()
            .nested_data_nat()
            .push_type(DESTINATION_TRANSLATION)
            .push_family(u32::from(family))
            .push_reg_addr_min(REG_1)
            .push_reg_proto_min(port);
    }

    /// `numgen random mod modulus`. The bindings write the register in the byte order of the machine.
    fn random(&mut self, modulus: u32, destination: u32) {
        const DESTINATION: u16 = 1;
        const MODULUS: u16 = 2;
        const KIND: u16 = 3;
        const RANDOM: u32 = 1;
        self.bare(
            "numgen",
            &[
                (DESTINATION, destination),
                (MODULUS, modulus),
                (KIND, RANDOM),
            ],
        );
    }

    /// `jhash … mod modulus`. The bindings do not have this expression.
    fn hash(&mut self, source: u32, length: u32, modulus: u32, destination: u32) {
        const SOURCE: u16 = 1;
        const DESTINATION: u16 = 2;
        const LENGTH: u16 = 3;
        const MODULUS: u16 = 4;
        const SEED: u16 = 5;
        self.bare(
            "hash",
            &[
                (SOURCE, source),
                (DESTINATION, destination),
                (LENGTH, length),
                (MODULUS, modulus),
                (SEED, HASH_SEED),
            ],
        );
    }

    /// `masquerade fully-random`
    pub(in crate::net::nft) fn masquerade_fully_random(&mut self) {
        const FLAGS: u16 = 1;
        const FULLY_RANDOM: u32 = 16;
        self.bare("masq", &[(FLAGS, FULLY_RANDOM)]);
    }

    /// An expression with numbers as its attributes.
    fn bare(&mut self, name: &str, attributes: &[(u16, u32)]) {
        const LIST_ELEMENT: u16 = 1;
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let buffer = &mut self.bytes;
        let element = push_nested_header(buffer, LIST_ELEMENT);
        push_string(buffer, NAME, name);
        let data = push_nested_header(buffer, DATA);
        for (attribute, value) in attributes {
            push_header(buffer, *attribute, 4);
            buffer.extend(value.to_be_bytes());
        }
        finalize_nested_header(buffer, data);
        finalize_nested_header(buffer, element);
    }

    /// `dnat to ip daddr`, or the same of IPv6: the address stays, and no later chain translates it.
    pub(in crate::net::nft) fn keep_destination(&mut self, family: u8) {
        self.address(family, Side::Destination, REG_1);
        self.next()
            .nested_data_nat()
            .push_type(DESTINATION_TRANSLATION)
            .push_family(u32::from(family))
            .push_reg_addr_min(REG_1);
    }

    /// `ct original ip daddr @set`, or the same of IPv6
    pub(in crate::net::nft) fn original_destination_in(&mut self, family: u8, set: &str) {
        const DESTINATION4: u32 = 20;
        const DESTINATION6: u32 = 22;
        const ORIGINAL: u8 = 0;
        let key = if family == NFPROTO_IPV4 {
            DESTINATION4
        } else {
            DESTINATION6
        };
        self.next()
            .nested_data_ct()
            .push_key(key)
            .push_dreg(REG_1)
            .push_direction(ORIGINAL);
        self.lookup(set, REG_1, None);
    }

    /// `iifname . oifname @set`
    pub(in crate::net::nft) fn interfaces_in(&mut self, set: &str) {
        self.meta(META_INPUT_INTERFACE, REG_1);
        self.meta(META_OUTPUT_INTERFACE, super::REG_2);
        self.lookup(set, REG_1, None);
    }

    /// `oifname @set`
    pub(in crate::net::nft) fn output_interface_in(&mut self, set: &str) {
        self.meta(META_OUTPUT_INTERFACE, REG_1);
        self.lookup(set, REG_1, None);
    }

    /// `ip saddr . ip daddr @set`, or the same of IPv6
    pub(in crate::net::nft) fn address_pair_in(&mut self, family: u8, set: &str) {
        self.family(family);
        self.address(family, Side::Source, REG32_00);
        self.address(family, Side::Destination, REG32_00 + words(family));
        self.lookup(set, REG32_00, None);
    }

    /// `fib saddr type local`
    pub(in crate::net::nft) fn is_from_local_address(&mut self) {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const BY_SOURCE: u32 = 1;
        const LOCAL: u32 = 2;
        self.next()
            .nested_data_fib()
            .push_dreg(REG_1)
            .push_result(RESULT_ADDRESS_TYPE)
            .push_flags(BY_SOURCE);
        self.compare(REG_1, &LOCAL.to_ne_bytes());
    }

    /// `meta l4proto tcp counter reject with tcp reset`
    pub(in crate::net::nft) fn reset_tcp(&mut self) {
        const TCP_RESET: u32 = 1;
        self.transport_protocol(TCP);
        self.count();
        self.next().nested_data_reject().push_type(TCP_RESET);
    }

    /// `counter reject with icmpx port-unreachable`
    pub(in crate::net::nft) fn refuse_port(&mut self) {
        const ICMPX: u32 = 2;
        const PORT_UNREACHABLE: u8 = 1;
        self.count();
        self.next()
            .nested_data_reject()
            .push_type(ICMPX)
            .push_icmp_code(PORT_UNREACHABLE);
    }
}
