//! A host and its containers, each in a network namespace of the test's own. Needs root.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::{Network, NetworkProvider, Subnet};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::net::rules;
use crate::net::testing::{inside, isolated_async, link_names, namespace, nft_ruleset, run};
use crate::provider::{AddressRequest, PortMapping, Protocol};
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::container::ContainerId;

mod address_reuse;
mod concurrency;
mod faults;
mod groups;
mod host_side;
mod mapped_ports;
mod overlay;
mod reachability;

fn network(name: &str, octet: u8) -> Network {
    let v4 = |last: u8| std::net::Ipv4Addr::new(10, octet, 0, last);
    let v6 = |last: u16| std::net::Ipv6Addr::new(0xfd00, octet.into(), 0, 0, 0, 0, 0, last);
    Network {
        name: name.to_owned(),
        dns: None,
        provider: NetworkProvider::Bridge(BridgeNetwork {
            bridge: format!("cmb-{name}"),
            v4: Some(Subnet {
                subnet: ipnet::Ipv4Net::new(v4(0), 16).unwrap(),
                gateway: v4(1),
                first: v4(2),
                last: std::net::Ipv4Addr::new(10, octet, 255, 254),
                reserved: vec![],
                more: vec![],
            }),
            v6: Some(Subnet {
                subnet: ipnet::Ipv6Net::new(v6(0), 64).unwrap(),
                gateway: v6(1),
                first: v6(2),
                last: v6(0xffff),
                reserved: vec![],
                more: vec![],
            }),
            mtu: 1400,
            masquerade: true,
            hairpin: false,
            routes: vec![],
            overlay: None,
            groups: None,
            has_blocks: false,
        }),
    }
}

fn bridge_network(request: &NetworkRequest) -> &BridgeNetwork {
    let NetworkProvider::Bridge(network) = &request.network.provider else {
        panic!("a network of another provider")
    };
    network
}

fn bridge_of(network: &mut Network) -> &mut BridgeNetwork {
    let NetworkProvider::Bridge(bridge) = &mut network.provider else {
        panic!("a network of another provider")
    };
    bridge
}

fn request(container: &str, network: &Network) -> NetworkRequest {
    NetworkRequest {
        container: ContainerId::top_level(container),
        interface: "eth0".to_owned(),
        network: network.clone(),
        addresses: vec![AddressRequest::Any],
        ports: vec![],
        membership: Membership::default(),
        labels: std::collections::BTreeMap::new(),
        info: crate::proto::mesos::NetworkInfo::default(),
    }
}

fn port(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping {
        host_port,
        container_port,
        protocol,
    }
}

/// A host: this thread's namespace, with a provider.
struct TestHost {
    provider: BridgeProvider,
    lost: UnboundedReceiver<LostInterface>,
    state: TempDir,
}

struct Container {
    intent: Intent<BridgeIntent>,
    namespace: OwnedFd,
}

impl Container {
    fn v4(&self) -> std::net::IpAddr {
        self.intent.addresses[0].addr()
    }

    fn v6(&self) -> std::net::IpAddr {
        self.intent.addresses[1].addr()
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.namespace, work)
    }
}

impl TestHost {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(state: TempDir) -> Self {
        let (sender, lost) = unbounded_channel();
        let provider = BridgeProvider::new(state.path(), sender).unwrap();
        Self {
            provider,
            lost,
            state,
        }
    }

    /// Restarts the agent after a kill.
    fn restart(self) -> Self {
        let Self { state, .. } = self;
        Self::at(state)
    }

    fn validate(&self, request: &NetworkRequest) -> Result<(), ProviderErrors> {
        self.provider.validate(request, bridge_network(request))
    }

    async fn plan(&self, request: &NetworkRequest) -> Result<Vec<String>, ProviderErrors> {
        let network = bridge_network(request);
        self.provider.plan(request, network).await
    }

    async fn reserve(
        &self,
        request: &NetworkRequest,
    ) -> Result<Intent<BridgeIntent>, ProviderError> {
        let network = bridge_network(request);
        self.provider.reserve(request, network).await
    }

    async fn attach(&self, request: &NetworkRequest) -> Result<Container, String> {
        self.validate(request)
            .map_err(|errors| errors.to_string())?;
        let intent = self
            .reserve(request)
            .await
            .map_err(|error| error.to_string())?;
        let namespace = namespace();
        match self.provider.attach(&intent, namespace.as_fd()).await {
            Ok(_) => Ok(Container { intent, namespace }),
            Err(error) => {
                self.provider.release(&intent).await.unwrap();
                Err(error.to_string())
            }
        }
    }

    async fn launch(&self, container: &str, network: &Network) -> Container {
        self.attach(&request(container, network)).await.unwrap()
    }

    async fn detach(&self, container: &Container) {
        self.provider.detach(&container.intent).await.unwrap();
    }

    /// Fails if a link, a rule of `nft` or of routing, or a lease is left.
    fn assert_clean(&self) {
        assert_eq!(link_names(), Vec::<String>::new());
        assert_eq!(nft_ruleset(), "");
        let mut socket = NetlinkSocket::route().unwrap();
        assert_eq!(rules::all(&mut socket).unwrap(), []);
        let leases: Vec<_> = std::fs::read_dir(self.state.path().join("networks"))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
            .unwrap_or_default();
        assert_eq!(leases, [".lock"], "leases are left");
    }
}

const IO_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers every TCP connection with the client's address.
fn serve_tcp(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
}

fn serve_udp(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// The client's address as the server at `address` sees it.
fn query_tcp(address: SocketAddr) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, IO_TIMEOUT).map_err(fail)?;
    stream.set_read_timeout(Some(IO_TIMEOUT)).map_err(fail)?;
    let mut response = String::new();
    stream.read_to_string(&mut response).map_err(fail)?;
    Ok(response)
}

fn query_udp(address: SocketAddr) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("{address}: {error}");
    let any: SocketAddr = if address.is_ipv4() {
        "0.0.0.0:0".parse().unwrap()
    } else {
        "[::]:0".parse().unwrap()
    };
    let socket = UdpSocket::bind(any).map_err(fail)?;
    socket.set_read_timeout(Some(IO_TIMEOUT)).map_err(fail)?;
    socket.connect(address).map_err(fail)?;
    socket.send(b"who am I?").map_err(fail)?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).map_err(fail)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A TCP server on `port` of all addresses of the container.
fn serve(container: &Container, port: u16) {
    container.inside(move || serve_tcp(SocketAddr::new("::".parse().unwrap(), port)));
}

fn ip(command: &str) {
    run("ip", command);
}

/// Another host: a namespace behind a link of this one.
fn other_host() -> OwnedFd {
    let other = namespace();
    // `ip` needs a path.
    let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_raw_fd());
    ip("link add uplink type veth peer name wan");
    ip(&format!("link set wan netns {path}"));
    ip("addr add 192.0.2.1/24 dev uplink");
    ip("addr add 2001:db8::1/64 dev uplink nodad");
    ip("link set uplink up");
    inside(&other, || {
        ip("addr add 192.0.2.2/24 dev wan");
        ip("addr add 2001:db8::2/64 dev wan nodad");
        ip("link set wan up");
        ip("link set lo up");
    });
    other
}
