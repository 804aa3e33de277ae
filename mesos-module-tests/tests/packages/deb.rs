//! The life of the deb packages.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::address;
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::{Cluster, Host, Scheduler, until};

use crate::build::{SERVICES, packages};
use crate::system::{
    CONFIGURED, Connection, ECHO_PORT, cluster, files, host, mapped_library, start_daemon,
    stop_daemon,
};

/// What the packages install, with modes and owners.
const INSTALLED: &str = "\
755 root:root /etc/contrail-mesos
644 root:root /etc/contrail-mesos/agent.toml
644 root:root /etc/contrail-mesos/manager.toml
644 root:root /etc/contrail-mesos/modules.json
755 root:root /usr/bin/contrail-mesos
755 root:root /usr/bin/contrail-mesos-manager
755 root:root /usr/bin/contrail-mesos-node
755 root:root /usr/lib/cni/contrail-mesos-cni
644 root:root /usr/lib/mesos/modules/libcontrail_mesos.so
644 root:root /usr/lib/systemd/system/contrail-mesos-manager.service
644 root:root /usr/lib/systemd/system/contrail-mesos-node.service
644 root:root /usr/lib/sysusers.d/contrail-mesos-manager.conf
750 contrail-mesos-manager:contrail-mesos-manager /var/lib/contrail-mesos-manager
";

const OLD: &str = "1.0.0";
const NEW: &str = "1.1.0";

struct System {
    host: Host,
}

impl System {
    /// Makes both versions. Nothing but the version differs.
    fn start() -> Result<Self> {
        let host = host()?;
        for version in [OLD, NEW] {
            packages(&host.directory().join(version), version, "deb", &SERVICES)?;
        }
        Ok(Self { host })
    }

    fn dpkg(&self, command: &str) -> Result<String> {
        self.host.sh(&format!(
            "DEBIAN_FRONTEND=noninteractive dpkg {command} 2>&1"
        ))
    }

    /// Installs a version over what is there.
    fn install(&self, version: &str) -> Result<()> {
        let directory = self.host.directory().join(version);
        self.dpkg(&format!("--install {}/*.deb", directory.display()))?;
        let installed = self.host.sh(&format!(
            "dpkg-query --show --showformat '${{db:Status-Status}} ${{Version}}\\n' {}",
            SERVICES.join(" ")
        ))?;
        ensure!(
            installed == format!("installed {version}-1\n").repeat(SERVICES.len()),
            "{installed}"
        );
        Ok(())
    }

    /// Installs a version while an agent runs, and restarts the agent: the connection lives all the
    /// time, and the agent has the new library only after its restart.
    fn replace(
        &self,
        version: &str,
        cluster: &mut Cluster,
        connection: &mut Connection,
    ) -> Result<()> {
        let agent = cluster.pid();
        self.install(version)?;
        ensure!(
            cluster.is_running()? && cluster.pid() == agent,
            "the agent was restarted"
        );
        let mapped = mapped_library(&self.host)?;
        ensure!(
            mapped.contains("(deleted)"),
            "the file that the agent has mapped was written: {mapped}"
        );
        connection.echo("with the former library")?;
        cluster.restart()?;
        let mapped = mapped_library(&self.host)?;
        ensure!(
            mapped.contains("libcontrail_mesos.so") && !mapped.contains("(deleted)"),
            "{mapped}"
        );
        connection.echo("with the new library")?;
        let config = self.host.sh("cat /etc/contrail-mesos/agent.toml")?;
        ensure!(config == CONFIGURED, "{config}");
        Ok(())
    }
}

