//! What the managers depend on, on one host: the real ZooKeeper, an API server, Marathon.

/// Where the API server listens.
pub(super) const API_PORT: u16 = 8082;
/// Where the vRouter agents follow it.
pub(super) const CONTROL_PORT: u16 = 8083;
/// Where ZooKeeper listens.
pub(super) const ZOOKEEPER_PORT: u16 = 2181;
/// Where Marathon's servers listen.
pub(super) const MARATHON_PORTS: [u16; 3] = [8080, 8180, 8280];
/// What agents and managers share.
pub(super) const TOKEN: &str = "a-token-of-this-run-alone";
