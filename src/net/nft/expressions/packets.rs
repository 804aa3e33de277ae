//! Expressions of rules whose interfaces and subnets are part of the rule, as `iptables` writes them.

use ipnet::IpNet;

use super::{Expressions, NFPROTO_IPV4, NFPROTO_IPV6, REG_1};

const NETWORK_HEADER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: i32 = -3;
const RETURN: i32 = -5;

/// Which of a packet's two interfaces or addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net::nft) enum Direction {
    /// The one that it comes from.
    From,
    /// The one that it goes to.
    To,
}

impl Expressions {
    /// `iifname "name"` or `oifname "name"`; as `iptables` writes `-i` and `-o`.
    pub(in crate::net::nft) fn interface_is(&mut self, direction: Direction, name: &str) {
        let key = match direction {
            Direction::From => 6,
            Direction::To => 7,
        };
        self.meta(key, REG_1);
        // With the final zero it is the whole name, and no prefix.
        let name = [name.as_bytes(), &[0]].concat();
        self.compare(REG_1, &name);
    }

    /// `ip saddr net` or `ip daddr net`, in a table of family `inet`.
    pub(in crate::net::nft) fn address_in(&mut self, direction: Direction, net: IpNet) {
        let is_source = direction == Direction::From;
        let (family, offset, network, mask) = match net {
            IpNet::V4(net) => (
                NFPROTO_IPV4,
                if is_source { 12 } else { 16 },
                net.network().octets().to_vec(),
                net.netmask().octets().to_vec(),
            ),
            IpNet::V6(net) => (
                NFPROTO_IPV6,
                if is_source { 8 } else { 24 },
                net.network().octets().to_vec(),
                net.netmask().octets().to_vec(),
            ),
        };
        self.family(family);
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.payload(NETWORK_HEADER, offset, length, REG_1);
        self.mask(REG_1, &mask);
        self.compare(REG_1, &network);
    }

    /// `counter`
    pub(in crate::net::nft) fn count(&mut self) {
        self.next()
            .nested_data_counter()
            .push_bytes(0)
            .push_packets(0);
    }

    /// `accept`
    pub(in crate::net::nft) fn accept(&mut self) {
        self.next()
            .nested_data_immediate()
            .push_dreg(VERDICT_REGISTER)
            .nested_data()
            .nested_verdict()
            .push_code(ACCEPT);
    }

    /// `return`
    pub(in crate::net::nft) fn go_back(&mut self) {
        self.next()
            .nested_data_immediate()
            .push_dreg(VERDICT_REGISTER)
            .nested_data()
            .nested_verdict()
            .push_code(RETURN.cast_unsigned());
    }

    /// `jump chain`
    pub(in crate::net::nft) fn jump(&mut self, chain: &str) {
        self.next()
            .nested_data_immediate()
            .push_dreg(VERDICT_REGISTER)
            .nested_data()
            .nested_verdict()
            .push_code(JUMP.cast_unsigned())
            .push_chain_bytes(chain.as_bytes());
    }
}
