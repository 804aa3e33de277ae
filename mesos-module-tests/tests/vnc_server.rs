//! What the simulated VNC API server does that was not recorded: addresses of every sort, pages,
//! quotas, news of changes, tokens, and everything that can go wrong with it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use contrail_mesos::sim::vnc::{
    Auth, Effect, Fault, Handle, Keystone, Operation, Options, Server, User,
};
use serde_json::{Value, json};

/// A server, and a client of it.
struct Api {
    server: Handle,
    client: reqwest::Client,
    token: Option<String>,
}

impl Api {
    async fn new(options: Options) -> Self {
        let (_, server) = Server::start(options).await.unwrap();
        let client = reqwest::Client::builder()
            .user_agent("test")
            .build()
            .unwrap();
        Self {
            server,
            client,
            token: None,
        }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        self.try_ask(method, path, body).await.unwrap()
    }

    async fn try_ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<(u16, String)> {
        let url = format!("{}{path}", self.server.url());
        let mut request = self.client.request(method.parse().unwrap(), url);
        if let Some(token) = &self.token {
            request = request.header("x-auth-token", token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, text) = self.ask("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Makes an object; says its uuid, or status and text of the refusal.
    async fn make(&self, kind: &str, body: Value) -> Result<String, (u16, String)> {
        let path = format!("/{kind}s");
        let answer = self.ask("POST", &path, Some(&json!({ kind: body }))).await;
        if answer.0 != 200 {
            return Err(answer);
        }
        let answer: Value = serde_json::from_str(&answer.1).unwrap();
        Ok(answer[kind]["uuid"].as_str().unwrap().to_owned())
    }

    async fn change(&self, kind: &str, uuid: &str, body: Value) -> (u16, String) {
        self.ask(
            "PUT",
            &format!("/{kind}/{uuid}"),
            Some(&json!({ kind: body })),
        )
        .await
    }

    async fn delete(&self, kind: &str, uuid: &str) -> (u16, String) {
        self.ask("DELETE", &format!("/{kind}/{uuid}"), None).await
    }

    /// A network with these subnets.
    async fn network(&self, name: &str, subnets: Value) -> Result<String, (u16, String)> {
        self.make(
            "virtual-network",
            json!({
                "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
                "network_ipam_refs": [{
                    "to": ["default-domain", "default-project", "default-network-ipam"],
                    "attr": {"ipam_subnets": subnets}
                }]
            }),
        )
        .await
    }

    /// The address that a new instance-ip gets.
    async fn address(
        &self,
        name: &str,
        network: &str,
        with: Value,
    ) -> Result<String, (u16, String)> {
        let mut body = json!({
            "fq_name": [name],
            "virtual_network_refs": [{"to": ["default-domain", "default-project", network]}]
        });
        body.as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        let uuid = self.make("instance-ip", body).await?;
        let read = self.get(&format!("/instance-ip/{uuid}")).await;
        Ok(read["instance-ip"]["instance_ip_address"]
            .as_str()
            .unwrap()
            .to_owned())
    }
}

fn subnet(prefix: &str, length: u8) -> Value {
    json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}})
}

