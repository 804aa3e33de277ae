//! Faults of nodes, overlays, services and of managers without Contrail.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use contrail_mesos::node_state::NodeState;
use contrail_mesos_api::cluster::{Endpoint, EndpointsReport, Membership, NodeReport, Versions};
use mesos_module_tests::testbed::agent::{
    WAIT_TIMEOUT, address, config_path, container, state_dir,
};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskUpdate};
use mesos_module_tests::testbed::manager::ADMIN_PORT;
use mesos_module_tests::testbed::marathon::Marathon;
use mesos_module_tests::testbed::overlay::{NODE_PORT, OverlayCluster, two_overlays};
use mesos_module_tests::testbed::prometheus::Prometheus;
use mesos_module_tests::testbed::services::{DNS, container_app, service_name, wait_for_dns};
use mesos_module_tests::testbed::{program, until};
use serde_json::{Value, json};

use super::{Fault, expect_data, fire_all};

/// The network of the tasks of services.
const NETWORK: &str = "vxlan-2";
/// A range for few names.
const RANGE: &str = "198.18.0.0/28";
/// A node that a test reports as.
const OTHER_NODE: &str = "node-9";
/// A name server that no host has.
const NO_SERVER: &str = "192.0.2.77";
/// The names of the network namespaces that use up a network: as many as it has addresses.
const BOXES: [&str; 5] = ["box-1", "box-2", "box-3", "box-4", "box-5"];

/// The alerts that fire while the second node has no daemon, and because it has another configuration.
const NODE_DOWN: &str = "ContrailMesosNodeDown";
const CONFIGURATIONS: &str = "ContrailMesosNodeConfigurationsDiffer";

const FAULTS: &[Fault<Cluster>] = &[
    Fault {
        inject: send_what_is_dropped,
        alerts: &["ContrailMesosSpoofedPackets", "ContrailMesosGroupsDropMuch"],
    },
    Fault {
        inject: change_apps,
        alerts: &[
            "ContrailMesosServicesWithoutBackend",
            "ContrailMesosServiceLabelsInvalid",
            "ContrailMesosServiceAddressesRunOut",
            "ContrailMesosBackendsDrainLong",
        ],
    },
    Fault {
        inject: report_as_an_older_node,
        alerts: &[
            "ContrailMesosNodeVersionsDiffer",
            "ContrailMesosContainersNotPublished",
        ],
    },
    Fault {
        inject: remove_a_route_again_and_again,
        alerts: &["ContrailMesosHostRepairedAgainAndAgain"],
    },
    Fault {
        inject: damage_files,
        alerts: &[
            "ContrailMesosCheckpointsDamaged",
            "ContrailMesosContainersIncomplete",
            "ContrailMesosNetworkAddressesRunOut",
            "ContrailMesosPendingTeardowns",
        ],
    },
    Fault {
        inject: ask_for_names_of_no_server,
        alerts: &["ContrailMesosDnsForwardingFails", "ContrailMesosDnsLimited"],
    },
    Fault {
        inject: take_room_from_overlays,
        alerts: &[
            "ContrailMesosNodeBehind",
            "ContrailMesosSubsystemFails",
            "ContrailMesosNodesNotCurrent",
            "ContrailMesosNodesHaveProblems",
            "ContrailMesosNodeLacksResources",
            "ContrailMesosOverlayRunsOut",
            "ContrailMesosTunnelEndpointsRunOut",
        ],
    },
    Fault {
        inject: restart_again_and_again,
        alerts: &["ContrailMesosRestartsAgainAndAgain"],
    },
    Fault {
        inject: fill_the_table_of_flows,
        alerts: &[
            "ContrailMesosConntrackNearlyFull",
            "ContrailMesosConntrackOverflows",
        ],
    },
    Fault {
        inject: lose_masters_and_managers,
        alerts: &["ContrailMesosNodeNotReady", "ContrailMesosNodeNotSynced"],
    },
];

/// The alerts that this test fires.
pub(super) fn alerts() -> impl Iterator<Item = &'static str> {
    let of_faults = FAULTS.iter().flat_map(|fault| fault.alerts.iter().copied());
    of_faults.chain([NODE_DOWN, CONFIGURATIONS, SERVICES_WAIT])
}

