//! The third act: managers that start when tasks already run, reconcile Contrail while apps change,
//! and take over from each other.
//!
//! After every step the objects in the API server are compared with the running tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::Object as _;
use contrail_mesos_manager::vnc::{FloatingIpPool, FqName};
use mesos_module_tests::testbed::agent::{self, config_path};
use mesos_module_tests::testbed::contrail::{Contrail, Vrouter};
use mesos_module_tests::testbed::manager::{self, DEFAULT_PROJECT, ManagerProcess};
use mesos_module_tests::testbed::zookeeper::ZooKeeper;
use mesos_module_tests::testbed::{Cluster, Host, chromium, leftovers, until};
use serde_json::{Value, json};

use crate::marathon::{self, Marathon, Task};
use crate::show::{self, say};

const PUBLIC: &str = "default-domain:default-project:__public__";
const POOL: &str = "__fip_pool_public__";
/// The floating IP that moves from one app to another.
const FLOATING_IP: &str = "10.66.77.123";
/// The managers' session timeout in ZooKeeper.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// The hosts, and what runs on them.
struct Testbed {
    outside: Host,
    node: Host,
    cluster: Cluster,
    contrail: Contrail,
    vrouter: Vrouter,
    marathon: Marathon,
    managers: Vec<ManagerProcess>,
    /// Its data is in the directory of the outside host.
    _zookeeper: ZooKeeper,
}

pub(crate) fn run() -> Result<()> {
    say("four hosts: a node, one with ZooKeeper and the Contrail API server, and two for managers");
    let host = |last: u8| Host::start([192, 0, 2, last].into());
    let (outside, first, second) = (host(100)?, host(11)?, host(12)?);
    let node = agent::host_at("192.0.2.1".parse()?)?;
    outside.connect(&[&node, &first, &second], &["10.66.77.0/24"])?;
    let hosts = [&outside, &node, &first, &second];
    let names: Vec<String> = hosts.map(|host| host.name().to_owned()).into();
    let before = node.leftovers()?;
    let mut testbed = Testbed::start(outside, node, &[first, second])?;
    let held = testbed.contrail.summary();
    let result = testbed.run();
    if result.is_err() {
        for manager in &testbed.managers {
            eprintln!("log of {}:\n{}", manager.name(), manager.tail(60));
        }
    }
    result?;
    say("leftovers");
    testbed.contrail.expect_baseline()?;
    println!("    the API server has the same objects as before: {held}");
    testbed.vrouter.expect_no_port()?;
    testbed.stop(&before)?;
    println!(
        "    none: ports, port files, links, namespaces, mounts, rules and processes are as before"
    );
    for name in names {
        let traces = leftovers::traces_of(&name)?;
        ensure!(traces.is_empty(), "left on the machine: {traces:?}");
    }
    Ok(())
}

fn app(id: &str, instances: u32, floating: bool) -> Value {
    let mut labels = json!({
        "networks": "blue-network",
        "project-name": "default-project",
        "domain-name": "default-domain",
    });
    if floating {
        labels["floating-ips"] = json!(format!("{PUBLIC}:{POOL}({FLOATING_IP})"));
    }
    let mut app = marathon::sample();
    app["id"] = json!(id);
    app["instances"] = json!(instances);
    app["mem"] = json!(32);
    app["cpus"] = json!(0.05);
    app["cmd"] = json!(format!(
        "mkdir -p www && echo {id} > www/index.html && \
         busybox httpd -p 8080 -h www && exec sleep 100000"
    ));
    app["networks"] = json!([{
        "name": "contrail-cni-plugin", "mode": "container", "labels": labels,
    }]);
    app
}

