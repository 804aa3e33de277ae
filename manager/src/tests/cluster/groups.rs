//! Groups: the endpoints that nodes report, security groups, and what operators see of both.

use std::time::Instant;

use contrail_mesos_api::cluster::{
    Endpoint, EndpointsReport, IngressRule, MAX_ENDPOINTS_REPORT_BYTES, Membership, Node,
    RuleSource, SecurityGroup,
};

use super::*;

const GROUPS: &str = r#"{
    "vtep_subnet": "44.128.0.0/16",
    "vtep_mac_oui": "70:B3:D5:00:00:00",
    "overlays": [
        {"name": "vxlan-1", "subnet": "192.168.0.0/17", "prefix": 24, "groups": true},
        {"name": "open", "subnet": "192.168.128.0/17", "prefix": 24}
    ]
}"#;

/// The configuration of a manager with an overlay that isolates groups, and one that does not.
fn group_config(directory: &Path, more: &str) -> Config {
    let config = config(directory, "");
    let overlays = directory.join("overlays.json");
    std::fs::write(&overlays, GROUPS).unwrap();
    let state = directory.join("state.json");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         [overlay]\nfile = {overlays:?}\nstate_file = {state:?}\n{more}"
    );
    let parsed = Config::parse(Path::new("manager.toml"), &text).unwrap();
    Config {
        access: config.access,
        ..parsed
    }
}

fn endpoint(node: &str, id: &str, address: &str, groups: &[&str]) -> Endpoint {
    Endpoint {
        node: node.to_owned(),
        id: id.to_owned(),
        addresses: vec![address.parse().unwrap()],
        membership: Membership {
            groups: groups.iter().map(|name| (*name).to_owned()).collect(),
            security_groups: vec![],
        },
    }
}

fn reporting(last: u8, digest: &str) -> NodeReport {
    NodeReport {
        endpoints: Some(digest.to_owned()),
        ..report(last, None)
    }
}

impl Client {
    async fn put_endpoints(&self, digest: &str, endpoints: Vec<Endpoint>) -> Response {
        let report = EndpointsReport {
            digest: digest.to_owned(),
            endpoints,
        };
        let body = serde_json::to_string(&report).unwrap();
        let path = format!("/v1/nodes/{}/endpoints", self.name);
        self.send(Method::PUT, &path, body).await
    }

    async fn report_endpoints(&self, digest: &str, endpoints: Vec<Endpoint>) {
        let response = self.put_endpoints(digest, endpoints).await;
        let status = response.status();
        assert_eq!(
            (status, response.text().await.unwrap()),
            (StatusCode::OK, "{}".to_owned())
        );
    }
}

impl Watch {
    /// The objects at that revision, ordered by key. A snapshot may be older; changes follow it.
    async fn state_at(&mut self, at: Revision) -> Vec<Object> {
        let (mut revision, objects) = self.snapshot().await;
        let objects = objects.into_iter().map(|object| (object.key(), object));
        let mut objects: BTreeMap<ObjectKey, Object> = objects.collect();
        while revision < at {
            match self.next().await.unwrap() {
                WatchItem::Put {
                    revision: new,
                    object,
                } => {
                    revision = new;
                    objects.insert(object.key(), object);
                }
                WatchItem::Delete { revision: new, key } => {
                    revision = new;
                    objects.remove(&key);
                }
                other => panic!("{other:?}"),
            }
        }
        objects.into_values().collect()
    }

    /// What the next item changes.
    async fn change(&mut self) -> Result<Object, ObjectKey> {
        match self.next().await.unwrap() {
            WatchItem::Put { object, .. } => Ok(object),
            WatchItem::Delete { key, .. } => Err(key),
            other => panic!("{other:?}"),
        }
    }
}

fn complete(node: &str) -> Object {
    let node = node.to_owned();
    Object::EndpointsComplete { node }
}

fn key(endpoint: &Endpoint) -> ObjectKey {
    Object::Endpoint(endpoint.clone()).key()
}

