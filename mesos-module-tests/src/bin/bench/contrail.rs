//! A Contrail container from the request to the usable interface: contrail-mesos, and as the
//! baseline the same calls and netlink requests by a bare client, one after the other. As the
//! baseline of an attach to a bridge does, it first makes a file durable that names what it makes.
//! Both use the same simulated API server and vRouter agent, in turns.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use contrail_mesos::config::{Config, Source};
use contrail_mesos::isolator::attacher::{Attacher, Target};
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner};
use contrail_mesos::net::addressing::{self, NewRoute};
use contrail_mesos::net::links::{self, VethPair};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::netns::{self, Kind};
use contrail_mesos::network_request;
use contrail_mesos::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use contrail_mesos::vrouter::{ExpectedPorts, Port, VrouterClient, VrouterOptions};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_manager::vnc::{
    FqName, InstanceIp, KeyValues, Object as _, Ref, VirtualMachine, VirtualMachineInterface,
    VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_manager::{self as manager, Manager};
use contrail_mesos_sim::{vnc as api, vrouter as agent};
use futures::future::join_all;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::mpsc::unbounded_channel;
use uuid::Uuid;

use crate::netlink_baseline::write_durably;
use crate::report::{Report, Row, Samples};
use crate::subject::subdirectory;

const BURSTS: [usize; 2] = [50, 500];
const NETWORK: &str = "default-domain:mesos-default:mesos-default-pod-task-network";
const PROJECT: [&str; 2] = ["default-domain", "mesos-default"];
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// Measures, in a network namespace of its own.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])?;
            let directory = tempfile::Builder::new()
                .prefix("contrail-mesos-bench-")
                .tempdir()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(measure_here(rounds, directory.path(), report))
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

async fn measure_here(rounds: usize, directory: &Path, report: &mut Report) -> Result<()> {
    let fixture = Fixture::start(directory).await?;
    let (mut ours, mut floor) = (Samples::default(), Samples::default());
    let (mut our_calls, mut floor_calls) = (0, 0);
    // Names, subnets and connections are known by the second.
    for round in 0..=rounds {
        let container = Container::new()?;
        let (calls, start) = (fixture.calls(), Instant::now());
        let checkpoint = fixture.attach(&container).await?;
        if round > 0 {
            ours.add(start.elapsed().as_secs_f64() * 1e3, 0.0);
            our_calls += fixture.calls() - calls;
        }
        fixture.detach(&checkpoint).await?;
        let container = Container::new()?;
        let (calls, start) = (fixture.calls(), Instant::now());
        let bare = fixture.bare_attach(&container).await?;
        if round > 0 {
            floor.add(start.elapsed().as_secs_f64() * 1e3, 0.0);
            floor_calls += fixture.calls() - calls;
        }
        fixture.bare_detach(bare).await?;
    }
    report.add(
        Row::new("contrail: request to usable interface p50", "ms")
            .figures(ours.wall(0.5), None, floor.wall(0.5))
            .goal("<= 1.2x floor", |row| Some(row.to_floor? <= 1.2)),
    );
    report.add(
        Row::new("contrail: request to usable interface p99", "ms").figures(
            ours.wall(0.99),
            None,
            floor.wall(0.99),
        ),
    );
    let each = |calls: usize| Some(as_f64(calls) / as_f64(rounds));
    report.add(
        Row::new("contrail: API calls a container", "calls")
            .figures(each(our_calls), None, each(floor_calls))
            .goal("no more than the objects need", |row| {
                Some(row.ours? <= row.floor?)
            }),
    );
    for count in BURSTS {
        let (own, own_calls) = fixture.burst(count).await?;
        let bare = fixture.bare_burst(count).await?;
        let rate = |seconds: f64| Some(as_f64(count) / seconds);
        let row = Row::new(format!("contrail: burst of {count}"), "1/s").figures(
            rate(own),
            None,
            rate(bare),
        );
        report.add(if count == 500 {
            row.goal(">= 200 a second, >= 0.8x floor", |row| {
                Some(row.ours? >= 200.0 && row.to_floor? >= 0.8)
            })
        } else {
            row.goal(">= 0.8x floor", |row| Some(row.to_floor? >= 0.8))
        });
        report.add(
            Row::new(
                format!("contrail: API calls a container, burst of {count}"),
                "calls",
            )
            .figures(
                Some(as_f64(own_calls) / as_f64(count)),
                None,
                each(floor_calls),
            ),
        );
    }
    fixture.manager.stop().await;
    fixture.agent.stop().await?;
    Ok(())
}

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A container: a network namespace and an id.
struct Container {
    id: ContainerId,
    namespace: Arc<OwnedFd>,
}

impl Container {
    fn new() -> Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok::<_, anyhow::Error>(netns::of_this_thread(Kind::Net)?)
        });
        let namespace = made.join().map_err(|_| anyhow!("a thread panicked"))??;
        Ok(Self {
            id: ContainerId::top_level(&Uuid::new_v4().to_string()),
            namespace: Arc::new(namespace),
        })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.namespace.as_raw_fd()).into()
    }
}

