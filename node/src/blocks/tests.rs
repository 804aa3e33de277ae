use contrail_mesos::node_state::LocalOverlay;

use super::*;
use crate::local_state::local_state;
use crate::testing::{cluster, revision};

const OVERLAY: &str = "dcos";

/// The cluster with an overlay that lends blocks, of which this node has these.
fn lending(blocks: &[&str], returned: u64) -> ClusterState {
    let mut cluster = cluster("3.1");
    let overlay = cluster.overlays.get_mut(OVERLAY).unwrap();
    overlay.lends_blocks = true;
    overlay.subnet6 = None;
    let own = cluster.nodes.get_mut("node-1").unwrap();
    own.subnets.clear();
    if !blocks.is_empty() {
        own.subnets.push(NodeSubnets {
            overlay: OVERLAY.to_owned(),
            subnet: None,
            subnet6: None,
            blocks: blocks.iter().map(|block| block.parse().unwrap()).collect(),
            returned,
        });
    }
    cluster
}

struct Host {
    directory: tempfile::TempDir,
    keeper: BlockKeeper,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keeper = BlockKeeper::new(directory.path()).unwrap();
        Self {
            directory,
            keeper,
            now: Instant::now(),
        }
    }

    fn restart(&mut self) {
        self.keeper = BlockKeeper::new(self.directory.path()).unwrap();
    }

    fn lease(&self, address: &str) {
        let network = self.directory.path().join("networks").join("blue");
        std::fs::create_dir_all(&network).unwrap();
        std::fs::write(network.join(address), "{}").unwrap();
    }

    fn end(&self, address: &str) {
        let network = self.directory.path().join("networks").join("blue");
        std::fs::remove_file(network.join(address)).unwrap();
    }

    /// Compares. Returns the blocks that are used, and what is reported.
    fn compare(&mut self, cluster: &ClusterState) -> (Vec<String>, BlockReport) {
        let (blocks, problems) = self.keeper.plan(cluster, Mode::Apply, self.now).unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(self.keeper.conclude(cluster), [""; 0]);
        let lendable = blocks[OVERLAY].lendable.iter();
        let reports = self.keeper.reports().borrow().clone();
        assert_eq!(reports.len(), 1);
        (
            lendable.map(ToString::to_string).collect(),
            reports[0].clone(),
        )
    }

    fn later(&mut self) {
        self.now += RECENT;
    }
}

fn returns(report: &BlockReport) -> Vec<String> {
    report.returns.iter().map(ToString::to_string).collect()
}

const ONE: &str = "9.0.0.0/28";
const TWO: &str = "9.0.0.16/28";

#[test]
fn leases_decide_what_is_wanted() {
    let mut host = Host::new();
    let (used, report) = host.compare(&lending(&[], 0));
    assert_eq!((used.len(), report.wanted, report.wanted6), (0, 4, 0));
    host.lease("9.0.0.2");
    host.lease("9.0.0.3");
    host.lease("10.0.0.3");
    let (used, report) = host.compare(&lending(&[ONE], 0));
    assert_eq!(
        (used, report.used, report.wanted),
        (vec![ONE.to_owned()], 2, 6)
    );
    // A burst raises the reserve, for a while.
    for number in 4..14 {
        host.lease(&format!("9.0.0.{number}"));
    }
    let (_, report) = host.compare(&lending(&[ONE], 0));
    assert_eq!((report.used, report.wanted), (12, 24));
    host.later();
    let (_, report) = host.compare(&lending(&[ONE], 0));
    assert_eq!((report.used, report.wanted), (12, 16));
    let generation = host.keeper.generation();
    host.compare(&lending(&[ONE], 0));
    assert_eq!(host.keeper.generation(), generation);
}

