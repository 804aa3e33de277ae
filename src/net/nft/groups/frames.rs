//! The table of bridges: frames of containers have the addresses of these.

use super::super::expressions::{Expressions, FrameField, octets};
use super::super::program::{SetKind, Table, TableChain, TableRule, TableSet};
use super::{DropReason, GroupPolicy, HOOK_PREROUTING, base_chain, drop_chain, drop_spoofed};

/// Before all other tables of bridges.
const BRIDGE_PRIORITY: i32 = -300;
const ETHERTYPE_IPV4: u16 = 0x0800;
/// The tags of 802.1Q and of 802.1ad.
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// The bits of a tag that are not its priority.
const VLAN_NUMBER_MASK: [u8; 2] = [0x0f, 0xff];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// All bits of an IPv6 address.
const WHOLE: [u8; 16] = [0xff; 16];
const LINK_LOCAL_MASK: [u8; 16] = {
    let mut mask = [0; 16];
    mask[0] = 0xff;
    mask[1] = 0xc0;
    mask
};
const LINK_LOCAL: [u8; 16] = {
    let mut net = [0; 16];
    net[0] = 0xfe;
    net[1] = 0x80;
    net
};

impl GroupPolicy {
    pub(super) fn bridge_table(&self) -> Table {
        let mut table = Table::default();
        let mut ports = TableSet::new(SetKind::Interfaces, "the ports of containers");
        let mut macs = TableSet::new(SetKind::InterfaceMacs, "the containers' MAC addresses");
        let label = "the containers' addresses";
        let mut pairs4 = TableSet::new(SetKind::InterfaceAddresses4, label);
        let mut pairs6 = TableSet::new(SetKind::InterfaceAddresses6, label);
        let mut addresses4 = TableSet::new(SetKind::Addresses4, label);
        let mut addresses6 = TableSet::new(SetKind::Addresses6, label);
        for (name, port) in &self.ports {
            ports.add_interface(name);
            macs.add_pair(name, &port.mac.0);
            for address in &port.addresses {
                let octets = octets(*address);
                let (pairs, addresses) = if address.is_ipv4() {
                    (&mut pairs4, &mut addresses4)
                } else {
                    (&mut pairs6, &mut addresses6)
                };
                pairs.add_pair(name, &octets);
                addresses.add(octets);
            }
        }
        for (name, set) in [
            ("ports", ports),
            ("macs", macs),
            ("pairs4", pairs4),
            ("pairs6", pairs6),
            ("addresses4", addresses4),
            ("addresses6", addresses6),
        ] {
            table.sets.insert(name.to_owned(), set);
        }
        let mut prerouting = base_chain(HOOK_PREROUTING, BRIDGE_PRIORITY);
        for (description, protocol, chain) in FRAME_CHAINS {
            prerouting.rules.push(TableRule::new(description, |rule| {
                rule.network_protocol(protocol);
                rule.goto(chain);
            }));
        }
        prerouting.rules.push(TableRule::new(
            "containers send IP and ARP only, without tags",
            |rule| {
                rule.input_interface_in("ports");
                drop_spoofed(rule);
            },
        ));
        table.chains.insert("prerouting".to_owned(), prerouting);
        for (chain, rules) in frame_chains() {
            table
                .chains
                .insert(chain.to_owned(), TableChain { hook: None, rules });
        }
        let spoofed = TableRule::new("count and drop", Expressions::count_and_drop);
        table.chains.insert(
            drop_chain(DropReason::SpoofedSource),
            TableChain {
                hook: None,
                rules: vec![spoofed],
            },
        );
        table
    }
}

/// Descriptions, numbers of protocols, and their chains.
const FRAME_CHAINS: [(&str, u16, &str); 5] = [
    ("IPv4", ETHERTYPE_IPV4, "frames4"),
    ("IPv6", ETHERTYPE_IPV6, "frames6"),
    ("ARP", ETHERTYPE_ARP, "frames_arp"),
    ("VLAN", ETHERTYPE_VLAN, "frames_tagged"),
    ("service VLAN", ETHERTYPE_SERVICE_VLAN, "frames_tagged"),
];