impl Testbed {
    /// Starts everything. Of the managers, only one that serves agents runs.
    fn start(outside: Host, node: Host, hosts: &[Host; 2]) -> Result<Self> {
        let mut contrail = Contrail::start(&outside)?;
        contrail.network(PUBLIC, &["10.66.77.0/24"])?;
        let public: FqName = PUBLIC.parse()?;
        contrail.ensure(&FloatingIpPool::named(public.child(POOL)))?;
        contrail.set_baseline();
        let vrouter = contrail.vrouter(&node, "node-1", Some("uplink"))?;
        let managers = [&outside, &hosts[0], &hosts[1]];
        let managers = managers.map(Host::address);
        let config = manager::agent_config(&node, &managers, contrail.token(), &vrouter)?;
        println!(
            "    the node: Mesos 1.11.0 with libcontrail_mesos.so, a vRouter agent, a simulated Marathon"
        );
        let cluster = agent::with_module(&node, &config)?
            .images()
            .env("MESOS_DEFAULT_ROLE", "slave_public")
            .start()?;
        let marathon = Marathon::start(&node, &cluster)?;
        println!("    ZooKeeper");
        let zookeeper = ZooKeeper::start(&outside, 2181)?;
        let config = format!(
            "{DEFAULT_PROJECT}[zookeeper]\nservers = '{}'\nsession_timeout = '{}s'\n\
             [vnc]\nservers = ['{}']\n\
             [mesos]\nmasters = '{}'\n[marathon]\nservers = ['http://{}']\n\
             [reconcile]\nresync = '2s'\nstabilization_window = '2s'\ngrace_period = '10s'\n",
            zookeeper.url("/contrail-mesos"),
            SESSION_TIMEOUT.as_secs(),
            contrail.url(),
            cluster.master(),
            marathon.address(),
        );
        let managers = vec![
            ManagerProcess::new(&hosts[0], "manager-1", contrail.token(), &config)?,
            ManagerProcess::new(&hosts[1], "manager-2", contrail.token(), &config)?,
        ];
        Ok(Self {
            outside,
            node,
            cluster,
            contrail,
            vrouter,
            marathon,
            managers,
            _zookeeper: zookeeper,
        })
    }

    fn run(&mut self) -> Result<()> {
        say("before: a manager that only serves agents, and three apps");
        for (id, instances, floating) in
            [("/web", 3, false), ("/shop", 1, true), ("/old", 1, false)]
        {
            let id = self.marathon.create_app(&app(id, instances, floating))?;
            self.marathon.wait_app(&id, instances as usize)?;
        }
        self.fetch("/shop")?;
        say("that manager is killed, and /old is deleted while no manager runs");
        self.contrail.manager_mut().kill()?;
        self.marathon.delete("/v2/apps/old")?;
        self.marathon.wait_gone("/old")?;
        self.print_machines();

        say("two managers start: one leads and adopts the running containers");
        let untouched = self.addresses(&["/web", "/shop"])?;
        for manager in &mut self.managers {
            manager.start()?;
        }
        let leader = self.leader()?;
        println!("    {} leads", self.managers[leader].name());
        self.wait_for_containers(&[("/web", 3), ("/shop", 1)])?;
        self.print_machines();
        self.expect_same(&untouched)?;

        say("/web scales from 3 to 10, then to 2");
        for instances in [10, 2] {
            self.marathon.scale("/web", instances)?;
            let tasks = self.marathon.wait_app_quietly("/web", instances)?;
            self.wait_for_containers(&[("/web", instances), ("/shop", 1)])?;
            println!(
                "    {} tasks run; the API server has {}",
                tasks.len(),
                self.contrail.summary()
            );
        }

        say("a pod");
        let pod = self.marathon.create_pod(&marathon::pod(false))?;
        self.marathon.wait_pod(&pod)?;
        self.wait_for_containers(&[("/web", 2), ("/shop", 1), (&pod, 1)])?;

        say("the floating IP moves from /shop to /web-2: their labels change");
        self.marathon.create_app(&app("/web-2", 1, false))?;
        self.marathon.wait_app("/web-2", 1)?;
        // A change of labels is a new version of the app to Marathon: it replaces the task.
        for (id, floating) in [("/shop", false), ("/web-2", true)] {
            self.marathon.update(&app(id, 1, floating))?;
            self.marathon.wait_app_quietly(id, 1)?;
        }
        self.wait_for_containers(&[("/web", 2), ("/shop", 1), ("/web-2", 1), (&pod, 1)])?;
        self.fetch("/web-2")?;

        self.take_over(leader, &pod)?;

        say("the new leader's status page in Chromium");
        let leader = self.leader()?;
        let manager = &self.managers[leader];
        let url = manager.admin_url("/?refresh=off");
        let seen = chromium::open(manager.host(), &url, "1280,1600", "demo")?;
        ensure!(seen.console.is_empty(), "{:?}", seen.console);
        ensure!(seen.dom.contains("/web-2"), "{}", seen.dom);
        println!("    {url}");
        println!("    {}", seen.screenshot.display());

        say("DELETE everything");
        for app in self.marathon.apps()? {
            self.marathon.delete(&format!("/v2/apps{app}"))?;
        }
        self.marathon.delete(&format!("/v2/pods{pod}"))?;
        self.marathon.wait_empty()?;
        show::wait_detached(&self.node, &config_path(&self.node))
    }

