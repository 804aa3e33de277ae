use super::*;
use crate::net::testing::{isolated, nft_ruleset, run};

fn local(subnet: &str) -> Element {
    let subnet: ipnet::IpNet = subnet.parse().unwrap();
    Element::local((subnet.network(), subnet.broadcast()), subnet, "net a")
}

fn elements() -> Vec<Element> {
    let mut all = vec![
        Element::bridge("cm0", "net a"),
        Element::port(6, 8080, "10.1.0.2".parse().unwrap(), 80, "container one"),
        Element::port(17, 53, "fd00::2".parse().unwrap(), 53, "container one"),
        local("10.1.0.0/16"),
        local("fd00::/64"),
    ];
    for subnet in ["10.1.0.0/16", "fd00::/64"] {
        let subnet = subnet.parse().unwrap();
        all.extend(Element::masquerade(subnet, &[subnet], "net a"));
    }
    all
}

fn nft(command: &str) {
    run("nft", command);
}

#[test]
fn table_is_created_with_first_element_and_removed_when_unused() {
    isolated(|| {
        let table = Table::open().unwrap();
        assert!(!table.remove_if_unused().unwrap());
        table.add(&elements()).unwrap();
        let ruleset = nft_ruleset();
        for part in [
            "table inet contrail_mesos",
            "tcp . 8080 comment \"container one\" : 10.1.0.2 . 80",
            "udp . 53 comment \"container one\" : fd00::2 . 53",
            "10.1.0.0/16 . 10.2.0.0-223.255.255.255",
            "\"cm0\" comment \"net a\"",
            "iifname @bridges ip daddr 127.0.0.0/8 drop",
            "fib daddr type local dnat ip to meta l4proto . th dport map @ports4",
            "ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6",
            "ip saddr . ip daddr @local4 masquerade",
            "ct status dnat",
            "ip6 saddr . ip6 daddr @masquerade6 masquerade",
            "type nat hook postrouting priority srcnat; policy accept;",
        ] {
            assert!(ruleset.contains(part), "no {part:?} in:\n{ruleset}");
        }
        assert!(!table.remove_if_unused().unwrap());
        table.remove(&elements()).unwrap();
        table.remove(&elements()).unwrap();
        assert!(table.remove_if_unused().unwrap());
        assert_eq!(nft_ruleset(), "");
    });
}

#[test]
fn mapping_a_taken_port_names_its_holder() {
    isolated(|| {
        let (first, second) = (Table::open().unwrap(), Table::open().unwrap());
        let port = |comment| Element::port(6, 80, "10.1.0.2".parse().unwrap(), 80, comment);
        first.add(&[port("first")]).unwrap();
        for table in [&first, &second] {
            let free = Element::port(6, 81, "10.1.0.2".parse().unwrap(), 80, "second");
            let error = table.add(&[free, port("second")]).unwrap_err();
            assert!(error.to_string().contains("taken by first"), "{error}");
        }
        assert_eq!(
            first.elements().unwrap().len(),
            1,
            "part of a refused change was applied"
        );
        second.remove(&[port("second")]).unwrap();
        assert_eq!(
            first.elements().unwrap().len(),
            1,
            "an element of another instance was removed"
        );
        second.remove(&[port("first")]).unwrap();
        assert_eq!(first.elements().unwrap().len(), 0);
    });
}

#[test]
fn next_change_or_repair_restores_removed_parts() {
    isolated(|| {
        let table = Table::open().unwrap();
        table.add(&elements()).unwrap();
        let complete = nft_ruleset();
        for damage in [
            "flush ruleset",
            "flush table inet contrail_mesos",
            "delete table inet contrail_mesos",
            "flush chain inet contrail_mesos postrouting",
            "flush map inet contrail_mesos ports4",
            "add rule inet contrail_mesos output drop",
        ] {
            nft(damage);
            table.mark_unknown();
            let next = Element::port(6, 9, "10.1.0.3".parse().unwrap(), 9, "next");
            table.add(std::slice::from_ref(&next)).unwrap();
            table.remove(&[next]).unwrap();
            assert_eq!(nft_ruleset().len(), complete.len(), "{damage}");
            nft(damage);
            table.mark_unknown();
            assert!(!table.repair().unwrap().is_empty(), "{damage}");
            assert_eq!(table.repair().unwrap(), Vec::<String>::new());
            assert_eq!(nft_ruleset().len(), complete.len(), "{damage}");
        }
        let after_restart = Table::open().unwrap();
        nft("flush map inet contrail_mesos ports6");
        after_restart.adopt(&elements()).unwrap();
        assert_eq!(nft_ruleset().len(), complete.len());
        for element in elements() {
            let holder = after_restart.lock().holder(&element);
            assert_eq!(holder.as_ref(), Some(&element.comment), "{element}");
        }
        nft("add table inet somebody_else");
        after_restart.remove(&elements()).unwrap();
        assert!(after_restart.remove_if_unused().unwrap());
        assert!(nft_ruleset().contains("somebody_else"));
    });
}

#[test]
fn removed_element_or_table_is_added_again_by_the_next_change() {
    isolated(|| {
        let table = Table::open().unwrap();
        table.add(&elements()).unwrap();
        // Without a notification, a change that is refused shows what is missing.
        nft("delete table inet contrail_mesos");
        let next = Element::port(6, 9, "10.1.0.3".parse().unwrap(), 9, "next");
        table.add(std::slice::from_ref(&next)).unwrap();
        assert_eq!(table.elements().unwrap().len(), elements().len() + 1);
    });
}