#[test]
fn free_block_is_withdrawn_then_offered_and_never_used_before_it_was_taken() {
    let mut host = Host::new();
    host.lease("9.0.0.18");
    host.lease("9.0.0.2");
    let both = lending(&[ONE, TWO], 7);
    let (used, report) = host.compare(&both);
    assert_eq!(used, [ONE], "the other one becomes free");
    assert_eq!(returns(&report), [""; 0], "it is in use");
    host.end("9.0.0.18");
    let (used, report) = host.compare(&both);
    assert_eq!(used, [ONE]);
    assert_eq!(
        (returns(&report), report.returned),
        (vec![TWO.to_owned()], 7)
    );
    // More is needed than is left, also after a restart, but it is not this host's any more.
    for number in 3..15 {
        host.lease(&format!("9.0.0.{number}"));
    }
    host.restart();
    let (used, report) = host.compare(&both);
    assert_eq!(used, [ONE]);
    assert_eq!(
        (returns(&report), report.returned),
        (vec![TWO.to_owned()], 7)
    );
    assert!(report.wanted > 13, "{report:?}");
    // Without an entry nobody knows.
    let (_, report) = host.compare(&lending(&[], 0));
    assert_eq!(returns(&report), [TWO]);
    // It was taken, and given again.
    let (used, report) = host.compare(&lending(&[ONE, TWO], 8));
    assert_eq!(used, [ONE, TWO]);
    assert_eq!((returns(&report), report.returned), (vec![], 8));
    host.restart();
    assert_eq!(host.compare(&lending(&[ONE, TWO], 8)).0, [ONE, TWO]);
}

#[test]
fn block_with_a_checkpoint_is_not_given_back() {
    let mut host = Host::new();
    let container = host.directory.path().join("containers").join("one");
    std::fs::create_dir_all(&container).unwrap();
    // It may have any address.
    std::fs::write(container.join("intent.json"), "{").unwrap();
    let both = lending(&[ONE, TWO], 0);
    host.keeper.plan(&both, Mode::Apply, host.now).unwrap();
    let problems = host.keeper.conclude(&both);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(host.keeper.reports().borrow()[0].returns.is_empty());
    std::fs::remove_dir_all(&container).unwrap();
    assert_eq!(returns(&host.compare(&both).1), [TWO]);
}

/// The same state of a later or an earlier revision.
fn at(revision_of: &str, mut cluster: ClusterState) -> ClusterState {
    cluster.revision = revision(revision_of);
    cluster
}

impl Host {
    /// Why nothing is planned.
    fn refusal(&mut self, cluster: &ClusterState) -> String {
        let planned = self.keeper.plan(cluster, Mode::Apply, self.now);
        planned.unwrap_err().to_string()
    }
}

#[test]
fn offer_that_was_taken_is_not_forgotten_with_an_older_stored_state() {
    let mut host = Host::new();
    let before = at("3.1", lending(&[ONE, TWO], 7));
    assert_eq!(returns(&host.compare(&before).1), [TWO]);
    let after = at("3.2", lending(&[ONE], 8));
    assert_eq!(returns(&host.compare(&after).1), [""; 0]);
    // The managers' state was not stored before the daemon was killed.
    host.restart();
    let error = host.refusal(&before);
    assert!(error.contains("3.1, older than"), "{error}");
    assert!(error.contains("blocks.json"), "{error}");
    assert!(host.keeper.reports().borrow().is_empty());
    assert_eq!(host.compare(&after).0, [ONE]);
    assert_eq!(host.compare(&at("4.1", lending(&[ONE], 8))).0, [ONE]);
}

#[test]
fn offer_that_was_made_is_not_dropped_with_an_older_stored_state() {
    let mut host = Host::new();
    let before = at("3.1", lending(&[ONE, TWO], 7));
    let after = at("3.2", lending(&[ONE, TWO], 8));
    let (used, report) = host.compare(&after);
    assert_eq!(
        (used.as_slice(), report.returned),
        ([ONE.to_owned()].as_slice(), 8)
    );
    assert_eq!(returns(&report), [TWO]);
    host.restart();
    host.refusal(&before);
    for number in 2..15 {
        host.lease(&format!("9.0.0.{number}"));
    }
    let (used, report) = host.compare(&after);
    assert_eq!(used, [ONE], "the other one may be another host's");
    assert_eq!(
        (returns(&report), report.returned),
        (vec![TWO.to_owned()], 8)
    );
}

