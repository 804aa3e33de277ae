//! The expressions of rules: they load registers, compare them and act.

use netlink_bindings::nftables::{PushExprAttrs, PushExprListAttrs};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::push_header;

use super::element::Set;

pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
/// The first of the 32-bit registers, where a concatenation starts.
const REG32_00: u32 = 8;
pub(super) const REG32_01: u32 = 9;
pub(super) const REG32_04: u32 = 12;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
// The specification from which the bindings are generated has these off by one.
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;

/// Builds the expressions of one rule.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    bytes: Vec<u8>,
}

impl Expressions {
    /// The encoded expressions.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn next(&mut self) -> PushExprAttrs<PushExprListAttrs<&mut Vec<u8>>> {
        PushExprListAttrs::new(&mut self.bytes).nested_elem()
    }

    fn compare(&mut self, register: u32, value: &[u8]) {
        self.compare_by(NFT_CMP_EQ, register, value);
    }

    fn compare_by(&mut self, operation: u32, register: u32, value: &[u8]) {
        self.next()
            .nested_data_cmp()
            .push_sreg(register)
            .push_op(operation)
            .nested_data()
            .push_value(value);
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.next()
            .nested_data_meta()
            .push_key(key)
            .push_dreg(register);
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, register: u32) {
        self.next()
            .nested_data_payload()
            .push_dreg(register)
            .push_base(base)
            .push_offset(offset)
            .push_len(length);
    }

    fn mask(&mut self, register: u32, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.next()
            .nested_data_bitwise()
            .push_sreg(register)
            .push_dreg(register)
            .push_len(length)
            .nested_mask()
            .push_value(mask)
            .end_nested()
            .nested_xor()
            .push_value(&vec![0; mask.len()]);
    }

    fn lookup(&mut self, set: &str, source: u32, destination: Option<u32>) {
        let mut registers = vec![(NFTA_LOOKUP_SREG, source)];
        registers.extend(destination.map(|register| (NFTA_LOOKUP_DREG, register)));
        self.lookup_by(set, &registers);
    }

    /// `!= @set`
    fn not_in(&mut self, set: &str, source: u32) {
        const INVERTED: u32 = 1;
        let attributes = [(NFTA_LOOKUP_SREG, source), (NFTA_LOOKUP_FLAGS, INVERTED)];
        self.lookup_by(set, &attributes);
    }

    fn lookup_by(&mut self, set: &str, attributes: &[(u16, u32)]) {
        let mut expression = self
            .next()
            .nested_data_lookup()
            .push_set_bytes(set.as_bytes());
        for (attribute, value) in attributes {
            push_header(expression.as_vec_mut(), *attribute, 4);
            expression.as_vec_mut().extend(value.to_be_bytes());
        }
    }

    /// `meta nfproto`
    pub(super) fn family(&mut self, family: u8) {
        self.meta(15, REG_1);
        self.compare(REG_1, &[family]);
    }

    /// `iifname @bridges` with key 6, `oifname @bridges` with key 7
    pub(super) fn interface_is_bridge(&mut self, key: u32) {
        self.meta(key, REG_1);
        self.lookup(Set::Bridges.name(), REG_1, None);
    }

    /// `ip saddr 127.0.0.0/8` with offset 12, `ip daddr 127.0.0.0/8` with offset 16
    pub(super) fn loopback(&mut self, offset: u32) {
        self.payload(1, offset, 4, REG_1);
        self.mask(REG_1, &[255, 0, 0, 0]);
        self.compare(REG_1, &[127, 0, 0, 0]);
    }

    /// `ip6 daddr != ::1`
    pub(super) fn not_to_loopback6(&mut self) {
        self.payload(1, 24, 16, REG_1);
        self.compare_by(NFT_CMP_NEQ, REG_1, &std::net::Ipv6Addr::LOCALHOST.octets());
    }

    /// `udp dport @set`
    pub(super) fn udp_port_in(&mut self, set: &str) {
        const UDP: u8 = 17;
        self.meta(16, REG_1);
        self.compare(REG_1, &[UDP]);
        self.payload(2, 2, 2, REG_1);
        self.lookup(set, REG_1, None);
    }

    /// `iifname != @set`
    pub(super) fn input_interface_not_in(&mut self, set: &str) {
        self.meta(6, REG_1);
        self.not_in(set, REG_1);
    }

    /// `ip saddr != @set`, or the same of IPv6
    pub(super) fn source_not_in(&mut self, family: u8, set: &str) {
        self.family(family);
        let (offset, length) = if family == NFPROTO_IPV4 {
            (12, 4)
        } else {
            (8, 16)
        };
        self.payload(1, offset, length, REG_1);
        self.not_in(set, REG_1);
    }

    /// `counter drop`
    pub(super) fn count_and_drop(&mut self) {
        self.next()
            .nested_data_counter()
            .push_bytes(0)
            .push_packets(0);
        self.drop();
    }

    pub(super) fn drop(&mut self) {
        self.next()
            .nested_data_immediate()
            .push_dreg(0)
            .nested_data()
            .nested_verdict()
            .push_code(0);
    }

    /// `ip saddr . ip daddr @set`, or the same of IPv6
    pub(super) fn addresses_in(&mut self, set: Set) {
        if matches!(set, Set::Masquerade4 | Set::Local4) {
            self.payload(1, 12, 4, REG32_00);
            self.payload(1, 16, 4, REG32_01);
        } else {
            self.payload(1, 8, 16, REG_1);
            self.payload(1, 24, 16, REG_2);
        }
        self.lookup(set.name(), REG32_00, None);
    }

    pub(super) fn masquerade(&mut self) {
        self.next().push_name(c"masq");
    }

    /// `ct status dnat`
    pub(super) fn translated(&mut self) {
        const STATUS: u32 = 2;
        const DESTINATION_NAT: u32 = 1 << 5;
        self.next()
            .nested_data_ct()
            .push_key(STATUS)
            .push_dreg(REG_1);
        self.mask(REG_1, &DESTINATION_NAT.to_ne_bytes());
        self.compare_by(NFT_CMP_NEQ, REG_1, &[0; 4]);
    }

    /// `fib daddr type local`
    pub(super) fn is_for_local_address(&mut self) {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.next()
            .nested_data_fib()
            .push_dreg(REG_1)
            .push_result(RESULT_ADDRESS_TYPE)
            .push_flags(BY_DESTINATION);
        self.compare(REG_1, &LOCAL.to_ne_bytes());
    }

    /// `dnat to meta l4proto . th dport map @set`
    pub(super) fn translate(&mut self, family: u8, set: Set, port_register: u32) {
        const DESTINATION: u32 = 1;
        self.meta(16, REG32_00);
        self.payload(2, 2, 2, REG32_01);
        self.lookup(set.name(), REG32_00, Some(REG_1));
        self.next()
            .nested_data_nat()
            .push_type(DESTINATION)
            .push_family(u32::from(family))
            .push_reg_addr_min(REG_1)
            .push_reg_proto_min(port_register);
    }
}
