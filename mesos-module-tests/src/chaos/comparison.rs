//! Compares Marathon, Mesos, the node and the API server with the desired apps. Every difference
//! is a line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_manager::marathon;
use serde_json::{Value, json};
use uuid::Uuid;

use super::apps::{App, DesiredApps};
use super::node::Node;
use super::testbed::{ObjectCounts, Testbed};

/// A container with networks, as Mesos reports it.
#[derive(Debug)]
struct Container {
    app: App,
    /// One task, or all tasks of a pod.
    tasks: BTreeSet<String>,
    agent: String,
    executor: String,
    addresses: BTreeSet<IpAddr>,
}

/// The differences, and how many containers and objects were compared.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) differences: Vec<String>,
    pub(super) objects: usize,
    pub(super) containers: usize,
}

impl Comparison {
    fn expect_equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        actual: &T,
        expected: &T,
    ) {
        if actual != expected {
            self.differences
                .push(format!("{what}: {actual:?} instead of {expected:?}"));
        }
    }

    fn add(&mut self, what: String) {
        self.differences.push(what);
    }
}

/// Compares everything.
pub(super) fn compare(testbed: &Testbed, desired: &DesiredApps) -> Comparison {
    let mut comparison = Comparison::default();
    if let Err(error) = compare_all(testbed, desired, &mut comparison) {
        comparison.add(format!("cannot compare: {error:#}"));
    }
    comparison
}

fn compare_all(
    testbed: &Testbed,
    desired: &DesiredApps,
    comparison: &mut Comparison,
) -> Result<()> {
    let apps = listed(testbed, desired, comparison)?;
    let containers = mesos(testbed, &apps, comparison)?;
    comparison.containers = containers.len();
    contrail(testbed, desired, &containers, comparison);
    node(testbed, &containers, comparison)?;
    Ok(())
}

/// The tasks that Marathon lists, each with its app.
fn listed(
    testbed: &Testbed,
    desired: &DesiredApps,
    comparison: &mut Comparison,
) -> Result<BTreeMap<String, App>> {
    let deployments = testbed.get("/v2/deployments")?;
    comparison.expect_equal("deployments", &deployments, &json!([]));
    let mut tasks = BTreeMap::new();
    for (app, desired) in desired {
        let (instances, app_tasks) = if *app == App::Pod {
            let status = testbed.get("/v2/pods/pod::status")?;
            let instances = list(&status["instances"]);
            let tasks: Vec<_> = instances
                .iter()
                .flat_map(|instance| list(&instance["containers"]))
                .map(|container| (text(&container["containerId"]), text(&container["status"])))
                .collect();
            (instances.len(), tasks)
        } else {
            let response = testbed.get(&format!("/v2/apps{}?embed=app.tasks", app.id()))?;
            let tasks: Vec<_> = list(&response["app"]["tasks"])
                .iter()
                .map(|task| (text(&task["id"]), text(&task["state"])))
                .collect();
            (tasks.len(), tasks)
        };
        let what = format!("instances of {}", app.id());
        comparison.expect_equal(&what, &u64::try_from(instances)?, &desired.instances);
        for (id, state) in app_tasks {
            if state != "TASK_RUNNING" {
                comparison.add(format!("Marathon has {id} in {state}"));
            }
            tasks.insert(id, *app);
        }
    }
    Ok(tasks)
}

