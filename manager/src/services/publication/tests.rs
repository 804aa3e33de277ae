use contrail_mesos_api::cluster::{Backend, Reach, ServiceProtocol, TaskPort};
use proptest::prelude::*;

use super::super::DesiredBackend;
use super::*;

const GRACE: Duration = Duration::from_mins(5);

fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

/// A backend on the host 192.0.2.`host`, with this address.
fn backend(address: &str, host: u8, state: BackendState) -> DesiredBackend {
    let backend = Backend {
        address: address.parse().unwrap(),
        local: None,
        host: [192, 0, 2, host].into(),
        reach: Reach::Cluster,
        state,
        task: format!("task-{address}"),
    };
    DesiredBackend {
        backend,
        interface: None,
    }
}

fn ready(address: &str, host: u8) -> DesiredBackend {
    backend(address, host, BackendState::Ready)
}

fn desired(services: &[(&str, Vec<DesiredBackend>)]) -> DesiredServices {
    let services = services.iter().map(|(text, backends)| {
        let service = DesiredService {
            backends: backends.clone(),
            affinity: None,
            frameworks: vec!["marathon".to_owned()],
        };
        (key(text), service)
    });
    DesiredServices {
        services: services.collect(),
        ..DesiredServices::default()
    }
}

fn full() -> Trust {
    Trust::Except(BTreeSet::new())
}

fn awaiting(hosts: &[u8]) -> Trust {
    let hosts = hosts.iter().map(|host| [192, 0, 2, *host].into());
    Trust::Except(hosts.collect())
}

struct Fixture {
    publication: Publication,
    pool: AddressPool,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self::with(&["198.18.0.0/16", "fd4a::/112"])
    }

    fn with(ranges: &[&str]) -> Self {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Self {
            publication: Publication::new(&ranges, GRACE),
            pool: AddressPool::new(&ranges),
            now: Instant::now(),
        }
    }

    /// Does what the publisher does. Returns the changes.
    fn publish(&mut self, desired: DesiredServices, trust: &Trust) -> Vec<ObjectChange> {
        let Some(mut target) = self.publication.target(desired, trust) else {
            return vec![];
        };
        self.publication.limit(&mut target, &self.pool);
        let (requests, _) = self
            .publication
            .address_requests(&target, &self.pool, trust, self.now);
        for name in &requests.released {
            self.pool.release(name);
        }
        let mut shortages = BTreeMap::new();
        for name in &requests.wanted {
            let (_, lacking) = self.pool.give(name);
            if !lacking.is_empty() {
                shortages.insert(name.clone(), lacking);
            }
        }
        self.publication.publish(target, &self.pool, &shortages)
    }

    fn publish_all(&mut self, services: &[(&str, Vec<DesiredBackend>)]) -> Vec<String> {
        shown(&self.publish(desired(services), &full()))
    }

    fn service(&self, text: &str) -> &Service {
        &self.publication.services()[&key(text)].service
    }

    fn addresses(&self, text: &str) -> Vec<String> {
        let addresses = self.service(text).addresses.iter();
        addresses.map(ToString::to_string).collect()
    }

    fn backends(&self, text: &str) -> Vec<String> {
        let backends = self.service(text).backends.iter();
        backends
            .map(|backend| backend.address.to_string())
            .collect()
    }

    fn problems(&self) -> String {
        let (problems, _) = self.publication.problems();
        let problems = problems.iter();
        let texts = problems.map(|problem| format!("{}: {}", problem.subject, problem.message));
        texts.collect::<Vec<_>>().join("\n")
    }
}

fn shown(changes: &[ObjectChange]) -> Vec<String> {
    let shown = changes.iter().map(|change| match change {
        ObjectChange::Put(Object::Service(service)) => format!("put {}", service.service),
        ObjectChange::Put(Object::TaskName(name)) => format!("put name {}", name.name),
        ObjectChange::Put(Object::ServicesComplete) => "complete".to_owned(),
        ObjectChange::Delete(ObjectKey::Service { service }) => format!("delete {service}"),
        ObjectChange::Delete(ObjectKey::TaskName { name }) => format!("delete name {name}"),
        other => panic!("{other:?}"),
    });
    shown.collect()
}