#[tokio::test]
async fn addresses_are_given_out_and_taken_back() {
    let api = Api::new(Options::default()).await;
    // Two addresses are too few for a subnet; of four, none is left.
    let tiny = api.network("tiny", json!([subnet("10.0.0.0", 31)])).await;
    assert_eq!(tiny.unwrap_err().0, 500);
    api.network("small", json!([subnet("10.0.0.0", 30)]))
        .await
        .unwrap();
    let none = api.address("none", "small", json!({})).await;
    assert_eq!(none.unwrap_err().0, 400);
    let mut second = subnet("fd00:1::", 120);
    second["addr_from_start"] = true.into();
    let network = api
        .network("vn", json!([subnet("10.0.0.0", 29), second]))
        .await
        .unwrap();
    for (name, with, address) in [
        ("a", json!({}), "10.0.0.4"),
        ("b", json!({"instance_ip_family": "v6"}), "fd00:1::3"),
        ("c", json!({"instance_ip_family": "v4"}), "10.0.0.3"),
        ("d", json!({"instance_ip_address": "10.0.0.1"}), "10.0.0.1"),
        ("e", json!({}), "10.0.0.2"),
        // The first subnet is used up, so the second one's turn has come.
        ("f", json!({}), "fd00:1::4"),
    ] {
        assert_eq!(
            api.address(name, "vn", with).await.unwrap(),
            address,
            "{name}"
        );
    }
    let problem = api
        .address("g", "vn", json!({"instance_ip_family": "v4"}))
        .await;
    let problem = problem.unwrap_err();
    assert_eq!(problem.0, 400);
    assert!(problem.1.contains("has exhausted subnet("), "{}", problem.1);
    let taken = api
        .get("/instance-ips?filters=instance_ip_address==\"10.0.0.3\"")
        .await;
    let uuid = taken["instance-ips"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(api.delete("instance-ip", &uuid).await.0, 200);
    assert_eq!(api.address("h", "vn", json!({})).await.unwrap(), "10.0.0.3");

    // A subnet cannot go while its addresses are in use, and its gateway stays.
    let refs = |subnets: Value| {
        json!({"network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": subnets}
        }]})
    };
    let (status, text) = api
        .change(
            "virtual-network",
            &network,
            refs(json!([subnet("10.9.0.0", 24)])),
        )
        .await;
    assert_eq!(status, 409);
    assert!(text.contains("Cannot Delete IP Block, IP("), "{text}");
}

#[tokio::test]
async fn flat_subnets_are_shared_by_networks() {
    let api = Api::new(Options::default()).await;
    let name = ["default-domain", "default-project", "flat"];
    api.make(
        "network-ipam",
        json!({
            "fq_name": name, "parent_type": "project", "ipam_subnet_method": "flat-subnet",
            "ipam_subnets": {"subnets": [subnet("10.40.0.0", 29)]}
        }),
    )
    .await
    .unwrap();
    let flat = |network: &str, mode: Option<&str>| {
        json!({
            "fq_name": ["default-domain", "default-project", network], "parent_type": "project",
            "address_allocation_mode": "flat-subnet-only",
            "virtual_network_properties": {"forwarding_mode": mode},
            "network_ipam_refs": [{"to": name, "attr": {"ipam_subnets": []}}]
        })
    };
    let refused = api
        .make("virtual-network", flat("one", None))
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        (
            400,
            "flat-subnet is allowed only with l3 network".to_owned()
        )
    );
    for network in ["one", "two"] {
        api.make("virtual-network", flat(network, Some("l3")))
            .await
            .unwrap();
    }
    assert_eq!(
        api.address("a", "one", json!({})).await.unwrap(),
        "10.40.0.4"
    );
    assert_eq!(
        api.address("b", "two", json!({})).await.unwrap(),
        "10.40.0.3"
    );
    let asked = json!({"instance_ip_address": "10.40.0.4"});
    let refused = api.address("c", "two", asked).await.unwrap_err();
    assert_eq!(refused, (409, "IP address already in use".to_owned()));
}

