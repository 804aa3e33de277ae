//! Hosts of the overlay, each a namespace with a cable to a switch: ours, those of the floor, and one
//! of the CNI plugin.
//!
//! The floor is the same topology of bare links, set up by one thread in the fewest requests: veth
//! pairs, a bridge and a VXLAN device on each host, permanent entries, routes. It has no rules of
//! nftables, no files and no notifications.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use contrail_mesos::net::addressing::{self, NewRoute};
use contrail_mesos::net::links::{self, BridgePort, VethPair};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::vxlan::{self, Tunnel, VxlanLink};
use contrail_mesos::net::{neighbours, routes, sysctl};
use contrail_mesos::proto::mesos::NetworkInfo;
use contrail_mesos_api::cluster::{
    Node, NodeSubnets, Object, Overlay, Revision, Underlay, VXLAN_PORT, Vtep,
};
use contrail_mesos_api::container::Mac;
use contrail_mesos_node::cluster_state::ClusterState;
use contrail_mesos_node::daemon;
use contrail_mesos_node::subsystem::{Mode, Subsystem};
use ipnet::IpNet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};

use super::traffic::Place;
use super::worker::Worker;
use crate::cni_plugins::CniPlugins;
use crate::contrail_mesos::ContrailMesos;
use crate::subject::{Attach as _, Container, subdirectory};

/// The MTU of cables, and what VXLAN leaves of it.
const CABLE_MTU: u32 = 1500;
const OVERLAY_MTU: u32 = 1450;
/// The overlay, whose network identifier is the same for ours and the floor: they do not meet.
pub(crate) const OVERLAY: &str = "bench";
const VNI: u32 = 4097;
/// The name of the device of [`VNI`].
pub(crate) const VTEP: &str = "vtep4097";
const BRIDGE: &str = "floor0";
/// The protocol number of the floor's routes.
const FLOOR_PROTOCOL: u8 = 4;

/// The numbers of two hosts in one overlay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair(pub(crate) u8, pub(crate) u8);

/// The node with this number. Numbers from 1 to 65000 are possible.
pub(crate) fn node(number: u16) -> Node {
    let [high, low] = number.to_be_bytes();
    Node {
        name: format!("node-{number}"),
        address: IpAddr::from([198, 18, high, low]),
        vtep: Vtep {
            address: Ipv4Addr::new(44, 128, high, low),
            address6: Some(Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, number)),
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, high, low]),
        },
        subnets: vec![NodeSubnets {
            overlay: OVERLAY.to_owned(),
            subnet: format!("9.{high}.{low}.0/24").parse().ok(),
            subnet6: format!("fd09:0:0:{number:x}::/64").parse().ok(),
            blocks: vec![],
            returned: 0,
        }],
    }
}

/// A cluster of these nodes, seen from one of them.
pub(crate) fn cluster(own: u16, nodes: impl IntoIterator<Item = u16>) -> Result<ClusterState> {
    let revision = Revision {
        term: 1,
        counter: 1,
    };
    let mut state = ClusterState::empty(&node(own).name, revision);
    state.put(Object::Underlay(Underlay {
        vtep_subnet: "44.128.0.0/16".parse()?,
        vtep_subnet6: Some("fd44::/64".parse()?),
        vxlan_port: VXLAN_PORT,
    }));
    state.put(Object::Overlay(Overlay {
        name: OVERLAY.to_owned(),
        vni: VNI,
        subnet: Some("9.0.0.0/8".parse()?),
        subnet6: Some("fd09::/48".parse()?),
        mtu: None,
        enabled: true,
        groups: None,
        isolated: false,
        lends_blocks: false,
    }));
    for number in nodes {
        state.put(Object::Node(node(number)));
    }
    Ok(state)
}

/// The switch between all hosts.
pub(crate) struct Switch(Worker<NetlinkSocket>);

impl Switch {
    pub(crate) fn start() -> Result<Self> {
        Worker::start(|| {
            let mut socket = NetlinkSocket::route()?;
            socket.execute_all(&[
                links::create_bridge("switch", [2, 0, 0, 0, 0, 1], CABLE_MTU),
                links::set_up("switch", None),
            ])?;
            Ok(socket)
        })
        .map(Self)
    }