#[test]
fn only_what_differs_is_published() {
    let mut fixture = Fixture::new();
    let (web, api) = ("web.marathon:80/tcp", "api.marathon:80/tcp");
    let one = vec![ready("10.0.0.1:8080", 1)];
    let changes = fixture.publish_all(&[(web, one.clone()), (api, one.clone())]);
    assert_eq!(
        changes,
        [
            format!("put {api}"),
            format!("put {web}"),
            "complete".to_owned()
        ]
    );
    assert_eq!(
        fixture.publish_all(&[(web, one.clone()), (api, one.clone())]),
        [""; 0]
    );
    let two = vec![one[0].clone(), ready("10.0.0.2:8080", 2)];
    assert_eq!(
        fixture.publish_all(&[(web, two.clone()), (api, one.clone())]),
        [format!("put {web}")]
    );
    let draining = vec![backend("10.0.0.1:8080", 1, BackendState::Draining)];
    assert_eq!(
        fixture.publish_all(&[(web, two), (api, draining)]),
        [format!("put {api}")]
    );
    let counts = fixture.publication.counts();
    assert_eq!((counts.services, counts.ready, counts.draining), (2, 2, 1));
    assert_eq!(counts.without_ready, 1);
    assert_eq!(
        fixture.publish_all(&[]),
        [format!("delete {api}"), format!("delete {web}")]
    );
}

#[test]
fn service_has_an_address_of_each_family_of_its_backends() {
    let mut fixture = Fixture::new();
    let web = "web.marathon:80/tcp";
    let both = vec![ready("10.0.0.1:8080", 1), ready("[fd01::1]:8080", 1)];
    fixture.publish_all(&[(web, both.clone())]);
    let addresses = fixture.addresses(web);
    assert!(
        addresses[0].starts_with("198.18.") && addresses[1].starts_with("fd4a::"),
        "{addresses:?}"
    );
    fixture.publish_all(&[(web, both[..1].to_vec())]);
    assert_eq!(fixture.addresses(web), addresses[..1]);
    fixture.publish_all(&[(web, both[1..].to_vec())]);
    assert_eq!(fixture.addresses(web), addresses[1..]);
    // All ports of a name have its address.
    let (tls, dns) = ("web.marathon:443/tcp", "web.marathon:80/udp");
    fixture.publish_all(&[(web, both.clone()), (tls, both.clone()), (dns, both)]);
    for text in [web, tls, dns] {
        assert_eq!(fixture.addresses(text), addresses, "{text}");
    }
}

#[test]
fn address_that_a_framework_chose_is_not_of_the_ranges() {
    let mut fixture = Fixture::new();
    let one = vec![ready("10.0.0.1:8080", 1)];
    let (good, own, other) = ("10.9.9.9:80/tcp", "198.18.0.1:53/tcp", "[fd4a::7]:80/tcp");
    let changes = fixture.publish_all(&[(good, one.clone()), (own, one.clone()), (other, one)]);
    assert_eq!(changes, [format!("put {good}"), "complete".to_owned()]);
    assert_eq!(fixture.addresses(good), ["10.9.9.9"]);
    let problems = fixture.problems();
    assert!(
        problems.contains("198.18.0.1:53/tcp: its address is of 198.18.0.0/16")
            && problems.contains("fd4a::/112"),
        "{problems}"
    );
}

#[test]
fn new_leader_publishes_nothing_before_it_knows_everything() {
    let mut fixture = Fixture::new();
    let services = [("web.marathon:80/tcp", vec![ready("10.0.0.1:8080", 1)])];
    for trust in [Trust::Lost, Trust::Additions, awaiting(&[2])] {
        assert_eq!(fixture.publish(desired(&services), &trust), [], "{trust:?}");
        assert!(!fixture.publication.is_complete());
    }
    assert_eq!(fixture.publish_all(&services).len(), 2);
    assert!(fixture.publication.is_complete());
}

