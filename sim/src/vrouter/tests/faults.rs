//! Delays, faults and outages.

use super::*;

#[tokio::test]
async fn delays_postpone_responses_and_configuration() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let for_ever = Duration::from_hours(1);
    fixture.agent.set_delays(Delays {
        address: for_ever,
        ..Delays::default()
    });
    let interface = fixture.machine(1).await[0];
    fixture.address(0, "v4").await;
    fixture.link("host1", "ADD").await;
    client
        .await_configuration(VM, ExpectedPorts::Annotated, late())
        .await
        .unwrap();
    client
        .register(&fixture.port_of(interface), late())
        .await
        .unwrap();
    let soon = Instant::now() + Duration::from_secs(2);
    let missing = client
        .await_addresses(VM, &[interface], soon)
        .await
        .unwrap_err()
        .missing;
    assert_eq!(missing, Missing::Address);

    let fixture = Fixture::new().await;
    fixture.agent.set_delays(Delays {
        configuration: for_ever,
        ..Delays::default()
    });
    fixture.machine(1).await;
    fixture.link("host1", "ADD").await;
    let soon = Instant::now() + Duration::from_secs(2);
    let missing = fixture
        .client()
        .await_configuration(VM, ExpectedPorts::Annotated, soon)
        .await;
    assert_eq!(missing.unwrap_err().missing, Missing::Configuration);
}

#[tokio::test]
async fn faults_apply_as_often_as_requested() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let fault = |effect| Fault::new(effect).on("GET", "/vm-cfg").times(1, 1);
    fixture
        .agent
        .fault(fault(Effect::InvalidBody("[{]".to_owned())));
    assert_eq!(client.configuration(VM).await.unwrap(), None);
    let error = client.configuration(VM).await.unwrap_err();
    assert!(
        matches!(error.kind, VrouterErrorKind::InvalidResponse { .. }),
        "{error}"
    );
    assert_eq!(client.configuration(VM).await.unwrap(), None);
    fixture.agent.clear_faults();
    fixture
        .agent
        .fault(Fault::new(Effect::Cut).on("GET", "/vm-cfg").times(0, 1));
    assert!(client.configuration(VM).await.is_err());
    assert_eq!(client.configuration(VM).await.unwrap(), None);
    // Faults and an outage through the control listener.
    let control = fixture
        .agent
        .control(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{control}/{path}");
    let fault = json!({"path": "/vm-cfg", "times": 1, "effect": {"status": [500, "no"]}});
    http.post(url("faults"))
        .json(&fault)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let error = client.configuration(VM).await.unwrap_err();
    assert!(
        matches!(error.kind, VrouterErrorKind::Refused { status: 500, .. }),
        "{error}"
    );
    http.put(url("online"))
        .json(&false)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    assert!(client.configuration(VM).await.is_err());
    http.put(url("online"))
        .json(&true)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    assert_eq!(client.configuration(VM).await.unwrap(), None);
    let state: Value = http
        .get(url("state"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(state["forwarding"], Value::Null);
    let log: Value = http
        .get(url("log?since=1"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(log[0]["order"], 1);
}
