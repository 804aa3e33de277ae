//! A host with the bare Debian, and the real Mesos on it with the library of the package.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::WAIT_TIMEOUT;
use mesos_module_tests::testbed::{Cluster, Host, until};

use crate::build::bare_root;

/// The configuration that an operator writes, with one network.
pub(crate) const CONFIGURED: &str = "[[network]]\nname = \"blue\"\nprovider = \"bridge\"\nbridge = \"blue0\"\nsubnet = \"10.32.0.0/24\"\n";
/// Where the echo server of a container listens.
pub(crate) const ECHO_PORT: u16 = 7;

/// Starts such a host.
pub(crate) fn host() -> Result<Host> {
    let host = Host::with_root("192.0.2.1".parse()?, &bare_root()?)?;
    // As `ip netns` and the first use of them leave them.
    host.sh("ip netns add once && ip netns delete once")?;
    host.sh("mkdir -p /var/log /var/cache")?;
    Ok(host)
}

/// Every file of the system but those of the package manager, of logs and of processes.
pub(crate) fn files(host: &Host) -> Result<BTreeSet<String>> {
    let list = host.sh("find / -xdev \\( -path /var/lib/dpkg -o -path /var/cache -o -path /var/log \
         -o -path /tmp -o -path '/etc/*-' -o -path /var/lib/rpm -o -path /root/.rpmdb \\) -prune -o -print")?;
    Ok(list.lines().map(ToOwned::to_owned).collect())
}

/// Starts master and agent with the library and the configuration of the package.
pub(crate) fn cluster(host: &Host) -> Result<Cluster> {
    let library = Path::new("/usr/lib/mesos/modules/libcontrail_mesos.so");
    let config = "/etc/contrail-mesos/agent.toml";
    Cluster::on(host)
        .module(library, "network/contrail", &[("config", config)])
        .module(library, "org_contrail_mesos_Hook", &[])
        .isolation(&["network/contrail"])
        .hooks(&["org_contrail_mesos_Hook"])
        .start()
}

/// What the agent has mapped of the library.
pub(crate) fn mapped_library(host: &Host) -> Result<String> {
    host.sh("grep -hs libcontrail_mesos.so /proc/[0-9]*/maps | head -n 1")
}

/// Starts a program as an operator does without systemd. `user` runs it, unless it is root.
pub(crate) fn start_daemon(host: &Host, program: &str, user: &str, arguments: &str) -> Result<()> {
    host.sh(&format!(
        "start-stop-daemon --start --background --make-pidfile --pidfile /run/{program}.pid \
         --chuid {user} --output /var/log/{program}.log --exec /usr/bin/{program} -- {arguments}"
    ))?;
    Ok(())
}

/// Stops it by SIGTERM, and waits until it has ended.
pub(crate) fn stop_daemon(host: &Host, program: &str) -> Result<()> {
    host.sh(&format!(
        "start-stop-daemon --stop --pidfile /run/{program}.pid --retry TERM/30 --remove-pidfile"
    ))?;
    Ok(())
}

/// A TCP connection from the host to the echo server of a container.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(host: &Host, address: IpAddr) -> Result<Self> {
        let address = SocketAddr::new(address, ECHO_PORT);
        let stream = until("the container answers", || {
            Ok(Some(host.run(|| {
                TcpStream::connect_timeout(&address, Duration::from_secs(5))
            })??))
        })?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        Ok(Self(stream))
    }

    /// Sends a text, and expects it back.
    pub(crate) fn echo(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        self.0.read_exact(&mut answer)?;
        ensure!(answer == text.as_bytes(), "{answer:?} for {text}");
        Ok(())
    }
}
