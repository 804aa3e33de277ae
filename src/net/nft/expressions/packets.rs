//! Expressions of rules whose interfaces are part of the rule, as `iptables` writes them.

use super::{Expressions, REG_1, REG_VERDICT, Side};

const JUMP: i32 = -3;
const RETURN: i32 = -5;

impl Expressions {
    /// `iifname "name"` or `oifname "name"`; as `iptables` writes `-i` and `-o`.
    pub(in crate::net::nft) fn interface_is(&mut self, side: Side, name: &str) {
        // With the final zero it is the whole name, and no prefix.
        self.interface_begins_with(side, &format!("{name}\0"));
    }

    /// `oifname "br-*"`
    pub(in crate::net::nft) fn interface_begins_with(&mut self, side: Side, prefix: &str) {
        let key = match side {
            Side::Source => 6,
            Side::Destination => 7,
        };
        self.meta(key, REG_1);
        self.compare(REG_1, prefix.as_bytes());
    }

    /// `counter`
    pub(in crate::net::nft) fn count(&mut self) {
        self.next()
            .nested_data_counter()
            .push_bytes(0)
            .push_packets(0);
    }

    /// `return`
    pub(in crate::net::nft) fn go_back(&mut self) {
        self.next()
            .nested_data_immediate()
            .push_dreg(REG_VERDICT)
            .nested_data()
            .nested_verdict()
            .push_code(RETURN.cast_unsigned());
    }

    /// `jump chain`
    pub(in crate::net::nft) fn jump(&mut self, chain: &str) {
        self.next()
            .nested_data_immediate()
            .push_dreg(REG_VERDICT)
            .nested_data()
            .nested_verdict()
            .push_code(JUMP.cast_unsigned())
            .push_chain_bytes(chain.as_bytes());
    }
}