/// The containers of the running tasks in Mesos, which must be those of Marathon.
fn mesos(
    testbed: &Testbed,
    apps: &BTreeMap<String, App>,
    comparison: &mut Comparison,
) -> Result<BTreeMap<String, Container>> {
    let response = testbed.cluster.master_call(&json!({"type": "GET_TASKS"}))?;
    let mesos_tasks = &response["get_tasks"];
    for kind in ["pending_tasks", "orphan_tasks", "unreachable_tasks"] {
        comparison.expect_equal(kind, &list(&mesos_tasks[kind]).len(), &0);
    }
    let mut containers: BTreeMap<String, Container> = BTreeMap::new();
    let mut running = BTreeSet::new();
    for task in list(&mesos_tasks["tasks"]) {
        let id = text(&task["task_id"]["value"]);
        if task["state"] != "TASK_RUNNING" {
            comparison.add(format!("Mesos has {id} in {}", task["state"]));
            continue;
        }
        running.insert(id.clone());
        let Some(app) = apps.get(&id) else { continue };
        let statuses = list(&task["statuses"]);
        let status = statuses
            .iter()
            .filter(|status| status["container_status"].is_object())
            .max_by(|left, right| {
                let at = |status: &Value| status["timestamp"].as_f64().unwrap_or_default();
                at(left).total_cmp(&at(right))
            });
        let Some(status) = status else {
            comparison.add(format!("Mesos reports no container for {id}"));
            continue;
        };
        let status = &status["container_status"];
        let mut container = &status["container_id"];
        while container["parent"].is_object() {
            container = &container["parent"];
        }
        let entry = containers
            .entry(text(&container["value"]))
            .or_insert_with(|| Container {
                app: *app,
                tasks: BTreeSet::new(),
                agent: text(&task["agent_id"]["value"]),
                executor: text(&task["executor_id"]["value"]),
                addresses: addresses(status),
            });
        entry.tasks.insert(id);
    }
    let listed: BTreeSet<String> = apps.keys().cloned().collect();
    comparison.expect_equal("running tasks in Mesos and in Marathon", &running, &listed);
    let call = json!({"type": "GET_CONTAINERS", "get_containers": {"show_nested": false}});
    let response = testbed.cluster.agent_call(&call)?;
    let on_agent: BTreeSet<String> = list(&response["get_containers"]["containers"])
        .iter()
        .map(|container| text(&container["container_id"]["value"]))
        .collect();
    let of_tasks: BTreeSet<String> = containers.keys().cloned().collect();
    comparison.expect_equal(
        "containers of the agent and of its tasks",
        &on_agent,
        &of_tasks,
    );
    Ok(containers)
}

/// The API server must have exactly the desired objects of each container, and no others.
fn contrail(
    testbed: &Testbed,
    desired: &DesiredApps,
    containers: &BTreeMap<String, Container>,
    comparison: &mut Comparison,
) {
    let mut expected = testbed.baseline.clone();
    let mut machines = BTreeSet::new();
    for (id, container) in containers {
        let machine = machine(id);
        machines.insert(machine.to_string());
        let Some(desired) = desired.get(&container.app) else {
            continue;
        };
        let interfaces = container.app.networks().len();
        // One of each family on the blue network.
        let addresses = interfaces + 1;
        let floating = interfaces * desired.pools(container.app).len();
        for (kind, count) in [
            ("virtual-machine", 1),
            ("virtual-machine-interface", interfaces),
            ("instance-ip", addresses),
            ("floating-ip", floating),
        ] {
            if count > 0 {
                *expected.objects.entry(kind.to_owned()).or_default() += count;
                comparison.objects += count;
            }
        }
        expected.addresses += addresses + floating;
        match testbed.api.object(&machine.to_string()) {
            Some(object) => names(id, container, &object, comparison),
            None => comparison.add(format!("container {id} has no virtual-machine {machine}")),
        }
        for index in 0..interfaces {
            let network = format!(
                "default-domain:default-project:{}",
                container.app.networks()[index]
            );
            let uuid = agent_api::interface_uuid(machine, &format!("eth{index}"));
            let place = format!("{} {id} eth{index}", container.app.id());
            let Some(object) = testbed.api.object(&uuid.to_string()) else {
                comparison.add(format!("{place}: there is no interface {uuid}"));
                continue;
            };
            comparison.expect_equal(
                &format!("{place}: network"),
                &targets(&object["virtual_network_refs"]),
                &vec![network],
            );
            comparison.expect_equal(
                &format!("{place}: container"),
                &targets(&object["virtual_machine_refs"]),
                &vec![machine.to_string()],
            );
            let mut groups: Vec<String> = desired
                .groups(container.app)
                .iter()
                .map(ToString::to_string)
                .collect();
            groups.sort();
            comparison.expect_equal(
                &format!("{place}: security groups"),
                &targets(&object["security_group_refs"]),
                &groups,
            );
            let pools: Vec<String> = targets(&object["floating_ip_back_refs"])
                .iter()
                .filter_map(|name| Some(name.rsplit_once(':')?.0.to_owned()))
                .collect();
            let mut expected: Vec<String> = desired
                .pools(container.app)
                .iter()
                .map(ToString::to_string)
                .collect();
            expected.sort();
            comparison.expect_equal(&format!("{place}: floating IPs"), &pools, &expected);
        }
        let allocated = instance_addresses(testbed, machine, interfaces);
        comparison.expect_equal(
            &format!("{id}: addresses in Mesos and in Contrail"),
            &container.addresses,
            &allocated,
        );
    }
    let now = ObjectCounts::now(&testbed.api);
    comparison.expect_equal("objects", &now.objects, &expected.objects);
    comparison.expect_equal("allocated addresses", &now.addresses, &expected.addresses);
    let linked: BTreeSet<String> = testbed
        .api
        .objects("virtual-router")
        .iter()
        .flat_map(|router| targets(&router["virtual_machine_refs"]))
        .collect();
    comparison.expect_equal("linked to the virtual-router", &linked, &machines);
}