/// Fires while there is neither a master nor the leader that knew it.
const SERVICES_WAIT: &str = "ContrailMesosServicesWait";

struct Cluster {
    overlay: OverlayCluster,
    prometheus: Prometheus,
    marathon: Marathon,
    /// Two containers of the first node, without a group in common.
    strangers: [TaskUpdate; 2],
    /// A checkpoint that must be put right, with its contents.
    damaged: Option<(PathBuf, Vec<u8>)>,
}

#[test]
fn faults_of_nodes_overlays_and_services_fire_their_alerts() -> Result<()> {
    let mut cluster = start()?;
    let mut run = || -> Result<()> {
        for dashboard in ["nodes", "networks", "services"] {
            expect_data(&cluster.prometheus, dashboard)?;
        }
        cluster.prometheus.expect_only(&[CONFIGURATIONS])?;
        fire_all(&mut cluster, |cluster| &cluster.prometheus, FAULTS)
    };
    run().with_context(|| cluster.overlay.logs())?;
    end(cluster)
}

fn start() -> Result<Cluster> {
    let mut overlay = OverlayCluster::with_services_alone(2)?;
    for manager in overlay.managers.managers() {
        let path = manager.path("toml");
        let text = fs::read_to_string(&path)?;
        let table = format!("[services]\nrange = '{RANGE}'\n");
        fs::write(&path, text.replace("[services]\n", &table))?;
    }
    overlay.managers.kill()?;
    overlay.managers.start()?;
    overlay.managers.leader()?;
    let mut overlays = two_overlays();
    overlays["overlays"][0]["groups"] = json!(true);
    overlay.set_overlays(&overlays)?;
    let cni = cni_tables(&overlay)?;
    let tables = format!(
        "[[network]]\nname = 'tiny'\nprovider = 'bridge'\nbridge = 'tiny0'\nsubnet = '10.33.0.0/29'\n\
         {cni}[node.dns]\nupstreams = ['{NO_SERVER}']\n"
    );
    overlay.listen(0, &tables)?;
    overlay.listen(1, "")?;

    // The second node has no daemon yet, and no configuration that differs.
    overlay.daemons[0].start()?;
    overlay.wait_until_current()?;
    let managers = overlay.managers.managers().iter();
    let managers = managers.map(|manager| SocketAddr::new(manager.address(), ADMIN_PORT));
    let nodes = [0, 1].map(|node| SocketAddr::new(overlay.host(node).address(), NODE_PORT));
    let jobs = [
        ("contrail-mesos-manager", managers.collect()),
        ("contrail-mesos-node", nodes.to_vec()),
    ];
    let prometheus = Prometheus::start(overlay.mesos.services(), &jobs)?;
    prometheus.expect_only(&[NODE_DOWN])?;
    overlay.daemons[1].start()?;
    overlay.wait_until_current()?;
    prometheus.expect_only(&[CONFIGURATIONS])?;

    let marathon = Marathon::start(overlay.mesos.services(), overlay.mesos.master().master())?;
    let labels = json!({ "VIP_0": "/web:80" });
    marathon.run(&container_app("/web", 1, NETWORK, false, &labels))?;
    let run = |name: &str| -> Result<TaskUpdate> {
        let labels = json!({ "labels": [{ "key": "netgroups", "value": name }] });
        let info = json!({ "name": "vxlan-1", "labels": labels });
        let task = TaskSpec::new(name, "sleep 100000").network_info(info);
        let task = task.on_host(&overlay.node(0).hostname());
        overlay.mesos.scheduler.run(task)
    };
    let strangers = [run("one")?, run("two")?];
    wait_for_dns(overlay.host(0))?;
    let name = service_name("web");
    until("the name of the service is known", || {
        let answer = overlay.host(0).sh(&format!("dig +short @{DNS} {name} A"))?;
        Ok((!answer.trim().is_empty()).then_some(()))
    })?;
    Ok(Cluster {
        overlay,
        prometheus,
        marathon,
        strangers,
        damaged: None,
    })
}

