use contrail_mesos_api::cluster::Object;

use super::*;
use crate::cluster_state::ClusterState;
use crate::testing::revision;

fn settings() -> ServiceSettings {
    ServiceSettings {
        ranges: vec![
            "198.18.0.0/16".parse().unwrap(),
            "fd4a::/112".parse().unwrap(),
        ],
        dns: vec!["198.18.0.1".parse().unwrap(), "fd4a::1".parse().unwrap()],
    }
}

fn host() -> Host {
    Host {
        addresses: ["192.0.2.1", "127.0.0.1", "2001:db8::1"]
            .map(|address| address.parse().unwrap())
            .into(),
        ..Host::default()
    }
}

fn backend(address: &str, host: u8) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        local: None,
        host: [192, 0, 2, host].into(),
        reach: Reach::Cluster,
        state: BackendState::Ready,
        task: "task".to_owned(),
    }
}

fn service(key: &str, addresses: &[&str], backends: Vec<Backend>) -> Service {
    Service {
        service: key.parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        backends,
        affinity: None,
    }
}

/// A state with these services.
fn state(services: Vec<Service>) -> ClusterState {
    let mut state = ClusterState::empty("node-1", revision("3.1"));
    for service in services {
        state.put(Object::Service(service));
    }
    state
}

fn update(desired: &mut DesiredServices, state: &ClusterState) -> Changes {
    desired.update(&state.services, &settings(), &host())
}

/// The backends of each frontend, as texts.
fn texts(desired: &DesiredServices) -> Vec<String> {
    let frontends = desired.policy().frontends.iter();
    frontends
        .map(|(frontend, balance)| {
            let backends: Vec<_> = balance.backends.iter().map(ToString::to_string).collect();
            format!("{frontend} {}", backends.join(" "))
        })
        .collect()
}

#[test]
fn backends_are_those_that_this_host_reaches() {
    let mut local = backend("192.0.2.1:31000", 1);
    local.local = Some("10.1.0.2:80".parse().unwrap());
    let mut remote = backend("192.0.2.2:31000", 2);
    remote.local = Some("10.1.0.3:80".parse().unwrap());
    let mut near = backend("10.1.0.4:80", 1);
    near.reach = Reach::Host;
    let mut far = backend("10.1.0.5:80", 2);
    far.reach = Reach::Host;
    let mut virtual_network = backend("10.1.0.6:80", 1);
    virtual_network.reach = Reach::VirtualNetwork;
    let mut draining = backend("9.0.2.7:80", 2);
    draining.state = BackendState::Draining;
    let v6 = backend("[fd09::2]:80", 2);
    let all = vec![local, remote, near, far, virtual_network, draining, v6];
    let web = service("web.marathon:80/tcp", &["198.18.0.5", "fd4a::5"], all);
    let mut desired = DesiredServices::default();
    let changes = update(&mut desired, &state(vec![web]));
    assert_eq!(
        texts(&desired),
        [
            "198.18.0.5:80/tcp 10.1.0.2:80 192.0.2.2:31000 10.1.0.4:80",
            "[fd4a::5]:80/tcp [fd09::2]:80",
        ]
    );
    assert_eq!(changes.frontends.len(), 2);
    assert_eq!(desired.problems().count(), 0);
    assert_eq!(desired.backend_count(), 4);
    let own: Vec<_> = desired
        .policy()
        .own
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(own, ["10.1.0.2", "10.1.0.4"]);
    assert!(desired.policy().vips.is_empty());
}

#[test]
fn addresses_that_a_service_cannot_have_are_problems() {
    let backends = || vec![backend("9.0.2.2:80", 2)];
    let mut desired = DesiredServices::default();
    let services = vec![
        service("10.0.0.1:80/tcp", &["10.0.0.1"], backends()),
        service("198.18.0.9:80/tcp", &["198.18.0.9"], backends()),
        service("127.0.0.1:80/tcp", &["127.0.0.1"], backends()),
        service("224.0.0.9:80/tcp", &["224.0.0.9"], backends()),
        service("0.0.0.0:80/tcp", &["0.0.0.0"], backends()),
        service("[::ffff:10.0.0.1]:80/tcp", &["::ffff:10.0.0.1"], backends()),
        service("dns.marathon:53/udp", &["198.18.0.1"], backends()),
        service("out.marathon:80/tcp", &["169.254.0.9"], backends()),
        // The host's own ports would belong to the tasks.
        service("192.0.2.1:22/tcp", &["192.0.2.1"], backends()),
        service("own.marathon:22/tcp", &["2001:db8::1"], backends()),
        service("zero.marathon:0/tcp", &["198.18.0.10"], backends()),
    ];
    update(&mut desired, &state(services));
    assert_eq!(texts(&desired), ["10.0.0.1:80/tcp 9.0.2.2:80"]);
    assert_eq!(desired.problems().count(), 10);
    assert_eq!(desired.complete().len(), 1);
    assert_eq!(desired.policy().vips.len(), 1);
    // They go with their cause.
    update(&mut desired, &state(vec![]));
    assert_eq!(desired.problems().count(), 0);
    assert!(desired.policy().vips.is_empty());
}

