//! The API of Contrail's own manager, as its CNI plugins use it.

use serde_json::json;

use super::*;

/// What Mesos passes to a plugin.
const SAMPLE: &str = r#"{"args":{"org.apache.mesos":{"network_info":{"ip_addresses":[{"protocol":"IPv4"}],"labels":{"labels":[{"key":"networks","value":"blue-network"},{"key":"network-subnets","value":"5.5.5.0\/24"},{"key":"project-name","value":"default"},{"key":"domain-name","value":"default-domain"}]},"name":"contrail-cni-plugin"}}},"cniVersion":"0.2.0","contrail":{"cluster-name":"b2s27","config-dir":"\/var\/lib\/contrail\/ports\/vm","log-file":"\/var\/log\/contrail\/cni\/opencontrail.log","log-level":"info","poll-retries":5,"poll-timeout":15,"vrouter-ip":"10.84.22.27","vrouter-port":9091},"name":"contrail-cni-plugin","type":"contrail-cni-plugin"}"#;

struct Plugin {
    http: reqwest::Client,
    base: String,
}

impl Plugin {
    async fn post(&self, command: &str, cid: &str, args: &str) -> (u16, String, String) {
        let path = if command == "ADD" {
            "add_cni_info"
        } else {
            "del_cni_info"
        };
        let body = json!({ "cid": cid, "cmd": command, "args": args }).to_string();
        let asked = self
            .http
            .post(format!("{}/{path}", self.base))
            .body(body.clone());
        let answer = asked
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap(), body)
    }
}

async fn start(fixture: &Fixture) -> (Manager, Plugin) {
    let mut config = fixture.config.clone();
    config.legacy_listen = Some(([127, 0, 0, 1], 0).into());
    config.create = Create {
        projects: true,
        networks: true,
        ..Create::default()
    };
    let manager = Manager::start(config).await.unwrap();
    manager.ready().await;
    let base = format!("http://{}", manager.legacy_address().unwrap());
    (
        manager,
        Plugin {
            http: reqwest::Client::new(),
            base,
        },
    )
}

#[tokio::test]
async fn legacy_add_returns_the_request_once_objects_exist() {
    let fixture = Fixture::new().await;
    let (_manager, plugin) = start(&fixture).await;
    let (vm, _) = plain(1);
    for _ in 0..2 {
        let (status, answer, body) = plugin.post("ADD", &vm.to_string(), SAMPLE).await;
        assert_eq!((status, &answer), (200, &body));
        let found = fixture
            .other_manager()
            .get(Some("b2s27"), vm)
            .await
            .unwrap();
        assert_eq!(
            found.ports[0].addresses[0].address.to_string(),
            "5.5.5.252/24"
        );
        assert_eq!(
            found.ports[0].virtual_network_name,
            "default-domain:default:blue-network"
        );
    }
    // The host was found by its address, as no virtual-router has its name.
    let object = fixture.server.object(&vm.to_string()).unwrap();
    assert_eq!(object["virtual_router_back_refs"][0]["to"][1], "node1");
    for _ in 0..2 {
        let (status, answer, body) = plugin.post("DEL", &vm.to_string(), SAMPLE).await;
        assert_eq!((status, &answer), (200, &body));
        assert_eq!(fixture.added("virtual-machine"), 0);
    }
}

#[tokio::test]
async fn legacy_add_accepts_several_networks_and_any_id() {
    let fixture = Fixture::new().await;
    let (_manager, plugin) = start(&fixture).await;
    let mut args: Value = serde_json::from_str(SAMPLE).unwrap();
    args["contrail"]["cluster-name"] = "node2".into();
    args["contrail"]["vrouter-ip"] = "127.0.0.1".into();
    let info = &mut args["args"]["org.apache.mesos"]["network_info"];
    info["ip_addresses"] = json!([]);
    info["labels"]["labels"] = json!([
        {"key": "networks", "value": "blue, tenants:shop:red"},
        {"key": "floating-ips", "value": "default-domain:default-project:__public__:__fip_pool_public__"},
        // A framework cannot choose the host.
        {"key": "node-name", "value": "node1"},
    ]);
    let args = args.to_string();
    assert_eq!(plugin.post("ADD", "not a uuid", &args).await.0, 200);
    let vm = agent_api::vm_uuid(&ContainerId::top_level("not a uuid"));
    let found = fixture
        .other_manager()
        .get(Some("node2"), vm)
        .await
        .unwrap();
    assert_eq!(found.ports.len(), 2);
    assert_eq!(
        (
            found.ports[0].interface.as_str(),
            found.ports[0].floating_ips.len()
        ),
        ("eth0", 1)
    );
    assert_eq!(
        (
            found.ports[1].interface.as_str(),
            found.ports[1].floating_ips.len()
        ),
        ("eth1", 0)
    );
    // A plugin on another host may not delete it; one that cannot name its host may.
    assert_eq!(plugin.post("DEL", "not a uuid", SAMPLE).await.0, 403);
    assert_eq!(plugin.post("DEL", "not a uuid", "broken").await.0, 200);
    fixture.assert_clean("deleted");
}

