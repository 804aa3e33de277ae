//! The simulated VNC API server beyond its responses: notifications of changes, tokens, and injected
//! faults.

mod vnc_support;

use std::time::{Duration, Instant};

use contrail_mesos_sim::vnc::{Auth, Effect, Fault, Keystone, Operation, Options, User};
use serde_json::{Value, json};
use vnc_support::{Api, subnet};

#[tokio::test]
async fn changes_name_the_affected_virtual_routers() {
    let api = Api::new(Options::default()).await;
    let network = api
        .network("vn", json!([subnet("10.0.0.0", 24)]))
        .await
        .unwrap();
    let machine = api
        .create("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    let name = ["default-domain", "default-project", "port"];
    let vn = ["default-domain", "default-project", "vn"];
    let port = json!({
        "fq_name": name, "parent_type": "project", "virtual_network_refs": [{"to": vn}],
        "virtual_machine_refs": [{"to": ["vm"]}]
    });
    api.create("virtual-machine-interface", port).await.unwrap();
    let body = json!({
        "fq_name": ["default-global-system-config", "n"], "parent_type": "global-system-config"
    });
    let router = api.create("virtual-router", body).await.unwrap();
    let mut changes = api.server.changes();
    let link = |operation: &str| {
        json!({
            "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
            "ref-uuid": machine, "operation": operation
        })
    };
    api.request("POST", "/ref-update", Some(&link("ADD"))).await;
    let instance = json!({"virtual_machine_interface_refs": [{"to": name}]});
    api.address("ip", "vn", instance).await.unwrap();
    api.update(
        "virtual-network",
        &network,
        json!({"display_name": "other"}),
    )
    .await;
    api.request("POST", "/ref-update", Some(&link("DELETE")))
        .await;
    api.update("virtual-network", &network, json!({"display_name": "same"}))
        .await;
    let mut received = Vec::new();
    while let Ok(change) = changes.try_recv() {
        let is_affected = change
            .virtual_routers
            .iter()
            .any(|uuid| uuid.to_string() == router);
        received.push((change.operation, change.kind, is_affected));
    }
    let of = |kind: &str| -> Vec<_> {
        received
            .iter()
            .filter(|(_, changed, _)| changed == kind)
            .map(|(operation, _, is_affected)| (*operation, *is_affected))
            .collect()
    };
    assert_eq!(of("instance-ip"), [(Operation::Create, true)]);
    let networks = [(Operation::Update, true), (Operation::Update, false)];
    assert_eq!(of("virtual-network"), networks);
    assert!(
        of("virtual-router")
            .iter()
            .all(|(_, is_affected)| *is_affected)
    );
}

#[tokio::test]
async fn tokens_are_required_and_expire() {
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
    assert_eq!(api.request("GET", "/", None).await.0, 200);
    let refusal = api.request("GET", "/domains", None).await;
    assert_eq!(refusal, (401, "Authentication required".to_owned()));
    let login =
        |name: &str| json!({"auth": {"passwordCredentials": {"username": name, "password": name}}});
    let (status, text) = api
        .request("POST", "/v2.0/tokens", Some(&login("bob")))
        .await;
    assert_eq!(status, 200, "{text}");
    let access: Value = serde_json::from_str(&text).unwrap();
    api.token = access["access"]["token"]["id"].as_str().map(str::to_owned);
    let body = json!({"domain": {"fq_name": ["d"]}});
    let refusal = api.request("POST", "/domains", Some(&body)).await;
    let text = "Permission Denied for bob as ['member'] to C domain in p";
    assert_eq!(refusal, (403, text.to_owned()));
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
    assert_eq!(api.request("GET", "/domains", None).await.0, 200);
    api.server.expire_tokens();
    assert_eq!(api.request("GET", "/domains", None).await.0, 401);
}

#[tokio::test]
async fn injected_faults_take_effect() {
    let api = Api::new(Options::default()).await;
    let server = &api.server;
    let body = |name: &str| json!({"fq_name": [name]});
    let on = |effect: Effect| Fault::new(effect).on("POST", "/virtual-machines");

    server.fault(on(Effect::Status(503, "no".to_owned())).times(1, 1));
    api.create("virtual-machine", body("a")).await.unwrap();
    let refusal = api.create("virtual-machine", body("b")).await.unwrap_err();
    assert_eq!(refusal, (503, "no".to_owned()));
    api.create("virtual-machine", body("b")).await.unwrap();

    server.fault(on(Effect::InvalidBody("{]".to_owned())).times(0, 1));
    let path = "/virtual-machines";
    let call = |name: &str| json!({"virtual-machine": body(name)});
    assert_eq!(
        api.request("POST", path, Some(&call("c"))).await,
        (200, "{]".to_owned())
    );

    server.fault(on(Effect::Cut).times(0, 1).performed());
    assert!(
        api.try_request("POST", path, Some(&call("d")))
            .await
            .is_err()
    );
    server.fault(on(Effect::CutInBody).times(0, 1));
    assert!(
        api.try_request("POST", path, Some(&call("e")))
            .await
            .is_err()
    );
    server.fault(on(Effect::Hang).times(0, 1));
    let hung_call = call("f");
    let hung = api.try_request("POST", path, Some(&hung_call));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), hung)
            .await
            .is_err()
    );
    server.fault(on(Effect::Delay(Duration::from_millis(200))).times(0, 1));
    let started = Instant::now();
    api.create("virtual-machine", body("g")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));

    let names: Vec<_> = server
        .objects("virtual-machine")
        .iter()
        .map(|vm| vm["fq_name"][0].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "b", "d", "g"]);
    let log = server.log();
    let writes: Vec<_> = log
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
    assert_eq!(writes, expected);
    assert_eq!(log.len(), 8);
}

#[tokio::test]
async fn objects_survive_unplugging_the_server() {
    let api = Api::new(Options::default()).await;
    let machine = api
        .create("virtual-machine", json!({"fq_name": ["vm"]}))
        .await
        .unwrap();
    api.server.unplug();
    let path = format!("/virtual-machine/{machine}");
    assert!(api.try_request("GET", &path, None).await.is_err());
    assert!(api.try_request("GET", &path, None).await.is_err());
    api.server.plug().await.unwrap();
    api.get(&path).await;
}

/// On a reused connection, the second write waits for an acknowledgement that the client's kernel
/// delays.
#[tokio::test]
async fn split_writes_delay_the_acknowledgement() {
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