    /// Lays a cable to the interface `uplink` of the host with this number.
    pub(crate) fn connect<S: 'static>(&self, number: u8, host: &Worker<S>) -> Result<()> {
        let namespace = host.namespace().try_clone()?;
        self.0.run(move |socket| {
            let name = format!("port{number}");
            let pair = VethPair {
                host: &name,
                inner: "uplink",
                mac: [2, 0, 0, 0, 1, number],
                mtu: CABLE_MTU,
                alias: &name,
                bridge: Some(BridgePort {
                    bridge: index(socket, "switch")?,
                    hairpin: false,
                    is_isolated: false,
                }),
            };
            links::create_veth(socket, &pair, namespace.as_fd(), [])
                .map_err(|error| anyhow!("cannot lay a cable: {error:?}"))?;
            Ok(())
        })?;
        host.run(move |_| set_up_uplink(number))
    }
}

/// Gives this thread's namespace the underlay address of a node.
fn set_up_uplink(number: u8) -> Result<()> {
    let mut socket = NetlinkSocket::route()?;
    let address = IpNet::new(node(number.into()).address, 15)?;
    let uplink = index(&mut socket, "uplink")?;
    socket.execute_all(&[
        links::set_up("uplink", None),
        addressing::add_address(uplink, "uplink", address),
    ])?;
    Ok(())
}

fn index(socket: &mut NetlinkSocket, name: &str) -> Result<u32> {
    let link = links::by_name(socket, name)?;
    Ok(link.with_context(|| format!("{name} is gone"))?.index)
}

/// A directory for a host's files, with handles of namespaces on a memory file system.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("contrail-mesos-bench-")
            .tempdir()?;
        let run = subdirectory(directory.path(), "run")?;
        subdirectory(directory.path(), "containers")?;
        let none: Option<&str> = None;
        mount(Some("bench"), &run, Some("tmpfs"), MsFlags::empty(), none)?;
        Ok(Self(directory))
    }

    fn handles(&self) -> PathBuf {
        self.0.path().join("containers")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let handles = std::fs::read_dir(self.handles()).into_iter().flatten();
        let handles = handles.flatten().map(|handle| handle.path());
        // Otherwise the directory cannot be removed.
        for mounted in handles.chain([self.0.path().join("run")]) {
            if let Err(error) = umount2(&mounted, MntFlags::MNT_DETACH) {
                log::error!("cannot unmount {}: {error}", mounted.display());
            }
        }
    }
}

/// A container that is attached.
pub(crate) struct Attached {
    pub(crate) container: Container,
    pub(crate) place: Place,
}

/// The addresses of `eth0` in a container.
fn place(container: &Container) -> Result<Place> {
    let namespace = Arc::new(container.namespace.try_clone()?);
    let inside = super::worker::inside(&*namespace, || {
        let mut socket = NetlinkSocket::route()?;
        let eth0 = index(&mut socket, "eth0")?;
        let all = addressing::addresses(&mut socket)?;
        let addresses = all.into_iter().filter(|(index, _)| *index == eth0);
        Ok(addresses.map(|(_, net)| net.addr()).collect::<Vec<_>>())
    })?;
    let addresses = super::worker::join(inside)?;
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mut usable = addresses.into_iter().filter(|one| !is_link_local(one));
    let v4 = usable.clone().find(IpAddr::is_ipv4);
    Ok(Place {
        namespace,
        v4: v4.context("no IPv4 address")?,
        v6: usable.find(IpAddr::is_ipv6),
    })
}

/// What a host of the benchmark can do with containers.
pub(crate) trait Host {
    /// Attaches a container.
    fn attach(&self, id: &str) -> Result<Attached>;
    /// Detaches it.
    fn detach(&self, attached: Attached) -> Result<()>;
}

/// A host with the library and the subsystems of the node daemon.
pub(crate) struct OurHost(Worker<OurState>);

pub(crate) struct OurState {
    pub(crate) library: ContrailMesos,
    subsystems: Vec<Box<dyn Subsystem>>,
    directory: Directory,
}

impl OurState {
    fn new(number: u8, networks: &str) -> Result<Self> {
        let directory = Directory::new()?;
        let name = node(number.into()).name;
        let networks = format!(
            "[node]\nname = '{name}'\n[[network]]\nname = 'bench'\nprovider = 'overlay'\n{networks}"
        );
        let library = ContrailMesos::with_networks(directory.0.path(), &networks)?;
        let subsystems = daemon::subsystems(library.config())?;
        Ok(Self {
            library,
            subsystems,
            directory,
        })
    }