#[test]
fn address_of_an_earlier_range_is_kept_as_an_address_of_its_own() {
    let old = || {
        service(
            "old.marathon:80/tcp",
            &["198.19.0.9"],
            vec![backend("9.0.2.2:80", 2)],
        )
    };
    let mut desired = DesiredServices::default();
    update(&mut desired, &state(vec![old()]));
    assert_eq!(texts(&desired), ["198.19.0.9:80/tcp 9.0.2.2:80"]);
    assert_eq!(desired.problems().count(), 0);
    // Packets to it are looked at although no range has it.
    let vips = [IpAddr::from([198, 19, 0, 9])];
    assert_eq!(desired.policy().vips, vips.into());
    update(&mut desired, &state(vec![]));
    assert!(desired.policy().vips.is_empty());
    // The range changes under it.
    let mut former = settings();
    former.ranges[0] = "198.19.0.0/16".parse().unwrap();
    let cluster = state(vec![old()]);
    desired.update(&cluster.services, &former, &host());
    assert!(desired.policy().vips.is_empty());
    update(&mut desired, &cluster);
    assert_eq!(desired.policy().vips, vips.into());
}

#[test]
fn frontend_of_two_services_is_the_first_ones_until_it_goes() {
    let one = || {
        service(
            "a.marathon:80/tcp",
            &["198.18.0.5"],
            vec![backend("9.0.2.2:80", 2)],
        )
    };
    let other = || {
        service(
            "b.marathon:80/tcp",
            &["198.18.0.5"],
            vec![backend("9.0.2.3:80", 2)],
        )
    };
    let mut desired = DesiredServices::default();
    update(&mut desired, &state(vec![one(), other()]));
    assert_eq!(texts(&desired), ["198.18.0.5:80/tcp 9.0.2.2:80"]);
    assert_eq!(desired.problems().count(), 1);
    assert_eq!(desired.complete().len(), 1);
    let changes = update(&mut desired, &state(vec![other()]));
    assert_eq!(texts(&desired), ["198.18.0.5:80/tcp 9.0.2.3:80"]);
    assert_eq!(changes.frontends.len(), 1);
    assert_eq!(desired.problems().count(), 0);
}

#[test]
fn only_what_is_another_object_is_computed_again() {
    let all = |number: u8| {
        let backends = (1..=number).map(|last| backend(&format!("9.0.2.{last}:80"), 2));
        service("web.marathon:80/tcp", &["198.18.0.5"], backends.collect())
    };
    let mut cluster = state(vec![
        all(3),
        service("db.marathon:53/udp", &["198.18.0.6"], vec![]),
    ]);
    let mut desired = DesiredServices::default();
    let first = update(&mut desired, &cluster);
    assert_eq!(first.frontends.len(), 2);
    assert_eq!(first.flows.len(), 2, "nobody knows what was before");
    assert_eq!(update(&mut desired, &cluster), Changes::default());
    // A backend more has no flows yet.
    cluster.put(Object::Service(all(4)));
    let changes = update(&mut desired, &cluster);
    assert_eq!(changes.frontends.len(), 1);
    assert!(changes.flows.is_empty());
    cluster.put(Object::Service(all(2)));
    assert_eq!(update(&mut desired, &cluster).flows.len(), 1);
    // The first backend of a service by UDP: its clients may have asked somebody else before.
    let ready = service(
        "db.marathon:53/udp",
        &["198.18.0.6"],
        vec![backend("9.0.2.1:53", 2)],
    );
    cluster.put(Object::Service(ready));
    let changes = update(&mut desired, &cluster);
    assert_eq!((changes.frontends.len(), changes.flows.len()), (1, 1));
    // Another host is another state.
    let mut moved = host();
    moved.addresses.insert([192, 0, 2, 2].into());
    let changes = desired.update(&cluster.services, &settings(), &moved);
    assert!(changes.frontends.is_empty(), "the same backends");
    assert_eq!(changes.flows.len(), 2);
    assert_eq!(desired.policy().own.len(), 2);
    assert_eq!(desired.all_targets().len(), 2);
}

#[test]
fn more_backends_than_a_chain_has_are_a_problem() {
    let backend = |number: usize| {
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        backend(&format!("9.1.{high}.{low}:80"), 2)
    };
    let backends = (0..MAX_BACKENDS + 5).map(backend).collect();
    let mut desired = DesiredServices::default();
    let state = state(vec![service(
        "web.marathon:80/tcp",
        &["198.18.0.5"],
        backends,
    )]);
    update(&mut desired, &state);
    assert_eq!(desired.backend_count(), MAX_BACKENDS);
    assert_eq!(desired.problems().count(), 1);
    assert_eq!(desired.complete().len(), 1, "it works");
}