#[tokio::test]
async fn endpoints_of_a_node_are_published_until_it_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&group_config(directory.path(), "")).await;
    let first = Client::new(&manager, "agent-1");
    let second = Client::new(&manager, "agent-2");
    let answer = first.register(&reporting(1, "one")).await;
    assert!(answer.send_endpoints);
    // A daemon that does not know its containers is not asked.
    assert!(!second.register(&report(2, None)).await.send_endpoints);
    let mut watch = second.watch(None).await;
    watch.snapshot().await;

    let a = endpoint("agent-1", "a", "192.168.0.5", &["star-1"]);
    let b = endpoint("agent-1", "b", "192.168.0.6", &[]);
    first
        .report_endpoints("one", vec![a.clone(), b.clone()])
        .await;
    for object in [
        Object::Endpoint(a.clone()),
        Object::Endpoint(b.clone()),
        complete("agent-1"),
    ] {
        assert_eq!(watch.change().await, Ok(object));
    }
    assert!(!first.register(&reporting(1, "one")).await.send_endpoints);
    assert!(first.register(&reporting(1, "two")).await.send_endpoints);

    // One change is one item. Entries that are not valid are refused alone.
    let changed = endpoint("agent-1", "b", "192.168.0.6", &["star-1", "star-2"]);
    let foreign = endpoint("agent-1", "c", "192.168.1.5", &["star-1"]);
    let entries = vec![a.clone(), changed.clone(), foreign];
    first.report_endpoints("two", entries).await;
    assert_eq!(watch.change().await, Ok(Object::Endpoint(changed.clone())));
    let answer = first.register(&reporting(1, "two")).await;
    assert!(!answer.send_endpoints);
    assert!(answer.problems[0].contains("192.168.1.5"), "{answer:?}");
    let list = first.list("?node=agent-1").await;
    assert_eq!(list.nodes[0].endpoints, Some(2));
    assert_eq!(list.nodes[0].problems, answer.problems);
    // Who asks for an address learns which container has it.
    let list = first.list("?address=192.168.0.6").await;
    assert_eq!(list.nodes.len(), 1);
    let owner = &list.containers[0];
    assert_eq!(
        (owner.node.as_deref(), owner.container.as_deref()),
        (Some("agent-1"), Some("b"))
    );
    assert_eq!(first.list("?address=192.168.0.99").await.containers, []);
    let list = first.list("?node=agent-2").await;
    assert_eq!(
        (list.nodes[0].endpoints, &list.nodes[0].problems[..]),
        (None, &[][..])
    );

    // A watch that begins now ends up with the same.
    let objects = second.watch(None).await.state_at(list.revision).await;
    let endpoints: Vec<_> = objects
        .into_iter()
        .skip_while(|object| !matches!(object, Object::Endpoint(_)))
        .collect();
    let expected = [
        Object::Endpoint(a.clone()),
        Object::Endpoint(changed.clone()),
        complete("agent-1"),
        // A manager without services says that there are none.
        Object::ServicesComplete,
    ];
    assert_eq!(endpoints, expected);

    // The node is gone, and so is what it reported; another one gets its subnet.
    let path = "/v1/nodes/agent-1";
    let deleted = first.send(Method::DELETE, path, String::new()).await;
    assert_eq!(deleted.status(), StatusCode::OK);
    let marker = complete("agent-1").key();
    let node = ObjectKey::Node {
        name: "agent-1".to_owned(),
    };
    for gone in [key(&a), key(&changed), marker, node] {
        assert_eq!(watch.change().await, Err(gone));
    }
    let third = Client::new(&manager, "agent-3");
    assert!(third.register(&reporting(3, "x")).await.send_endpoints);
    assert!(matches!(watch.change().await, Ok(Object::Node(_))));
    let taken = endpoint("agent-3", "a", "192.168.0.5", &["other"]);
    third.report_endpoints("x", vec![taken.clone()]).await;
    assert_eq!(watch.change().await, Ok(Object::Endpoint(taken)));
    // It is re-imaged under its old name: it has another subnet, and is asked for its containers.
    let answer = first.register(&reporting(1, "two")).await;
    assert!(
        answer.send_endpoints && answer.problems.is_empty(),
        "{answer:?}"
    );
    let subnet = answer.node.unwrap().subnets[1].subnet;
    assert_eq!(subnet, "192.168.2.0/24".parse().ok());
    first.report_endpoints("two", vec![a]).await;
    let answer = first.register(&reporting(1, "two")).await;
    assert!(answer.problems[0].contains("192.168.0.5"), "{answer:?}");
}

