//! Peers that hold connections of the manager while containers are attached. The manager may have
//! 1,024 descriptors only.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::program::raise_open_files_limit;
use mesos_module_tests::testbed::Host;
use mesos_module_tests::testbed::agent::{self, Agent};
use mesos_module_tests::testbed::contrail::Contrail;
use mesos_module_tests::testbed::manager::{ADMIN_PORT, AGENT_PORT, LEGACY_PORT};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpStream;

use crate::fixture::{Fixture, address_in, blue};

/// Runs a manager so that it cannot raise the limit of its descriptors.
const FEW_DESCRIPTORS: [&str; 2] = ["prlimit", "--nofile=1024:1024"];

/// Opens connections to a port of the host that send nothing.
fn connect(host: &Host, port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let address = SocketAddr::new(host.address(), port);
    host.block_on(async {
        let mut streams = vec![];
        for _ in 0..count {
            streams.push(TcpStream::connect(address).await?);
        }
        Ok(streams)
    })
}

/// Runs and ends a few tasks.
fn run_tasks(fixture: &Fixture, name: &str) -> Result<()> {
    let ids: Vec<_> = (0..5).map(|number| format!("{name}-{number}")).collect();
    for id in &ids {
        fixture.agent.launch(blue(id))?;
    }
    for id in &ids {
        let update = fixture.agent.settled(id)?;
        address_in(&update, "5.5.5.").with_context(|| update.to_string())?;
    }
    for id in &ids {
        fixture.agent.kill(id)?;
    }
    fixture.expect_nothing()
}

#[test]
fn idle_connections_do_not_keep_containers_from_their_networks() -> Result<()> {
    raise_open_files_limit();
    let host = agent::host()?;
    let mut contrail = Contrail::start_with(&host, "", &FEW_DESCRIPTORS)?;
    let vrouter = contrail.vrouter(&host, "node-1", None)?;
    let config = contrail.agent_config(&host, &vrouter)?;
    let agent = Agent::start_on(host.clone(), &config, |cluster| cluster)?;
    let fixture = Fixture {
        agent,
        vrouter,
        contrail,
    };
    let mut idle = connect(&host, AGENT_PORT, 1200)?;
    run_tasks(&fixture, "agents")?;
    idle.extend(connect(&host, LEGACY_PORT, 600)?);
    idle.extend(connect(&host, ADMIN_PORT, 600)?);
    run_tasks(&fixture, "all")?;
    let metrics = fixture.contrail.manager().get("/metrics")?.body;
    let closed = "connections_closed_total{api=\"agents\",reason=\"made_room\"}";
    ensure!(metrics.contains(closed), "{metrics}");
    let log = fixture.contrail.manager().log();
    ensure!(!log.contains("cannot accept a connection"), "{log}");
    drop((idle, host));
    fixture.end()
}

/// Writes the certificates of a manager and of an agent, and returns their tables and keys.
fn certificates(host: &Host, agent: &str) -> Result<(String, String)> {
    let directory = host.directory();
    let path = |name: &str| directory.join(name).display().to_string();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(path("ca.pem"), issuer.pem())?;
    let address: IpAddr = host.address();
    for (name, alternative) in [("manager", address.to_string()), (agent, agent.to_owned())] {
        let mut params = CertificateParams::new(vec![alternative])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        std::fs::write(
            path(&format!("{name}.pem")),
            params.signed_by(&key, &issuer)?.pem(),
        )?;
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem())?;
    }
    let tls = format!(
        "[tls]\ncertificate = '{}'\nkey = '{}'\nclient_ca = '{}'\n",
        path("manager.pem"),
        path("manager.key"),
        path("ca.pem")
    );
    let keys = format!(
        "ca_file = '{}'\ncertificate_file = '{}'\nkey_file = '{}'\n",
        path("ca.pem"),
        path(&format!("{agent}.pem")),
        path(&format!("{agent}.key"))
    );
    Ok((tls, keys))
}

#[test]
fn silent_tls_connections_do_not_keep_containers_from_their_networks() -> Result<()> {
    raise_open_files_limit();
    let host = agent::host()?;
    let (tls, keys) = certificates(&host, "node-1")?;
    let mut contrail = Contrail::start_with(&host, &tls, &FEW_DESCRIPTORS)?;
    let vrouter = contrail.vrouter(&host, "node-1", None)?;
    let config = contrail.agent_config(&host, &vrouter)?;
    let manager = SocketAddr::new(host.address(), AGENT_PORT);
    let config = config.replace(&format!("'{manager}'"), &format!("'https://{manager}'"));
    let config = config.replace("[contrail]\n", &format!("[contrail]\n{keys}"));
    let agent = Agent::start_on(host.clone(), &config, |cluster| cluster)?;
    let fixture = Fixture {
        agent,
        vrouter,
        contrail,
    };
    let silent = connect(&host, AGENT_PORT, 900)?;
    run_tasks(&fixture, "tls")?;
    drop((silent, host));
    fixture.end()
}