#[test]
fn deb_packages_live_through_upgrade_downgrade_and_removal() -> Result<()> {
    let system = System::start()?;
    let host = &system.host;
    let before = files(host)?;
    system.install(OLD)?;
    check_installed(host)?;

    // Without systemd, by the commands of docs/install.md.
    host.sh(&format!(
        "cat > /etc/contrail-mesos/agent.toml <<'END'\n{CONFIGURED}END\ncontrail-mesos config check"
    ))?;
    start_daemon(host, "contrail-mesos-node", "root", "run")?;
    until("the node daemon runs", || {
        Ok(host
            .sh("grep -q running /var/log/contrail-mesos-node.log && test -S /var/lib/contrail-mesos/node/api.sock")
            .ok())
    })?;
    run_manager(host)?;

    let mut cluster = cluster(host)?;
    let scheduler = Scheduler::start(host, cluster.master())?;
    let echo = format!("exec busybox nc -ll -p {ECHO_PORT} -e cat");
    let task = scheduler.run(TaskSpec::new("one", &echo).network("blue"))?;
    let mut connection = Connection::open(host, address(&task)?)?;
    connection.echo("before")?;

    system.replace(NEW, &mut cluster, &mut connection)?;
    scheduler.run(TaskSpec::new("two", "sleep 1000").network("blue"))?;
    scheduler.kill("two")?;
    system.replace(OLD, &mut cluster, &mut connection)?;

    // A purge by mistake, below a live container: what is needed to detach it stays.
    let purged = system.dpkg("--purge contrail-mesos-node contrail-mesos")?;
    ensure!(
        purged.contains("/var/lib/contrail-mesos is kept"),
        "{purged}"
    );
    connection.echo("without the packages")?;
    system.install(NEW)?;
    host.sh(&format!(
        "cat > /etc/contrail-mesos/agent.toml <<'END'\n{CONFIGURED}END\n"
    ))?;
    cluster.restart()?;
    connection.echo("installed again")?;
    drop(connection);
    scheduler.kill("one")?;
    until("nothing of the container is left", || {
        Ok(host
            .sh("test -z \"$(ls /var/lib/contrail-mesos/containers)\"")
            .ok())
    })?;
    host.block_on(scheduler.framework.teardown())?;
    cluster.stop()?;
    stop_daemon(host, "contrail-mesos-node")?;

    let all = SERVICES.join(" ");
    system.dpkg(&format!("--remove {all}"))?;
    host.sh("test -f /etc/contrail-mesos/agent.toml && test -d /var/lib/contrail-mesos && ! test -e /usr/bin/contrail-mesos")?;
    system.dpkg(&format!("--purge {all}"))?;
    let left: Vec<_> = files(host)?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left after a purge: {left:?}");
    Ok(())
}

fn check_installed(host: &Host) -> Result<()> {
    let paths: Vec<&str> = INSTALLED
        .lines()
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    let found = host.sh(&format!("stat -c '%a %U:%G %n' {}", paths.join(" ")))?;
    ensure!(found == INSTALLED, "{found}");
    let verified = host.sh(&format!("dpkg --verify {}", SERVICES.join(" ")))?;
    ensure!(verified.is_empty(), "{verified}");
    // The configurations as they are installed: that of an agent is valid, without a network.
    host.sh("contrail-mesos config check")?;
    let info = host.sh("contrail-mesos module info /usr/lib/mesos/modules/libcontrail_mesos.so")?;
    let provides = host.sh("dpkg-query --show --showformat '${Provides}' contrail-mesos")?;
    let mesos = provides
        .strip_prefix("contrail-mesos-for-mesos (= ")
        .and_then(|rest| rest.strip_suffix(')'))
        .with_context(|| provides.clone())?;
    ensure!(info.contains(&format!("Mesos      {mesos}")), "{info}");
    Ok(())
}

/// Runs the manager by its own user, until it leads, and stops it.
fn run_manager(host: &Host) -> Result<()> {
    host.sh(
        "cat > /etc/contrail-mesos/overlay.json <<'END'\n\
         {\"vtep_subnet\": \"44.128.0.0/16\", \"vtep_mac_oui\": \"70:B3:D5:00:00:00\", \
         \"overlays\": [{\"name\": \"dcos\", \"subnet\": \"9.0.0.0/8\", \"prefix\": 24}]}\n\
         END\n\
         printf '[overlay]\\nfile = \"/etc/contrail-mesos/overlay.json\"\\n' >> /etc/contrail-mesos/manager.toml\n\
         contrail-mesos-manager --check",
    )?;
    start_daemon(
        host,
        "contrail-mesos-manager",
        "contrail-mesos-manager:contrail-mesos-manager",
        "--log-format json",
    )?;
    until("the manager leads", || {
        Ok(host.sh("contrail-mesos-manager healthcheck").ok())
    })?;
    stop_daemon(host, "contrail-mesos-manager")?;
    let owner = host.sh("stat -c %U /var/lib/contrail-mesos-manager/overlay.json")?;
    ensure!(owner == "contrail-mesos-manager\n", "{owner}");
    host.sh("rm /etc/contrail-mesos/overlay.json")?;
    Ok(())
}