#[test]
fn what_may_still_be_there_is_not_withdrawn() {
    let mut fixture = Fixture::new();
    let (web, api) = ("web.marathon:80/tcp", "api.marathon:80/tcp");
    let all = vec![ready("10.0.0.1:8080", 1), ready("10.0.0.2:8080", 2)];
    fixture.publish_all(&[(web, all.clone()), (api, all[1..].to_vec())]);
    // Mesos is lost, or its list has shrunk.
    assert_eq!(fixture.publish(desired(&[]), &Trust::Lost), []);
    assert_eq!(fixture.publish(desired(&[]), &Trust::Additions), []);
    assert_eq!(fixture.publication.counts().kept, 3);
    // What ran on one host is gone, the other has not registered with the new master.
    assert_eq!(
        shown(&fixture.publish(desired(&[]), &awaiting(&[2]))),
        [format!("put {web}")]
    );
    assert_eq!(fixture.backends(web), ["10.0.0.2:8080"]);
    assert_eq!(fixture.backends(api), ["10.0.0.2:8080"]);
    // What is new is added meanwhile, and a task at a known address replaces the one before.
    let mut replaced = ready("10.0.0.2:8080", 3);
    "other".clone_into(&mut replaced.backend.task);
    let changes = fixture.publish(
        desired(&[
            (web, vec![ready("10.0.0.9:8080", 9)]),
            (api, vec![replaced]),
        ]),
        &awaiting(&[2]),
    );
    assert_eq!(
        shown(&changes),
        [format!("put {api}"), format!("put {web}")]
    );
    assert_eq!(fixture.backends(web), ["10.0.0.2:8080", "10.0.0.9:8080"]);
    assert_eq!(fixture.service(api).backends[0].task, "other");
    assert_eq!(fixture.service(api).backends.len(), 1);
    // It is back without the tasks.
    assert_eq!(
        fixture.publish_all(&[(web, vec![ready("10.0.0.9:8080", 9)])]),
        [format!("delete {api}"), format!("put {web}")]
    );
    assert_eq!(fixture.publication.counts().kept, 0);
}

#[test]
fn names_of_tasks_are_published_and_kept() {
    let mut fixture = Fixture::new();
    let instance = |host| TaskInstance {
        agent: [192, 0, 2, host].into(),
        addresses: vec![[10, 0, 0, host].into()],
        ports: vec![],
    };
    let names = |hosts: &[u8]| {
        let name = TaskName {
            name: "web.marathon".to_owned(),
            instances: hosts.iter().map(|host| instance(*host)).collect(),
        };
        let has_any = !hosts.is_empty();
        DesiredServices {
            task_names: has_any
                .then(|| (name.name.clone(), name))
                .into_iter()
                .collect(),
            ..DesiredServices::default()
        }
    };
    let changes = fixture.publish(names(&[1, 2]), &full());
    assert_eq!(shown(&changes), ["put name web.marathon", "complete"]);
    assert_eq!(fixture.publish(names(&[1, 2]), &full()), []);
    let changes = fixture.publish(names(&[3]), &awaiting(&[2]));
    assert_eq!(shown(&changes), ["put name web.marathon"]);
    let known = &fixture.publication.task_names()["web.marathon"];
    assert_eq!(known.instances, [instance(2), instance(3)]);
    let changes = fixture.publish(names(&[]), &full());
    assert_eq!(shown(&changes), ["delete name web.marathon"]);
}

#[test]
fn address_is_reserved_for_the_grace_after_the_last_backend() {
    let mut fixture = Fixture::new();
    let web = "web.marathon:80/tcp";
    let services = [(web, vec![ready("10.0.0.1:8080", 1)])];
    fixture.publish_all(&services);
    let address = fixture.addresses(web);
    fixture.publish_all(&[]);
    let requests = |fixture: &mut Fixture, trust: &Trust| {
        let target = fixture.publication.target(desired(&[]), trust).unwrap();
        fixture
            .publication
            .address_requests(&target, &fixture.pool, trust, fixture.now)
    };
    // It is not counted while it is uncertain that nothing uses it.
    let (found, next) = requests(&mut fixture, &full());
    assert!(found.is_empty());
    assert_eq!(next, Some(fixture.now + GRACE));
    fixture.now += GRACE / 2;
    assert!(requests(&mut fixture, &full()).0.is_empty());
    // The app is back in time.
    fixture.publish_all(&services);
    assert_eq!(fixture.addresses(web), address);
    fixture.publish_all(&[]);
    fixture.now += Duration::from_secs(2);
    assert!(requests(&mut fixture, &full()).0.is_empty());
    fixture.now += GRACE;
    // Nothing is released while an agent is awaited, and nothing is due.
    let (found, next) = requests(&mut fixture, &awaiting(&[1]));
    assert!(found.is_empty());
    assert_eq!(next, None);
    let (found, next) = requests(&mut fixture, &full());
    assert_eq!(found.released, BTreeSet::from(["web.marathon".to_owned()]));
    assert_eq!(next, None);
}

