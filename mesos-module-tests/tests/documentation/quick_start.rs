//! The quick start, from its first command to its last.

use anyhow::{Result, bail};
use contrail_mesos_sim::marathon::{Marathon, Options};
use mesos_module_tests::testbed::{Cluster, Host, agent, until};

use crate::scratch::{ScratchHost, Walk, agent_flags};

/// The page.
pub(crate) const PAGE: &str = "docs/quick-start.md";
/// The sections of its first half.
pub(crate) const ONE_HOST: [&str; 3] =
    ["Install", "Attach two namespaces", "Run two tasks of Mesos"];
/// The sections of its second half.
pub(crate) const TWO_HOSTS: [&str; 3] = [
    "Start the manager",
    "Start the node daemons",
    "Attach a namespace on each host",
];
const MARATHON_PORT: u16 = 8080;

#[test]
fn quick_start_on_one_host_works_as_it_is_written() -> Result<()> {
    let host = ScratchHost::at("192.0.2.1", "agent-1")?;
    let walk = Walk::of(PAGE)?;
    let [install, namespaces, tasks] = ONE_HOST;
    walk.section(&host, install)?;
    walk.section(&host, namespaces)?;
    let mut cluster = Cluster::on(&host.host).images();
    for (name, value) in agent_flags(PAGE, tasks)? {
        cluster = cluster.env(&name, &value);
    }
    let cluster = cluster.start()?;
    let options = Options {
        master: cluster.master().to_owned(),
        listen: (host.host.address(), MARATHON_PORT).into(),
        ..Options::default()
    };
    let marathon = host.host.block_on(Marathon::start(options))?;
    let two = || {
        until("two containers are attached", || {
            let containers = host.containers()?;
            Ok((containers.len() == 2).then_some(containers))
        })
    };
    let value = |placeholder: &str| match placeholder {
        "<marathon>" => Ok(host.host.address().to_string()),
        "<container id>" => Ok(two()?[0].0.clone()),
        "<address of the other>" => Ok(two()?[1].1.clone()),
        other => bail!("what is {other}?"),
    };
    walk.section_with(&host, tasks, &value)?;
    walk.finish(&ONE_HOST)?;
    host.host.block_on(marathon.stop(true))?;
    cluster.stop()
}

#[test]
fn quick_start_on_two_hosts_works_as_it_is_written() -> Result<()> {
    let services = Host::start("192.0.2.100".parse()?)?;
    let hosts = [
        agent::host_at("192.0.2.1".parse()?)?,
        agent::host_at("192.0.2.2".parse()?)?,
    ];
    services.connect(&hosts.iter().collect::<Vec<_>>(), &[])?;
    for host in &hosts {
        // As on a real host, no other interface has the uplink's address.
        host.sh(&format!("ip address delete {}/32 dev lo", host.address()))?;
    }
    let master = ScratchHost::new(services, "master-1")?;
    let [first, second] = hosts;
    let first = ScratchHost::new(first, "agent-1")?;
    let second = ScratchHost::new(second, "agent-2")?;

    let walk = Walk::of(PAGE)?;
    let [manager, daemons, namespaces] = TWO_HOSTS;
    walk.section(&master, manager)?;
    let token = master.prints("cat /etc/contrail-mesos/token")?;
    for host in [&first, &second] {
        let script = format!(
            "mkdir /etc/contrail-mesos && umask 077 && echo {} > /etc/contrail-mesos/token",
            token.trim()
        );
        host.prints(&script)?;
        walk.part(host, daemons, 0..4)?;
        // The first host has the first subnet.
        until("the node is current", || {
            host.prints("contrail-mesos status --cluster").map(Some)
        })?;
    }
    walk.part(&first, daemons, 4..5)?;
    walk.part(&first, namespaces, 0..2)?;
    walk.part(&second, namespaces, 2..5)?;
    walk.finish(&TWO_HOSTS)?;
    for host in [&first, &second] {
        host.prints("contrail-mesos detach one; contrail-mesos detach two")?;
    }
    Ok(())
}
