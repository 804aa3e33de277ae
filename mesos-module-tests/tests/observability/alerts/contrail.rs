//! Faults of managers with Contrail, of their sources, and of ZooKeeper.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::agent_api::AGENT_HEADER;
use contrail_mesos_manager::vnc::{FqName, InstanceIp, KeyValues, Object as _, Ref};
use contrail_mesos_sim::vnc::{Effect, Fault as ApiFault};
use mesos_module_tests::testbed::manager::{ADMIN_PORT, AGENT_NAME, AGENT_PORT, request, vm_uuid};
use mesos_module_tests::testbed::prometheus::Prometheus;
use mesos_module_tests::testbed::until;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::{Fault, expect_data, fire_all};
use crate::fixture::{Fixture, TOKEN};
use crate::task;

/// How many objects that cannot be removed are made: more than a backlog needs.
const ORPHANS: usize = 120;
/// More requests at once than one address may have.
const REQUESTS: usize = 300;

const FAULTS: &[Fault<Cluster>] = &[
    Fault {
        inject: request_invalid_networks,
        alerts: &["ContrailMesosContainersFail"],
    },
    Fault {
        inject: delay_the_api_server,
        alerts: &["ContrailMesosAttachesSlow"],
    },
    Fault {
        inject: fail_writes,
        alerts: &[
            "ContrailMesosContainersUnfinished",
            "ContrailMesosOrphansRemain",
            "ContrailMesosReconcileFails",
            "ContrailMesosReconcileBacklog",
        ],
    },
    Fault {
        inject: hang_the_api_server,
        alerts: &[
            "ContrailMesosConnectionsRefused",
            "ContrailMesosVncApiDown",
            "ContrailMesosSourceNotFresh",
            "ContrailMesosSourceNotTrusted",
        ],
    },
    Fault {
        inject: lower_the_limit_of_files,
        alerts: &["ContrailMesosFileDescriptorsRunOut"],
    },
    Fault {
        inject: elect_the_standby_elsewhere,
        alerts: &[
            "ContrailMesosSeveralLeaders",
            "ContrailMesosCertificateExpires",
        ],
    },
    Fault {
        inject: kill_the_standby,
        alerts: &["ContrailMesosManagerDown"],
    },
    Fault {
        inject: lose_zookeeper,
        alerts: &[
            "ContrailMesosManagerWithoutZooKeeper",
            "ContrailMesosManagersDoNotServe",
            "ContrailMesosNoLeader",
        ],
    },
];

/// The alerts that this test fires.
pub(super) fn alerts() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().flat_map(|fault| fault.alerts.iter().copied())
}

struct Cluster {
    fixture: Fixture,
    prometheus: Prometheus,
    leader: usize,
    /// The container of the running task.
    container: String,
}

impl Cluster {
    fn standby(&self) -> usize {
        1 - self.leader
    }
}

#[test]
fn faults_of_managers_and_contrail_fire_their_alerts() -> Result<()> {
    let mut cluster = start()?;
    let mut run = || -> Result<()> {
        expect_data(&cluster.prometheus, "manager")?;
        cluster.prometheus.expect_only(&[])?;
        fire_all(&mut cluster, |cluster| &cluster.prometheus, FAULTS)
    };
    run().with_context(|| cluster.fixture.managers.logs())?;
    drop(cluster.prometheus);
    cluster.fixture.stop()
}

fn start() -> Result<Cluster> {
    let fixture = Fixture::start()?;
    let leader = fixture.managers.leader()?;
    fixture.register_router()?;
    let managers = fixture.managers.managers().iter();
    let managers = managers.map(|manager| SocketAddr::new(manager.address(), ADMIN_PORT));
    let jobs = [("contrail-mesos-manager", managers.collect())];
    let prometheus = Prometheus::start(&fixture.host, &jobs)?;
    let web = task(1);
    let container = fixture.run_task(&web)?;
    fixture.marathon.app("/shop/web", &[&web], &json!({}));
    fixture.managers.put(&container, &[])?;
    fixture.wait_for_metrics(leader, &["containers_known 1", "queue_length 0"])?;
    Ok(Cluster {
        fixture,
        prometheus,
        leader,
        container,
    })
}

fn request_invalid_networks(cluster: &mut Cluster) -> Result<()> {
    let metric = "contrail_mesos_manager_containers_failed_total{cause=\"invalid_request\"}";
    for number in 0..2 {
        let container = format!("11111111-2222-3333-4444-55555555555{number}");
        let labels = [("networks", "nowhere")];
        let response = (cluster.fixture).put_at(cluster.leader, &container, &labels)?;
        ensure!(response.status == 400, "{}", response.body);
        // The first of a cause begins its series.
        until("the failure is scraped", || {
            Ok((cluster.prometheus.value(metric)? > 0.0).then_some(()))
        })?;
    }
    Ok(())
}

fn delay_the_api_server(cluster: &mut Cluster) -> Result<()> {
    cluster.fixture.api.set_delay(Duration::from_millis(600));
    let put = cluster.fixture.managers.put("slow", &[]);
    cluster.fixture.api.set_delay(Duration::ZERO);
    put?;
    cluster.fixture.managers.delete("slow")
}

