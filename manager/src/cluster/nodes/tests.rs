use contrail_mesos_api::cluster::{BlockReport, Versions, Vtep};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::overlay_modules::is_subsystem_of_overlays;

use super::*;

fn node(name: &str, last: u8) -> Node {
    Node {
        name: name.to_owned(),
        address: [192, 0, 2, last].into(),
        vtep: Vtep {
            address: [44, 128, 0, last].into(),
            address6: None,
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, last]),
        },
        subnets: vec![],
    }
}

fn report(last: u8, applied: Option<Revision>) -> NodeReport {
    NodeReport {
        address: [192, 0, 2, last].into(),
        uplink_mtu: None,
        versions: Versions::default(),
        configuration: String::new(),
        applied,
        subsystems: vec![],
        endpoints: None,
        blocks: vec![],
    }
}

const CURRENT: Revision = Revision {
    term: 3,
    counter: 7,
};

fn revision(term: u64, counter: u64) -> Revision {
    Revision { term, counter }
}

fn conditions(table: &NodeTable, registered: &[Node]) -> Vec<(String, NodeCondition)> {
    let statuses = table.statuses(registered, CURRENT, &BTreeMap::new(), |_| true);
    let statuses = statuses.into_iter();
    statuses
        .map(|status| (status.name, status.condition))
        .collect()
}

#[test]
fn condition_follows_watch_and_applied_revision() {
    let table = NodeTable::default();
    let registered = [node("a", 1)];
    let is = |condition| {
        assert_eq!(
            conditions(&table, &registered),
            [("a".to_owned(), condition)]
        );
    };
    is(NodeCondition::Unseen);
    table.connect("a");
    is(NodeCondition::Behind);
    for (applied, condition) in [
        (revision(3, 6), NodeCondition::Behind),
        (revision(2, 9), NodeCondition::Behind),
        (CURRENT, NodeCondition::Current),
    ] {
        table.keep_report("a", report(1, Some(applied)), &[]);
        is(condition);
    }
    // It connects again before the manager notices the end of the first connection.
    table.connect("a");
    table.disconnect("a");
    is(NodeCondition::Current);
    table.disconnect("a");
    is(NodeCondition::Disconnected);
    table.begin();
    is(NodeCondition::Unseen);
}

#[test]
fn refused_node_is_listed_until_it_is_registered() {
    let table = NodeTable::default();
    table.connect("b");
    assert!(conditions(&table, &[]).is_empty(), "it only reads");
    assert!(table.keep_refusal("b", "192.0.2.1 is the address of node \"a\""));
    assert!(!table.keep_refusal("b", "192.0.2.1 is the address of node \"a\""));
    let status = table.statuses(&[node("a", 1)], CURRENT, &BTreeMap::new(), |_| true);
    assert_eq!(status.len(), 2);
    assert_eq!(status[1].condition, NodeCondition::Refused);
    assert!(status[1].problems[0].contains("192.0.2.1"), "{status:?}");
    table.keep_report("b", report(2, Some(CURRENT)), &[]);
    assert_eq!(
        conditions(&table, &[node("b", 2)]),
        [("b".to_owned(), NodeCondition::Current)]
    );
    let actions: Vec<_> = table.events().iter().map(|event| event.action).collect();
    assert_eq!(actions, [NodeAction::Refused]);
}

#[test]
fn problems_are_those_of_allocation_and_subsystems() {
    let table = NodeTable::default();
    let registered = [node("a", 1)];
    let allocation = BTreeMap::from([("a".to_owned(), vec!["no subnet of v".to_owned()])]);
    let problems_of = |has_problems| {
        let statuses = table.statuses(&registered, CURRENT, &allocation, has_problems);
        statuses[0].problems.clone()
    };
    assert_eq!(problems_of(|_| true), ["no subnet of v"]);
    let mut reported = report(1, Some(revision(4, 0)));
    let subsystem = |name: &str, problem: &str| SubsystemReport {
        name: name.to_owned(),
        problems: vec![problem.to_owned()],
    };
    reported.subsystems = vec![
        subsystem("overlay", "no route"),
        subsystem("groups", "a container is left out"),
    ];
    table.keep_report("a", reported, &["no subnet of w".to_owned()]);
    assert_eq!(problems_of(|_| true)[3], "groups: a container is left out");
    let problems = problems_of(is_subsystem_of_overlays);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(problems[0], "no subnet of w");
    assert!(problems[1].contains("4.0"), "{problems:?}");
    assert_eq!(problems[2], "overlay: no route");
}

