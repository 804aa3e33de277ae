//! Definitions on input, compared with those that Marathon serves.
use serde_json::{Value, json};

use super::*;

fn canonical(definition: Value) -> Value {
    let app = app::parse(definition, &Defaults::default()).unwrap();
    serde_json::to_value(app).unwrap()
}

fn refusals(definition: Value) -> Value {
    match app::parse(definition, &Defaults::default()).unwrap_err() {
        Rejection::Invalid(violations) => violations.details(),
        shape @ Rejection::Shape { .. } => panic!("{shape:?}"),
    }
}

#[test]
fn app_without_networks_runs_on_the_host_network() {
    let app = canonical(json!({"id": "web", "cmd": "run", "container": null}));
    assert_eq!(app["id"], "/web");
    assert_eq!(app["networks"], json!([{"mode": "host"}]));
    assert_eq!(
        app["portDefinitions"],
        json!([{"port": 0, "protocol": "tcp", "name": "default", "labels": {}}])
    );
    assert_eq!(app["role"], "*");
    assert_eq!(app["instances"], 1);
    assert_eq!(app["killSelection"], "YOUNGEST_FIRST");
    assert_eq!(app.get("container"), None);
}

#[test]
fn ip_address_becomes_networks_without_groups() {
    let app = canonical(json!({"id": "/a", "cmd": "run", "ipAddress": {
        "networkName": "contrail", "labels": {"networks": "blue"}, "groups": ["g"],
        "discovery": {"ports": [{"number": 9000, "name": "status", "protocol": "tcp"}]}}}));
    assert_eq!(
        app["networks"],
        json!([{"mode": "container", "name": "contrail", "labels": {"networks": "blue"}}])
    );
    assert_eq!(
        app["container"],
        json!({"type": "MESOS", "volumes": [], "portMappings": [{"containerPort": 9000,
            "servicePort": 0, "protocol": "tcp", "name": "status", "labels": {}}]})
    );
    assert_eq!(app.get("ipAddress"), None);
    assert_eq!(app.get("portDefinitions"), None);
    assert!(!app.to_string().contains("groups"));
}

#[test]
fn docker_network_becomes_networks() {
    let with = |network: &str| {
        canonical(
            json!({"id": "/a", "container": {"type": "DOCKER", "docker": {
            "image": "nginx", "network": network,
            "portMappings": [{"containerPort": 80}]}}, "ipAddress": {"networkName": "n"}}),
        )
    };
    let host = with("HOST");
    assert_eq!(host["networks"], json!([{"mode": "host"}]));
    assert_eq!(host["container"].get("portMappings"), None);
    let bridge = with("BRIDGE");
    assert_eq!(bridge["networks"], json!([{"mode": "container/bridge"}]));
    assert_eq!(bridge["container"]["portMappings"][0]["hostPort"], 0);
    let user = with("USER");
    assert_eq!(
        user["networks"],
        json!([{"mode": "container", "name": "n"}])
    );
    assert_eq!(user["container"]["portMappings"][0].get("hostPort"), None);
    assert_eq!(user["container"]["docker"].get("network"), None);
}

#[test]
fn mesos_bridge_name_becomes_bridge_mode() {
    let app = canonical(json!({"id": "/a", "cmd": "run",
                               "ipAddress": {"networkName": "mesos-bridge"}}));
    assert_eq!(app["networks"], json!([{"mode": "container/bridge"}]));
}

#[test]
fn container_network_gets_default_port_mappings() {
    let app = |more: Value| {
        let mut app = json!({"id": "/a", "cmd": "run", "requirePorts": true,
                             "networks": [{"name": "n"}]});
        app.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        canonical(app)
    };
    let names = |app: Value| app["container"]["portMappings"].as_array().unwrap().len();
    let plain = app(json!({}));
    assert_eq!(plain["requirePorts"], false);
    assert_eq!(plain["container"]["portMappings"][0]["name"], "default");
    assert_eq!(names(plain), 1);
    assert_eq!(names(app(json!({"ports": [1, 2, 3]}))), 3);
    assert_eq!(names(app(json!({"container": {"portMappings": []}}))), 0);
}

#[test]
fn incompatible_networks_are_rejected() {
    let with = |networks: Value| {
        let details = refusals(json!({"id": "/a", "cmd": "run", "networks": networks}));
        assert_eq!(details[0]["path"], "/networks", "{details}");
        details[0]["errors"][0].as_str().unwrap().to_owned()
    };
    assert!(with(json!([{"mode": "host", "labels": {"a": "b"}}])).starts_with("Host networks"));
    assert!(with(json!([{"name": "a"}, {"name": "a"}])).starts_with("Duplicate"));
    assert!(with(json!([{"name": "a"}, {"mode": "host"}])).starts_with("May specify"));
    assert!(with(json!([{"mode": "container"}])).starts_with("Network name must"));
    assert!(with(json!([{"mode": "container/bridge", "name": "x"}])).starts_with("Bridge"));
}