#[test]
fn element_with_another_value_is_restored() {
    isolated(|| {
        let table = Table::open().unwrap();
        table.add(&elements()).unwrap();
        nft("flush map inet contrail_mesos ports4");
        nft("add element inet contrail_mesos ports4 { tcp . 8080 : 10.9.9.9 . 99 }");
        table.mark_unknown();
        assert_eq!(table.repair().unwrap().len(), 1);
        assert!(nft_ruleset().contains("10.1.0.2 . 80"));
        assert!(!nft_ruleset().contains("10.9.9.9"));
    });
}

#[test]
fn emptied_group_leaves_no_table_if_its_elements_are_gone() {
    isolated(|| {
        let table = Table::open().unwrap();
        let subnet = "10.1.0.0/24".parse().unwrap();
        let shared = Element::masquerade(subnet, &[subnet], "net a");
        table.set_group("blue0", &shared, &[]).unwrap();
        // By the removal of a container whose intents cannot be read.
        table.remove(&shared).unwrap();
        assert!(table.remove_if_unused().unwrap());
        table.set_group("blue0", &[], &[]).unwrap();
        assert!(!table.has_group("blue0"));
        assert!(!table.remove_if_unused().unwrap());
        assert!(table.elements().unwrap().is_empty());
        assert!(!run("nft", "list ruleset").contains("contrail_mesos"));
    });
}

#[test]
fn group_is_replaced_by_overlapping_elements_at_once() {
    isolated(|| {
        let table = Table::open().unwrap();
        let of = |subnet: &str| {
            let subnet = subnet.parse().unwrap();
            let mut all = Element::masquerade(subnet, &[subnet], "net a");
            all.push(Element::local(
                (subnet.network(), subnet.broadcast()),
                subnet,
                "net a",
            ));
            all
        };
        for subnet in ["10.1.0.0/24", "10.1.0.0/16", "10.1.0.0/24", "10.1.7.0/24"] {
            table.set_group("blue0", &of(subnet), &[]).unwrap();
            let mut present = table.elements().unwrap();
            present.sort();
            let mut expected = of(subnet);
            expected.sort();
            assert_eq!(present, expected, "{subnet}");
        }
        // Another process finds the elements, and joins them with its own.
        let other = Table::open().unwrap();
        let wide = of("10.1.0.0/16");
        let strangers = other.strangers(&Set::ALL).unwrap();
        assert_eq!(strangers.len(), 3, "{strangers:?}");
        for stranger in &strangers {
            assert!(wide.iter().any(|element| element.overlaps(stranger)));
        }
        other
            .take_over_group("blue0", &strangers, &wide, &[])
            .unwrap();
        assert_eq!(other.elements().unwrap().len(), wide.len());
        other.set_group("blue0", &[], &[]).unwrap();
        assert!(other.remove_if_unused().unwrap());
        assert_eq!(nft_ruleset(), "");
    });
}

#[test]
fn plan_changes_nothing() {
    isolated(|| {
        let table = Table::open().unwrap();
        let plan = table.plan(&elements()).unwrap();
        assert_eq!(plan.len(), 1 + elements().len(), "{plan:#?}");
        assert_eq!(nft_ruleset(), "");
    });
}

/// More elements than the receive buffer has room for acknowledgements.
fn many_ports(first: u16, comment: &str) -> Vec<Element> {
    (first..first + 400)
        .flat_map(|port| {
            [
                Element::port(6, port, "10.1.0.2".parse().unwrap(), port, comment),
                Element::port(6, port, "fd00::2".parse().unwrap(), port, comment),
            ]
        })
        .collect()
}

#[test]
fn hundreds_of_elements_are_added_repaired_adopted_and_removed() {
    isolated(|| {
        let table = Table::open().unwrap();
        let containers = [
            many_ports(1000, "container one"),
            many_ports(2000, "container two"),
            many_ports(3000, "container three"),
        ];
        for elements in &containers {
            table.add(elements).unwrap();
        }
        let complete = nft_ruleset().len();
        nft("flush ruleset");
        table.mark_unknown();
        assert_eq!(table.repair().unwrap().len(), 1 + 3 * 800);
        assert_eq!(nft_ruleset().len(), complete);
        nft("flush ruleset");
        let next = many_ports(4000, "container four");
        table.add(&next).unwrap();
        table.remove(&next).unwrap();
        assert_eq!(nft_ruleset().len(), complete);

        nft("flush ruleset");
        let after_restart = Table::open().unwrap();
        for elements in &containers {
            after_restart.adopt(elements).unwrap();
        }
        assert_eq!(nft_ruleset().len(), complete);

        // Some are gone already, so the kernel refuses to remove all of them at once.
        nft("delete element inet contrail_mesos ports4 { tcp . 1007, tcp . 1399 }");
        // The table does not know its elements, as after another restart.
        let after_restart = Table::open().unwrap();
        for elements in &containers {
            after_restart.remove(elements).unwrap();
        }
        assert!(after_restart.remove_if_unused().unwrap());
        assert_eq!(nft_ruleset(), "");
    });
}

#[test]
fn taken_port_among_hundreds_is_named_and_nothing_is_added() {
    isolated(|| {
        let table = Table::open().unwrap();
        let taken = Element::port(6, 1399, "10.1.0.9".parse().unwrap(), 80, "the holder");
        table.add(std::slice::from_ref(&taken)).unwrap();
        let error = table.add(&many_ports(1000, "container one")).unwrap_err();
        assert!(error.to_string().contains("tcp 1399"), "{error}");
        assert!(error.to_string().contains("taken by the holder"), "{error}");
        assert_eq!(table.elements().unwrap(), [taken]);
        // Every one of them is taken.
        table.add(&many_ports(2000, "container two")).unwrap();
        let error = table.add(&many_ports(2000, "container three")).unwrap_err();
        assert!(
            error.to_string().contains("taken by container two"),
            "{error}"
        );
    });
}
