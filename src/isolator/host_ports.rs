//! Which ports of the host a task may map: those of its resources, which no other task has, and those
//! that the operator allows to any task. Without this, a task could take any port of the host.

use crate::config::AllowedPorts;
use crate::network_request::{ContainerRequest, RequestError};
use crate::proto::mesos::Resource;
use crate::provider::PortMapping;

/// How many ports or ranges a message lists, at most.
const MAX_LISTED: usize = 8;

/// Refuses host ports that are neither of the container's resources nor allowed.
pub(super) fn check(
    request: &ContainerRequest,
    resources: &[Resource],
    allowed: &AllowedPorts,
) -> Result<(), RequestError> {
    let ranges: Vec<(u64, u64)> = resources
        .iter()
        .filter(|resource| resource.name == b"ports")
        .flat_map(|resource| &resource.ranges)
        .flat_map(|ranges| &ranges.range)
        .map(|range| (range.begin, range.end))
        .collect();
    let is_allowed = |port: &PortMapping| {
        let number = u64::from(port.host_port);
        let is_own = |(first, last): &(u64, u64)| (*first..=*last).contains(&number);
        ranges.iter().any(is_own) || allowed.contains(port.host_port)
    };
    let problems: Vec<String> = request
        .networks
        .iter()
        .filter_map(|network| {
            let refused: Vec<String> = network
                .ports
                .iter()
                .filter(|port| !is_allowed(port))
                .map(|port| format!("{}/{}", port.host_port, port.protocol))
                .collect();
            (!refused.is_empty()).then(|| {
                format!(
                    "network {:?}: the task may not map the host ports {}, because {}; request them as resources of the task, or allow them in [ports] of the agent's configuration",
                    network.network.name,
                    shortened(&refused),
                    describe(&ranges)
                )
            })
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(RequestError(problems))
    }
}

fn describe(ranges: &[(u64, u64)]) -> String {
    if ranges.is_empty() {
        return "its resources have no ports".to_owned();
    }
    let ranges: Vec<String> = ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    format!("its resources have only {}", shortened(&ranges))
}

fn shortened(items: &[String]) -> String {
    let listed = items.get(..MAX_LISTED).unwrap_or(items);
    let more = items.len() - listed.len();
    if more == 0 {
        listed.join(", ")
    } else {
        format!("{} and {more} more", listed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};
    use crate::network_request;
    use crate::proto::mesos::network_info::PortMapping as PortMappingMessage;
    use crate::proto::mesos::value::{Range, Ranges};
    use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
    use contrail_mesos_api::container::ContainerId;

    fn config(allow: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let text = format!(
            "[ports]\nallow = {allow}\n[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.32.0.0/24'\n"
        );
        std::fs::write(&path, text).unwrap();
        Source::file(path).load().unwrap()
    }

    fn check_ports(ports: &[u32], resources: &[(u64, u64)], allow: &str) -> Result<(), String> {
        let config = config(allow);
        let info = ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: vec![NetworkInfo {
                name: Some(b"blue".to_vec()),
                port_mappings: ports
                    .iter()
                    .map(|port| PortMappingMessage {
                        host_port: *port,
                        container_port: 80,
                        protocol: None,
                    })
                    .collect(),
                ..NetworkInfo::default()
            }],
        };
        let id = ContainerId::top_level("c");
        let request = network_request::parse(&id, &info, &config).unwrap();
        let range = resources
            .iter()
            .map(|(begin, end)| Range {
                begin: *begin,
                end: *end,
            })
            .collect();
        let resources = [
            Resource {
                name: b"cpus".to_vec(),
                ranges: None,
            },
            Resource {
                name: b"ports".to_vec(),
                ranges: Some(Ranges { range }),
            },
        ];
        check(&request, &resources, &config.allowed_ports).map_err(|error| error.to_string())
    }

    #[test]
    fn only_ports_of_the_resources_or_allowed_ones_are_mapped() {
        let own = [(31000, 31002), (31010, 31010)];
        check_ports(&[31000, 31002, 31010], &own, "[]").unwrap();
        check_ports(&[], &[], "[]").unwrap();
        check_ports(&[80, 31000], &own, "['80']").unwrap();
        check_ports(&[22], &[], "['any']").unwrap();
        let error = check_ports(&[22, 31000, 31003], &own, "['80']").unwrap_err();
        assert!(error.contains("22/tcp, 31003/tcp, because"), "{error}");
        assert!(error.contains("31000-31002, 31010;"), "{error}");
        let error = check_ports(&[22], &[], "[]").unwrap_err();
        assert!(error.contains("have no ports"), "{error}");
        let many: Vec<u32> = (1..=256).collect();
        let error = check_ports(&many, &own, "[]").unwrap_err();
        assert!(error.contains("and 248 more"), "{error}");
    }
}
