//! The services that the managers depend on, on one host: the real ZooKeeper, an API server and
//! Marathon.

/// The port of the API server.
pub(super) const API_PORT: u16 = 8082;
/// The port at which vRouter agents follow the API server.
pub(super) const CONTROL_PORT: u16 = 8083;
/// The port of ZooKeeper.
pub(super) const ZOOKEEPER_PORT: u16 = 2181;
/// The ports of Marathon's servers.
pub(super) const MARATHON_PORTS: [u16; 3] = [8080, 8180, 8280];
/// The token that agents and managers share.
pub(super) const TOKEN: &str = "a-token-of-this-run-alone";
