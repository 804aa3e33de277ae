//! A manager with services: with Mesos alone, beside overlays, and what operators see of them.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use contrail_mesos_api::cluster::{
    AddressOwner, Backend, BackendState, EndpointsReport, Reach, Service, ServiceKey, TaskInstance,
    TaskName,
};
use contrail_mesos_sim::mesos_master::{Agent, Master, Task, TaskState};

use super::*;
use crate::services::{
    ComputeServices, DesiredBackend, DesiredService, DesiredServices, ServiceProblem,
};

const WEB: &str = "web.marathon:80/tcp";

/// What tasks ask for, and a function that returns it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<DesiredServices>>);

impl Tasks {
    fn compute(&self) -> ComputeServices {
        let tasks = self.clone();
        Arc::new(move |_, _| tasks.0.lock().unwrap().clone())
    }

    fn set(&self, service: &str, frameworks: &[&str], backends: Vec<DesiredBackend>) {
        let key: ServiceKey = service.parse().unwrap();
        let service = DesiredService {
            backends,
            affinity: None,
            frameworks: frameworks.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.0.lock().unwrap().services.insert(key, service);
    }
}

fn backend(address: &str, host: u8, state: BackendState) -> DesiredBackend {
    DesiredBackend {
        backend: Backend {
            address: address.parse().unwrap(),
            local: None,
            host: [192, 0, 2, host].into(),
            reach: Reach::Cluster,
            state,
            task: format!("task-{host}"),
        },
        interface: None,
    }
}

fn ready(address: &str, host: u8) -> DesiredBackend {
    backend(address, host, BackendState::Ready)
}

/// The configuration of a manager with services of this master alone, whose files are in the directory.
fn service_config(directory: &Path, master: &Master, more: &str) -> Config {
    let state = directory.join("services.json");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         [services]\nstate_file = {state:?}\n[mesos]\nmasters = \"{}\"\n{more}",
        master.address()
    );
    let mut config = Config::parse(Path::new("manager.toml"), &text).unwrap();
    config.access.tokens = vec![SecretString::from(TOKEN)];
    config
}

async fn start_services(config: &Config, tasks: &Tasks) -> Manager {
    let started = Manager::start_with(config.clone(), tasks.compute()).await;
    let manager = started.unwrap();
    manager.ready().await;
    manager
}

