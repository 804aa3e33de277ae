//! Who reaches which service, and what answers.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::container;
use mesos_module_tests::testbed::marathon::{Marathon, ids};
use mesos_module_tests::testbed::overlay::{BRIDGE, OverlayCluster};
use mesos_module_tests::testbed::services::{
    Place, container_app, host_app, service_name, wait_for_dns,
};
use mesos_module_tests::testbed::until;
use reqwest::Method;
use serde_json::{Value, json};

/// What the leading manager answers at a path.
fn ask_manager(cluster: &OverlayCluster, path: &str) -> Result<Value> {
    let leader = cluster.managers.manager(cluster.managers.leader()?);
    let response = leader.get(path)?;
    ensure!(response.status == 200, "{path}: {}", response.status);
    Ok(serde_json::from_str(&response.body)?)
}

/// A service of a pod, and one whose port is `udp,tcp`.
fn expect_pods_and_both_protocols(marathon: &Marathon, places: &[Place]) -> Result<()> {
    let shell =
        "mkdir -p www && echo a pod > www/index.html && exec busybox httpd -f -p 8080 -h www";
    let pod = json!({
        "id": "/pod", "networks": [{ "mode": "container", "name": "vxlan-1" }],
        "containers": [{
            "name": "web", "resources": { "cpus": 0.05, "mem": 32 },
            "exec": { "command": { "shell": shell } },
            "endpoints": [{ "name": "http", "containerPort": 8080, "protocol": ["tcp"],
                            "labels": { "VIP_0": "/pod:80" } }],
        }],
    });
    marathon.request(Method::POST, "/v2/pods", &pod)?;
    let mut names = container_app(
        "/names",
        1,
        "vxlan-1",
        false,
        &json!({ "VIP_0": "/names:53" }),
    );
    names["container"]["portMappings"][0]["protocol"] = json!("udp,tcp");
    names["cmd"] = json!("exec dnsmasq -k -p 8080 -u root -R -h --host-record=name.test,10.1.2.3");
    marathon.run(&names)?;
    for place in places {
        until("the pod answers", || {
            let answer = place.get_service("pod", 80)?;
            ensure!(answer == "a pod", "{answer}");
            Ok(Some(()))
        })?;
        let address = until("the name is published", || {
            let addresses = place.addresses(&service_name("names"), "A")?;
            Ok(addresses.first().copied())
        })?;
        for protocol in ["+notcp", "+tcp"] {
            let dig = format!("dig +short +time=5 +tries=1 {protocol} @{address} name.test");
            until("both protocols are answered", || {
                let answer = place.sh(&dig)?;
                ensure!(answer.trim() == "10.1.2.3", "{protocol}: {answer}");
                Ok(Some(()))
            })?;
        }
    }
    marathon.request(Method::DELETE, "/v2/pods/pod", &Value::Null)?;
    marathon.delete("/names")
}

