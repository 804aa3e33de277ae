//! The /etc/hosts, /etc/hostname and /etc/resolv.conf of containers.

use std::fs;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::{self, Agent, BLUE};
use mesos_module_tests::testbed::framework::{GroupSpec, TaskSpec, TaskState};
use mesos_module_tests::testbed::{ClusterBuilder, image, program};

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

#[test]
fn container_that_fills_its_etc_files_harms_nobody() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let used = |agent: &Agent| -> Result<u64> {
        let text = agent
            .host()
            .sh(&format!("du -sk {} | cut -f1", agent.state_dir().display()))?;
        Ok(text.trim().parse()?)
    };
    let before = used(&agent)?;
    let fill = "head -c 300M /dev/zero >> /etc/hosts; head -c 300M /dev/zero >> /etc/resolv.conf
                echo filled > filled; sleep 1000";
    agent.run(
        TaskSpec::new("greedy", fill)
            .resources(0.01, 512.0, 0.0)
            .network("blue"),
    )?;
    let work = agent.cluster.work_dir().display().to_string();
    agent.host().sh(&format!(
        "for i in $(seq 600); do find {work} -path '*/executors/greedy/*' -name filled | grep -q . && exit 0; sleep 0.1; done; exit 1"
    ))?;
    ensure!(
        used(&agent)? < before + 1024,
        "the state directory has grown"
    );
    // Others are launched, also by the next agent.
    let check = format!("{OWN_FILES} && sleep 1000 || exit 1");
    agent.run(TaskSpec::new("beside", &check).network("blue"))?;
    agent.crash()?;
    agent.run(TaskSpec::new("after", &check).network("blue"))?;
    agent.kill("greedy")?;
    agent.run(TaskSpec::new("later", &check).network("blue"))?;
    for task in ["beside", "after", "later"] {
        let end = agent.kill(task)?;
        ensure!(end.state == TaskState::TaskKilled, "{end}");
    }
    agent.end()
}

#[test]
fn container_may_write_to_its_etc_files() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let write = "echo '192.0.2.99 friend' >> /etc/hosts && echo 'options ndots:3' >> /etc/resolv.conf \
                 && echo done > done; while ! test -e stop; do sleep 0.1; done; getent hosts friend";
    agent.run(TaskSpec::new("writer", write).network("blue"))?;
    agent.crash()?;
    let work = agent.cluster.work_dir().display().to_string();
    agent.host().sh(&format!(
        "for i in $(seq 300); do f=$(find {work} -path '*/executors/writer/*' -name done ! -path '*/latest/*' | head -n 1)
           test -n \"$f\" && touch $(dirname $f)/stop && exit 0; sleep 0.1; done; exit 1"
    ))?;
    let end = agent.ended("writer")?;
    ensure!(end.state == TaskState::TaskFinished, "{end}");
    ensure!(!fs::read_to_string("/etc/hosts")?.contains("friend"));
    agent.end()
}

#[test]
fn directory_in_place_of_etc_hosts_is_named_in_the_error() -> Result<()> {
    let agent = Agent::start_with(BLUE, ClusterBuilder::images)?;
    let root = tempfile::tempdir()?;
    image::rootfs(root.path())?;
    fs::remove_file(root.path().join("etc/hosts"))?;
    fs::create_dir(root.path().join("etc/hosts"))?;
    image::pack(root.path(), "odd", &agent.cluster.images())?;
    let task = TaskSpec::new("odd", "true").image("odd").network("blue");
    let message = agent.refused(task)?;
    ensure!(
        message.contains("etc/hosts") && message.contains("it is a directory"),
        "{message}"
    );
    agent.expect_no_container()?;
    agent.end()
}

#[test]
fn stub_resolver_of_the_host_is_replaced_by_the_real_servers() -> Result<()> {
    let host = agent::host()?;
    let file = host.directory().join("resolv.conf");
    fs::write(&file, "nameserver 127.0.0.53\noptions edns0\nsearch .\n")?;
    host.sh(&format!(
        "mount --bind {} /etc/resolv.conf && mkdir -p /run/systemd/resolve
         echo 'nameserver 192.0.2.153' > /run/systemd/resolve/resolv.conf",
        file.display()
    ))?;
    let agent = Agent::start_on(host, BLUE, |cluster| cluster)?;
    let only = "test \"$(grep nameserver /etc/resolv.conf)\" = 'nameserver 192.0.2.153'";
    agent.passes(TaskSpec::new("real", only).network("blue"))?;
    ensure!(!agent.cluster.log()?.contains("containers resolve no names"));
    // Without the file of systemd-resolved there is none, and the log says so.
    agent.host().sh("rm -r /run/systemd")?;
    let none = "! grep -q nameserver /etc/resolv.conf && grep -q 'options edns0' /etc/resolv.conf";
    agent.passes(TaskSpec::new("none", none).network("blue"))?;
    ensure!(agent.cluster.log()?.contains("containers resolve no names"));
    let check = agent.host().sh(&format!(
        "{} --config {} config check",
        program("contrail-mesos")?.display(),
        agent.config_path().display()
    ))?;
    ensure!(check.contains("containers resolve no names"), "{check}");
    // The host's own network has the host's stub.
    agent.passes(TaskSpec::new("host", "grep -q 127.0.0.53 /etc/resolv.conf"))?;
    agent.end()
}