#[tokio::test]
async fn endpoints_of_others_and_invalid_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&group_config(directory.path(), "")).await;
    let node = Client::new(&manager, "agent-1");
    let path = "/v1/nodes/agent-1/endpoints";
    let empty = r#"{"digest": "x", "endpoints": []}"#;
    refused(node.put_endpoints("x", vec![]).await, 409, "not registered").await;
    node.register(&report(1, None)).await;
    let stranger = Client {
        token: "wrong-horse-battery",
        ..Client::new(&manager, "agent-1")
    };
    refused(stranger.put_endpoints("x", vec![]).await, 401, "token").await;
    let other = "/v1/nodes/agent-2/endpoints";
    let response = node.send(Method::PUT, other, empty.to_owned()).await;
    refused(response, 403, "agent-2").await;
    let with_address = |address: &str| {
        format!(
            r#"{{"digest": "x", "endpoints": [{{"node": "agent-1", "id": "a", "addresses": [{address}]}}]}}"#
        )
    };
    for (body, message) in [
        ("{".to_owned(), "not the report of a node's containers"),
        (r#"{"digest": "x"}"#.to_owned(), "endpoints"),
        (with_address("\"x\""), "endpoints[0]"),
        (with_address("9"), "endpoints[0]"),
        (
            r#"{"digest": "", "endpoints": []}"#.to_owned(),
            "a digest has",
        ),
    ] {
        let response = node.send(Method::PUT, path, body).await;
        refused(response, 400, message).await;
    }
    let response = node
        .send(Method::PUT, &format!("{path}?x=1"), empty.to_owned())
        .await;
    refused(response, 400, "takes none").await;
    refused(node.get(path).await, 405, "does not support").await;
    // Longer than other requests may be, but not without end.
    let spaces = |count: usize| format!("{empty}{}", " ".repeat(count));
    let longest = MAX_ENDPOINTS_REPORT_BYTES - empty.len();
    let response = node.send(Method::PUT, path, spaces(longest)).await;
    assert_eq!(response.status(), StatusCode::OK);
    refused(
        node.send(Method::PUT, path, spaces(longest + 1)).await,
        413,
        "longer than",
    )
    .await;
    let response = node
        .send(Method::PUT, "/v1/nodes/agent-1", spaces(1 << 20))
        .await;
    refused(response, 413, "longer than").await;

    let fixture = Fixture::new().await;
    let manager = crate::tests::http::start(&fixture).await;
    let node = Client::new(&manager, "agent-1");
    refused(node.put_endpoints("x", vec![]).await, 404, "[overlay]").await;
}

#[tokio::test]
async fn next_leader_asks_every_node_for_its_endpoints() {
    let directory = tempfile::tempdir().unwrap();
    let (control, fence) = fence("no");
    let (cluster, _background) = cluster(&group_config(directory.path(), ""), &fence);
    for term in [4, 5] {
        control.lead(term, None);
        fence.run_in_term(cluster.begin(term)).await.unwrap();
        let published = || -> Vec<_> {
            let endpoints = cluster.endpoints().into_iter();
            endpoints.map(|endpoint| endpoint.id.clone()).collect()
        };
        assert!(published().is_empty());
        assert_eq!(cluster.endpoint_counts().complete_nodes, 0);
        let answer = cluster.report("a", reporting(1, "one")).await.unwrap();
        assert!(answer.send_endpoints);
        let report = || EndpointsReport {
            digest: "one".to_owned(),
            endpoints: vec![endpoint("a", "c", "192.168.0.5", &["x"])],
        };
        cluster.report_endpoints("a", report()).await.unwrap();
        assert_eq!(published(), ["c"]);
        let answer = cluster.report("a", reporting(1, "one")).await.unwrap();
        assert!(!answer.send_endpoints);
        control.close("lost");
        let refused = cluster.report_endpoints("a", report()).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(published().is_empty());
    }
}