#[test]
fn vips_answer_to_hosts_containers_and_their_own_backends() -> Result<()> {
    let cluster = OverlayCluster::with_services(2)?;
    for node in 0..2 {
        wait_for_dns(cluster.host(node))?;
    }
    let services = cluster.mesos.services();
    let marathon = Marathon::start(services, cluster.mesos.master().master())?;
    let on_host = json!({ "VIP_0": "/my-service:80", "VIP_1": "10.0.0.1:80" });
    let on_host = marathon.run(&host_app("/on-host", 2, &on_host))?;
    let mapped = json!({ "VIP_0": "/mapped:80" });
    let mapped = marathon.run(&container_app("/mapped", 2, BRIDGE, true, &mapped))?;
    let routed = json!({ "VIP_0": "routed:80", "VIP_1": "10.0.0.2:8080" });
    let routed = marathon.run(&container_app("/routed", 2, "vxlan-1", false, &routed))?;

    let mut places: Vec<Place> = (0..2).map(|node| Place::host(cluster.host(node))).collect();
    for (node, network) in [(0, BRIDGE), (1, "vxlan-2")] {
        let name = format!("client-{network}");
        let update = cluster.run(&name, network, node, "sleep 100000")?;
        let id = container(&update)?;
        places.push(Place::container(cluster.host(node), &id, &name));
    }
    // The backends themselves: two in each app on a container network.
    for task in mapped.iter().chain(&routed) {
        let node = cluster.node_of(&task.host)?;
        places.push(Place::task(cluster.host(node), &task.id)?);
    }
    for place in &places {
        for (service, tasks) in [
            ("my-service", &on_host),
            ("mapped", &mapped),
            ("routed", &routed),
        ] {
            let get = |place: &Place| place.get_service(service, 80);
            place.expect_answers(&ids(tasks), get)?;
        }
        for (vip, tasks) in [("10.0.0.1:80", &on_host), ("10.0.0.2:8080", &routed)] {
            let get = |place: &Place| place.get(&format!("http://{vip}/"));
            place.expect_answers(&ids(tasks), get)?;
        }
        // A port that no service has is refused at once, whatever listens on the host.
        let address = place.addresses(&service_name("routed"), "A")?;
        let address = address.first().context("no address")?;
        place.expect_refused(&format!("http://{address}:81/"))?;
    }

    expect_pods_and_both_protocols(&marathon, &places)?;

    // Names of tasks, names that do not exist, and the list in the form of DC/OS.
    let place = &places[0];
    let zone = |kind: &str| format!("routed.marathon.{kind}.dcos.thisdcos.directory");
    let of_containers: BTreeSet<_> = routed.iter().map(|task| task.addresses[0]).collect();
    let found = place.addresses(&zone("containerip"), "A")?;
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), of_containers);
    let of_agents: BTreeSet<String> = routed.iter().map(|task| task.host.clone()).collect();
    let found = place.addresses(&zone("agentip"), "A")?.into_iter();
    assert_eq!(
        found.map(|own| own.to_string()).collect::<BTreeSet<_>>(),
        of_agents
    );
    let nothing = place.response_code(&service_name("nothing"), "A")?;
    assert_eq!(nothing, "NXDOMAIN");
    // Named services have IPv6 addresses only with backends of that family.
    let none = place.addresses(&service_name("routed"), "AAAA")?;
    assert_eq!(
        (
            none.len(),
            place
                .response_code(&service_name("routed"), "AAAA")?
                .as_str()
        ),
        (0, "NOERROR")
    );
    let vips = ask_manager(&cluster, "/v1/vips")?;
    let mut listed: Vec<&str> = vips
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|vip| vip["vip"].as_str())
        .collect();
    listed.sort_unstable();
    let named = |name: &str| format!("{}:80", service_name(name));
    let expected = [named("mapped"), named("my-service"), named("routed")];
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    expected.extend(["10.0.0.1:80", "10.0.0.2:8080"]);
    expected.sort_unstable();
    assert_eq!(listed, expected);

    // What makes no service is said, and a service without backends is gone with its name.
    let without_port = json!({ "VIP_0": "/no-port" });
    marathon.run(&host_app("/no-port", 1, &without_port))?;
    until("the label without a port is a problem", || {
        let services = ask_manager(&cluster, "/v1/services")?;
        let problems = services["problems"].to_string();
        ensure!(problems.contains("/no-port"), "{services}");
        Ok(Some(()))
    })?;
    marathon.delete("/routed")?;
    until("the name is gone with the last backend", || {
        let code = place.response_code(&service_name("routed"), "A")?;
        ensure!(code == "NXDOMAIN", "{code}");
        Ok(Some(()))
    })?;
    place.expect_refused("http://10.0.0.2:8080/").or_else(|_| {
        // An address that is no service any more is an ordinary one again: there may be no route to it.
        let answer = place.get("http://10.0.0.2:8080/");
        ensure!(answer.is_err(), "{answer:?}");
        Ok(())
    })?;
    marathon.stop()?;
    cluster.end()
}