/// CNI with a plugin whose DEL fails while its directory has a file `broken`, and whose ADD waits while it
/// has a file `slow`.
fn cni_tables(overlay: &OverlayCluster) -> Result<String> {
    let directory = overlay.host(0).directory().join("cni");
    for part in ["net.d", "bin"] {
        fs::create_dir_all(directory.join(part))?;
    }
    let network = json!({ "cniVersion": "1.0.0", "name": "fragile", "type": "fragile" });
    fs::write(directory.join("net.d/fragile.conf"), network.to_string())?;
    let script = format!(
        "#!/bin/sh\ncase $CNI_COMMAND in\n\
         VERSION) echo '{{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [\"1.0.0\"]}}' ;;\n\
         ADD) while test -e {0}/slow; do sleep 0.1; done; echo '{{\"cniVersion\": \"1.0.0\", \"interfaces\": [], \"ips\": []}}' ;;\n\
         DEL) test ! -e {0}/broken ;;\nesac\n",
        directory.display()
    );
    let plugin = directory.join("bin/fragile");
    fs::write(&plugin, script)?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    Ok(format!(
        "[cni]\nconfig_dir = '{0}/net.d'\nplugin_dirs = ['{0}/bin']\n",
        directory.display()
    ))
}

impl Cluster {
    /// Runs `contrail-mesos` on the first node.
    fn command(&self, arguments: &str) -> Result<String> {
        let host = self.overlay.host(0);
        host.sh(&format!(
            "{} --config {} {arguments}",
            program("contrail-mesos")?.display(),
            config_path(host).display()
        ))
    }

    fn mend_checkpoint(&mut self) -> Result<()> {
        if let Some((path, intact)) = self.damaged.take() {
            fs::write(path, intact)?;
        }
        Ok(())
    }

    /// A file that the plugin looks at.
    fn plugin_file(&self, name: &str) -> PathBuf {
        self.overlay.host(0).directory().join("cni").join(name)
    }
}

/// One container floods another one, and pretends to be a third one.
fn send_what_is_dropped(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.overlay.host(0);
    let [one, two] = &cluster.strangers;
    let (from, to) = (container(one)?, address(two)?);
    let gateway = format!(
        "ip netns exec {from} ip -4 -o route show default | grep -oE 'via [0-9.]+' | cut -d' ' -f2"
    );
    let foreign = host.sh(&gateway)?;
    host.sh(&format!(
        "send() {{ ip netns exec {from} python3 -c \"\
         import socket\n\
         one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         one.bind(('$1', 0))\n\
         for _ in range($2): one.sendto(b'x', ('{to}', 9))\"; }}\n\
         send 0.0.0.0 2000\n\
         ip netns exec {from} ip address add {foreign}/32 dev eth0\n\
         send {foreign} 50\n\
         ip netns exec {from} ip address delete {foreign}/32 dev eth0",
        foreign = foreign.trim()
    ))?;
    Ok(())
}

/// Apps that never get healthy, without a port, with many names, and one that is slow to end.
fn change_apps(cluster: &mut Cluster) -> Result<()> {
    let marathon = &cluster.marathon;
    let mut sick = container_app("/sick", 1, NETWORK, false, &json!({ "VIP_0": "/sick:80" }));
    sick["healthChecks"] = json!([{
        "protocol": "MESOS_HTTP", "path": "/missing", "delaySeconds": 0, "intervalSeconds": 1,
        "gracePeriodSeconds": 1, "maxConsecutiveFailures": 1000, "timeoutSeconds": 5,
    }]);
    marathon.create(&sick)?;
    let names: serde_json::Map<String, Value> = (0..10)
        .map(|number| (format!("VIP_{number}"), json!(format!("/name-{number}:80"))))
        .chain([("VIP_X".to_owned(), json!("/no-port"))])
        .collect();
    marathon.create(&container_app(
        "/names",
        1,
        NETWORK,
        false,
        &Value::Object(names),
    ))?;
    let mut slow = container_app("/slow", 1, NETWORK, false, &json!({ "VIP_0": "/slow:80" }));
    slow["cmd"] = json!("trap '' TERM; while :; do sleep 0.2; done");
    marathon.run(&slow)?;
    until("the backend of the slow app is ready", || {
        let services = cluster.overlay.daemons[0].get("/v1/services")?.to_string();
        Ok(services.contains("slow").then_some(()))
    })?;
    let scale = json!({ "instances": 0 });
    marathon.request(reqwest::Method::PUT, "/v2/apps/slow", &scale)?;
    Ok(())
}