fn wrong_mac(rule: &mut Expressions) {
    rule.input_interface_in("ports");
    rule.mac_and_interface_in("macs", false);
    drop_spoofed(rule);
}

/// The chains that judge frames of containers, and frames of others that claim a container's address.
fn frame_chains() -> [(&'static str, Vec<TableRule>); 4] {
    let mac = || TableRule::new("the container's MAC address", wrong_mac);
    let own = |field: FrameField, set: &'static str| {
        TableRule::new("the container's addresses", move |rule| {
            rule.interface_and_field_in(field, set);
            rule.accept();
        })
    };
    let others = |field: FrameField, set: &'static str| {
        TableRule::new("addresses of containers by another port", move |rule| {
            rule.field_in(field, set);
            drop_spoofed(rule);
        })
    };
    let rest = || {
        TableRule::new("other addresses", |rule| {
            rule.input_interface_in("ports");
            drop_spoofed(rule);
        })
    };
    let exempt =
        |description: &str, field: FrameField, mask: &'static [u8], value: &'static [u8]| {
            TableRule::new(description, move |rule| {
                rule.field_is(field, mask, value);
                rule.accept();
            })
        };
    let advertisement = |description: &str, build: &dyn Fn(&mut Expressions)| {
        TableRule::new(description, |rule| {
            rule.is_neighbour_advertisement();
            build(rule);
        })
    };
    let frames4 = vec![
        mac(),
        own(FrameField::Source4, "pairs4"),
        others(FrameField::Source4, "addresses4"),
        rest(),
    ];
    // Another answer for a container's address would take its packets, whatever its source is.
    let frames6 = vec![
        mac(),
        advertisement("advertisements of the container's addresses", &|rule| {
            rule.interface_and_field_in(FrameField::AdvertisedAddress, "pairs6");
            rule.interface_and_field_in(FrameField::Source6, "pairs6");
            rule.accept();
        }),
        advertisement("advertisements of link-local addresses", &|rule| {
            rule.input_interface_in("ports");
            rule.field_is(FrameField::AdvertisedAddress, &LINK_LOCAL_MASK, &LINK_LOCAL);
            rule.field_is(FrameField::Source6, &LINK_LOCAL_MASK, &LINK_LOCAL);
            rule.accept();
        }),
        advertisement("advertisements from link-local addresses", &|rule| {
            rule.interface_and_field_in(FrameField::AdvertisedAddress, "pairs6");
            rule.field_is(FrameField::Source6, &LINK_LOCAL_MASK, &LINK_LOCAL);
            rule.accept();
        }),
        advertisement("advertisements by another port", &|rule| {
            rule.field_in(FrameField::AdvertisedAddress, "addresses6");
            drop_spoofed(rule);
        }),
        advertisement("other advertisements", &|rule| {
            rule.input_interface_in("ports");
            drop_spoofed(rule);
        }),
        own(FrameField::Source6, "pairs6"),
        others(FrameField::Source6, "addresses6"),
        exempt(
            "link-local addresses",
            FrameField::Source6,
            &LINK_LOCAL_MASK,
            &LINK_LOCAL,
        ),
        exempt("no address yet", FrameField::Source6, &WHOLE, &[0; 16]),
        rest(),
    ];
    let arp = vec![
        mac(),
        own(FrameField::ArpSender, "pairs4"),
        others(FrameField::ArpSender, "addresses4"),
        exempt("no address yet", FrameField::ArpSender, &[0xff; 4], &[0; 4]),
        rest(),
    ];
    // The outer tag is gone already. The kernel takes a packet out of all of several priority tags
    // (VLAN 0), which hide its addresses here.
    let tagged = vec![
        TableRule::new("several priority tags", |rule| {
            rule.field_is(FrameField::InnerTag, &VLAN_NUMBER_MASK, &[0; 2]);
            drop_spoofed(rule);
        }),
        rest(),
    ];
    [
        ("frames4", frames4),
        ("frames6", frames6),
        ("frames_arp", arp),
        ("frames_tagged", tagged),
    ]
}
