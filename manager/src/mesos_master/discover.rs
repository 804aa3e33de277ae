//! Discovery of the masters: a configured list, or the leader according to ZooKeeper.
//!
//! Every master has an ephemeral sequential node `json.info_NNNNNNNNNN` under the election's path;
//! the one with the lowest number leads. The node contains the master's `MasterInfo`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::timeout;
use zookeeper_client::Client;

use contrail_mesos_api::http::Address;

/// The masters' default port.
pub const DEFAULT_PORT: u16 = 5050;

/// The prefix of the masters' nodes, before the number.
const NODE_PREFIX: &str = "json.info_";

/// Timeout of a complete lookup in ZooKeeper.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// The masters of a cluster: `10.0.0.1,10.0.0.2:5050`, the same as URLs, or
/// `zk://[user:password@]host:port,host:port/path`.
#[derive(Clone, Debug)]
pub enum Masters {
    /// Some masters, or a proxy in front of them.
    Listed(Vec<Address>),
    /// The leader according to this ZooKeeper.
    ZooKeeper(ZooKeeper),
}

/// The ZooKeeper of the masters' election.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    /// `host:port,host:port`
    servers: String,
    path: String,
    /// `user:password`
    auth: Option<SecretString>,
}

/// The string is neither a list of masters nor a ZooKeeper URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a list of masters; write \"10.0.0.1:5050,10.0.0.2:5050\" or \"zk://10.0.0.1:2181,10.0.0.2:2181/mesos\""
)]
pub struct InvalidMasters(String);

impl FromStr for Masters {
    type Err = InvalidMasters;

    fn from_str(text: &str) -> Result<Self, InvalidMasters> {
        // The string may contain a password.
        let invalid = || InvalidMasters(text.rsplit('@').next().unwrap_or_default().to_owned());
        let Some(rest) = text.strip_prefix("zk://") else {
            return text
                .split(',')
                .map(|server| Address::parse(server.trim(), DEFAULT_PORT))
                .collect::<Result<Vec<_>, _>>()
                .map(Self::Listed)
                .map_err(|_| invalid());
        };
        let (auth, rest) = match rest.rsplit_once('@') {
            Some((auth, rest)) if auth.contains(':') => (Some(auth.into()), rest),
            Some(_) => return Err(invalid()),
            None => (None, rest),
        };
        let (servers, path) = rest.split_once('/').ok_or_else(invalid)?;
        let is_server = |server: &str| {
            server
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let path = path.trim_end_matches('/');
        if path.is_empty() || path.contains("//") || !servers.split(',').all(is_server) {
            return Err(invalid());
        }
        Ok(Self::ZooKeeper(ZooKeeper {
            servers: servers.to_owned(),
            path: format!("/{path}"),
            auth,
        }))
    }
}

impl fmt::Display for ZooKeeper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "zk://{}{}", self.servers, self.path)
    }
}

impl Masters {
    /// The masters to connect to. `secure`: masters found in ZooKeeper use TLS, which their nodes do
    /// not tell.
    pub(super) async fn find(&self, secure: bool) -> Result<Vec<Address>, String> {
        match self {
            Self::Listed(servers) => Ok(servers.clone()),
            Self::ZooKeeper(zookeeper) => {
                let leader = timeout(LOOKUP_TIMEOUT, zookeeper.leader(secure))
                    .await
                    .unwrap_or_else(|_| Err(format!("no response within {LOOKUP_TIMEOUT:?}")))
                    .map_err(|problem| format!("{zookeeper}: {problem}"))?;
                Ok(vec![leader])
            }
        }
    }
}

/// For the manager's own election.
impl ZooKeeper {
    /// `host:port,host:port`
    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }

    /// The node, such as `/mesos`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The user and the password, as `user:password`.
    pub(crate) fn credentials(&self) -> Option<&SecretString> {
        self.auth.as_ref()
    }

    /// Whether it contains a user and password.
    pub(crate) fn has_credentials(&self) -> bool {
        self.auth.is_some()
    }
}

impl ZooKeeper {
    async fn leader(&self, secure: bool) -> Result<Address, String> {
        let mut connector = Client::connector();
        if let Some(auth) = &self.auth {
            connector = connector.with_auth("digest", auth.expose_secret().as_bytes());
        }
        let client = connector
            .connect(&self.servers)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        let children = client
            .list_children(&self.path)
            .await
            .map_err(|error| format!("cannot list the masters: {error}"))?;
        let Some(node) = leader_of(&children) else {
            return Err("no master is registered".to_owned());
        };
        let (data, _) = client
            .get_data(&format!("{}/{node}", self.path))
            .await
            .map_err(|error| format!("cannot read {node}: {error}"))?;
        address_in(&data, secure).map_err(|problem| format!("{node}: {problem}"))
    }
}