/// A node with another version, and with a container that is not of its part of the overlay.
fn report_as_an_older_node(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.overlay.client_of(OTHER_NODE)?;
    let versions = Versions {
        node: "0.0.9".to_owned(),
        kernel: String::new(),
    };
    let digest = "one".to_owned();
    let report: NodeReport = serde_json::from_value(json!({
        "address": "192.0.2.9", "versions": versions, "endpoints": digest,
    }))?;
    let endpoint = Endpoint {
        node: OTHER_NODE.to_owned(),
        id: "eth0.stray".to_owned(),
        addresses: vec!["192.168.0.250".parse()?, "10.9.9.9".parse()?],
        membership: Membership::default(),
    };
    let endpoints = EndpointsReport {
        digest,
        endpoints: vec![endpoint],
    };
    cluster.overlay.mesos.services().block_on(async {
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        client.report(&report, deadline).await?;
        client.report_endpoints(&endpoints, deadline).await
    })?;
    Ok(())
}

fn remove_a_route_again_and_again(cluster: &mut Cluster) -> Result<()> {
    cluster.overlay.delete_node(OTHER_NODE)?;
    let routes = "ip -4 route show | grep -m 1 'dev vtep.* onlink'";
    let host = cluster.overlay.host(1);
    let route = host.sh(routes)?;
    let subnet = route.split(' ').next().context("no route")?;
    for _ in 0..8 {
        host.sh(&format!("ip route delete {subnet}"))?;
        until("the route is back", || {
            let found = host.sh(&format!("ip -4 route show {subnet}"))?;
            Ok((!found.trim().is_empty()).then_some(()))
        })?;
    }
    Ok(())
}

/// A network without addresses, a damaged checkpoint, and a plugin whose DEL fails and whose ADD hangs.
fn damage_files(cluster: &mut Cluster) -> Result<()> {
    for name in BOXES {
        cluster
            .overlay
            .host(0)
            .sh(&format!("ip netns add {name}"))?;
        cluster.command(&format!("attach {name} --netns {name} --network tiny"))?;
    }
    let containers = state_dir(cluster.overlay.host(0)).join("containers");
    let path = containers.join(BOXES[0]).join("intent.json");
    cluster.damaged = Some((path.clone(), fs::read(&path)?));
    fs::write(&path, "{")?;

    cluster.overlay.host(0).sh("ip netns add fragile")?;
    cluster.command("attach fragile --netns fragile --network fragile")?;
    fs::write(cluster.plugin_file("broken"), "")?;
    // It may say that the teardown is pending.
    let _ = cluster.command("detach fragile");

    cluster.overlay.host(0).sh("ip netns add slow")?;
    fs::write(cluster.plugin_file("slow"), "")?;
    cluster.command("attach slow --netns slow --network fragile > /dev/null 2>&1 &")?;
    Ok(())
}

/// More queries than may wait, for names that only a server knows which does not answer.
fn ask_for_names_of_no_server(cluster: &mut Cluster) -> Result<()> {
    cluster.mend_checkpoint()?;
    fs::remove_file(cluster.plugin_file("slow"))?;
    cluster.overlay.host(0).sh(&format!(
        "python3 - <<'END'\n\
         import os, socket, struct, time\n\
         sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]\n\
         for number in range(3000):\n    \
             name = b'\\x0a%010d\\x07example\\x00' % number\n    \
             query = struct.pack('>HHHHHH', number, 0x0100, 1, 0, 0, 0) + name + b'\\x00\\x01\\x00\\x01'\n    \
             sockets[number % 8].sendto(query, ('{DNS}', 53))\n    \
             time.sleep(0.0005)\n\
         END"
    ))?;
    Ok(())
}

