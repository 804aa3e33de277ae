//! The life of the rpm packages, by Debian's rpm.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::Host;

use crate::build::{SERVICES, packages};
use crate::system::{files, host};

const OLD: &str = "1.0.0";
const NEW: &str = "1.1.0";

/// The options: Debian's own packages are not in the data base of rpm.
const RPM: &str = "rpm --force-debian --nodeps";

#[test]
fn rpm_packages_live_through_upgrade_downgrade_and_removal() -> Result<()> {
    let host = host()?;
    for version in [OLD, NEW] {
        packages(&host.directory().join(version), version, "rpm", &SERVICES)?;
    }
    let before = files(&host)?;
    let version = |version: &str| host.directory().join(version).display().to_string();
    host.sh(&format!("{RPM} --install {}/*.rpm", version(OLD)))?;
    check_installed(&host, OLD)?;

    // What an operator has changed is kept.
    host.sh("echo '# changed' >> /etc/contrail-mesos/agent.toml")?;
    host.sh(&format!("{RPM} --upgrade {}/*.rpm", version(NEW)))?;
    check_installed(&host, NEW)?;
    host.sh("grep -q '# changed' /etc/contrail-mesos/agent.toml")?;
    host.sh(&format!(
        "{RPM} --upgrade --oldpackage {}/*.rpm",
        version(OLD)
    ))?;
    check_installed(&host, OLD)?;
    host.sh("grep -q '# changed' /etc/contrail-mesos/agent.toml")?;

    host.sh(&format!("{RPM} --erase {}", SERVICES.join(" ")))?;
    host.sh("grep -q '# changed' /etc/contrail-mesos/agent.toml.rpmsave")?;
    // cargo-generate-rpm packages no directories, and rpm removes only those of packages: empty ones stay.
    let left: Vec<_> = files(&host)?.difference(&before).cloned().collect();
    let left = host.sh(&format!("find {} -maxdepth 0 ! -type d", left.join(" ")))?;
    ensure!(
        left == "/etc/contrail-mesos/agent.toml.rpmsave\n",
        "left after the removal: {left}"
    );
    Ok(())
}

fn check_installed(host: &Host, version: &str) -> Result<()> {
    let installed = host.sh(&format!(
        "rpm --query --queryformat '%{{VERSION}}-%{{RELEASE}}\\n' {}",
        SERVICES.join(" ")
    ))?;
    ensure!(
        installed == format!("{version}-1\n").repeat(SERVICES.len()),
        "{installed}"
    );
    // Everything but what the operator changes is as it was packaged.
    let verified = host.sh(&format!(
        "{RPM} --verify {} | grep -v ' c /etc/contrail-mesos/agent.toml$' || true",
        SERVICES.join(" ")
    ))?;
    ensure!(verified.is_empty(), "{verified}");
    let configs = host.sh(&format!("rpm --query --configfiles {}", SERVICES.join(" ")))?;
    ensure!(configs.lines().count() == 3, "{configs}");
    let provides = host.sh("rpm --query --provides contrail-mesos")?;
    ensure!(
        provides.contains("contrail-mesos-for-mesos = "),
        "{provides}"
    );
    let owner = host.sh("stat -c '%a %U:%G' /var/lib/contrail-mesos-manager")?;
    ensure!(
        owner == "750 contrail-mesos-manager:contrail-mesos-manager\n",
        "{owner}"
    );
    host.sh("contrail-mesos config check && test -x /usr/bin/contrail-mesos-node")?;
    Ok(())
}