    /// Lets all subsystems apply a state.
    pub(crate) fn apply(&mut self, cluster: &ClusterState) -> Result<()> {
        for subsystem in &mut self.subsystems {
            let outcome = subsystem
                .reconcile(cluster, Mode::Apply)
                .map_err(|error| anyhow!("{}: {error}", subsystem.name()))?;
            let problems = outcome.problems;
            ensure!(problems.is_empty(), "{}: {problems:?}", subsystem.name());
        }
        Ok(())
    }

    /// Attaches a container to networks.
    pub(crate) fn attach_to(&mut self, id: &str, infos: Vec<NetworkInfo>) -> Result<Attached> {
        let container = Container::new(&self.directory.handles(), id, None)?;
        self.library.attach_to(&container, infos)?;
        let place = place(&container)?;
        Ok(Attached { container, place })
    }

    /// A network namespace for a container.
    pub(crate) fn container(&self, id: &str) -> Result<Container> {
        Container::new(&self.directory.handles(), id, None)
    }
}

impl OurHost {
    /// A host of this cluster.
    pub(crate) fn start(switch: &Switch, number: u8, cluster: ClusterState) -> Result<Self> {
        // Compared with attaches to the overlay.
        let bridge = "[[network]]\nname = 'plain'\nprovider = 'bridge'\nsubnet = '10.98.0.0/24'\n\
                      subnet6 = 'fd00:98::/64'\nmtu = 1450\n";
        let host = Self(Worker::start(move || OurState::new(number, bridge))?);
        switch.connect(number, &host.0)?;
        host.0.run(move |state| state.apply(&cluster))?;
        Ok(host)
    }

    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut OurState) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.run(job)
    }
}

impl Host for OurHost {
    fn attach(&self, id: &str) -> Result<Attached> {
        let id = id.to_owned();
        let info = crate::contrail_mesos::bench_network(None);
        self.0.run(move |state| state.attach_to(&id, vec![info]))
    }

    fn detach(&self, attached: Attached) -> Result<()> {
        self.0
            .run(move |state| state.library.detach(&attached.container))
    }
}

/// A host of the floor.
pub(crate) struct FloorHost(Worker<FloorState>);

struct FloorState {
    number: u8,
    socket: NetlinkSocket,
    bridge: u32,
    directory: Directory,
    /// The last part of the next container's address.
    next: u8,
    own: OwnedFd,
}

impl FloorHost {
    /// One of two hosts.
    pub(crate) fn start(switch: &Switch, number: u8, other: u8) -> Result<Self> {
        let host = Self(Worker::start(move || FloorState::new(number))?);
        switch.connect(number, &host.0)?;
        host.0.run(move |state| state.connect(other))?;
        Ok(host)
    }
}

impl FloorState {
    fn new(number: u8) -> Result<Self> {
        let mut socket = NetlinkSocket::route()?;
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
        socket.execute_all(&[
            links::create_bridge(BRIDGE, [2, 0, 0, 0, 2, number], OVERLAY_MTU),
            links::set_up(BRIDGE, None),
        ])?;
        let bridge = index(&mut socket, BRIDGE)?;
        let addresses = gateways(number)?;
        socket.execute_all(
            &addresses.map(|address| addressing::add_address(bridge, BRIDGE, address)),
        )?;
        Ok(Self {
            number,
            socket,
            bridge,
            directory: Directory::new()?,
            next: 2,
            own: contrail_mesos::net::netns::of_this_thread(contrail_mesos::net::netns::Kind::Net)?,
        })
    }

    fn connect(&mut self, other: u8) -> Result<()> {
        let (own, other) = (node(self.number.into()), node(other.into()));
        let tunnel = Tunnel {
            vni: VNI,
            local: own.address,
            port: VXLAN_PORT,
        };
        let device = VxlanLink {
            name: VTEP,
            tunnel: &tunnel,
            mac: own.vtep.mac.0,
            mtu: OVERLAY_MTU,
        };
        let socket = &mut self.socket;
        socket.execute_all(&[vxlan::create(&device), links::set_up(VTEP, None)])?;
        let device = index(socket, VTEP)?;
        let v6 = other.vtep.address6.context("no IPv6 endpoint")?;
        let own6 = own.vtep.address6.context("no IPv6 endpoint")?;
        socket.execute_all(&[
            addressing::add_address(device, VTEP, IpNet::new(own.vtep.address.into(), 16)?),
            addressing::add_address(device, VTEP, IpNet::new(own6.into(), 64)?),
            addressing::add_neighbour(device, other.vtep.address.into(), other.vtep.mac.0),
            addressing::add_neighbour(device, v6.into(), other.vtep.mac.0),
            neighbours::set_forwarding(device, other.vtep.mac.0, other.address),
        ])?;
        for subnet in other.subnets.iter().flat_map(NodeSubnets::subnets) {
            let route = routes::GatewayRoute {
                destination: subnet,
                gateway: match subnet {
                    IpNet::V4(_) => other.vtep.address.into(),
                    IpNet::V6(_) => v6.into(),
                },
                index: device,
            };
            socket.execute_all(&[routes::add(&route, FLOOR_PROTOCOL)])?;
        }
        Ok(())
    }