/// What spreads connections to a virtual address over tasks: a floating address beneath an
/// instance-ip, without a pool.
#[tokio::test]
async fn a_floating_address_can_be_an_instance_ips() {
    let api = Api::new(Options::default()).await;
    api.network("vn", json!([subnet("10.0.0.0", 24)]))
        .await
        .unwrap();
    api.address("vip", "vn", json!({})).await.unwrap();
    let uuid = "0b4cd8ec-8a6c-4d5c-8d6b-9b1a6a1a1f00";
    let made = api
        .make(
            "floating-ip",
            json!({
                "fq_name": ["vip", uuid], "uuid": uuid, "parent_type": "instance-ip",
                "floating_ip_address": "10.0.0.252", "floating_ip_traffic_direction": "ingress",
                "floating_ip_port_mappings_enable": true,
                "floating_ip_port_mappings": {"port_mappings": [
                    {"protocol": "TCP", "src_port": 80, "dst_port": 8080}
                ]},
                "project_refs": [{"to": ["default-domain", "default-project"]}]
            }),
        )
        .await;
    assert_eq!(made.as_deref(), Ok(uuid));
    let mut body = json!({"floating_ip_traffic_direction": "sideways"});
    let (status, text) = api.change("floating-ip", uuid, body.clone()).await;
    assert_eq!(status, 400);
    assert!(
        text.ends_with("value must be one of ['ingress', 'egress', 'both']"),
        "{text}"
    );
    body = json!({"floating_ip_port_mappings": {"port_mapping": []}});
    let (status, text) = api.change("floating-ip", uuid, body).await;
    assert_eq!(status, 400);
    assert!(text.contains("does not have field port_mapping"), "{text}");
    assert_eq!(api.delete("floating-ip", uuid).await.0, 200);
    assert_eq!(api.server.addresses().len(), 1);
}

#[tokio::test]
async fn pages_end() {
    let api = Api::new(Options::default()).await;
    for number in 0..5 {
        let body = json!({"fq_name": [format!("vm-{number}")]});
        api.make("virtual-machine", body).await.unwrap();
    }
    let (mut marker, mut seen) = (String::new(), Vec::new());
    loop {
        let path = format!("/virtual-machines?page_limit=2&page_marker={marker}");
        let page = api.get(&path).await;
        let items = page["virtual-machines"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|item| item["fq_name"][0].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["marker"].as_str() else {
            break;
        };
        next.clone_into(&mut marker);
    }
    assert_eq!(seen, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]);
}

#[tokio::test]
async fn references_by_uuid_alone_and_nulls_and_quotas() {
    let api = Api::new(Options::default()).await;
    let body = json!({"fq_name": ["i"], "virtual_network_refs": [{"uuid": "x"}]});
    let refused = api.make("instance-ip", body).await.unwrap_err();
    assert_eq!(refused, (500, "KeyError: 'to'".to_owned()));
    let machine = api
        .make("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let (status, _) = api
        .change("virtual-machine", &machine, json!({"display_name": null}))
        .await;
    assert_eq!(status, 200);
    let read = api.get(&format!("/virtual-machine/{machine}")).await;
    assert_eq!(read["virtual-machine"].get("display_name"), None);

    let body = json!({
        "fq_name": ["default-domain", "p"], "parent_type": "domain",
        "quota": {"security_group": 0}
    });
    api.make("project", body).await.unwrap();
    let group = json!({"fq_name": ["default-domain", "p", "g"], "parent_type": "project"});
    let refused = api.make("security-group", group).await.unwrap_err();
    assert_eq!(refused.0, 412);
}

#[tokio::test]
async fn a_relaxed_reference_does_not_block_and_goes_with_its_target() {
    let api = Api::new(Options::default()).await;
    let name = ["default-global-system-config", "n"];
    let router = json!({"fq_name": name, "parent_type": "global-system-config"});
    let router = api.make("virtual-router", router).await.unwrap();
    let machine = api
        .make("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let link = json!({
        "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
        "ref-uuid": machine, "operation": "ADD"
    });
    assert_eq!(api.ask("POST", "/ref-update", Some(&link)).await.0, 200);
    assert_eq!(api.delete("virtual-machine", &machine).await.0, 409);
    let relax = json!({"uuid": router, "ref-uuid": machine});
    assert_eq!(
        api.ask("POST", "/ref-relax-for-delete", Some(&relax))
            .await
            .0,
        200
    );
    assert_eq!(api.delete("virtual-machine", &machine).await.0, 200);
    let read = api.get(&format!("/virtual-router/{router}")).await;
    assert_eq!(read["virtual-router"].get("virtual_machine_refs"), None);
}