#[tokio::test]
async fn legacy_errors_have_error_status() {
    let fixture = Fixture::new().await;
    let (_manager, plugin) = start(&fixture).await;
    let (vm, _) = plain(1);
    let cid = vm.to_string();
    let mut nowhere: Value = serde_json::from_str(SAMPLE).unwrap();
    nowhere["contrail"] = json!({});
    let unknown = SAMPLE.replace("10.84.22.27", "10.84.22.99");
    let hostile = SAMPLE.replace("b2s27", "b2\\\"s27");
    for (args, message) in [
        ("broken", "args"),
        (&*nowhere.to_string(), "cluster-name"),
        (&*unknown, "no virtual-router"),
        (&*hostile, "not a host's name"),
        (&*SAMPLE.replace("IPv4", "IPv9"), "IPv9"),
        (
            &*SAMPLE.replace("\"labels\":[", "\"labels\":[5,"),
            "labels.labels[0]",
        ),
    ] {
        let (status, answer, _) = plugin.post("ADD", &cid, args).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains(message), "{answer}");
    }
    // An invalid request does not prevent a later valid one.
    assert_eq!(plugin.post("ADD", &cid, SAMPLE).await.0, 200);
    let answer = plugin.http.get(&plugin.base).send().await.unwrap();
    let links: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(
        links["links"][0]["link"]["href"],
        format!("{}/add_cni_info", plugin.base)
    );
    let answer = plugin
        .http
        .post(format!("{}/add_cni_info", plugin.base))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn legacy_request_beyond_a_limit_is_refused_before_it_is_split() {
    let fixture = Fixture::new().await;
    let (_manager, plugin) = start(&fixture).await;
    let (vm, _) = plain(1);
    let cid = vm.to_string();
    let with = |field: &str, value: Value| {
        let mut args: Value = serde_json::from_str(SAMPLE).unwrap();
        args["args"]["org.apache.mesos"]["network_info"][field] = value;
        args.to_string()
    };
    let label = |key: &str, value: String| json!({ "key": key, "value": value });
    let networks = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("n{number}")).collect();
        with(
            "labels",
            json!({ "labels": [label("networks", names.join(","))] }),
        )
    };
    let many: Vec<_> = (0..513)
        .map(|number| label(&format!("k{number}"), String::new()))
        .collect();
    let long: Vec<_> = (0..20)
        .map(|number| label(&format!("k{number}"), "v".repeat(4000)))
        .collect();
    let addresses: Vec<_> = (0..1000).map(|_| json!({ "protocol": "IPv9" })).collect();
    for (args, status, message) in [
        (networks(17), 400, "17 networks are more than 16"),
        (networks(4000), 400, "4000 networks are more than 16"),
        (networks(30_000), 400, "bytes of labels are more than 65536"),
        (
            with("labels", json!({ "labels": long })),
            400,
            "bytes of labels are more than 65536",
        ),
        (
            with("labels", json!({ "labels": many })),
            400,
            "513 labels are more than 512",
        ),
        (
            with("ip_addresses", json!(addresses)),
            400,
            "1000 addresses are more than 64",
        ),
        (
            with(
                "labels",
                json!({ "labels": [label("x", "v".repeat(1 << 20))] }),
            ),
            413,
            "longer than 262144 bytes",
        ),
    ] {
        let (found, answer, _) = plugin.post("ADD", &cid, &args).await;
        assert_eq!(found, status, "{answer}");
        assert!(answer.contains(message) && answer.len() < 1000, "{answer}");
    }
    for command in ["ADD", "DEL"] {
        for cid in ["a.".repeat(1000), "a".repeat(10_000)] {
            let (status, answer, _) = plugin.post(command, &cid, SAMPLE).await;
            assert_eq!(status, 400, "{answer}");
            assert!(answer.contains("are more than 8448 in 33"), "{answer}");
        }
    }
    fixture.assert_clean("refused");
}

#[tokio::test]
async fn legacy_request_of_a_foreign_page_is_refused() {
    let fixture = Fixture::new().await;
    let (_manager, plugin) = start(&fixture).await;
    let url = format!("{}/del_cni_info", plugin.base);
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("host", "evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let asked = plugin
            .http
            .post(&url)
            .header(name, value)
            .body("{\"cid\": \"a\"}");
        assert_eq!(asked.send().await.unwrap().status(), 403, "{name}: {value}");
    }
    let asked = plugin.http.post(&url).body("{\"cid\": \"a\"}");
    assert_eq!(asked.send().await.unwrap().status(), 200);
}
