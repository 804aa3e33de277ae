//! The fifth act: the Star demonstration of groups, on an overlay of three hosts.
//!
//! Four probes and a collector ask each other all the time. Before, they share the ports of their hosts,
//! and not all of them find room. After, each has an address of its own on an overlay, and all reach each
//! other. Isolated, only members of a group do. A probe changes its group while it runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::star::running::{PORT, change_groups, command};
use mesos_module_tests::star::{Addresses, Directory, Matrix, expected, table};
use mesos_module_tests::testbed::agent::config_path;
use mesos_module_tests::testbed::overlay::{OverlayCluster, two_overlays};
use mesos_module_tests::testbed::{chromium, until};
use serde_json::{Value, json};

use crate::marathon::{Marathon, Task};
use crate::show::{self, indent, say};

const NODES: usize = 3;
const NETWORK: &str = "vxlan-1";
const COLLECTOR: &str = "collect";
const PROBES: [&str; 5] = ["probe-a", "probe-b", "probe-c", "probe-d", COLLECTOR];
const COLLECTOR_GROUPS: &[&str] = &["star-1", "star-2", "public"];
const STAR_1: &[&str] = &["star-1"];
const STAR_2: &[&str] = &["star-2"];
const PUBLIC: &[&str] = &["public"];
/// The port that all probes need on the network of their hosts, and the one of the collector.
const HOST_PORTS: [u16; 2] = [31_900, 31_901];

