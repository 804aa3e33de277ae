//! What a framework can write costs memory in proportion to its size, however large it is.
//!
//! Each case is parsed in several sizes, and the bytes that are allocated for it are compared.

use allocation_counter::{AllocationInfo, measure};
use contrail_mesos::config::{Config, Source};
use contrail_mesos::network_request;
use contrail_mesos::proto::mesos::network_info::{IpAddress, PortMapping};
use contrail_mesos::proto::mesos::{
    self, ContainerInfo, Label, Labels, NetworkInfo, container_info,
};
use contrail_mesos_api::container::ContainerId;

/// What is allocated regardless of the size, at most.
const CONSTANT_BYTES: u64 = 64 << 10;
const CONSTANT_COUNT: u64 = 256;
/// The smallest size. The largest one is 16 times this.
const SIZE: usize = 2_000;

fn config() -> Config {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let toml = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.1.0.0/16'\n\
                [contrail]\nmanagers = ['192.0.2.1']\n\
                [[network]]\nname = 'contrail'\nprovider = 'contrail'\n";
    std::fs::write(&path, toml).unwrap();
    Source::file(path).load().unwrap()
}

fn on(name: &str) -> NetworkInfo {
    NetworkInfo {
        name: Some(name.as_bytes().to_vec()),
        ..NetworkInfo::default()
    }
}

fn container(network_infos: Vec<NetworkInfo>) -> ContainerInfo {
    ContainerInfo {
        r#type: container_info::Type::Mesos.into(),
        hostname: None,
        network_infos,
    }
}

fn label(key: &[u8], value: Vec<u8>) -> Label {
    Label {
        key: key.to_vec(),
        value: Some(value),
    }
}

fn labelled(name: &str, labels: Vec<Label>) -> ContainerInfo {
    container(vec![NetworkInfo {
        labels: Some(Labels { labels }),
        ..on(name)
    }])
}

/// A request of size `n`.
type MakeRequest = fn(usize) -> ContainerInfo;

const REQUESTS: &[(&str, MakeRequest)] = &[
    ("networks", |n| {
        container((0..n).map(|index| on(&format!("n{index}"))).collect())
    }),
    ("the same network", |n| {
        container((0..n).map(|_| on("blue")).collect())
    }),
    ("networks without a name", |n| {
        container(vec![NetworkInfo::default(); n])
    }),
    ("name of a network", |n| container(vec![on(&"x".repeat(n))])),
    ("name that is not UTF-8", |n| {
        container(vec![NetworkInfo {
            name: Some(vec![0xff; n]),
            ..NetworkInfo::default()
        }])
    }),
    ("addresses", |n| {
        let address = |index: usize| IpAddress {
            protocol: None,
            ip_address: Some(format!("10.1.{}.{}", index / 256 % 256, index % 256).into_bytes()),
        };
        container(vec![NetworkInfo {
            ip_addresses: (0..n).map(address).collect(),
            ..on("blue")
        }])
    }),
    ("text of an address", |n| {
        container(vec![NetworkInfo {
            ip_addresses: vec![IpAddress {
                protocol: None,
                ip_address: Some(vec![b'1'; n]),
            }],
            ..on("blue")
        }])
    }),
    ("mapped ports", |n| {
        let port = |index: usize| PortMapping {
            host_port: u32::try_from(index).unwrap(),
            container_port: 80,
            protocol: None,
        };
        container(vec![NetworkInfo {
            port_mappings: (1..=n).map(port).collect(),
            ..on("blue")
        }])
    }),
    ("protocols of a port", |n| {
        container(vec![NetworkInfo {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: Some(b"tcp,".repeat(n)),
            }],
            ..on("blue")
        }])
    }),
    ("label of commas", |n| {
        labelled("contrail", vec![label(b"networks", vec![b','; n])])
    }),
    ("label of networks", |n| {
        let list: Vec<String> = (0..n).map(|index| format!("n{index}")).collect();
        labelled(
            "contrail",
            vec![label(b"networks", list.join(",").into_bytes())],
        )
    }),
    ("label on a bridge", |n| {
        labelled("blue", vec![label(b"k", vec![b'v'; n])])
    }),
    ("key of a label", |n| {
        labelled("blue", vec![label(&vec![b'k'; n], vec![])])
    }),
    ("label that is not UTF-8", |n| {
        labelled("blue", vec![label(b"k", vec![0xff; n])])
    }),
    ("labels", |n| {
        let labels = (0..n).map(|index| label(format!("k{index}").as_bytes(), vec![b'v']));
        labelled("blue", labels.collect())
    }),
    ("groups", |n| {
        container(vec![NetworkInfo {
            groups: vec![b"web".to_vec(); n],
            ..on("blue")
        }])
    }),
    ("hostname", |n| ContainerInfo {
        hostname: Some(vec![b'h'; n]),
        ..container(vec![on("blue")])
    }),
];