/// The node with the lowest number. Numbers have ten digits, and are negative once the counter has
/// wrapped around.
fn leader_of(children: &[String]) -> Option<&str> {
    children
        .iter()
        .filter_map(|child| {
            let number: i64 = child.strip_prefix(NODE_PREFIX)?.parse().ok()?;
            Some((number, child.as_str()))
        })
        .min()
        .map(|(_, node)| node)
}

/// Parses the address from a `MasterInfo`.
fn address_in(data: &[u8], secure: bool) -> Result<Address, String> {
    #[derive(Deserialize)]
    struct MasterInfo {
        #[serde(default)]
        hostname: Option<String>,
        #[serde(default)]
        address: Option<MasterAddress>,
    }
    #[derive(Deserialize)]
    struct MasterAddress {
        #[serde(default)]
        hostname: Option<String>,
        #[serde(default)]
        ip: Option<String>,
        port: u16,
    }
    let info: MasterInfo = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    let address = info.address.ok_or("it has no address")?;
    // TLS needs the name for the certificate; otherwise the IP avoids a DNS lookup.
    let name = address.hostname.or(info.hostname);
    let (host, scheme) = if secure {
        (name.or(address.ip), "https")
    } else {
        (address.ip.or(name), "http")
    };
    let host = host.ok_or("its address has neither IP nor hostname")?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    Address::parse(&format!("{scheme}://{host}:{}", address.port), DEFAULT_PORT)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_parse_from_list_and_zookeeper_url() {
        let Ok(Masters::Listed(listed)) = "10.0.0.1, https://m2:5051".parse() else {
            panic!("expected a list");
        };
        let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["http://10.0.0.1:5050", "https://m2:5051"]);
        let Ok(Masters::ZooKeeper(found)) = "zk://u:p@ss@z1:2181,z2:2181/dcos/mesos/".parse()
        else {
            panic!("expected a ZooKeeper");
        };
        assert_eq!(found.to_string(), "zk://z1:2181,z2:2181/dcos/mesos");
        assert_eq!(
            found.auth.as_ref().map(ExposeSecret::expose_secret),
            Some("u:p@ss")
        );
        assert!(!format!("{found:?}").contains("p@ss"));
        for invalid in [
            "",
            "zk://z1:2181",
            "zk://z1/mesos",
            "zk://z1:2181/",
            "zk://user@z1:2181/mesos",
            "10.0.0.1,,10.0.0.2",
            "zk://u:secret@z1/mesos",
        ] {
            let error = invalid.parse::<Masters>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn node_with_lowest_number_leads() {
        let children =
            |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let nodes = children(&[
            "log_replicas",
            "json.info_0000000012",
            "json.info_0000000009",
            "info_0000000001",
        ]);
        assert_eq!(leader_of(&nodes), Some("json.info_0000000009"));
        let wrapped = children(&["json.info_2147483647", "json.info_-2147483648"]);
        assert_eq!(leader_of(&wrapped), Some("json.info_-2147483648"));
        assert_eq!(leader_of(&children(&["log_replicas", "json.info_x"])), None);
    }

    #[test]
    fn address_parses_from_master_info() {
        let info = br#"{"address":{"hostname":"m1.example","ip":"10.0.0.1","port":5050},"capabilities":[],
            "hostname":"m1.example","id":"e2b","ip":16777226,"pid":"master@10.0.0.1:5050","port":5050,"version":"1.11.0"}"#;
        assert_eq!(
            address_in(info, false).unwrap().to_string(),
            "http://10.0.0.1:5050"
        );
        assert_eq!(
            address_in(info, true).unwrap().to_string(),
            "https://m1.example:5050"
        );
        let ipv6 = br#"{"address":{"ip":"2001:db8::1","port":5050}}"#;
        assert_eq!(
            address_in(ipv6, false).unwrap().to_string(),
            "http://[2001:db8::1]:5050"
        );
        for invalid in [
            "",
            "{}",
            "<html>",
            r#"{"address":{"port":5050}}"#,
            r#"{"address":{"ip":"x y","port":1}}"#,
        ] {
            assert!(address_in(invalid.as_bytes(), false).is_err(), "{invalid}");
        }
    }
}