/// The groups of each probe.
type Groups = [(&'static str, &'static [&'static str]); 5];

const TOGETHER: Groups = [
    ("probe-a", PUBLIC),
    ("probe-b", PUBLIC),
    ("probe-c", PUBLIC),
    ("probe-d", PUBLIC),
    (COLLECTOR, PUBLIC),
];
const ISOLATED: Groups = [
    ("probe-a", STAR_1),
    ("probe-b", STAR_1),
    ("probe-c", STAR_2),
    ("probe-d", STAR_2),
    (COLLECTOR, COLLECTOR_GROUPS),
];
const MOVED: Groups = [
    ("probe-a", STAR_1),
    ("probe-b", STAR_2),
    ("probe-c", STAR_2),
    ("probe-d", STAR_2),
    (COLLECTOR, COLLECTOR_GROUPS),
];

pub(crate) fn run() -> Result<()> {
    say(
        "four hosts: three nodes, and one with the Mesos master, ZooKeeper, two managers and Marathon",
    );
    show::run_act(OverlayCluster::start(3)?, |cluster| act(cluster))
}

fn act(cluster: &OverlayCluster) -> Result<()> {
    let services = cluster.mesos.services();
    let star = Star {
        cluster,
        directory: Directory::start(services)?,
        marathon: Marathon::start_with(services, cluster.mesos.master(), &[])?,
    };
    star.before()?;
    let mut overlays = two_overlays();
    overlays["overlays"][0]["groups"] = json!(true);
    println!(
        "    the overlay isolates groups: {}",
        overlays["overlays"][0]
    );
    cluster.set_overlays(&overlays)?;
    for node in 0..NODES {
        until("the nodes know that the overlay isolates groups", || {
            let state = cluster.node_state(node)?;
            Ok(state.overlay(NETWORK).and_then(|overlay| overlay.groups))
        })?;
    }
    star.after()?;
    star.isolated()?;
    star.moved()?;
    star.page()?;
    star.delete_all()?;
    star.marathon.stop()
}

/// The probes, and who starts them.
struct Star<'a> {
    cluster: &'a OverlayCluster,
    directory: Directory,
    marathon: Marathon,
}

fn app_id(probe: &str) -> String {
    format!("/{probe}")
}

impl Star<'_> {
    /// A probe on the network of its host.
    fn host_app(&self, probe: &str) -> Result<Value> {
        let port = HOST_PORTS[usize::from(probe == COLLECTOR)];
        Ok(json!({
            "id": app_id(probe), "cmd": command(probe, port, &self.directory)?,
            "cpus": 0.1, "mem": 32, "instances": 1,
            "networks": [{ "mode": "host" }],
            "portDefinitions": [{ "port": port, "protocol": "tcp" }], "requirePorts": true,
        }))
    }

    /// A probe in a container of its own.
    fn container_app(&self, probe: &str, groups: &[&str]) -> Result<Value> {
        let labels = json!({ "netgroups": groups.join(",") });
        let mut app = json!({
            "id": app_id(probe), "cmd": command(probe, PORT, &self.directory)?,
            "cpus": 0.1, "mem": 32, "instances": 1,
            "container": { "type": "MESOS" },
            "networks": [{ "mode": "container", "name": NETWORK, "labels": labels }],
        });
        if probe == COLLECTOR {
            app["container"]["portMappings"] =
                json!([{ "containerPort": PORT, "hostPort": 0, "protocol": "tcp" }]);
        }
        Ok(app)
    }

    /// Lets these probes find each other.
    fn publish(&self, tasks: &[(&str, Task)], port: impl Fn(&str) -> u16) -> Result<()> {
        let mut addresses = Addresses::new();
        for (probe, task) in tasks {
            let address = SocketAddr::new(task.address.parse()?, port(probe));
            addresses.insert((*probe).to_owned(), address);
        }
        self.directory.set(addresses);
        Ok(())
    }

    /// What the collector has found, read from outside of the cluster.
    fn collected(&self, collector: &str) -> Result<Matrix> {
        let services = self.cluster.mesos.services();
        let url = format!("http://{collector}/matrix");
        let page = services.sh(&format!("curl -sSf -m 5 {url}"))?;
        serde_json::from_str(&page).with_context(|| page)
    }

    /// Waits until the collector shows this, and prints it.
    fn wait_for(&self, collector: &str, expected: &Matrix) -> Result<()> {
        until("the probes reach what they must, and nothing else", || {
            let found = self.collected(collector)?;
            ensure!(found == *expected, "found:\n{}", table(&found));
            Ok(Some(()))
        })?;
        println!("    from the row to the column:");
        println!("{}", indent(&table(expected)));
        Ok(())
    }

    fn before(&self) -> Result<()> {
        say("before: probes on the network of their hosts, each with port 31900");
        for probe in PROBES {
            self.marathon.create_app(&self.host_app(probe)?)?;
        }
        let running = until("a probe runs on every host", || {
            let mut running = vec![];
            for probe in PROBES {
                let tasks = self.marathon.tasks(&app_id(probe))?.into_iter();
                running.extend(tasks.map(|task| (probe, task)));
            }
            Ok((running.len() == NODES + 1).then_some(running))
        })?;
        let (collectors, probes): (Vec<_>, Vec<_>) =
            running.iter().partition(|(probe, _)| *probe == COLLECTOR);
        let hosts: BTreeSet<_> = probes.iter().map(|(_, task)| &task.address).collect();
        ensure!(hosts.len() == NODES && collectors.len() == 1, "{running:?}");
        for (probe, task) in &running {
            println!("    {probe:<10} {}", task.address);
        }
        let waiting = PROBES
            .iter()
            .find(|probe| running.iter().all(|(other, _)| other != *probe));
        let waiting = waiting.context("no probe waits")?;
        println!("    {waiting} waits: its port is taken on every host");
        let port = |probe: &str| HOST_PORTS[usize::from(probe == COLLECTOR)];
        self.publish(&running, port)?;
        let together: Vec<_> = running.iter().map(|(probe, _)| (*probe, PUBLIC)).collect();
        let collector = format!("{}:{}", collectors[0].1.address, port(COLLECTOR));
        self.wait_for(&collector, &expected(&together))?;
        self.delete_all()
    }

    /// Waits until all probes run in containers, and lets them find each other. Returns where the
    /// collector is reached.
    fn wait_for_containers(&self) -> Result<String> {
        let mut running = vec![];
        for probe in PROBES {
            let tasks = self.marathon.wait_app_quietly(&app_id(probe), 1)?;
            running.extend(tasks.into_iter().map(|task| (probe, task)));
        }
        self.publish(&running, |_| PORT)?;
        for (probe, task) in &running {
            println!("    {probe:<10} {}", task.address);
        }
        self.marathon.mapped_port(&app_id(COLLECTOR))
    }

    fn after(&self) -> Result<()> {
        say(
            "after: each probe has an address of its own, and port 9000; all are in the group public",
        );
        for (probe, groups) in TOGETHER {
            self.marathon
                .create_app(&self.container_app(probe, groups)?)?;
        }
        let collector = self.wait_for_containers()?;
        self.wait_for(&collector, &expected(&TOGETHER))
    }

    fn isolated(&self) -> Result<()> {
        say("isolated: a and b are in star-1, c and d in star-2, the collector in all groups");
        for (probe, groups) in ISOLATED {
            self.marathon.update(&self.container_app(probe, groups)?)?;
        }
        let collector = self.wait_for_containers()?;
        self.wait_for(&collector, &expected(&ISOLATED))
    }

    fn moved(&self) -> Result<()> {
        say("probe-b changes its group while it runs");
        let tasks = self.marathon.tasks(&app_id("probe-b"))?;
        let task = tasks.first().context("probe-b does not run")?;
        let address = format!("{}/", task.address);
        let mut found = None;
        for node in 0..NODES {
            let host = self.cluster.host(node);
            let rows = show::containers(host, &config_path(host))?;
            let is_it = |row: &show::Row| row.addresses.iter().any(|own| own.starts_with(&address));
            found = found.or_else(|| {
                rows.into_iter()
                    .find(is_it)
                    .map(|row| (host, row.container))
            });
        }
        let (host, container) = found.context("probe-b is on no host")?;
        let collector = self.marathon.mapped_port(&app_id(COLLECTOR))?;
        for (arguments, groups) in [
            (&["--group", "star-2"][..], MOVED),
            (&["--reset"], ISOLATED),
        ] {
            println!(
                "    contrail-mesos groups {container} {}",
                arguments.join(" ")
            );
            change_groups(host, &container, arguments)?;
            self.wait_for(&collector, &expected(&groups))?;
        }
        say("GET /v1/drops of each node daemon: what was dropped, and why");
        let mut judged = 0;
        for daemon in &self.cluster.daemons {
            let drops = daemon.get("/v1/drops")?;
            println!("    {}", drops["totals"]);
            judged += drops["totals"]["no-shared-group"].as_u64().unwrap_or(0);
        }
        // Where Marathon has put the probes is not known.
        ensure!(
            judged > 0,
            "no packet was dropped between containers without a shared group"
        );
        Ok(())
    }

    fn page(&self) -> Result<()> {
        say("the leading manager's status page in Chromium");
        let managers = &self.cluster.managers;
        let manager = managers.manager(managers.leader()?);
        let url = manager.admin_url("/?refresh=off");
        let seen = chromium::open(manager.host(), &url, "1280,1600", "star")?;
        ensure!(seen.console.is_empty(), "{:?}", seen.console);
        ensure!(
            seen.dom.contains("star-1") && seen.dom.contains("star-2"),
            "{}",
            seen.dom
        );
        println!("    {url}");
        println!("    {}", seen.screenshot.display());
        Ok(())
    }

    fn delete_all(&self) -> Result<()> {
        for app in self.marathon.apps()? {
            self.marathon.delete(&format!("/v2/apps{app}"))?;
        }
        self.marathon.wait_empty()
    }
}