/// Everything that both need.
struct Fixture {
    api: api::Handle,
    agent: agent::Handle,
    manager: Manager,
    attacher: Attacher,
    config: Config,
    client: VncClient,
    vrouter: VrouterClient,
    /// The directory of the bare client's files.
    files: PathBuf,
    /// What the manager knows from earlier containers, the bare client is given.
    network: Uuid,
    router: Uuid,
}

impl Fixture {
    async fn start(directory: &Path) -> Result<Self> {
        // As the real server does.
        let options = api::Options {
            split_writes: true,
            ..api::Options::default()
        };
        let (address, api) = api::Server::start(options).await?;
        let control = api
            .control(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await?;
        let server = VncOptions::new(vec![server_address(&address.to_string())?]);
        let client = VncClient::new(server.clone())?;
        let mut settings = manager::Config::new(server);
        settings.listen.set_port(0);
        settings.admin_listen = None;
        settings.provision = Some(manager::Provision {
            pod_task_subnets: vec!["10.32.0.0/12".parse()?],
            ip_fabric_subnets: vec!["10.64.0.0/12".parse()?],
            ..manager::Provision::default()
        });
        let manager = Manager::start(settings).await?;
        manager.ready().await;
        let mut router =
            VirtualRouter::named(FqName::new(["default-global-system-config", "node-1"]));
        router.virtual_router_ip_address = std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into();
        let router = client.ensure(&router).await?.uuid;
        let control = format!("http://{control}");
        let options = agent::Options::new("node-1", &control, directory.join("ports"));
        let (listens, agent) = agent::Agent::start(options).await?;
        let vrouter = VrouterClient::new(&VrouterOptions {
            port: listens.port(),
            ..VrouterOptions::default()
        })?;
        let path = directory.join("agent.toml");
        let text = format!(
            "state_dir = '{here}/state'\nnetns_dir = '{here}/netns'\n\
             [contrail]\nmanagers = ['{manager}']\nagent = 'node-1'\nvrouter = '{listens}'\n\
             port_directory = '{here}/ports/vm'\n\
             [[network]]\nname = 'bench'\nprovider = 'contrail'\n",
            here = directory.display(),
            manager = manager.url(),
        );
        std::fs::write(&path, text)?;
        let config = Source::file(path).load()?;
        let (lost, _nobody_waits) = unbounded_channel();
        let attacher = Attacher::new(&config, lost)?;
        let name: FqName = NETWORK.parse()?;
        let network = client
            .id_of::<contrail_mesos_manager::vnc::VirtualNetwork>(&name)
            .await?
            .context("the default network is not there")?;
        Ok(Self {
            api,
            agent,
            manager,
            attacher,
            config,
            client,
            vrouter,
            files: subdirectory(directory, "floor")?,
            network,
            router,
        })
    }

    /// How many calls the API server has had.
    fn calls(&self) -> usize {
        self.api.log().len()
    }

    async fn attach(&self, container: &Container) -> Result<Checkpoint> {
        let info = ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: vec![NetworkInfo {
                name: Some(b"bench".to_vec()),
                ..NetworkInfo::default()
            }],
        };
        let request = network_request::parse(&container.id, &info, &self.config)?;
        let id = &container.id;
        let checkpoint = self
            .attacher
            .reserve(&request, id, Owner::Agent, None)
            .await?;
        let target = Target::Namespace(container.path());
        self.attacher.attach(&checkpoint, target).await?;
        Ok(checkpoint)
    }

    async fn detach(&self, checkpoint: &Checkpoint) -> Result<()> {
        Ok(self.attacher.detach(checkpoint).await?)
    }

    /// Seconds for so many at once, and the calls that it took.
    async fn burst(&self, count: usize) -> Result<(f64, usize)> {
        let containers = many(count)?;
        let (calls, start) = (self.calls(), Instant::now());
        let attached = join_all(containers.iter().map(|one| self.attach(one))).await;
        let seconds = start.elapsed().as_secs_f64();
        let calls = self.calls() - calls;
        let checkpoints: Vec<_> = attached.into_iter().collect::<Result<_>>()?;
        let detached = join_all(checkpoints.iter().map(|one| self.detach(one))).await;
        detached.into_iter().collect::<Result<()>>()?;
        Ok((seconds, calls))
    }

    async fn bare_burst(&self, count: usize) -> Result<f64> {
        let containers = many(count)?;
        let start = Instant::now();
        let attached = join_all(containers.iter().map(|one| self.bare_attach(one))).await;
        let seconds = start.elapsed().as_secs_f64();
        for bare in attached {
            self.bare_detach(bare?).await?;
        }
        Ok(seconds)
    }