    fn attach(&mut self, id: &str) -> Result<Attached> {
        let container = Container::new(&self.directory.handles(), id, None)?;
        let last = self.next;
        self.next = self.next.checked_add(1).context("no more addresses")?;
        let pair = VethPair {
            host: id,
            inner: "eth0",
            mac: [2, 1, 0, 0, self.number, last],
            mtu: OVERLAY_MTU,
            alias: id,
            bridge: Some(BridgePort {
                bridge: self.bridge,
                hairpin: true,
                is_isolated: false,
            }),
        };
        links::create_veth(&mut self.socket, &pair, container.namespace.as_fd(), [])
            .map_err(|error| anyhow!("cannot make the pair: {error:?}"))?;
        // This thread enters the container and returns; an error in between ends the benchmark.
        setns(&container.namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = NetlinkSocket::route();
        setns(&self.own, CloneFlags::CLONE_NEWNET)?;
        let mut socket = socket?;
        let eth0 = index(&mut socket, "eth0")?;
        let mut requests = vec![links::set_up("lo", None), links::set_up("eth0", None)];
        for gateway in gateways(self.number)? {
            let (address, all) = match gateway {
                IpNet::V4(net) => {
                    let [a, b, c, _] = net.addr().octets();
                    (IpAddr::from([a, b, c, last]), "0.0.0.0/0")
                }
                IpNet::V6(net) => {
                    let mut segments = net.addr().segments();
                    segments[7] = last.into();
                    (IpAddr::from(segments), "::/0")
                }
            };
            let address = IpNet::new(address, gateway.prefix_len())?;
            requests.push(addressing::add_address(eth0, "eth0", address));
            let route = NewRoute {
                destination: all.parse()?,
                gateway: Some(gateway.addr()),
                index: eth0,
                table: None,
                metric: None,
            };
            requests.push(route.request());
        }
        socket.execute_all(&requests)?;
        let place = place(&container)?;
        Ok(Attached { container, place })
    }
}

/// The addresses of the bridge of a host.
fn gateways(number: u8) -> Result<[IpNet; 2]> {
    Ok([
        format!("9.0.{number}.1/24").parse()?,
        format!("fd09:0:0:{number:x}::1/64").parse()?,
    ])
}

impl Host for FloorHost {
    fn attach(&self, id: &str) -> Result<Attached> {
        let id = id.to_owned();
        self.0.run(move |state| state.attach(&id))
    }

    fn detach(&self, attached: Attached) -> Result<()> {
        self.0.run(move |state| {
            let delete = links::delete(&attached.container.id);
            Ok(state.socket.execute_all(&[delete])?)
        })
    }
}

/// A host with the CNI plugin `bridge`. It has no connection to others.
pub(crate) struct CniHost(Worker<(CniPlugins, Directory)>);

impl CniHost {
    pub(crate) fn start() -> Result<Self> {
        Worker::start(|| {
            let directory = Directory::new()?;
            Ok((
                CniPlugins::new(&directory.0.path().join("leases")),
                directory,
            ))
        })
        .map(Self)
    }
}

impl Host for CniHost {
    fn attach(&self, id: &str) -> Result<Attached> {
        let id = id.to_owned();
        self.0.run(move |(plugins, directory)| {
            let container = Container::new(&directory.handles(), &id, None)?;
            plugins.add(&container.id, &container.path, None)?;
            let place = place(&container)?;
            Ok(Attached { container, place })
        })
    }

    fn detach(&self, attached: Attached) -> Result<()> {
        self.0.run(move |(plugins, _)| {
            plugins.delete(&attached.container.id, &attached.container.path, None)
        })
    }
}