const SECURITY_GROUPS: &str = r#"
[[security_group]]
name = "web"
[[security_group.rule]]
protocol = "tcp"
ports = "80"
from = "group:lb"
[[security_group]]
name = "old"
"#;

#[tokio::test]
async fn security_groups_and_isolation_change_at_run_time() {
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&group_config(directory.path(), SECURITY_GROUPS)).await;
    let node = Client::new(&manager, "agent-1");
    let (_, objects) = {
        node.register(&report(1, None)).await;
        node.watch(None).await.snapshot().await
    };
    let groups: Vec<_> = objects
        .iter()
        .filter(|object| matches!(object, Object::SecurityGroup(_)))
        .collect();
    let rule = |ports, source| IngressRule {
        protocol: Some(6),
        ports: Some(ports),
        source,
    };
    let lb = RuleSource::Group("lb".to_owned());
    let group = |name: &str, rules: &[IngressRule]| {
        Object::SecurityGroup(SecurityGroup {
            name: name.to_owned(),
            rules: rules.to_vec(),
        })
    };
    let web = group("web", &[rule((80, 80), lb.clone())]);
    assert_eq!(groups, [&group("old", &[]), &web]);
    let a = endpoint("agent-1", "a", "192.168.0.5", &["x"]);
    node.report_endpoints("x", vec![a.clone()]).await;

    let mut watch = node.watch(None).await;
    watch.state_at(node.list("").await.revision).await;
    let changed = SECURITY_GROUPS
        .replace("\"80\"", "\"80-90\"")
        .replace("\"old\"", "\"new\"");
    let config = group_config(directory.path(), &changed);
    assert!(manager.reload(&config).unwrap().is_empty());
    let web = group("web", &[rule((80, 90), lb)]);
    assert_eq!(watch.change().await, Ok(group("new", &[])));
    assert_eq!(watch.change().await, Ok(web));
    let old = ObjectKey::SecurityGroup {
        name: "old".to_owned(),
    };
    assert_eq!(watch.change().await, Err(old));

    // The overlay isolates groups no more, and then again.
    let open = GROUPS.replace(", \"groups\": true", "");
    let overlays = directory.path().join("overlays.json");
    let reload = |text: &str| {
        let mut config = group_config(directory.path(), &changed);
        std::fs::write(&overlays, text).unwrap();
        let mut overlay = config.overlay.take().unwrap();
        overlay.networks = crate::overlay::OverlayConfig::load(&overlays).unwrap();
        config.overlay = Some(overlay);
        assert!(manager.reload(&config).unwrap().is_empty());
    };
    reload(&open);
    assert_eq!(watch.change().await, Err(key(&a)));
    let Ok(Object::Overlay(overlay)) = watch.change().await else {
        panic!("an overlay has changed")
    };
    assert_eq!((overlay.name.as_str(), overlay.groups), ("vxlan-1", None));
    let list = node.list("").await;
    assert_eq!(list.nodes[0].endpoints, Some(0));
    assert!(
        list.nodes[0].problems[0].contains("192.168.0.5"),
        "{list:?}"
    );
    reload(GROUPS);
    assert!(matches!(watch.change().await, Ok(Object::Overlay(_))));
    assert_eq!(watch.change().await, Ok(Object::Endpoint(a)));
    assert!(node.list("").await.nodes[0].problems.is_empty());
}

/// The admin listener of a manager.
struct Admin(String);

