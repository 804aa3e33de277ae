//! The expressions of rules: they load registers, compare them and act.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_bindings::nftables::{PushExprAttrs, PushExprListAttrs};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

use super::element::Set;

pub(super) mod packets;
mod services;

pub(super) use services::Choice;

pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
/// The first of the 32-bit registers, where a concatenation starts.
const REG32_00: u32 = 8;
pub(super) const REG32_01: u32 = 9;
pub(super) const REG32_04: u32 = 12;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const REG_3: u32 = 3;
const REG_VERDICT: u32 = 0;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_INPUT_INTERFACE: u32 = 6;
const META_TRANSPORT_PROTOCOL: u32 = 16;
const ICMPV6: u8 = 58;
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_REPLY: u8 = 1;
const CT_STATE_ESTABLISHED: u32 = 1 << 1;
const CT_STATE_RELATED: u32 = 1 << 2;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
/// The verdict `goto`, which is -4.
pub(super) const VERDICT_GOTO: u32 = (-4_i32).cast_unsigned();
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
            .push_code(VERDICT_DROP);
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

    /// `ip saddr` or `ip daddr`, or the same of IPv6
    fn address(&mut self, family: u8, side: Side, register: u32) {
        let (offset, length) = match (family, side) {
            (NFPROTO_IPV4, Side::Source) => (12, 4),
            (NFPROTO_IPV4, Side::Destination) => (16, 4),
            (_, Side::Source) => (8, 16),
            (_, Side::Destination) => (24, 16),
        };
        self.payload(NETWORK_HEADER, offset, length, register);
    }

    /// `ip saddr @set`, or the same of the other side or of IPv6
    pub(super) fn address_in(&mut self, family: u8, side: Side, set: &str) {
        self.family(family);
        self.address(family, side, REG_1);
        self.lookup(set, REG_1, None);
    }

    /// `ip saddr != @set`, or the same of the other side or of IPv6
    pub(super) fn address_not_in(&mut self, family: u8, side: Side, set: &str) {
        self.family(family);
        self.address(family, side, REG_1);
        self.not_in(set, REG_1);
    }

    /// `ip saddr 192.0.2.0/24`, or another subnet and side
    pub(super) fn address_in_subnet(&mut self, side: Side, subnet: IpNet) {
        self.compare_with_subnet(NFT_CMP_EQ, side, subnet);
    }

    /// `ip saddr != 192.0.2.0/24`, or another subnet and side
    pub(super) fn address_not_in_subnet(&mut self, side: Side, subnet: IpNet) {
        self.compare_with_subnet(NFT_CMP_NEQ, side, subnet);
    }

    fn compare_with_subnet(&mut self, operation: u32, side: Side, subnet: IpNet) {
        let family = family_of(subnet.addr());
        self.family(family);
        self.address(family, side, REG_1);
        self.mask(REG_1, &octets(subnet.netmask()));
        self.compare_by(operation, REG_1, &octets(subnet.network()));
    }

    /// `ip daddr vmap @map`, or the same of IPv6
    pub(super) fn verdict_of_destination(&mut self, family: u8, map: &str) {
        self.family(family);
        self.address(family, Side::Destination, REG_1);
        self.lookup(map, REG_1, Some(REG_VERDICT));
    }

    /// `fib saddr . iif oif 0`: replies to the source would leave by another interface.
    pub(super) fn reverse_path_differs(&mut self) {
        const RESULT_INTERFACE: u32 = 1;
        const BY_SOURCE: u32 = 1;
        const BY_INPUT_INTERFACE: u32 = 8;
        self.next()
            .nested_data_fib()
            .push_dreg(REG_1)
            .push_result(RESULT_INTERFACE)
            .push_flags(BY_SOURCE | BY_INPUT_INTERFACE);
        self.compare(REG_1, &[0; 4]);
    }

    fn connection_state(&mut self, states: u32) {
        self.next()
            .nested_data_ct()
            .push_key(CT_STATE)
            .push_dreg(REG_1);
        self.mask(REG_1, &states.to_ne_bytes());
        self.compare_by(NFT_CMP_NEQ, REG_1, &[0; 4]);
    }

    /// `ct direction reply ct state established,related`
    pub(super) fn is_reply(&mut self) {
        self.next()
            .nested_data_ct()
            .push_key(CT_DIRECTION)
            .push_dreg(REG_1);
        self.compare(REG_1, &[CT_REPLY]);
        self.connection_state(CT_STATE_ESTABLISHED | CT_STATE_RELATED);
    }

    /// `meta l4proto 1 ct state related`: an error about a packet of a known connection.
    pub(super) fn is_error(&mut self, protocol: u8) {
        self.transport_protocol(protocol);
        self.connection_state(CT_STATE_RELATED);
    }

    /// `meta l4proto`
    pub(super) fn transport_protocol(&mut self, protocol: u8) {
        self.meta(META_TRANSPORT_PROTOCOL, REG_1);
        self.compare(REG_1, &[protocol]);
    }

    /// `meta l4proto @set`, or `!= @set`
    pub(super) fn transport_protocol_in(&mut self, set: &str, is_in: bool) {
        self.meta(META_TRANSPORT_PROTOCOL, REG_1);
        if is_in {
            self.lookup(set, REG_1, None);
        } else {
            self.not_in(set, REG_1);
        }
    }

    /// `th dport 80-90`
    pub(super) fn destination_ports(&mut self, first: u16, last: u16) {
        self.payload(TRANSPORT_HEADER, 2, 2, REG_1);
        if first == last {
            self.compare(REG_1, &first.to_be_bytes());
        } else {
            self.compare_by(NFT_CMP_GTE, REG_1, &first.to_be_bytes());
            self.compare_by(NFT_CMP_LTE, REG_1, &last.to_be_bytes());
        }
    }

    /// `meta mark set meta mark or mark`
    pub(super) fn add_mark(&mut self, mark: u32) {
        self.meta(META_MARK, REG_1);
        self.next()
            .nested_data_bitwise()
            .push_sreg(REG_1)
            .push_dreg(REG_1)
            .push_len(4)
            .nested_mask()
            .push_value(&(!mark).to_ne_bytes())
            .end_nested()
            .nested_xor()
            .push_value(&mark.to_ne_bytes());
        self.next()
            .nested_data_meta()
            .push_key(META_MARK)
            .push_sreg(REG_1);
    }

    pub(super) fn accept(&mut self) {
        self.next()
            .nested_data_immediate()
            .push_dreg(REG_VERDICT)
            .nested_data()
            .nested_verdict()
            .push_code(VERDICT_ACCEPT);
    }

    pub(super) fn goto(&mut self, chain: &str) {
        self.next()
            .nested_data_immediate()
            .push_dreg(REG_VERDICT)
            .nested_data()
            .nested_verdict()
            .push_code(VERDICT_GOTO)
            .push_chain_bytes(chain.as_bytes());
    }

    /// `update @set { ip saddr . ip daddr . meta l4proto . th dport . number counter }`, or the same
    /// of IPv6; without ports, the port is 0.
    pub(super) fn remember_packet(&mut self, family: u8, set: &str, has_ports: bool, number: u32) {
        // The fields follow one another in the 32-bit registers.
        let words = if family == NFPROTO_IPV4 { 1 } else { 4 };
        let (destination, rest) = (REG32_00 + words, REG32_00 + 2 * words);
        self.address(family, Side::Source, REG32_00);
        self.address(family, Side::Destination, destination);
        self.meta(META_TRANSPORT_PROTOCOL, rest);
        if has_ports {
            self.payload(TRANSPORT_HEADER, 2, 2, rest + 1);
        } else {
            self.constant(rest + 1, &[0; 4]);
        }
        self.constant(rest + 2, &number.to_ne_bytes());
        self.update(set, REG32_00);
    }

    fn constant(&mut self, register: u32, value: &[u8]) {
        self.next()
            .nested_data_immediate()
            .push_dreg(register)
            .nested_data()
            .push_value(value);
    }

    /// The bindings do not have this expression.
    fn update(&mut self, set: &str, register: u32) {
        const LIST_ELEMENT: u16 = 1;
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        const SET_NAME: u16 = 1;
        const OPERATION: u16 = 3;
        const KEY_REGISTER: u16 = 4;
        const EXPRESSION: u16 = 7;
        const UPDATE: u32 = 1;
        let buffer = &mut self.bytes;
        let element = push_nested_header(buffer, LIST_ELEMENT);
        push_string(buffer, NAME, "dynset");
        let data = push_nested_header(buffer, DATA);
        push_string(buffer, SET_NAME, set);
        for (kind, value) in [(OPERATION, UPDATE), (KEY_REGISTER, register)] {
            push_header(buffer, kind, 4);
            buffer.extend(value.to_be_bytes());
        }
        let expression = push_nested_header(buffer, EXPRESSION);
        drop(
            PushExprAttrs::new(&mut *buffer)
                .nested_data_counter()
                .push_bytes(0)
                .push_packets(0),
        );
        finalize_nested_header(buffer, expression);
        finalize_nested_header(buffer, data);
        finalize_nested_header(buffer, element);
    }

    /// `iifname @set`
    pub(super) fn input_interface_in(&mut self, set: &str) {
        self.meta(META_INPUT_INTERFACE, REG_1);
        self.lookup(set, REG_1, None);
    }

    /// `meta protocol`
    pub(super) fn network_protocol(&mut self, protocol: u16) {
        self.meta(META_PROTOCOL, REG_1);
        self.compare(REG_1, &protocol.to_be_bytes());
    }

    /// `ether saddr . iifname @set`, or `!= @set`
    pub(super) fn mac_and_interface_in(&mut self, set: &str, is_in: bool) {
        self.meta(META_INPUT_INTERFACE, REG_1);
        self.payload(LINK_HEADER, 6, 6, REG_2);
        if is_in {
            self.lookup(set, REG_1, None);
        } else {
            self.not_in(set, REG_1);
        }
    }

    /// `iifname . field @set`
    pub(super) fn interface_and_field_in(&mut self, field: FrameField, set: &str) {
        self.meta(META_INPUT_INTERFACE, REG_1);
        self.frame_field(field, REG_2);
        self.lookup(set, REG_1, None);
    }

    /// `field @set`
    pub(super) fn field_in(&mut self, field: FrameField, set: &str) {
        self.frame_field(field, REG_3);
        self.lookup(set, REG_3, None);
    }

    /// Whether the first bytes of a field, under a mask, have a value.
    pub(super) fn field_is(&mut self, field: FrameField, mask: &[u8], value: &[u8]) {
        self.frame_field(field, REG_3);
        self.mask(REG_3, mask);
        self.compare(REG_3, value);
    }

    fn frame_field(&mut self, field: FrameField, register: u32) {
        let (base, offset, length) = match field {
            FrameField::Source4 => (NETWORK_HEADER, 12, 4),
            FrameField::Source6 => (NETWORK_HEADER, 8, 16),
            FrameField::ArpSender => (NETWORK_HEADER, 14, 4),
            FrameField::InnerTag => (NETWORK_HEADER, 0, 2),
            FrameField::AdvertisedAddress => (TRANSPORT_HEADER, 8, 16),
        };
        self.payload(base, offset, length, register);
    }

    /// `icmpv6 type 133-137`
    pub(super) fn is_neighbour_discovery(&mut self) {
        const FIRST: u8 = 133;
        const LAST: u8 = 137;
        self.transport_protocol(ICMPV6);
        self.payload(TRANSPORT_HEADER, 0, 1, REG_1);
        self.compare_by(NFT_CMP_GTE, REG_1, &[FIRST]);
        self.compare_by(NFT_CMP_LTE, REG_1, &[LAST]);
    }

    /// `icmpv6 type 136`
    pub(super) fn is_neighbour_advertisement(&mut self) {
        const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
        self.transport_protocol(ICMPV6);
        self.payload(TRANSPORT_HEADER, 0, 1, REG_1);
        self.compare(REG_1, &[NEIGHBOUR_ADVERTISEMENT]);
    }
}

/// One of the two addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// An address that a frame claims for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameField {
    Source4,
    Source6,
    /// The sender's IPv4 address in an ARP packet.
    ArpSender,
    /// Priority and number of the tag behind the outer one.
    InnerTag,
    /// The address that a neighbour advertisement (`ICMPv6`) is about.
    AdvertisedAddress,
}

/// The number of an address' family.
pub(super) fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => NFPROTO_IPV4,
        IpAddr::V6(_) => NFPROTO_IPV6,
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn push_string(buffer: &mut Vec<u8>, kind: u16, text: &str) {
    let length = u16::try_from(text.len() + 1).unwrap_or(u16::MAX);
    push_header(buffer, kind, length);
    buffer.extend(text.as_bytes());
    buffer.push(0);
}