#[tokio::test]
async fn changes_name_the_routers_that_they_concern() {
    let api = Api::new(Options::default()).await;
    let network = api
        .network("vn", json!([subnet("10.0.0.0", 24)]))
        .await
        .unwrap();
    let machine = api
        .make("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let name = ["default-domain", "default-project", "port"];
    let vn = ["default-domain", "default-project", "vn"];
    let port = json!({
        "fq_name": name, "parent_type": "project", "virtual_network_refs": [{"to": vn}],
        "virtual_machine_refs": [{"to": ["vm"]}]
    });
    api.make("virtual-machine-interface", port).await.unwrap();
    let router = json!({
        "fq_name": ["default-global-system-config", "n"], "parent_type": "global-system-config"
    });
    let router = api.make("virtual-router", router).await.unwrap();
    let mut changes = api.server.changes();
    let link = |operation: &str| {
        json!({
            "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
            "ref-uuid": machine, "operation": operation
        })
    };
    api.ask("POST", "/ref-update", Some(&link("ADD"))).await;
    let instance = json!({"virtual_machine_interface_refs": [{"to": name}]});
    api.address("ip", "vn", instance).await.unwrap();
    api.change(
        "virtual-network",
        &network,
        json!({"display_name": "other"}),
    )
    .await;
    api.ask("POST", "/ref-update", Some(&link("DELETE"))).await;
    api.change("virtual-network", &network, json!({"display_name": "same"}))
        .await;
    let mut seen = Vec::new();
    while let Ok(change) = changes.try_recv() {
        let concerned = change.virtual_routers.iter().map(ToString::to_string);
        let concerned = concerned.collect::<BTreeSet<_>>().contains(&router);
        seen.push((change.operation, change.kind, concerned));
    }
    let of = |kind: &str| -> Vec<_> {
        let of_kind = seen.iter().filter(|(_, seen, _)| seen == kind);
        of_kind
            .map(|(operation, _, concerned)| (*operation, *concerned))
            .collect()
    };
    assert_eq!(of("instance-ip"), [(Operation::Create, true)]);
    let networks = [(Operation::Update, true), (Operation::Update, false)];
    assert_eq!(of("virtual-network"), networks);
    assert!(of("virtual-router").iter().all(|(_, concerned)| *concerned));
}

#[tokio::test]
async fn tokens_are_asked_for_and_expire() {
    let mut keystone = Keystone::with_admin("admin", "secret", "admin");
    keystone.users.push(User {
        name: "bob".to_owned(),
        password: "bob".to_owned(),
        project: "p".to_owned(),
        roles: vec!["member".to_owned()],
    });
    let options = Options {
        auth: Auth::Keystone(keystone),
        ..Options::default()
    };
    let mut api = Api::new(options).await;
    assert_eq!(api.ask("GET", "/", None).await.0, 200);
    let refused = api.ask("GET", "/domains", None).await;
    assert_eq!(refused, (401, "Authentication required".to_owned()));
    let login =
        |name: &str| json!({"auth": {"passwordCredentials": {"username": name, "password": name}}});
    let (status, text) = api.ask("POST", "/v2.0/tokens", Some(&login("bob"))).await;
    assert_eq!(status, 200, "{text}");
    let access: Value = serde_json::from_str(&text).unwrap();
    api.token = access["access"]["token"]["id"].as_str().map(str::to_owned);
    let body = json!({"domain": {"fq_name": ["d"]}});
    let refused = api.ask("POST", "/domains", Some(&body)).await;
    let text = "Permission Denied for bob as ['member'] to C domain in p";
    assert_eq!(refused, (403, text.to_owned()));
    let body = json!({"auth": {"identity": {"methods": ["password"], "password": {
        "user": {"name": "admin", "password": "secret", "domain": {"id": "default"}}
    }}}});
    let url = format!("{}/v3/auth/tokens", api.server.url());
    let response = api.client.post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let token = response.headers()["x-subject-token"]
        .to_str()
        .unwrap()
        .to_owned();
    api.token = Some(token);
    assert_eq!(api.ask("GET", "/domains", None).await.0, 200);
    api.server.expire_tokens();
    assert_eq!(api.ask("GET", "/domains", None).await.0, 401);
}

#[tokio::test]
async fn whatever_can_go_wrong_does() {
    let api = Api::new(Options::default()).await;
    let server = &api.server;
    let body = |name: &str| json!({"fq_name": [name]});
    let on = |effect: Effect| Fault::new(effect).on("POST", "/virtual-machines");

    server.fault(on(Effect::Status(503, "no".to_owned())).times(1, 1));
    api.make("virtual-machine", body("a")).await.unwrap();
    let refused = api.make("virtual-machine", body("b")).await.unwrap_err();
    assert_eq!(refused, (503, "no".to_owned()));
    api.make("virtual-machine", body("b")).await.unwrap();

    server.fault(on(Effect::Nonsense("{]".to_owned())).times(0, 1));
    let path = "/virtual-machines";
    let ask = |name: &str| json!({"virtual-machine": body(name)});
    assert_eq!(
        api.ask("POST", path, Some(&ask("c"))).await,
        (200, "{]".to_owned())
    );

    server.fault(on(Effect::Cut).times(0, 1).performed());
    assert!(api.try_ask("POST", path, Some(&ask("d"))).await.is_err());
    server.fault(on(Effect::CutInBody).times(0, 1));
    assert!(api.try_ask("POST", path, Some(&ask("e"))).await.is_err());
    server.fault(on(Effect::Hang).times(0, 1));
    let asked = ask("f");
    let hung = api.try_ask("POST", path, Some(&asked));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), hung)
            .await
            .is_err()
    );
    server.fault(on(Effect::Delay(Duration::from_millis(200))).times(0, 1));
    let started = Instant::now();
    api.make("virtual-machine", body("g")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));

    let names: Vec<_> = server.objects("virtual-machine").into_iter().collect();
    let names: Vec<_> = names
        .iter()
        .map(|vm| vm["fq_name"][0].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "d", "g"]);
    let log = server.log();
    let wrote: Vec<_> = log
        .iter()
        .filter(|entry| !entry.changes.is_empty())
        .map(|entry| (entry.order, entry.user_agent.as_deref(), entry.status))
        .collect();
    let test = Some("test");
    let expected = [
        (0, test, Some(200)),
        (2, test, Some(200)),
        (4, test, None),
        (7, test, Some(200)),
    ];
    assert_eq!(wrote, expected);
    assert_eq!(log.len(), 8);
}

#[tokio::test]
async fn what_is_known_survives_being_gone() {
    let api = Api::new(Options::default()).await;
    let machine = api
        .make("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    api.server.unplug();
    let path = format!("/virtual-machine/{machine}");
    assert!(api.try_ask("GET", &path, None).await.is_err());
    assert!(api.try_ask("GET", &path, None).await.is_err());
    api.server.plug().await.unwrap();
    api.get(&path).await;
}

/// The trap: on a connection that has been used, the body waits for an acknowledgement that the
/// client's kernel delays.
#[tokio::test]
async fn split_writes_cost_a_late_acknowledgement() {
    let time = async |split_writes: bool| {
        let options = Options {
            split_writes,
            ..Options::default()
        };
        let api = Api::new(options).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let started = Instant::now();
            api.get("/domains").await;
            slowest = slowest.max(started.elapsed());
        }
        slowest
    };
    let split = time(true).await;
    assert!(split >= Duration::from_millis(35), "{split:?}");
    let whole = time(false).await;
    assert!(whole < split, "{whole:?}, {split:?}");
}
