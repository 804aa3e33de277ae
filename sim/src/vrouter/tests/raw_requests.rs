//! Raw requests, whose responses are compared as strings.

use super::*;

const NOT_FOUND: &str = r#"{"error":"{ Not Found }"}"#;

#[tokio::test]
async fn responses_equal_those_of_the_agent() {
    let fixture = Fixture::new().await;
    let mut interfaces = fixture.machine(2).await;
    fixture.link("host1", "ADD").await;
    let client = fixture.client();
    client
        .await_configuration(VM, ExpectedPorts::Annotated, late())
        .await
        .unwrap();
    let (head, body) = fixture.raw("GET", &format!("/vm-cfg/{VM}"), "").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(
        head.contains("content-type: application/json; charset=utf-8"),
        "{head}"
    );
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    assert!(body.starts_with("[\n    {\n        \"id\": \""), "{body}");
    interfaces.sort();
    let read: Value = serde_json::from_str(&body).unwrap();
    for (index, interface) in interfaces.iter().enumerate() {
        assert_eq!(read[index]["id"], interface.to_string());
        assert_eq!(read[index]["vlan-id"], 65535);
        assert_eq!(read[index]["sub-interface"], false);
    }
    let annotations: Vec<_> = read
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["annotations"][0])
        .collect();
    assert!(
        annotations.contains(&&json!("{index:0/2}")),
        "{annotations:?}"
    );
}

#[tokio::test]
async fn error_responses_equal_those_of_the_agent() {
    let fixture = Fixture::new().await;
    let (vm, unknown) = (VM.to_string(), r#"{"error":"Unknown Request"}"#);
    for (method, path, body, status, answer) in [
        ("GET", format!("/vm/{vm}"), "", 404, NOT_FOUND),
        (
            "GET",
            format!("/vm/{}", vm.to_uppercase()),
            "",
            404,
            unknown,
        ),
        ("GET", "/vm".to_owned(), "", 404, unknown),
        ("GET", format!("/vm/{vm}/"), "", 404, unknown),
        ("PUT", format!("/vm/{vm}"), "", 404, unknown),
        (
            "GET",
            "/vm-cfg/77777777-0000-0000-0000-000000000000".to_owned(),
            "",
            404,
            NOT_FOUND,
        ),
        (
            "DELETE",
            "/vm/77777777-0000-0000-0000-000000000000".to_owned(),
            "",
            200,
            "{}",
        ),
        ("POST", "/syncports".to_owned(), "", 200, "{}"),
        (
            "POST",
            "/vm".to_owned(),
            "{",
            500,
            r#"{"error":"{ Invalid Json string ==> { }"}"#,
        ),
        (
            "POST",
            "/vm".to_owned(),
            "[]",
            500,
            r#"{"error":"{ Unexpected Json string ==> [] }"}"#,
        ),
        (
            "POST",
            "/vm".to_owned(),
            "{}",
            500,
            r#"{"error":"{ Invalid or missing data for <vm-uuid> }"}"#,
        ),
        (
            "POST",
            "/vm".to_owned(),
            r#"{"vm-uuid":"x"}"#,
            500,
            r#"{"error":"{ Invalid or missing field for <host-ifname> }"}"#,
        ),
        (
            "POST",
            "/vm".to_owned(),
            r#"{"vm-uuid":"x","host-ifname":"t","vm-name":7}"#,
            500,
            r#"{"error":"{ Invalid or missing field for <vm-name> }"}"#,
        ),
        (
            "POST",
            "/vm".to_owned(),
            r#"{"vm-uuid":"x","host-ifname":"t","vm-name":"n","vn-uuid":"y"}"#,
            500,
            r#"{"error":"{ Invalid or missing data for <vmi-uuid> }"}"#,
        ),
        (
            "POST",
            "/vm".to_owned(),
            r#"{"vm-uuid":"x","host-ifname":"t","vm-name":"n","vn-uuid":"y","vmi-uuid":"z"}"#,
            200,
            "{}",
        ),
    ] {
        let (head, said) = fixture.raw(method, &path, body).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} OK\r\n")),
            "{method} {path}: {head}"
        );
        assert_eq!(said, answer, "{method} {path} {body}");
    }
    // A string that is no uuid became the nil uuid.
    assert_eq!(
        fixture.agent.ports(),
        [(Uuid::nil(), Uuid::nil(), "t".to_owned())]
    );
}

#[tokio::test]
async fn nova_port_subscribes_to_its_configuration() {
    let fixture = Fixture::new().await;
    let interface = fixture.machine(1).await[0];
    fixture.address(0, "v4").await;
    let port = |kind: i64| {
        json!({
            "id": interface, "instance-id": VM, "vn-id": VM, "vm-project-id": VM,
            "display-name": "vm", "ip-address": "5.5.5.252", "ip6-address": "",
            "system-name": "tap1", "mac-address": "02:00:00:00:00:01",
            "type": kind, "rx-vlan-id": -1, "tx-vlan-id": -1,
        })
    };
    let mut bad = port(0);
    bad["mac-address"] = "00:00:00:00:00:00".into();
    let (head, _) = fixture.raw("POST", "/port", &bad.to_string()).await;
    assert!(head.starts_with("HTTP/1.1 500 OK"), "{head}");
    let (_, body) = fixture
        .raw("POST", "/port", &json!([port(0)]).to_string())
        .await;
    assert_eq!(body, "{}");
    fixture
        .client()
        .await_addresses(VM, &[interface], late())
        .await
        .unwrap();
    assert!(fixture.ports.path().join(interface.to_string()).exists());
    let path = format!("/port/{interface}");
    let (_, body) = fixture.raw("GET", &path, "").await;
    let read: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(read["system-name"], "tap1");
    assert!(read["author"].is_string() && read["time"].is_string());
    let disable = format!("/disable-port/{interface}");
    assert!(
        fixture
            .raw("PUT", &disable, "")
            .await
            .0
            .starts_with("HTTP/1.1 500 OK")
    );
    fixture.raw("POST", "/port", &port(2).to_string()).await;
    assert!(
        fixture
            .raw("PUT", &disable, "")
            .await
            .0
            .starts_with("HTTP/1.1 200 OK")
    );
    assert_eq!(fixture.raw("DELETE", &path, "").await.1, "{}");
    assert_eq!(fixture.raw("GET", &path, "").await.1, NOT_FOUND);
    assert!(!fixture.ports.path().join(interface.to_string()).exists());
    assert_eq!(fixture.client().configuration(VM).await.unwrap(), None);
}
