//! Commands of operators, on a host with an agent, a node daemon and a manager.

use anyhow::{Context as _, Result, bail};
use contrail_mesos_sim::marathon::{Marathon, Options};
use mesos_module_tests::testbed::{Cluster, until};
use reqwest::Client;
use serde_json::json;

use crate::scratch::{ScratchHost, Walk, agent_flags};

/// The pages and sections that [`commands_of_operators_work_as_they_are_written`] runs.
pub(crate) const SECTIONS: [(&str, &str); 10] = [
    ("docs/install.md", "Install the node daemon"),
    ("docs/install.md", "Set up Contrail networks"),
    ("docs/operations.md", "The API of the node daemon"),
    ("docs/operations.md", "Check a host"),
    ("docs/operations.md", "Inspect a container"),
    ("docs/operations.md", "What belongs to no container"),
    ("docs/operations.md", "Groups of a container"),
    ("docs/operations.md", "Attach a namespace by hand"),
    ("docs/groups.md", "Change the groups of a running container"),
    ("docs/dns.md", "Troubleshooting"),
];

const AGENT: &str = r#"[node]
managers = ["http://127.0.0.1:6992"]
address = "192.0.2.1"

[[network]]
name = "blue"
provider = "bridge"
subnet = "10.32.0.0/24"
groups = true
"#;

const OVERLAYS: &str = r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00",
  "overlays": [{"name": "vxlan-1", "subnet": "192.168.0.0/17", "prefix": 24, "groups": true}]}
"#;

/// The manager's configuration, without the address of the Mesos master.
const MANAGER: &str = r#"[overlay]
file = "/etc/contrail-mesos/overlay.json"

[services]

[[security_group]]
name = "web"

[[security_group]]
name = "public"
"#;

/// Installs what a host needs, with this Mesos master.
fn install(host: &ScratchHost, master: &str) -> Result<()> {
    for (file, content) in [
        ("agent.toml", AGENT),
        ("overlay.json", OVERLAYS),
        (
            "running.toml",
            &format!("{MANAGER}\n[mesos]\nmasters = \"{master}\"\n"),
        ),
    ] {
        host.prints(&format!(
            "cat > /etc/contrail-mesos/{file} <<'END'\n{content}END\n"
        ))?;
    }
    Ok(())
}

#[test]
fn commands_of_operators_work_as_they_are_written() -> Result<()> {
    let host = ScratchHost::at("192.0.2.1", "agent-1")?;
    let host_address = host.host.address();
    // An uplink that leads nowhere: overlays need one, and a default route.
    host.prints(
        "ip link add uplink type veth peer name nowhere
         ip link set nowhere up && ip link set uplink up
         ip address delete 192.0.2.1/32 dev lo && ip address add 192.0.2.1/24 dev uplink
         ip route add default via 192.0.2.254",
    )?;
    host.prints(
        "install -D -t /usr/local/bin target/release/*
         install -D -t /usr/lib/mesos/modules target/module/libcontrail_mesos.so
         install -D modules.json.example /etc/mesos/modules.json
         mkdir -p /etc/contrail-mesos /var/lib/contrail-mesos-manager",
    )?;
    install(&host, &format!("{host_address}:5050"))?;
    let mut cluster = Cluster::on(&host.host).images();
    for (name, value) in agent_flags("docs/install.md", "Install on an agent")? {
        cluster = cluster.env(&name, &value);
    }
    let cluster = cluster.start()?;
    let options = Options {
        master: cluster.master().to_owned(),
        listen: (host_address, 0).into(),
        ..Options::default()
    };
    let marathon = host.host.block_on(Marathon::start(options))?;
    let app = json!({
        "id": "/web", "cpus": 0.1, "mem": 32,
        "cmd": "mkdir www; exec busybox httpd -f -p 8080 -h www",
        "networks": [{ "mode": "container", "name": "blue" }],
        "container": { "type": "MESOS", "portMappings": [
            { "containerPort": 8080, "labels": { "VIP_0": "/web:80" } },
        ]},
    });

    let install = Walk::of("docs/install.md")?;
    install.section(&host, "Set up Contrail networks")?;
    host.prints(
        "contrail-mesos-manager --config /etc/contrail-mesos/running.toml \
         > /var/log/manager.log 2>&1 &",
    )?;
    let log = "tail -n 30 /var/log/manager.log; tail -n 30 /var/log/node.log; true";
    until("the manager leads", || {
        host.prints("curl -sS -f http://127.0.0.1:6993/ready")
            .map(Some)
    })
    .with_context(|| host.prints(log).unwrap_or_default())?;
    host.prints("contrail-mesos-node run > /var/log/node.log 2>&1 &")?;
    until("the node daemon has the services", || {
        host.prints("grep -q 198.18.0.1 /var/lib/contrail-mesos/node/dns.json")
            .map(Some)
    })
    .with_context(|| host.prints(log).unwrap_or_default())?;
    // A node that is not registered yet has a problem.
    until("the node is registered", || {
        host.prints("contrail-mesos status --cluster").map(Some)
    })?;
    install.section(&host, "Install the node daemon")?;
    host.host.block_on(async {
        let request = Client::new().post(format!("{}/v2/apps", marathon.url()));
        request.json(&app).send().await?.error_for_status()
    })?;
    let value = |placeholder: &str| match placeholder {
        "<container id>" => until("the container is attached", || {
            let containers = host.containers()?;
            Ok(containers.first().map(|(id, _)| id.clone()))
        }),
        other => bail!("what is {other}?"),
    };
    value("<container id>").with_context(|| host.prints(log).unwrap_or_default())?;
    install.finish(&["Set up Contrail networks", "Install the node daemon"])?;
    for page in ["docs/operations.md", "docs/groups.md", "docs/dns.md"] {
        let walk = Walk::of(page)?;
        let sections = SECTIONS.iter().filter(|(of, _)| *of == page);
        for (_, section) in sections.clone() {
            walk.section_with(&host, section, &value)?;
        }
        let sections: Vec<&str> = sections.map(|(_, section)| *section).collect();
        walk.finish(&sections)?;
    }
    let name = "web.marathon.l4lb.thisdcos.directory";
    until("the service has an address", || {
        let answer = host.prints(&format!("dig +short @198.18.0.1 {name}"))?;
        Ok(answer.starts_with("198.18.").then_some(()))
    })?;
    host.host.block_on(marathon.stop(true))?;
    cluster.stop()
}