/// The names from Mesos on a container's virtual-machine.
fn names(id: &str, container: &Container, object: &Value, comparison: &mut Comparison) {
    let annotations: BTreeMap<String, String> = list(&object["annotations"]["key_value_pair"])
        .iter()
        .map(|pair| (text(&pair["key"]), text(&pair["value"])))
        .collect();
    let annotation = |key: &str| annotations.get(key).map(String::as_str);
    let task = annotation("task").unwrap_or_default();
    if !container.tasks.contains(task) {
        comparison.add(format!(
            "{id} is annotated with task {task:?}, not {:?}",
            container.tasks
        ));
    }
    // The executor of a command task has the task's id, and no id in Mesos' state.
    let is_pod = container.app == App::Pod;
    let executor = if is_pod { &container.executor } else { task };
    for (key, expected) in [
        ("application", Some(container.app.id())),
        ("framework", Some("marathon")),
        ("mesos-agent", Some(container.agent.as_str())),
        ("executor", Some(executor)),
    ] {
        comparison.expect_equal(
            &format!("{id}: annotation {key}"),
            &annotation(key),
            &expected,
        );
    }
    let instance = marathon::instance_of_executor(executor).filter(|_| is_pod);
    let name = instance.map_or_else(|| task.to_owned(), |instance| instance.id.to_string());
    comparison.expect_equal(
        &format!("{id}: display name"),
        &text(&object["display_name"]),
        &name,
    );
}

/// The node's namespaces, interfaces, addresses and files.
fn node(
    testbed: &Testbed,
    containers: &BTreeMap<String, Container>,
    comparison: &mut Comparison,
) -> Result<()> {
    let node = Node::read(testbed).context("the node")?;
    let ids: BTreeSet<String> = containers.keys().cloned().collect();
    comparison.expect_equal("namespace handles", &node.namespaces(), &ids);
    comparison.expect_equal("checkpoints", &node.checkpoints, &ids);
    comparison.expect_equal(
        "pending teardowns",
        &node.pending_teardowns,
        &BTreeSet::new(),
    );
    let mut interfaces = BTreeSet::new();
    for (id, container) in containers {
        let count = container.app.networks().len();
        for index in 0..count {
            let machine = machine(id);
            interfaces.insert((
                machine,
                agent_api::interface_uuid(machine, &format!("eth{index}")),
            ));
        }
        let inside = node.addresses.get(id).cloned().unwrap_or_default();
        comparison.expect_equal(
            &format!("{id}: addresses in the container and in Contrail"),
            &inside,
            &instance_addresses(testbed, machine(id), count),
        );
    }
    let ports = testbed.vrouter.handle.ports();
    let plugged: BTreeSet<(Uuid, Uuid)> = ports
        .iter()
        .map(|(machine, interface, _)| (*machine, *interface))
        .collect();
    comparison.expect_equal("ports of the vRouter agent", &plugged, &interfaces);
    comparison.expect_equal("port files", &node.port_files, &interfaces);
    let taps: BTreeSet<String> = ports.into_iter().map(|(_, _, tap)| tap).collect();
    comparison.expect_equal("taps", &node.taps, &taps);
    Ok(())
}

fn machine(container: &str) -> Uuid {
    agent_api::vm_uuid(&ContainerId::top_level(container))
}

/// The addresses of a container's interfaces, as the API server holds them.
fn instance_addresses(testbed: &Testbed, machine: Uuid, interfaces: usize) -> BTreeSet<IpAddr> {
    (0..interfaces)
        .filter_map(|index| {
            let uuid = agent_api::interface_uuid(machine, &format!("eth{index}"));
            testbed.api.object(&uuid.to_string())
        })
        .flat_map(|object| list(&object["instance_ip_back_refs"]))
        .filter_map(|reference| testbed.api.object(reference["uuid"].as_str()?))
        .filter_map(|object| object["instance_ip_address"].as_str()?.parse().ok())
        .collect()
}

fn addresses(status: &Value) -> BTreeSet<IpAddr> {
    list(&status["network_infos"])
        .iter()
        .flat_map(|info| list(&info["ip_addresses"]))
        .filter_map(|address| address["ip_address"].as_str()?.parse().ok())
        .collect()
}

/// The names of the referenced objects, sorted.
fn targets(references: &Value) -> Vec<String> {
    let mut names: Vec<String> = list(references)
        .iter()
        .map(|reference| {
            let name: Vec<String> = list(&reference["to"]).iter().map(text).collect();
            name.join(":")
        })
        .collect();
    names.sort();
    names
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
