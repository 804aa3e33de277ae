//! What the modules with the names of the DC/OS overlay modules have in common: their parameters, how
//! they run in a process of Mesos, and the answers of their HTTP endpoints.
//!
//! ```text
//! parameters  the parameters that Mesos gives a module
//! supervisor  starts what a module runs, and starts it again
//! answer      JSON, JSONP or protobuf, as the client accepts
//! proto       the messages of the answers
//! ```
//!
//! Invariant: names, numbers and the JSON of messages are those of the DC/OS modules, so that what
//! reads theirs reads ours.

mod answer;
mod parameters;
mod supervisor;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serializer;

use self::proto::agent_overlay_info::State as OverlayState;
use self::proto::agent_overlay_info::state::Status;
use self::proto::{AgentOverlayInfo, BackendInfo, BridgeInfo, OverlayInfo, VxLanInfo};
use crate::cluster::{NodeSubnets, Overlay, Underlay, Vtep, halves};

pub use answer::{Answer, AnswerError, answer, query_parameter};
pub use parameters::{ParameterError, Parameters};
pub use supervisor::{Service, Supervisor, SupervisorError};

/// Package `mesos.modules.overlay`, generated from `proto/overlay.proto`.
#[allow(missing_docs, clippy::pedantic, reason = "generated code")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mesos.modules.overlay.rs"));
}

/// The refusal of JSONP to pages of other sites, which read it by loading it as a script.
pub const FOREIGN_SCRIPT: &str = "jsonp is not for pages of other sites";

/// The prefix of the names of the bridges of Mesos containers.
pub const MESOS_BRIDGE_PREFIX: &str = "m-";
/// The prefix of the names of the bridges of Docker containers.
pub const DOCKER_BRIDGE_PREFIX: &str = "d-";

/// Whether problems of a subsystem of a node daemon mean that its overlays have failed. Those of others
/// may be about a single container.
#[must_use]
pub fn is_subsystem_of_overlays(name: &str) -> bool {
    ["node-state", "overlay", "cni-files"].contains(&name)
}

/// How far an overlay of an agent is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayStatus {
    /// Everything is as it must be.
    Ok,
    /// Why it is not.
    Failed(String),
    /// The agent has not applied it yet.
    Configuring,
}

impl From<OverlayStatus> for OverlayState {
    fn from(status: OverlayStatus) -> Self {
        let (status, error) = match status {
            OverlayStatus::Ok => (Status::Ok, None),
            OverlayStatus::Failed(error) => (Status::Failed, Some(error)),
            OverlayStatus::Configuring => (Status::Configuring, None),
        };
        Self {
            status: Some(status.into()),
            error,
        }
    }
}

/// An overlay as its agents know it. The prefix lengths of an agent's part are those of `part`.
#[must_use]
pub fn overlay_info(overlay: &Overlay, part: &NodeSubnets) -> OverlayInfo {
    OverlayInfo {
        name: overlay.name.clone(),
        subnet: overlay.subnet.as_ref().map(Ipv4Net::to_string),
        prefix: part.subnet.map(|subnet| subnet.prefix_len().into()),
        subnet6: overlay.subnet6.as_ref().map(Ipv6Net::to_string),
        prefix6: part.subnet6.map(|subnet| subnet.prefix_len().into()),
        enabled: Some(overlay.enabled),
    }
}

/// An overlay of an agent that has this tunnel endpoint and these subnets.
#[must_use]
pub fn agent_overlay(
    overlay: &Overlay,
    info: OverlayInfo,
    part: &NodeSubnets,
    (vtep, underlay): (&Vtep, &Underlay),
    status: Option<OverlayStatus>,
) -> AgentOverlayInfo {
    let half = |number: usize| {
        let of = |subnet: IpNet| {
            let (lower, upper) = halves(subnet)?;
            Some([lower, upper][number].to_string())
        };
        let ip = part.subnet.map(IpNet::V4).and_then(of);
        let ip6 = part.subnet6.map(IpNet::V6).and_then(of);
        let prefix = [MESOS_BRIDGE_PREFIX, DOCKER_BRIDGE_PREFIX][number];
        (ip.is_some() || ip6.is_some()).then(|| BridgeInfo {
            name: format!("{prefix}{}", overlay.name),
            ip,
            ip6,
        })
    };
    let vtep_ip6 = vtep.address6.zip(underlay.vtep_subnet6);
    AgentOverlayInfo {
        info,
        subnet: part.subnet.as_ref().map(Ipv4Net::to_string),
        mesos_bridge: half(0),
        docker_bridge: half(1),
        backend: BackendInfo {
            vxlan: Some(VxLanInfo {
                vni: overlay.vni,
                vtep_name: format!("vtep{}", overlay.vni),
                vtep_ip: format!("{}/{}", vtep.address, underlay.vtep_subnet.prefix_len()),
                vtep_mac: vtep.mac.to_string(),
                vtep_ip6: vtep_ip6
                    .map(|(address, subnet)| format!("{address}/{}", subnet.prefix_len())),
                vtep_mtu: overlay.mtu,
            }),
        },
        state: status.map(OverlayState::from),
        subnet6: part.subnet6.as_ref().map(Ipv6Net::to_string),
    }
}