#[test]
fn used_up_range_takes_reserved_addresses_and_is_a_problem() {
    let mut fixture = Fixture::with(&["198.18.0.0/28"]);
    let text = |number: usize| format!("s{number:02}.marathon:80/tcp");
    let one = || vec![ready("10.0.0.1:8080", 1)];
    let publish = |fixture: &mut Fixture, numbers: std::ops::Range<usize>| {
        let texts: Vec<String> = numbers.map(text).collect();
        let services: Vec<_> = texts.iter().map(|text| (text.as_str(), one())).collect();
        fixture.publish_all(&services)
    };
    publish(&mut fixture, 0..13);
    assert_eq!(fixture.problems(), "");
    // One goes later than another one: the address of that one is given first.
    publish(&mut fixture, 1..13);
    fixture.now += Duration::from_secs(1);
    publish(&mut fixture, 2..13);
    publish(&mut fixture, 2..14);
    assert_eq!(fixture.publication.services().len(), 12);
    assert!(fixture.pool.addresses("s00.marathon").is_none());
    assert!(fixture.pool.addresses("s01.marathon").is_some());
    publish(&mut fixture, 2..17);
    assert_eq!(fixture.publication.services().len(), 13);
    let problems = fixture.problems();
    assert!(
        problems.contains("s15.marathon:80/tcp: all addresses of 198.18.0.0/28 are given")
            && problems.contains("s16.marathon"),
        "{problems}"
    );
    // Those that have an address keep it.
    let before = fixture.addresses(&text(2));
    publish(&mut fixture, 2..16);
    assert_eq!(fixture.addresses(&text(2)), before);
}

#[test]
fn object_is_never_longer_than_a_line() {
    let mut fixture = Fixture::new();
    let (web, many) = ("web.marathon:80/tcp", "many.marathon:80/tcp");
    let long: Vec<_> = (0..300_u16)
        .map(|number| {
            let mut backend = ready(&format!("10.0.0.1:{}", 1000 + number), 1);
            // Each byte takes six in JSON.
            backend.backend.task = format!("{number:03}{}", "\u{1}".repeat(2000));
            backend
        })
        .collect();
    let mut plenty: Vec<_> = (0..2000_u16)
        .map(|number| ready(&format!("10.0.0.1:{}", 1000 + number), 1))
        .collect();
    for backend in &mut plenty[..1500] {
        backend.backend.state = BackendState::Draining;
    }
    let changes = fixture.publish(desired(&[(web, long), (many, plenty)]), &full());
    for change in &changes {
        if let ObjectChange::Put(object) = change {
            let length = encoded_bytes(object);
            assert!(length <= MAX_OBJECT_BYTES, "{:?}: {length}", object.key());
        }
    }
    let backends = &fixture.service(web).backends;
    assert!((50..300).contains(&backends.len()), "{}", backends.len());
    let many = &fixture.service(many).backends;
    let ready = many
        .iter()
        .filter(|backend| backend.state == BackendState::Ready);
    assert_eq!((many.len(), ready.count()), (MAX_BACKENDS, 500));
    let (problems, count) = fixture.publication.problems();
    assert_eq!((problems.len(), count), (2, 2));
}

#[test]
fn names_of_tasks_with_many_ports_are_bounded() {
    let mut fixture = Fixture::new();
    let port = |number: u16| TaskPort {
        name: "p".repeat(63),
        protocol: ServiceProtocol::Tcp,
        container: Some(number),
        host: Some(number),
    };
    let instance = |host: u8| TaskInstance {
        agent: [192, 0, 2, host].into(),
        addresses: vec![],
        ports: (0..200).map(port).collect(),
    };
    let name = TaskName {
        name: "web.marathon".to_owned(),
        instances: (0..200).map(instance).collect(),
    };
    let desired = DesiredServices {
        task_names: [(name.name.clone(), name)].into(),
        ..DesiredServices::default()
    };
    let changes = fixture.publish(desired.clone(), &full());
    let [ObjectChange::Put(object), _] = &changes[..] else {
        panic!("{}", changes.len())
    };
    let length = encoded_bytes(object);
    assert!(
        (MAX_OBJECT_BYTES / 2..=MAX_OBJECT_BYTES).contains(&length),
        "{length}"
    );
    assert_eq!(fixture.publish(desired, &full()), []);
}

#[test]
fn backends_of_two_hosts_may_have_one_address() {
    let mut fixture = Fixture::new();
    let web = "web.marathon:80/tcp";
    let on_bridge = |host| {
        let mut backend = ready("172.16.0.7:8080", host);
        backend.backend.reach = Reach::Host;
        backend
    };
    fixture.publish_all(&[(web, vec![on_bridge(1), on_bridge(2)])]);
    let found = desired(&[(web, vec![on_bridge(1)])]);
    assert_eq!(fixture.publish(found, &awaiting(&[2])), []);
    assert_eq!(fixture.backends(web).len(), 2);
}