/// Half of a container cannot be created, and nothing that is left can be removed.
fn fail_writes(cluster: &mut Cluster) -> Result<()> {
    let fixture = &cluster.fixture;
    let machine = fixture.api.object(&vm_uuid(&cluster.container).to_string());
    let machine = machine.context("no virtual-machine")?;
    let pairs = machine["annotations"]["key_value_pair"].as_array();
    let mut pairs = pairs.into_iter().flatten();
    let owner = pairs.find(|pair| pair["key"] == "cluster");
    let owner = owner.and_then(|pair| pair["value"].as_str());
    let owner = owner.context("no cluster")?;
    let networks = fixture.api.objects("virtual-network");
    let mut networks = networks.iter();
    let network = networks.find(|one| one["fq_name"][2] == "mesos-default-pod-task-network");
    let network: FqName =
        serde_json::from_value(network.context("no network")?["fq_name"].clone())?;
    for number in 0..ORPHANS {
        let mut orphan = InstanceIp::named(FqName::new([format!("left-{number}").as_str()]));
        orphan.common.annotations = [("owner", "contrail-mesos"), ("cluster", owner)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<KeyValues>();
        orphan.virtual_network_refs = vec![Ref::to(network.clone())];
        if number == 0 {
            let broken = || Effect::Status(500, "broken".to_owned());
            fixture
                .api
                .fault(ApiFault::new(broken()).on("DELETE", "/instance-ip"));
        }
        fixture.host.block_on(fixture.vnc.create(&orphan))?;
    }
    let broken = Effect::Status(500, "broken".to_owned());
    let fault = ApiFault::new(broken).on("POST", "/instance-ips");
    fixture.api.fault(fault);
    let half = fixture.run_task(&task(2))?;
    let response = fixture.put_at(cluster.leader, &half, &[])?;
    ensure!(response.status >= 500, "{}", response.body);
    Ok(())
}

/// Requests of one address that all wait for the API server.
fn hang_the_api_server(cluster: &mut Cluster) -> Result<()> {
    cluster.fixture.api.clear_faults();
    cluster.fixture.api.fault(ApiFault::new(Effect::Hang));
    let manager = cluster.fixture.managers.manager(cluster.leader);
    let address = SocketAddr::new(manager.address(), AGENT_PORT);
    let machine = vm_uuid("waits");
    let body = serde_json::to_string(&request("waits", &[]))?;
    let message = format!(
        "PUT /v1/ports/{machine} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TOKEN}\r\n\
         {AGENT_HEADER}: {AGENT_NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut streams: Vec<TcpStream> = vec![];
    let metric = "sum(contrail_mesos_manager_connections_closed_total{reason=\"address_limit\"})";
    until("refusals are scraped", || {
        // Those beyond the limit may be closed while they are written to.
        let opened = cluster.fixture.host.run(|| {
            let requests = (0..REQUESTS).map(|_| {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(message.as_bytes())?;
                std::io::Result::Ok(stream)
            });
            requests.flatten().collect::<Vec<_>>()
        })?;
        streams.extend(opened);
        // The first refusals begin the series.
        Ok((cluster
            .prometheus
            .value(&format!("increase({metric}[5m:1s])"))?
            > 0.0)
            .then_some(()))
    })
}

fn lower_the_limit_of_files(cluster: &mut Cluster) -> Result<()> {
    cluster.fixture.api.clear_faults();
    let pid = cluster.fixture.managers.manager(cluster.standby()).pid()?;
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = format!("prlimit --pid {pid} --nofile={0}:{0}", open + 4);
    // In the process namespace of the machine.
    let output = std::process::Command::new("/bin/sh")
        .args(["-ec", &limit])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// The standby gets another path in ZooKeeper, and a certificate that expires in a week.
fn elect_the_standby_elsewhere(cluster: &mut Cluster) -> Result<()> {
    let standby = cluster.standby();
    let key = KeyPair::generate()?;
    let address = cluster.fixture.managers.manager(standby).address();
    let mut parameters = CertificateParams::new(vec![address.to_string()])?;
    let week = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(7 * 24);
    let date = week.to_zoned(jiff::tz::TimeZone::UTC).date();
    let part = |part: i8| u8::try_from(part);
    parameters.not_after = rcgen::date_time_ymd(
        i32::from(date.year()),
        part(date.month())?,
        part(date.day())?,
    );
    let certificate = parameters.self_signed(&key)?;
    let directory = cluster.fixture.host.directory().to_owned();
    fs::write(directory.join("standby.pem"), certificate.pem())?;
    fs::write(directory.join("standby.key"), key.serialize_pem())?;

    let manager = cluster.fixture.managers.manager_mut(standby);
    manager.kill()?;
    let path = manager.path("toml");
    let text = fs::read_to_string(&path)?;
    let text = text.replace("/contrail/managers", "/contrail/others");
    let tls = format!(
        "[tls]\ncertificate = '{0}/standby.pem'\nkey = '{0}/standby.key'\n",
        directory.display()
    );
    fs::write(&path, format!("{text}{tls}"))?;
    manager.start()
}

fn kill_the_standby(cluster: &mut Cluster) -> Result<()> {
    let standby = cluster.standby();
    cluster.fixture.managers.manager_mut(standby).kill()
}

fn lose_zookeeper(cluster: &mut Cluster) -> Result<()> {
    cluster.fixture.zookeeper.kill()
}