#[test]
fn damaged_file_of_offers_keeps_what_launches_use() {
    let mut host = Host::new();
    let overlay = LocalOverlay {
        blocks: [ONE, "9.0.0.32/28"]
            .map(|block| block.parse().unwrap())
            .into(),
        ..local_state(&lending(&[], 0), None)
            .overlay(OVERLAY)
            .unwrap()
            .clone()
    };
    let published = NodeState::new("node-1".to_owned(), revision("3.1"), vec![overlay], vec![]);
    published.write(host.directory.path()).unwrap();
    let path = host.keeper.path();
    let cluster = lending(&[ONE, TWO], 0);
    for damaged in ["", "{", "[]", r#"{"overlays": {"dcos": {}}}"#] {
        std::fs::write(&path, damaged).unwrap();
        let planned = host.keeper.plan(&cluster, Mode::Apply, host.now);
        let (blocks, problems) = planned.unwrap();
        assert_eq!(blocks[OVERLAY].lendable, [ONE.parse().unwrap()]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("blocks.json"), "{problems:?}");
        assert_eq!(host.keeper.conclude(&cluster), [""; 0]);
        assert!(host.keeper.reports().borrow().is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(host.compare(&lending(&[ONE], 0)).0, [ONE]);
}

#[test]
fn only_what_the_managers_must_know_at_once_is_notified() {
    let mut host = Host::new();
    let one = lending(&[ONE], 0);
    host.compare(&one);
    let mut reports = host.keeper.reports();
    reports.mark_unchanged();
    for number in 2..9 {
        host.lease(&format!("9.0.0.{number}"));
        // Those before are not recent.
        host.later();
        host.compare(&one);
    }
    assert_eq!(reports.borrow().first().unwrap().used, 7);
    assert!(!reports.has_changed().unwrap(), "there is room");
    // The number that is missing grows.
    for number in [9, 10, 11, 12] {
        host.lease(&format!("9.0.0.{number}"));
        host.later();
        host.compare(&one);
        assert_eq!(reports.has_changed().unwrap(), number > 10, "{number}");
        reports.mark_unchanged();
    }
    host.compare(&lending(&[ONE, TWO], 0));
    assert!(
        reports.has_changed().unwrap(),
        "nothing is missing any more"
    );
    reports.mark_unchanged();
    for number in 3..13 {
        host.end(&format!("9.0.0.{number}"));
    }
    host.later();
    assert_eq!(returns(&host.compare(&lending(&[ONE, TWO], 0)).1), [TWO]);
    assert!(reports.has_changed().unwrap(), "a block is given back");
}

mod root_tests {
    use contrail_mesos::net::testing::{isolated, run};

    use super::*;

    #[test]
    fn block_of_which_a_bridge_has_an_address_is_not_given_back() {
        isolated(|| {
            // The leases and checkpoints are lost.
            let mut host = Host::new();
            run("ip", "link add m-dcos type bridge");
            run("ip", "addr add 9.0.0.17/28 dev m-dcos");
            let both = lending(&[ONE, TWO], 0);
            for _ in 0..2 {
                let (used, report) = host.compare(&both);
                assert_eq!(used, [ONE]);
                assert_eq!(returns(&report), [""; 0]);
            }
            run("ip", "addr del 9.0.0.17/28 dev m-dcos");
            assert_eq!(returns(&host.compare(&both).1), [TWO]);
        });
    }
}

#[test]
fn dry_run_changes_nothing() {
    let mut host = Host::new();
    let both = lending(&[ONE, TWO], 0);
    host.keeper.plan(&both, Mode::DryRun, host.now).unwrap();
    assert_eq!(host.keeper.generation(), 0);
    host.compare(&both);
    let text = std::fs::read_to_string(host.keeper.path()).unwrap();
    host.restart();
    host.keeper
        .plan(&lending(&[ONE], 1), Mode::DryRun, host.now)
        .unwrap();
    assert_eq!(std::fs::read_to_string(host.keeper.path()).unwrap(), text);
}