#[test]
fn mixed_old_and_new_fields_are_all_rejected() {
    let details = refusals(json!({"id": "/a", "networks": [{"name": "n"}],
                                  "ipAddress": {"networkName": "n"}}));
    assert_eq!(details[0]["path"], "/networks");
    let details = refusals(
        json!({"id": "/a", "cpus": -1, "networks": [{"name": "n"}, {"name": "m"}],
        "container": {"portMappings": [{"hostPort": 0}]}}),
    );
    let paths: Vec<&str> = details
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["path"].as_str())
        .collect();
    assert_eq!(
        paths,
        ["/", "/cpus", "/container/portMappings(0)/networkNames"]
    );
}

#[test]
fn shape_error_names_the_path() {
    let error = app::parse(
        json!({"id": "/a", "networks": [{"mode": "moon"}]}),
        &Defaults::default(),
    );
    match error {
        Err(Rejection::Shape { path, problem }) => {
            assert_eq!(path, "/networks(0)/mode");
            assert!(problem.contains("moon"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        app::parse(json!([]), &Defaults::default()),
        Err(Rejection::Shape { .. })
    ));
}

#[test]
fn default_network_name_is_filled_in() {
    let defaults = Defaults {
        network_name: Some("dcos".to_owned()),
        ..Defaults::default()
    };
    let app = json!({"id": "/a", "cmd": "run", "networks": [{"mode": "container"}]});
    let app = app::parse(app, &defaults).unwrap();
    assert_eq!(app.networks[0].name.as_deref(), Some("dcos"));
}

#[test]
fn invalid_pod_is_rejected() {
    let pod = |containers: Value| {
        pod::parse(
            json!({"id": "/p", "networks": [{"name": "n"}], "containers": containers}),
            &Defaults::default(),
        )
    };
    let one = json!({"name": "c", "resources": {"cpus": 0.1, "mem": 32},
                     "exec": {"command": {"shell": "run"}}});
    let good = pod(json!([one])).unwrap();
    assert_eq!(good.scaling.instances, 1);
    assert_eq!(good.role.as_deref(), Some("*"));
    assert!(matches!(pod(json!([])), Err(Rejection::Invalid(_))));
    assert!(matches!(pod(json!([one, one])), Err(Rejection::Invalid(_))));
    assert!(matches!(
        pod(json!([{"name": "c"}])),
        Err(Rejection::Shape { .. })
    ));
}

fn with_check(check: &Value) -> Value {
    canonical(json!({"id": "/a", "cmd": "run", "healthChecks": [check]}))["healthChecks"][0].take()
}

#[test]
fn health_check_gets_the_defaults_of_marathon() {
    assert_eq!(
        with_check(&json!({"path": "/"})),
        json!({"gracePeriodSeconds": 300, "ignoreHttp1xx": false, "intervalSeconds": 60,
            "maxConsecutiveFailures": 3, "path": "/", "portIndex": 0, "protocol": "HTTP",
            "ipProtocol": "IPv4", "timeoutSeconds": 20, "delaySeconds": 15})
    );
    let given = json!({"protocol": "MESOS_TCP", "port": 80, "intervalSeconds": 1});
    let tcp = with_check(&given);
    assert_eq!((&tcp["port"], tcp.get("portIndex")), (&json!(80), None));
    assert_eq!(
        (&tcp["intervalSeconds"], tcp.get("ignoreHttp1xx")),
        (&json!(1), None)
    );
    let command = with_check(&json!({"protocol": "COMMAND", "command": {"value": "true"}}));
    assert_eq!(command["command"], json!({"value": "true"}));
    assert_eq!(command.get("portIndex"), None);
}

#[test]
fn health_check_that_cannot_be_made_is_refused() {
    for check in [
        json!({"command": {"value": "true"}}),
        json!({"protocol": "COMMAND"}),
        json!({"portIndex": 1}),
        json!({"port": 80, "portIndex": 0}),
        json!({"ipProtocol": "ipv5"}),
    ] {
        let app = json!({"id": "/a", "cmd": "run", "healthChecks": [check]});
        let details = refusals(app);
        let path = details[0]["path"].as_str().unwrap();
        assert!(path.starts_with("/healthChecks(0)"), "{check}: {details}");
    }
    let constraint = json!({"id": "/a", "cmd": "run", "constraints": [["hostname"]]});
    assert_eq!(refusals(constraint)[0]["path"], "/constraints(0)");
}
