//! The /etc/hosts, /etc/hostname and /etc/resolv.conf of containers.

use std::fs;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::ClusterBuilder;
use mesos_module_tests::testbed::agent::{Agent, BLUE};
use mesos_module_tests::testbed::framework::{GroupSpec, TaskSpec, TaskState};

const WITH_DNS: &str = "
[[network]]
name = 'blue'
provider = 'bridge'
subnet = '10.32.0.0/24'
[network.dns]
nameservers = ['10.32.0.53', 'fd00::53']
domain = 'blue.example'
search = ['blue.example', 'example']
options = ['ndots:2']
";

/// Passes if the three files are the container's own.
const OWN_FILES: &str = "grep -q \"$(hostname)$\" /etc/hosts && grep -q '^127.0.0.1 localhost' /etc/hosts \
                         && test \"$(cat /etc/hostname)\" = \"$(hostname)\" && grep -q . /etc/resolv.conf";

#[test]
fn container_on_host_filesystem_has_its_own_etc_files() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let before = agent
        .host()
        .sh("cat /etc/hosts /etc/hostname /etc/resolv.conf")?;
    agent.passes(TaskSpec::new("own", OWN_FILES).network("blue"))?;
    let after = agent
        .host()
        .sh("cat /etc/hosts /etc/hostname /etc/resolv.conf")?;
    assert_eq!(before, after, "the host's own files must not change");
    agent.end()
}

#[test]
fn image_container_has_its_own_etc_files() -> Result<()> {
    let agent = Agent::start_with(BLUE, ClusterBuilder::images)?;
    agent.passes(
        TaskSpec::new("command", OWN_FILES)
            .image("busybox")
            .network("blue"),
    )?;
    let group = GroupSpec::new("pod")
        .network("blue")
        .task(TaskSpec::new("nested", OWN_FILES).image("busybox"));
    agent.launch_group(group)?;
    let end = agent.ended("nested")?;
    ensure!(end.state == TaskState::TaskFinished, "{end}");
    agent.end()
}

#[test]
fn image_container_on_host_network_has_host_files_read_only() -> Result<()> {
    let agent = Agent::start_with(BLUE, ClusterBuilder::images)?;
    let resolver = fs::read_to_string("/etc/resolv.conf")?;
    let check = format!(
        "test \"$(cat /etc/resolv.conf)\" = '{}' && grep -q localhost /etc/hosts \
         && ! grep -q 'of the image' /etc/hosts \
         && ! (echo x >> /etc/hosts) 2>/dev/null && ! (echo x >> /etc/resolv.conf) 2>/dev/null",
        resolver.trim_end()
    );
    let group = GroupSpec::new("pod").task(TaskSpec::new("nested", &check).image("busybox"));
    agent.launch_group(group)?;
    let end = agent.ended("nested")?;
    ensure!(end.state == TaskState::TaskFinished, "{end}");
    assert_eq!(fs::read_to_string("/etc/resolv.conf")?, resolver);
    agent.end()
}

#[test]
fn resolver_configuration_comes_from_the_network() -> Result<()> {
    let agent = Agent::start(WITH_DNS)?;
    let expected = "domain blue.example\\nsearch blue.example example\\noptions ndots:2\\n\
                    nameserver 10.32.0.53\\nnameserver fd00::53";
    let check = format!(
        "test \"$(cat /etc/resolv.conf)\" = \"$(printf '{expected}')\" || {{ cat /etc/resolv.conf >&2; false; }}"
    );
    agent.passes(TaskSpec::new("own", &check).network("blue"))?;
    agent.end()
}

#[test]
fn default_resolver_serves_networks_without_their_own() -> Result<()> {
    let default = "[dns]\nnameservers = ['192.0.2.53']\n[[network]]\nname = 'green'\nprovider = 'bridge'\nsubnet = '10.34.0.0/24'\n";
    let agent = Agent::start(&format!("{default}{WITH_DNS}"))?;
    let only = "test \"$(grep nameserver /etc/resolv.conf)\" = 'nameserver 192.0.2.53'";
    agent.passes(TaskSpec::new("default", only).network("green"))?;
    let blue = "! grep -q 192.0.2.53 /etc/resolv.conf";
    agent.passes(TaskSpec::new("own", blue).network("blue"))?;
    // On both, it has both, in the order of the networks.
    let both = "test \"$(grep nameserver /etc/resolv.conf | head -n 1)\" = 'nameserver 192.0.2.53' \
                && grep -q 10.32.0.53 /etc/resolv.conf";
    agent.passes(TaskSpec::new("both", both).network("green").network("blue"))?;
    agent.end()
}

#[test]
fn host_resolver_is_copied_if_no_name_server_is_configured() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let resolver = fs::read_to_string("/etc/resolv.conf")?;
    let check = format!(
        "test \"$(cat /etc/resolv.conf)\" = '{}'",
        resolver.trim_end()
    );
    agent.passes(TaskSpec::new("copied", &check).network("blue"))?;
    agent.end()
}

#[test]
fn nested_container_has_the_etc_files_of_its_root() -> Result<()> {
    let agent = Agent::start(WITH_DNS)?;
    let check = format!("{OWN_FILES} && grep -q 10.32.0.53 /etc/resolv.conf");
    let group = GroupSpec::new("pod")
        .network("blue")
        .task(TaskSpec::new("nested", &check));
    agent.launch_group(group)?;
    let end = agent.ended("nested")?;
    ensure!(end.state == TaskState::TaskFinished, "{end}");
    agent.end()
}