/// More flows than the kernel tracks, on the loopback of one host: each to an address of its own.
fn fill_the_table_of_flows(cluster: &mut Cluster) -> Result<()> {
    cluster.overlay.host(0).sh("python3 - <<'END'\n\
         import socket\n\
         limit = int(open('/proc/sys/net/netfilter/nf_conntrack_max').read())\n\
         # Receives, but never reads.\n\
         sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         sink.bind(('0.0.0.0', 9))\n\
         one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         for number in range(limit + limit // 50):\n    \
             address = bytes([127, 1 + (number >> 16), (number >> 8) & 255, number & 255])\n    \
             one.sendto(b'x', (socket.inet_ntoa(address), 9))\n\
         END")?;
    Ok(())
}

/// Overlays without room for both nodes, whose file the second one cannot write.
fn take_room_from_overlays(cluster: &mut Cluster) -> Result<()> {
    let path = NodeState::path(&state_dir(cluster.overlay.host(1)));
    fs::remove_file(&path)?;
    fs::create_dir(&path)?;
    fs::write(path.join("in-the-way"), "")?;
    let mut overlays = two_overlays();
    overlays["vtep_subnet"] = json!("44.128.0.0/30");
    overlays["overlays"][0]["groups"] = json!(true);
    // Half of what they have, and just what they have.
    overlays["overlays"][0]["subnet"] = json!("192.168.0.0/24");
    overlays["overlays"][0]["prefix"] = json!(25);
    overlays["overlays"][1]["subnet"] = json!("192.168.128.0/23");
    cluster.overlay.set_overlays(&overlays)
}

fn restart_again_and_again(cluster: &mut Cluster) -> Result<()> {
    // There is room again, and nothing in the way.
    let path = NodeState::path(&state_dir(cluster.overlay.host(1)));
    fs::remove_dir_all(&path)?;
    let mut overlays = two_overlays();
    overlays["overlays"][0]["groups"] = json!(true);
    cluster.overlay.set_overlays(&overlays)?;
    cluster.overlay.wait_until_current()?;
    let address = SocketAddr::new(cluster.overlay.host(1).address(), NODE_PORT);
    let query = format!("process_start_time_seconds{{instance=\"{address}\"}}");
    for _ in 0..3 {
        let before = cluster.prometheus.value(&query)?;
        cluster.overlay.daemons[1].kill()?;
        cluster.overlay.daemons[1].start()?;
        until("the new process is scraped", || {
            let now = cluster.prometheus.value(&query)?;
            // Down in between, it has no sample.
            Ok((now > before).then_some(()))
        })?;
    }
    Ok(())
}

/// First the master and the leader end: the next leader does not know the services. Then all managers
/// do, and a node that knows nothing.
fn lose_masters_and_managers(cluster: &mut Cluster) -> Result<()> {
    let Cluster {
        overlay,
        prometheus,
        ..
    } = cluster;
    let OverlayCluster {
        daemons,
        managers,
        mesos,
    } = overlay;
    let leader = managers.leader()?;
    mesos.replace_master(|| {
        managers.manager_mut(leader).kill()?;
        prometheus.expect_firing(&[SERVICES_WAIT])
    })?;
    managers.kill()?;
    daemons[1].kill()?;
    fs::remove_dir_all(state_dir(daemons[1].host()).join("node"))?;
    daemons[1].start()
}

fn end(mut cluster: Cluster) -> Result<()> {
    cluster.overlay.managers.start()?;
    cluster.overlay.wait_until_current()?;
    cluster.mend_checkpoint()?;
    fs::remove_file(cluster.plugin_file("broken"))?;
    // The status names what is pending.
    let _ = cluster.command("detach fragile");
    for name in BOXES.into_iter().chain(["slow"]) {
        cluster.command(&format!("detach {name}"))?;
    }
    for name in BOXES.into_iter().chain(["fragile", "slow"]) {
        cluster
            .overlay
            .host(0)
            .sh(&format!("ip netns delete {name}"))?;
    }
    let Cluster {
        overlay,
        prometheus,
        marathon,
        ..
    } = cluster;
    drop(prometheus);
    marathon.stop()?;
    overlay.end()
}