/// The name of a status, as the JSON of protobuf has it.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "serde's signature"
)]
fn serialize_status<S: Serializer>(status: &Option<i32>, serializer: S) -> Result<S::Ok, S::Error> {
    let status = status.and_then(|status| Status::try_from(status).ok());
    serializer.serialize_str(status.unwrap_or_default().as_str_name())
}

/// Mesos writes a field with a default value also if it is not set.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "serde's signature"
)]
fn serialize_enabled<S: Serializer>(
    enabled: &Option<bool>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(enabled.unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::container::Mac;

    /// The example in the documentation of DC/OS, but for the status of a failure.
    fn example() -> AgentOverlayInfo {
        let overlay = Overlay {
            name: "dcos".to_owned(),
            vni: 1024,
            subnet: Some("9.0.0.0/8".parse().unwrap()),
            subnet6: None,
            mtu: None,
            enabled: true,
            groups: None,
            isolated: false,
            lends_blocks: false,
        };
        let part = NodeSubnets {
            overlay: "dcos".to_owned(),
            subnet: Some("9.0.1.0/24".parse().unwrap()),
            subnet6: None,
            blocks: vec![],
            returned: 0,
        };
        let vtep = Vtep {
            address: "44.128.0.1".parse().unwrap(),
            address6: None,
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, 1]),
        };
        let underlay = Underlay {
            vtep_subnet: "44.128.0.0/20".parse().unwrap(),
            vtep_subnet6: None,
            vxlan_port: 4789,
        };
        let info = overlay_info(&overlay, &part);
        let status = OverlayStatus::Failed("no".to_owned());
        agent_overlay(&overlay, info, &part, (&vtep, &underlay), Some(status))
    }

    #[test]
    fn json_is_that_of_the_original_modules() {
        let expected = json!({
            "info": {"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24, "enabled": true},
            "subnet": "9.0.1.0/24",
            "mesos_bridge": {"name": "m-dcos", "ip": "9.0.1.0/25"},
            "docker_bridge": {"name": "d-dcos", "ip": "9.0.1.128/25"},
            "backend": {"vxlan": {
                "vni": 1024, "vtep_name": "vtep1024", "vtep_ip": "44.128.0.1/20",
                "vtep_mac": "70:b3:d5:80:00:01",
            }},
            "state": {"status": "STATUS_FAILED", "error": "no"},
        });
        assert_eq!(serde_json::to_value(example()).unwrap(), expected);
        let ok = serde_json::to_value(OverlayState::from(OverlayStatus::Ok)).unwrap();
        assert_eq!(ok, json!({"status": "STATUS_OK"}));
    }

    /// A field of protobuf with a length.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encode_length_delimiter(value.len(), &mut bytes).unwrap();
        bytes.extend(value);
        bytes
    }

    #[test]
    fn protobuf_has_the_numbers_of_the_original_modules() {
        let state = OverlayState::from(OverlayStatus::Configuring);
        assert_eq!(state.encode_to_vec(), [0x08, 3]);
        let agent = proto::AgentInfo {
            ip: "1.2.3.4".to_owned(),
            overlays: vec![example()],
            configuration_attempts: None,
        };
        let info = [
            field(1, b"dcos"),
            field(2, b"9.0.0.0/8"),
            vec![3 << 3, 24],
            vec![6 << 3, 1],
        ];
        let bridge = |name: &[u8], ip: &[u8]| [field(1, name), field(2, ip)].concat();
        let vxlan = [
            // 1024 as a varint.
            vec![1 << 3, 0x80, 0x08],
            field(2, b"vtep1024"),
            field(3, b"44.128.0.1/20"),
            field(4, b"70:b3:d5:80:00:01"),
        ];
        let overlay = [
            field(1, &info.concat()),
            field(2, b"9.0.1.0/24"),
            field(3, &bridge(b"m-dcos", b"9.0.1.0/25")),
            field(4, &bridge(b"d-dcos", b"9.0.1.128/25")),
            field(5, &field(1, &vxlan.concat())),
            field(6, &[vec![1 << 3, 2], field(2, b"no")].concat()),
        ];
        let expected = [field(1, b"1.2.3.4"), field(2, &overlay.concat())].concat();
        let bytes = agent.encode_to_vec();
        assert_eq!(bytes, expected);
        assert_eq!(proto::AgentInfo::decode(&*bytes).unwrap(), agent);
    }
}