impl Watch {
    /// Reads until all services are published. Returns them.
    async fn services(&mut self) -> Vec<Service> {
        let mut services = vec![];
        loop {
            match self.next().await.unwrap() {
                WatchItem::Put { object, .. } => match object {
                    Object::Service(service) => services.push(service),
                    Object::ServicesComplete => return services,
                    _ => {}
                },
                WatchItem::Snapshot { .. } | WatchItem::Synced { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn node_of_a_manager_without_overlays_gets_services_only() {
    let directory = tempfile::tempdir().unwrap();
    let master = Master::start().await.unwrap();
    let tasks = Tasks::default();
    tasks.set(WEB, &["marathon"], vec![ready("10.0.0.1:8080", 1)]);
    let config = service_config(directory.path(), &master, "");
    let manager = start_services(&config, &tasks).await;
    assert!(manager.contrail().is_none());
    let node = Client::new(&manager, "agent-1");
    let answer = node.register(&report(1, None)).await;
    assert_eq!((answer.node, answer.problems), (None, vec![]));
    let mut watch = node.watch(None).await;
    let first = watch.next().await;
    assert!(
        matches!(first, Some(WatchItem::Snapshot { .. })),
        "{first:?}"
    );
    let settings = watch.next().await;
    let Some(WatchItem::Put {
        object: Object::ServiceSettings(settings),
        revision,
    }) = settings
    else {
        panic!("{settings:?}")
    };
    assert_eq!(settings.dns[0].to_string(), "198.18.0.1");
    let services = watch.services().await;
    assert_eq!(services.len(), 1, "{services:?}");
    assert_eq!(services[0].backends[0].address.to_string(), "10.0.0.1:8080");

    let list = node.list("").await;
    assert_eq!(list.nodes.len(), 1);
    let found = &list.nodes[0];
    assert_eq!((found.vtep, found.subnets.len()), (None, 0));
    assert_eq!(found.condition, NodeCondition::Behind);
    let current = list.revision;
    node.register(&report(1, Some(current))).await;
    let list = node.list("?address=192.0.2.1").await;
    assert_eq!(list.nodes[0].condition, NodeCondition::Current);
    // A node with groups of its own has nothing to report here.
    let endpoints = EndpointsReport {
        digest: "d".to_owned(),
        endpoints: vec![],
    };
    let body = serde_json::to_string(&endpoints).unwrap();
    let path = "/v1/nodes/agent-1/endpoints";
    let response = node.send(Method::PUT, path, body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let response = node
        .send(Method::DELETE, "/v1/nodes/agent-1", String::new())
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(node.list("").await.nodes.len(), 0);
    drop(watch);

    // The next manager publishes later revisions, and the same address.
    manager.stop().await;
    let manager = start_services(&config, &tasks).await;
    let node = Client::new(&manager, "agent-1");
    let mut watch = node.watch(Some(current)).await;
    assert_eq!(watch.services().await, services);
    let list = node.list("").await;
    assert!(
        list.revision.term > revision.term,
        "{} {revision}",
        list.revision
    );
}

#[tokio::test]
async fn services_and_overlays_are_published_together() {
    let directory = tempfile::tempdir().unwrap();
    let overlays = directory.path().join("overlays.json");
    std::fs::write(&overlays, OVERLAYS).unwrap();
    let state = directory.path().join("overlay-state.json");
    let master = Master::start().await.unwrap();
    let tasks = Tasks::default();
    tasks.set(WEB, &["marathon"], vec![ready("192.168.0.2:8080", 1)]);
    let more = format!("[overlay]\nfile = {overlays:?}\nstate_file = {state:?}\n");
    let config = service_config(directory.path(), &master, &more);
    let manager = start_services(&config, &tasks).await;
    let node = Client::new(&manager, "agent-1");
    let mut watch = node.watch(None).await;
    assert_eq!(watch.services().await.len(), 1);
    let answer = node.register(&report(1, None)).await;
    assert_eq!(answer.node.unwrap().subnets.len(), 1);
    let put = watch.next().await;
    assert!(
        matches!(
            put,
            Some(WatchItem::Put {
                object: Object::Node(_),
                ..
            })
        ),
        "{put:?}"
    );
    // One change is one item.
    tasks.set(WEB, &["marathon"], vec![ready("192.168.0.3:8080", 1)]);
    master.add_framework("F", "marathon");
    let put = watch.next().await;
    let Some(WatchItem::Put {
        object: Object::Service(service),
        ..
    }) = put
    else {
        panic!("{put:?}")
    };
    assert_eq!(service.backends[0].address.to_string(), "192.168.0.3:8080");
}

#[tokio::test]
async fn task_with_an_address_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let master = Master::start().await.unwrap();
    let address = IpAddr::from([10, 0, 0, 7]);
    master.add_framework("F", "marathon");
    master.add_agent(Agent {
        id: "S1".into(),
        host: "node1.example".into(),
        address: IpAddr::from([192, 0, 2, 1]),
    });
    master.add_task(Task {
        id: "web.1".into(),
        framework: "F".into(),
        agent: "S1".into(),
        container: "c1".into(),
        network: ("blue".into(), address),
        vip: None,
        state: TaskState::TaskRunning,
    });
    let config = service_config(directory.path(), &master, "");
    let manager = start_services(&config, &Tasks::default()).await;
    let node = Client::new(&manager, "agent-1");
    let owners = async || node.list("?address=10.0.0.7").await.containers;
    let owner = AddressOwner {
        node: Some("node1.example".to_owned()),
        container: Some("c1".to_owned()),
        task: Some("web.1".to_owned()),
        framework: Some("F".to_owned()),
        network: Some("blue".to_owned()),
    };
    while owners().await != [owner.clone()] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.list("?address=10.0.0.8").await.containers, []);
    assert!(master.update_task("web.1", TaskState::TaskFinished));
    while !owners().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "every view of one manager")]
async fn operators_see_services_and_problems() {
    let directory = tempfile::tempdir().unwrap();
    let master = Master::start().await.unwrap();
    let tasks = Tasks::default();
    let draining = backend("10.0.0.2:8080", 2, BackendState::Draining);
    tasks.set(
        WEB,
        &["marathon"],
        vec![ready("10.0.0.1:8080", 1), draining],
    );
    tasks.set(
        "10.9.9.9:53/udp",
        &["<b>dev</b>"],
        vec![ready("10.0.0.3:53", 3)],
    );
    {
        let mut tasks = tasks.0.lock().unwrap();
        let name = TaskName {
            name: "app-group.marathon".to_owned(),
            instances: vec![TaskInstance {
                agent: [192, 0, 2, 1].into(),
                addresses: vec![[10, 0, 0, 1].into()],
                ports: vec![],
            }],
        };
        tasks.task_names.insert(name.name.clone(), name);
        tasks.problems = vec![ServiceProblem {
            framework: "marathon".to_owned(),
            task: "<i>app</i>".to_owned(),
            subject: "VIP_0=web".to_owned(),
            message: "it has no port: write \"web:80\"".to_owned(),
        }];
    }
    let config = service_config(directory.path(), &master, "");
    let manager = start_services(&config, &tasks).await;
    let node = Client::new(&manager, "agent-1");
    node.watch(None).await.services().await;
    let http = reqwest::Client::new();
    let get = async |path: &str, tag: Option<&str>| {
        let admin = manager.admin_address().unwrap();
        let request = http.get(format!("http://{admin}{path}"));
        let request = match tag {
            Some(tag) => request.header("if-none-match", tag),
            None => request,
        };
        let response = request.send().await.unwrap();
        let tag = response.headers().get("etag");
        let tag = tag.map(|tag| tag.to_str().unwrap().to_owned());
        (
            response.status().as_u16(),
            tag,
            response.text().await.unwrap(),
        )
    };
    let json = async |path: &str| {
        let (status, _, text) = get(path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };

    // In the form of DC/OS.
    let (_, tag, vips) = get("/v1/vips", None).await;
    let expected = json!([
        {"vip": "10.9.9.9:53", "protocol": "udp", "backend": [{"ip": "10.0.0.3", "port": 53}]},
        {
            "vip": "web.marathon.l4lb.thisdcos.directory:80",
            "protocol": "tcp",
            "backend": [{"ip": "10.0.0.1", "port": 8080}],
        },
    ]);
    assert_eq!(serde_json::from_str::<Value>(&vips).unwrap(), expected);
    let tag = tag.unwrap();
    for known in [tag.clone(), format!("\"x\", W/{tag}")] {
        let (status, same, body) = get("/v1/vips", Some(&known)).await;
        assert_eq!(
            (status, same, body),
            (304, Some(tag.clone()), String::new())
        );
    }
    assert_eq!(get("/v1/vips", Some("\"x\"")).await.0, 200);

    let all = json("/v1/services").await;
    assert_eq!((&all["total"], &all["complete"]), (&2.into(), &true.into()));
    let web = &all["services"][1];
    assert_eq!(web["service"], WEB);
    assert_eq!(web["name"], "web.marathon.l4lb.thisdcos.directory");
    assert_eq!((&web["ready"], &web["kept"]), (&1.into(), &0.into()));
    assert_eq!(web["backends"][1]["state"], "draining");
    assert_eq!(all["problems"][0]["subject"], "VIP_0=web");
    assert_eq!(all["ranges"][0]["used"], 1);
    for (query, total) in [
        ("service=web", 1),
        ("service=:53/udp", 1),
        ("framework=dev", 1),
        ("framework=none", 0),
        ("address=10.0.0.0/8", 2),
        ("address=192.0.2.2", 1),
        ("address=198.18.0.0/16&service=web", 1),
        ("limit=1", 2),
    ] {
        let found = json(&format!("/v1/services?{query}")).await;
        assert_eq!(found["total"], total, "{query}: {found}");
    }
    let names = json("/v1/task-names?name=app").await;
    assert_eq!(names["task_names"][0]["name"], "app-group.marathon");
    assert_eq!(json("/v1/task-names?name=none").await["total"], 0);
    for path in [
        "/v1/services?servce=x",
        "/v1/services?address=x",
        "/v1/task-names?limit=0",
        "/v1/vips?x=1",
    ] {
        assert_eq!(get(path, None).await.0, 400, "{path}");
    }

    let problems = json("/v1/problems").await;
    assert_eq!(problems["problems"][0]["kind"], "service", "{problems}");
    let subject = problems["problems"][0]["subject"].as_str().unwrap();
    assert!(
        subject.contains("VIP_0=web of the task <i>app</i>"),
        "{subject}"
    );
    let (_, _, page) = get("/", None).await;
    for part in [
        "data-service=\"web.marathon:80/tcp\"",
        "&lt;b&gt;dev",
        "&lt;i&gt;app",
        "draining",
        "2 of 3 backends ready",
        "1 problem",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(
        !page.contains("<b>dev") && !page.contains("<i>app"),
        "{page}"
    );
    let (_, _, metrics) = get("/metrics", None).await;
    for line in [
        "contrail_mesos_manager_services 2",
        "contrail_mesos_manager_services_backends{state=\"ready\"} 2",
        "contrail_mesos_manager_services_backends{state=\"draining\"} 1",
        "contrail_mesos_manager_services_backends{state=\"kept\"} 0",
        "contrail_mesos_manager_services_without_ready_backend 0",
        "contrail_mesos_manager_services_task_names 1",
        "contrail_mesos_manager_services_problems 1",
        "contrail_mesos_manager_services_complete 1",
        "contrail_mesos_manager_services_waiting 0",
        "contrail_mesos_manager_services_addresses_used{range=\"198.18.0.0/16\"} 1",
        "contrail_mesos_manager_services_addresses_free{range=\"198.18.0.0/16\"} 65532",
        "contrail_mesos_manager_services_changes_total{kind=\"service\",change=\"put\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    // A manager without services says so.
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&super::config(directory.path(), "")).await;
    let admin = manager.admin_address().unwrap();
    let refused = reqwest::get(format!("http://{admin}/v1/vips"))
        .await
        .unwrap();
    assert_eq!(refused.status().as_u16(), 404);
}