    /// The calls that a container needs, by a client that knows every name and does nothing else.
    async fn bare_attach(&self, container: &Container) -> Result<Bare> {
        let machine: Uuid = container.id.value().parse()?;
        let (port, address) = (Uuid::new_v4(), Uuid::new_v4());
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        let path = self.files.join(machine.to_string());
        tokio::task::spawn_blocking(move || write_durably(&path)).await??;
        let name = FqName::new([machine.to_string()]);
        let mut object = VirtualMachine::named(name.clone());
        object.common.uuid = Some(machine);
        self.client.create(&object).await?;
        let network: FqName = NETWORK.parse()?;
        let mut interface =
            VirtualMachineInterface::named(FqName::new(PROJECT).child(port.to_string()));
        interface.common.uuid = Some(port);
        interface.virtual_network_refs = vec![Ref::to(network.clone())];
        interface.virtual_machine_refs = vec![Ref::to(name)];
        interface.common.annotations = KeyValues::from_iter([("index", "0/1")]);
        self.client.create(&interface).await?;
        let mut ip = InstanceIp::named(FqName::new([address.to_string()]));
        ip.common.uuid = Some(address);
        ip.virtual_network_refs = vec![Ref::to(network)];
        ip.virtual_machine_interface_refs = vec![Ref::to(interface.common.fq_name.clone())];
        self.client.create(&ip).await?;
        self.client.read::<InstanceIp>(address).await?;
        self.client
            .link::<VirtualRouter, VirtualMachine>(self.router, machine)
            .await?;
        let configured = self
            .vrouter
            .await_configuration(machine, ExpectedPorts::Uuids(&[port]), deadline)
            .await?;
        let mac = configured.first().context("no interface")?.mac;
        let host_end = format!("b{}", &port.simple().to_string()[..12]);
        let namespace = Arc::clone(&container.namespace);
        let link = host_end.clone();
        tokio::task::spawn_blocking(move || {
            let pair = VethPair {
                host: &link,
                inner: "eth0",
                mac: mac.0,
                mtu: 1500,
                alias: &link,
                bridge: None,
            };
            links::create_veth(&mut NetlinkSocket::route()?, &pair, namespace.as_fd(), [])
                .map_err(|error| anyhow!("cannot make the pair: {error:?}"))
        })
        .await??;
        let registration = Port {
            time: Port::now(),
            vm_id: machine.to_string(),
            vm_uuid: machine,
            vm_name: machine.to_string(),
            host_ifname: host_end.clone(),
            vm_ifname: "eth0".to_owned(),
            vm_namespace: String::new(),
            vn_uuid: self.network,
            vmi_uuid: port,
        };
        self.vrouter.register(&registration, deadline).await?;
        let plugged = self
            .vrouter
            .await_addresses(machine, &[port], deadline)
            .await?;
        let v4 = plugged
            .first()
            .and_then(|port| port.v4)
            .context("no address")?;
        let namespace = container.namespace.try_clone()?;
        netns::run_in(namespace, move || {
            let mut socket = NetlinkSocket::route()?;
            let index = links::by_name(&mut socket, "eth0")?
                .context("eth0 is gone")?
                .index;
            let net = ipnet::IpNet::new(v4.address, v4.prefix.unwrap_or(24))?;
            let mut requests = vec![
                links::set_up("lo", None),
                links::set_up("eth0", None),
                addressing::add_address(index, "eth0", net),
            ];
            if let Some(gateway) = v4.gateway {
                let default = NewRoute {
                    destination: "0.0.0.0/0".parse()?,
                    gateway: Some(gateway),
                    index,
                    table: None,
                    metric: None,
                };
                requests.push(default.request());
            }
            Ok::<_, anyhow::Error>(socket.execute_all(&requests)?)
        })
        .await??;
        Ok(Bare {
            machine,
            port,
            address,
            host_end,
        })
    }

    async fn bare_detach(&self, bare: Bare) -> Result<()> {
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        self.vrouter.unregister(bare.machine, deadline).await?;
        tokio::task::spawn_blocking(move || {
            NetlinkSocket::route()?.execute_all(&[links::delete(&bare.host_end)])
        })
        .await??;
        self.client
            .unlink::<VirtualRouter, VirtualMachine>(self.router, bare.machine)
            .await?;
        self.client.delete::<InstanceIp>(bare.address).await?;
        self.client
            .delete::<VirtualMachineInterface>(bare.port)
            .await?;
        self.client.delete::<VirtualMachine>(bare.machine).await?;
        std::fs::remove_file(self.files.join(bare.machine.to_string()))?;
        Ok(())
    }
}

fn many(count: usize) -> Result<Vec<Container>> {
    (0..count).map(|_| Container::new()).collect()
}

/// What the bare client made.
struct Bare {
    machine: Uuid,
    port: Uuid,
    address: Uuid,
    host_end: String,
}