    /// Kills the leader, and checks that the standby takes over.
    fn take_over(&mut self, leader: usize, pod: &str) -> Result<()> {
        say("kill -9 of the leader: the standby takes over");
        let apps = ["/web", "/shop", "/web-2"];
        let untouched = self.addresses(&apps)?;
        let requests_before = self.contrail.api().log().len();
        self.managers[leader].kill()?;
        let next = self.leader()?;
        ensure!(next != leader, "the killed manager leads");
        println!(
            "    {} was killed, {} leads",
            self.managers[leader].name(),
            self.managers[next].name()
        );
        self.wait_settled(next)?;
        let writes: Vec<String> = self.contrail.api().log()[requests_before..]
            .iter()
            .filter(|entry| entry.performed && !entry.changes.is_empty())
            .map(|entry| format!("{} {}", entry.method, entry.path))
            .collect();
        println!("    its writes to the API server: {}", writes.len());
        ensure!(writes.is_empty(), "{writes:?}");
        self.expect_same(&untouched)?;
        self.marathon.scale("/web", 3)?;
        self.marathon.wait_app_quietly("/web", 3)?;
        self.wait_for_containers(&[("/web", 3), ("/shop", 1), ("/web-2", 1), (pod, 1)])?;
        println!("    the new leader scales /web to 3");
        self.managers[leader].start()
    }

    /// Waits for a manager that leads.
    fn leader(&self) -> Result<usize> {
        until("a manager leads", || {
            Ok(self.managers.iter().position(ManagerProcess::is_leading))
        })
    }

    /// Waits until a manager trusts all its sources and finds no difference.
    fn wait_settled(&self, manager: usize) -> Result<()> {
        until("the manager finds no difference", || {
            let manager = &self.managers[manager];
            let metrics = manager.get("/metrics")?.body;
            let sources = ["mesos", "marathon", "contrail"];
            let trusted = sources.iter().all(|source| {
                let line =
                    format!("contrail_mesos_manager_source_trusted{{source=\"{source}\"}} 1");
                metrics.lines().any(|one| one == line)
            });
            let differences: Value = serde_json::from_str(&manager.get("/v1/differences")?.body)?;
            Ok((trusted && differences["total"] == 0).then_some(()))
        })
    }

    /// The names of the virtual-machines in the API server, by app.
    fn machines(&self) -> BTreeMap<String, Vec<String>> {
        let mut machines: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for machine in self.contrail.api().objects("virtual-machine") {
            let application = machine["annotations"]["key_value_pair"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|pair| pair["key"] == "application")
                .and_then(|pair| pair["value"].as_str())
                .unwrap_or("?");
            let name = machine["display_name"].as_str().unwrap_or("?");
            machines
                .entry(application.to_owned())
                .or_default()
                .push(name.to_owned());
        }
        machines
    }

    fn print_machines(&self) {
        println!("    the API server has {}", self.contrail.summary());
        for (application, names) in self.machines() {
            for name in names {
                println!("    virtual-machine of {application:<8} {name}");
            }
        }
    }

    /// Waits until the API server has exactly these numbers of containers for these apps.
    fn wait_for_containers(&self, apps: &[(&str, usize)]) -> Result<()> {
        let expected: BTreeMap<&str, usize> = apps.iter().copied().collect();
        until("the API server has exactly the running containers", || {
            let machines = self.machines();
            let actual: BTreeMap<&str, usize> = machines
                .iter()
                .map(|(app, names)| (app.as_str(), names.len()))
                .collect();
            Ok((actual == expected).then_some(()))
        })
        .with_context(|| format!("it has {:?}", self.machines()))
    }

    /// The tasks of these apps, with their addresses.
    fn addresses(&self, apps: &[&'static str]) -> Result<Vec<(&'static str, Vec<Task>)>> {
        apps.iter()
            .map(|app| Ok((*app, self.marathon.tasks(app)?)))
            .collect()
    }

    /// Checks that every task still has its addresses.
    fn expect_same(&self, before: &[(&'static str, Vec<Task>)]) -> Result<()> {
        for (app, tasks) in before {
            let now = self.marathon.tasks(app)?;
            ensure!(now == *tasks, "{app} had {tasks:?} and has {now:?}");
        }
        println!("    every task keeps its addresses");
        Ok(())
    }

    /// Waits until the app answers at the floating IP, from outside.
    fn fetch(&self, app: &str) -> Result<()> {
        let url = format!("http://{FLOATING_IP}:8080/");
        let text = until("the floating IP answers", || {
            let fetched = self.outside.sh(&format!("curl -sf -m 2 {url}"));
            Ok(fetched.ok().filter(|text| text.trim() == app))
        })?;
        println!("    {url} -> {}", text.trim());
        Ok(())
    }

    fn stop(self, before: &leftovers::Leftovers) -> Result<()> {
        let Self {
            node,
            cluster,
            vrouter,
            marathon,
            managers,
            ..
        } = self;
        marathon.stop()?;
        drop(managers);
        cluster.stop()?;
        vrouter.stop()?;
        node.expect_nothing_since(before)
    }
}