impl Admin {
    fn new(manager: &Manager) -> Self {
        Self(format!("http://{}", manager.admin_address().unwrap()))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("{}{path}", self.0)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// A manager with a node, four containers and security groups.
async fn with_containers(directory: &Path) -> (Manager, Client, Admin) {
    let manager = start(&group_config(directory, SECURITY_GROUPS)).await;
    let node = Client::new(&manager, "agent-1");
    node.register(&reporting(1, "star")).await;
    let mut web = endpoint("agent-1", "web", "192.168.0.7", &[]);
    web.membership.security_groups = vec!["web".to_owned()];
    let endpoints = vec![
        endpoint("agent-1", "a", "192.168.0.4", &["star-1"]),
        endpoint("agent-1", "c", "192.168.0.5", &["star-2"]),
        endpoint("agent-1", "z", "192.168.0.6", &["lb", "star-1", "star-2"]),
        web,
    ];
    node.report_endpoints("star", endpoints).await;
    let admin = Admin::new(&manager);
    (manager, node, admin)
}

#[tokio::test]
async fn endpoints_and_groups_are_listed_page_by_page() {
    /// The groups of a row, and its security groups with an `@`.
    fn shown(row: &Value) -> String {
        let names = |key: &str| row[key].as_array().unwrap().clone();
        let groups = names("groups").into_iter();
        let groups = groups.map(|name| name.as_str().unwrap().to_owned());
        let security_groups = names("security_groups").into_iter();
        let security_groups = security_groups.map(|name| format!("@{}", name.as_str().unwrap()));
        groups.chain(security_groups).collect::<Vec<_>>().join(",")
    }

    let directory = tempfile::tempdir().unwrap();
    let (_manager, _, admin) = with_containers(directory.path()).await;
    let all = admin.json("/v1/endpoints").await;
    assert_eq!((&all["total"], &all["published"]), (&4.into(), &4.into()));
    assert_eq!(all["endpoints"][2]["id"], "web");
    assert_eq!(all["endpoints"][2]["security_groups"][0], "web");
    let filtered = "/v1/endpoints?group=star-2&node=agent-1";
    assert_eq!(admin.json(filtered).await["total"], 2);
    let filtered = "/v1/endpoints?node=agent-2";
    assert_eq!(admin.json(filtered).await["total"], 0);

    let mut rows = vec![];
    let mut after = String::new();
    loop {
        let path = format!("/v1/groups?limit=1&after={after}");
        let page = admin.json(&path).await;
        assert_eq!(page["total"], 4, "{page}");
        let row = &page["groups"][0];
        let sources = row["reached_by"].as_array().unwrap().iter();
        let sources = sources.map(|source| match source["traffic"].as_str() {
            Some("all") => shown(source),
            Some("limited") => format!("{} by rules", shown(source)),
            other => panic!("{other:?}"),
        });
        let sources: Vec<_> = sources.collect();
        rows.push(format!("{}: {}", shown(row), sources.join("; ")));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = form_urlencoded::byte_serialize(next.as_bytes()).collect();
    }
    let expected = [
        "@web: lb,star-1,star-2 by rules",
        "lb,star-1,star-2: lb,star-1,star-2; star-1; star-2",
        "star-1: lb,star-1,star-2; star-1",
        "star-2: lb,star-1,star-2; star-2",
    ];
    assert_eq!(rows, expected);
    let configured = admin.json("/v1/security-groups").await;
    let rule = &configured["security_groups"][1]["rules"][0];
    let expected = json!({"protocol": "tcp", "ports": "80", "from": "group:lb"});
    assert_eq!(*rule, expected);
    assert_eq!(admin.get("/v1/groups?limt=1").await.0, 400);
}

#[tokio::test]
async fn operators_see_who_reaches_whom() {
    let directory = tempfile::tempdir().unwrap();
    let (_manager, node, admin) = with_containers(directory.path()).await;
    let (_, page) = admin.get("/").await;
    for part in [
        "id=\"groups\"",
        "data-endpoint=\"agent-1/web\"",
        "data-from=\"agent-1/z\" data-to=\"agent-1/web\" data-traffic=\"by rules\"",
        "data-membership=\"lb, star-1, star-2\"",
        "data-security-group=\"web\"",
        "group:lb: tcp 80",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("data-from=\"agent-1/a\" data-to=\"agent-1/c\""));
    let (_, metrics) = admin.get("/metrics").await;
    for line in [
        "contrail_mesos_manager_endpoints 4",
        "contrail_mesos_manager_endpoints_refused 0",
        "contrail_mesos_manager_endpoints_nodes 1",
        "contrail_mesos_manager_security_groups 2",
        "contrail_mesos_manager_endpoints_reports_total 1",
        "contrail_mesos_manager_endpoints_changes_total 4",
    ] {
        let has_line = metrics.lines().any(|found| found == line);
        assert!(has_line, "{line}: {metrics}");
    }
    // With many containers there is a matrix instead of the picture.
    let many = (10..40).map(|last| {
        let (group, address) = (format!("<g{}>", last % 3), format!("192.168.0.{last}"));
        endpoint("agent-1", &last.to_string(), &address, &[&group])
    });
    node.report_endpoints("many", many.collect()).await;
    let (_, page) = admin.get("/").await;
    assert!(page.contains("class=\"matrix\"") && !page.contains("<svg"));
    let is_escaped = page.contains("&lt;g1&gt;") && !page.contains("<g1>");
    assert!(is_escaped, "{page}");
}

/// The environment variable with the number of nodes in the test of many nodes.
const NODES_VARIABLE: &str = "CONTRAIL_SCALE_NODES";
/// How many containers each of them has.
const ENDPOINTS_VARIABLE: &str = "CONTRAIL_SCALE_ENDPOINTS";

fn number_from(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The memory of this process in MiB, and its CPU time.
fn resources() -> (u64, Duration) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident
        .and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let time = |value: nix::sys::time::TimeVal| {
        Duration::new(
            value.tv_sec().try_into().unwrap(),
            u32::try_from(value.tv_usec()).unwrap() * 1000,
        )
    };
    (
        kib >> 10,
        time(usage.user_time()) + time(usage.system_time()),
    )
}

/// A manager's cluster with nodes that have the same number of containers each.
struct Scale {
    cluster: Arc<Cluster>,
    containers: usize,
    /// The nodes, by number.
    registered: Vec<Node>,
    _background: JoinSet<()>,
}

impl Scale {
    async fn start(directory: &Path, nodes: usize, containers: usize) -> Self {
        let mut config = group_config(directory, "");
        let wide = GROUPS
            .replace("192.168.0.0/17", "10.0.0.0/8")
            .replace("192.168.128.0/17", "11.0.0.0/8");
        let networks = crate::overlay::OverlayConfig::parse(Path::new("o.json"), &wide).unwrap();
        config.overlay.as_mut().unwrap().networks = networks;
        let (cluster, background) = cluster(&config, &Fence::alone());
        cluster.begin(0).await.unwrap();
        let registrations = (0..nodes).map(async |node| {
            let [.., high, low] = u32::try_from(node).unwrap().to_be_bytes();
            let mut report = reporting(1, "first");
            report.address = [172, 16, high, low].into();
            let answer = cluster.report(&Self::name(node), report).await.unwrap();
            answer.node.unwrap()
        });
        let registered = futures::future::join_all(registrations).await;
        Self {
            cluster,
            containers,
            registered,
            _background: background,
        }
    }

    fn name(node: usize) -> String {
        format!("node-{node:04}")
    }

    /// Reports the containers of a node, of which the first one has this group.
    async fn report(&self, node: usize, group: &str) {
        let name = Self::name(node);
        // The overlay that does not isolate groups is the first one.
        let subnet = self.registered[node].subnets[1].subnet.unwrap();
        let hosts = subnet.hosts().skip(1).take(self.containers);
        let endpoints = hosts.enumerate().map(|(index, address)| {
            let id = format!("{node:08x}-0000-4000-8000-{index:012x}");
            let group = if index == 0 { group } else { "app-1" };
            endpoint(&name, &id, &address.to_string(), &["app-2", group])
        });
        let report = EndpointsReport {
            digest: group.to_owned(),
            endpoints: endpoints.collect(),
        };
        self.cluster.report_endpoints(&name, report).await.unwrap();
    }

    /// Begins the watch of a node. It says when it has read something, and when that has the group
    /// `last`.
    fn watch(
        &self,
        node: usize,
        progress: &watch::Sender<()>,
        seen: &tokio::sync::mpsc::UnboundedSender<()>,
    ) -> impl Future<Output = ()> + use<> {
        let mut watch = self.cluster.watch(&Self::name(node), None).unwrap();
        let (progress, seen) = (progress.clone(), seen.clone());
        async move {
            while let Some(lines) = watch.next().await {
                progress.send_replace(());
                let is_short = lines.len() < 4096;
                if is_short && std::str::from_utf8(&lines).unwrap().contains("\"last") {
                    seen.send(()).unwrap();
                }
            }
        }
    }
}

/// Every node watches, and every container of every node reaches every watch. With 1000 nodes of 100
/// containers, set by the environment, it prints what a large cluster takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_of_one_endpoint_reaches_the_watches_of_all_nodes() {
    let nodes = number_from(NODES_VARIABLE, 40);
    let containers = number_from(ENDPOINTS_VARIABLE, 10);
    let directory = tempfile::tempdir().unwrap();
    let scale = Scale::start(directory.path(), nodes, containers).await;
    let (progress, mut progressed) = watch::channel(());
    let (seen, mut all_seen) = tokio::sync::mpsc::unbounded_channel();
    let watches = (0..nodes).map(|node| scale.watch(node, &progress, &seen));
    let mut readers: JoinSet<()> = watches.collect();
    let metrics = scale.cluster.metrics();
    let mut expected = 0;
    let mut sent_to_each = async |items: usize| {
        expected += (nodes * items) as u64;
        while metrics.items() < expected {
            progressed.changed().await.unwrap();
        }
        assert_eq!(metrics.items(), expected);
    };
    // The underlay, two overlays, the nodes, that there are no services, and the beginning and the end of
    // the snapshot.
    sent_to_each(6 + nodes).await;
    let (memory_before, cpu_before) = resources();
    let begun = Instant::now();
    for node in 0..nodes {
        scale.report(node, "first").await;
    }
    // With a marker of each node.
    sent_to_each(nodes * (containers + 1)).await;
    let (memory, cpu) = resources();
    eprintln!(
        "{nodes} nodes with {containers} containers: all of them at all nodes after {:?}, CPU {:?}, memory \
         {memory} MiB, before {memory_before} MiB",
        begun.elapsed(),
        cpu.saturating_sub(cpu_before),
    );
    assert_eq!(
        scale.cluster.endpoint_counts().published,
        nodes * containers
    );

    let mut latencies = vec![];
    for change in 0..100 {
        let node = change % nodes;
        let at = Instant::now();
        scale.report(node, &format!("last-{change}")).await;
        for _ in 0..nodes {
            all_seen.recv().await.unwrap();
        }
        latencies.push(at.elapsed());
        sent_to_each(1).await;
        scale.report(node, "first").await;
        sent_to_each(1).await;
    }
    latencies.sort();
    let (_, after) = resources();
    eprintln!(
        "from the report of one container to the last of {nodes} watches: p50 {:?}, p99 {:?}; CPU per change {:?}",
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        after.saturating_sub(cpu) / 200,
    );
    let begun = Instant::now();
    let mut first = scale.cluster.watch("new", None).unwrap();
    let first = first.next().await.unwrap();
    let elapsed = begun.elapsed();
    eprintln!(
        "a snapshot of {} endpoints begins after {elapsed:?}",
        nodes * containers
    );
    // Another one shares it.
    let mut second = scale.cluster.watch("new", None).unwrap();
    assert_eq!(first.as_ptr(), second.next().await.unwrap().as_ptr());
    readers.shutdown().await;
}