#[test]
fn changed_address_is_an_event() {
    let table = NodeTable::default();
    table.add_registration("a", [192, 0, 2, 1].into());
    for last in [1, 1, 2] {
        table.keep_report("a", report(last, None), &[]);
    }
    let events = table.events();
    let actions: Vec<_> = events.iter().map(|event| event.action).collect();
    assert_eq!(
        actions,
        [NodeAction::AddressChanged, NodeAction::Registered]
    );
    assert_eq!(events[0].details, "192.0.2.2, before 192.0.2.1");
    for number in 0..2 * MAX_EVENTS {
        table.remove("a", NodeAction::Deleted, number.to_string());
    }
    assert_eq!(table.events().len(), MAX_EVENTS);
}

#[tokio::test(start_paused = true)]
async fn node_is_gone_after_the_time_if_another_one_is_connected() {
    let table = NodeTable::default();
    let limit = Duration::from_secs(100);
    let names = ["connected", "reported", "unseen"];
    let gone = || {
        let gone = table.gone(names.into_iter(), limit).into_iter();
        gone.map(|(name, _)| name).collect::<Vec<_>>()
    };
    table.begin();
    tokio::time::advance(Duration::from_secs(50)).await;
    table.keep_report("reported", report(1, None), &[]);
    tokio::time::advance(Duration::from_secs(50)).await;
    assert!(gone().is_empty(), "no node is connected");
    table.connect("connected");
    assert_eq!(gone(), ["unseen"]);
    tokio::time::advance(Duration::from_secs(50)).await;
    assert_eq!(gone(), ["reported", "unseen"]);
    // The next leader knows nothing of that time.
    table.begin();
    assert!(gone().is_empty());
}

#[test]
fn report_is_bounded() {
    let mut long = report(1, None);
    let text = "ä".repeat(10_000);
    long.versions = Versions {
        node: text.clone(),
        kernel: text.clone(),
    };
    long.configuration.clone_from(&text);
    long.endpoints = Some(text.clone());
    long.subsystems = vec![
        SubsystemReport {
            name: text.clone(),
            problems: vec![text.clone(); 100],
        };
        100
    ];
    long.blocks = vec![
        BlockReport {
            overlay: text,
            returns: vec!["10.0.0.0/28".parse().unwrap(); 2 * MAX_RETURNS],
            ..BlockReport::default()
        };
        2 * MAX_BLOCK_REPORTS
    ];
    let mut kept = bounded(long);
    let blocks = std::mem::take(&mut kept.blocks);
    assert_eq!(blocks.len(), MAX_BLOCK_REPORTS);
    for report in blocks {
        // An ellipsis shows that it was cut.
        assert!(report.overlay.chars().count() <= MAX_TEXT_CHARS + 1);
        assert_eq!(report.returns.len(), MAX_RETURNS);
    }
    let bytes = serde_json::to_vec(&kept).unwrap().len();
    let texts = MAX_SUBSYSTEMS * (MAX_PROBLEMS + 2) + 3;
    assert!(bytes < texts * (2 * MAX_TEXT_CHARS + 100), "{bytes}");
    assert_eq!(kept.endpoints, None, "no report has that digest");
    let last = kept.subsystems[0].problems.last().unwrap();
    assert_eq!(last, &format!("and {} more", 100 - MAX_PROBLEMS));
    let mut short = report(1, Some(CURRENT));
    short.endpoints = Some("digest".to_owned());
    assert_eq!(bounded(short.clone()), short);
}

#[test]
fn number_of_nodes_is_bounded() {
    let table = NodeTable::default();
    for number in 0..MAX_NODES + 10 {
        table.keep_refusal(&format!("n{number}"), "no");
    }
    assert_eq!(conditions(&table, &[]).len(), MAX_NODES);
    table.disconnect("n0");
    // Watches alone leave nothing behind.
    table.begin();
    for number in 0..10 {
        table.connect(&format!("n{number}"));
        table.disconnect(&format!("n{number}"));
    }
    assert!(table.lock().records.is_empty());
}