/// Fails if the largest input costs more than its share, compared with the smallest.
fn expect_linear(what: &str, costs: &[AllocationInfo]) {
    let [small, .., large] = costs else {
        panic!("{what}: too few sizes")
    };
    let factor = 1_u64 << (costs.len() - 1);
    assert!(
        large.bytes_total <= small.bytes_total * factor * 5 / 4 + CONSTANT_BYTES
            && large.count_total <= small.count_total * factor * 5 / 4 + CONSTANT_COUNT,
        "{what}: {costs:?}"
    );
}

/// The cost of `work` in growing sizes: 1, 2, 4, 8 and 16 times the smallest.
fn costs(smallest: usize, mut work: impl FnMut(usize) -> AllocationInfo) -> Vec<AllocationInfo> {
    (0..5).map(|power| work(smallest << power)).collect()
}

#[test]
fn request_costs_memory_in_proportion_to_its_size() {
    let config = config();
    let id = ContainerId::top_level("c1");
    for (what, make) in REQUESTS {
        let costs = costs(SIZE, |size| {
            let request = make(size);
            measure(|| {
                // Most are refused; the cost counts either way.
                let _ = network_request::parse(&id, &request, &config);
            })
        });
        expect_linear(what, &costs);
    }
}

#[test]
fn accepted_request_does_not_copy_labels_for_each_network() {
    let config = config();
    let id = ContainerId::top_level("c1");
    // As many networks as a container can have, with labels as large as they can be.
    let costs = costs(3_000, |size| {
        let request = labelled(
            "contrail",
            vec![
                label(
                    b"networks",
                    (0..16)
                        .map(|index| format!("n{index}"))
                        .collect::<Vec<_>>()
                        .join(",")
                        .into_bytes(),
                ),
                label(b"k", vec![b'v'; size]),
            ],
        );
        measure(|| {
            let parsed = network_request::parse(&id, &request, &config).unwrap();
            assert_eq!(parsed.networks.len(), 16);
        })
    });
    expect_linear("labels of 16 networks", &costs);
}

#[test]
fn container_id_costs_memory_in_proportion_to_its_size() {
    let nested = |depth: usize| {
        let mut id = ContainerId::top_level("c");
        for _ in 0..depth {
            id = id.nested("c");
        }
        id
    };
    let conversions = costs(100, |depth| {
        let id = nested(depth);
        measure(|| {
            let message = mesos::ContainerId::from(&id);
            assert_eq!(ContainerId::from(&message), id);
            assert_eq!(id.with_ancestors().count(), depth + 1);
            assert!(!id.file_name().is_empty());
        })
    });
    expect_linear("depth of an id", &conversions);
    let config = config();
    let requests = costs(100, |depth| {
        let (id, request) = (nested(depth), container(vec![on("blue")]));
        measure(|| {
            let error = network_request::parse(&id, &request, &config).unwrap_err();
            assert!(error.to_string().contains("nested"), "{error}");
        })
    });
    expect_linear("depth of a container", &requests);
    let requests = costs(SIZE, |length| {
        let id = ContainerId::top_level(&"x".repeat(length));
        let request = container(vec![on("blue")]);
        measure(|| {
            let error = network_request::parse(&id, &request, &config).unwrap_err();
            assert!(error.to_string().contains("longer than"), "{error}");
        })
    });
    expect_linear("length of an id", &requests);
}