#[test]
fn names_of_many_tasks_beyond_the_limit_are_left_out_but_for_published_ones() {
    let mut fixture = Fixture::new();
    let name = |name: String, instances: usize| {
        let instances = (0..instances).map(|number| TaskInstance {
            agent: [192, 0, 2, 1].into(),
            addresses: vec![IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())],
            ports: vec![],
        });
        let instances = instances.collect();
        (name.clone(), TaskName { name, instances })
    };
    let mut target = |names: Vec<(String, TaskName)>| {
        let desired = DesiredServices {
            task_names: names.into_iter().collect(),
            ..DesiredServices::default()
        };
        let mut target = fixture.publication.target(desired, &full()).unwrap();
        fixture.publication.limit(&mut target, &fixture.pool);
        fixture
            .publication
            .publish(target, &fixture.pool, &BTreeMap::new());
        fixture.publication.task_names().len()
    };
    // That of the published one is the last.
    let known = || name("z.marathon".to_owned(), 1000);
    assert_eq!(target(vec![known()]), 1);
    let others = (0..750).map(|number| name(format!("a{number}.marathon"), 1000));
    assert_eq!(target(others.chain([known()]).collect()), 750);
    assert!(fixture.publication.task_names().contains_key("z.marathon"));
    assert!(fixture.problems().contains("1 names are not published"));
}

#[test]
fn service_whose_name_has_an_address_is_among_the_first_of_a_new_leader() {
    let one = vec![ready("10.0.0.1:8080", 1)];
    let mut fixture = Fixture::with(&["10.0.0.0/8"]);
    fixture.pool.give("z.marathon");
    let texts: Vec<String> = (0..MAX_SERVICES)
        .map(|number| {
            let [_, b, c, d] = u32::try_from(number).unwrap().to_be_bytes();
            format!("11.{b}.{c}.{d}:80/tcp")
        })
        .collect();
    let services = texts.iter().map(|text| (text.as_str(), one.clone()));
    let services: Vec<_> = services
        .chain([("z.marathon:80/tcp", one.clone())])
        .collect();
    fixture.publish_all(&services);
    let published = fixture.publication.services();
    assert_eq!(published.len(), MAX_SERVICES);
    assert!(published.contains_key(&key("z.marathon:80/tcp")));
}

#[test]
fn new_services_beyond_the_limit_are_left_out() {
    let one = vec![ready("10.0.0.1:8080", 1)];
    let mut fixture = Fixture::with(&["10.0.0.0/8"]);
    // The name of the published one is the last.
    fixture.publish_all(&[("z.marathon:80/tcp", one.clone())]);
    let texts: Vec<String> = (0..=MAX_SERVICES)
        .map(|number| {
            format!(
                "10.{}.{}.{}:80/tcp",
                number >> 16,
                (number >> 8) & 255,
                number & 255
            )
        })
        .map(|text| text.replacen("10.", "11.", 1))
        .collect();
    let mut services: Vec<_> = texts
        .iter()
        .map(|text| (text.as_str(), one.clone()))
        .collect();
    services.push(("z.marathon:80/tcp", one));
    fixture.publish_all(&services);
    let published = fixture.publication.services();
    assert_eq!(published.len(), MAX_SERVICES);
    assert!(published.contains_key(&key("z.marathon:80/tcp")));
    let problems = fixture.problems();
    assert!(problems.contains("2 are not published"), "{problems}");
}

#[test]
fn one_change_of_ten_thousand_services_publishes_one_object() {
    let mut fixture = Fixture::new();
    let mut all = BTreeMap::new();
    for number in 0..10_000_u32 {
        let backends = (0..3_u32).map(|index| {
            let port = 1000 + (number * 3 + index) % 60_000;
            ready(&format!("10.0.{index}.1:{port}"), 1)
        });
        let service = DesiredService {
            backends: backends.collect(),
            affinity: None,
            frameworks: vec!["marathon".to_owned()],
        };
        all.insert(key(&format!("s{number}.marathon:80/tcp")), service);
    }
    let services = |all: &BTreeMap<ServiceKey, DesiredService>| DesiredServices {
        services: all.clone(),
        ..DesiredServices::default()
    };
    let changes = fixture.publish(services(&all), &full());
    assert_eq!(changes.len(), 10_001);
    let touched = key("s4711.marathon:80/tcp");
    all.get_mut(&touched).unwrap().backends.pop();
    let changes = fixture.publish(services(&all), &full());
    assert_eq!(shown(&changes), [format!("put {touched}")]);
    assert_eq!(
        fixture.publish(services(&BTreeMap::new()), &full()).len(),
        10_000
    );
    // Their addresses are still reserved.
    let usage = fixture.pool.usage();
    assert_eq!(usage[0].used, 10_000);
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// A backend comes to a service, or goes.
    Backend(bool, u8, u8),
    /// The state of Mesos is trusted so far.
    Trust(u8),
    /// Time passes.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<bool>(), 0_u8..4, 0_u8..4).prop_map(|(is_put, service, host)| Step::Backend(is_put, service, host)),
        3 => (0_u8..4).prop_map(Step::Trust),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    /// The changes lead to what is published. Nothing of a host that is waited for is withdrawn, and what
    /// is fully trusted is published as it is.
    #[test]
    fn changes_lead_to_what_there_is(steps in steps()) {
        let mut fixture = Fixture::with(&["198.18.0.0/28", "fd4a::/124"]);
        let mut real: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        let mut client: BTreeMap<ServiceKey, Service> = BTreeMap::new();
        let mut trust = full();
        let text = |service: u8| format!("s{service}.marathon:80/tcp");
        for step in &steps {
            match step {
                Step::Backend(true, service, host) => {
                    real.entry(*service).or_default().insert(*host);
                }
                Step::Backend(false, service, host) => {
                    if let Some(hosts) = real.get_mut(service) {
                        hosts.remove(host);
                    }
                }
                Step::Trust(0) => trust = Trust::Lost,
                Step::Trust(1) => trust = Trust::Additions,
                Step::Trust(2) => trust = awaiting(&[0, 1]),
                Step::Trust(_) => trust = full(),
                Step::Wait => fixture.now += GRACE,
            }
            real.retain(|_, hosts| !hosts.is_empty());
            let texts: Vec<_> = real.keys().map(|service| text(*service)).collect();
            let services: Vec<_> = real
                .values()
                .zip(&texts)
                .map(|(hosts, text)| {
                    let backends = hosts.iter().map(|host| ready(&format!("10.0.0.{host}:80"), *host));
                    (text.as_str(), backends.collect())
                })
                .collect();
            let before = client.clone();
            for change in fixture.publish(desired(&services), &trust) {
                match change {
                    ObjectChange::Put(Object::Service(service)) => {
                        let known = client.insert(service.service.clone(), service.clone());
                        prop_assert_ne!(known, Some(service));
                    }
                    ObjectChange::Delete(ObjectKey::Service { service }) => {
                        prop_assert!(client.remove(&service).is_some());
                    }
                    _ => {}
                }
            }
            let published: BTreeMap<_, _> = fixture
                .publication
                .services()
                .iter()
                .map(|(key, published)| (key.clone(), published.service.clone()))
                .collect();
            prop_assert_eq!(&client, &published);
            let hosts = |service: &Service| -> BTreeSet<u8> {
                let backends = service.backends.iter();
                backends
                    .map(|backend| match backend.host {
                        IpAddr::V4(host) => host.octets()[3],
                        IpAddr::V6(_) => unreachable!(),
                    })
                    .collect()
            };
            for (key, service) in &before {
                for host in hosts(service) {
                    let is_there = client.get(key).is_some_and(|now| hosts(now).contains(&host));
                    prop_assert!(is_there || trust.may_withdraw([192, 0, 2, host].into()));
                }
            }
            if trust.is_full() {
                let now: BTreeMap<String, BTreeSet<u8>> =
                    client.iter().map(|(key, service)| (key.to_string(), hosts(service))).collect();
                let real: BTreeMap<String, BTreeSet<u8>> =
                    real.iter().map(|(service, hosts)| (text(*service), hosts.clone())).collect();
                prop_assert_eq!(now, real);
            }
            // No address is that of two names.
            let mut names: BTreeMap<IpAddr, &Vip> = BTreeMap::new();
            for (key, service) in &client {
                for address in &service.addresses {
                    let other = names.insert(*address, &key.vip);
                    prop_assert!(other.is_none_or(|other| *other == key.vip));
                }
            }
        }
    }
}
