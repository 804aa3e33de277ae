//! Tests of authentication.

use secrecy::SecretString;
use serde_json::json;

use super::*;

const PASSWORD: &str = "correct horse";

fn keystone(url: String) -> Auth {
    Auth::Keystone(Keystone {
        url,
        user: "admin".to_owned(),
        password: SecretString::from(PASSWORD),
        project: "mesos".to_owned(),
        domain: "Default".to_owned(),
        version: KeystoneVersion::Any,
    })
}

/// An API server that accepts one token.
async fn server_with_token(token: &'static str) -> ScriptedServer {
    ScriptedServer::start(move |request, _| {
        if request.header("x-auth-token") == Some(token) {
            created_reply(request)
        } else {
            Reply::Answer(401, "Authentication required".to_owned())
        }
    })
    .await
}

fn client_with(server: &ScriptedServer, auth: Auth) -> VncClient {
    VncClient::new(VncOptions {
        auth,
        ..options(&[server.address])
    })
    .unwrap()
}

#[tokio::test]
async fn token_is_fetched_once_and_renewed_once() {
    let tokens = ScriptedServer::start(|_, index| {
        Reply::WithHeader(
            201,
            "X-Subject-Token",
            if index == 0 { "old" } else { "new" },
        )
    })
    .await;
    let server = server_with_token("new").await;
    let client = client_with(&server, keystone(format!("http://{}", tokens.address)));
    let machine = machine();
    let creates = (0..10).map(|_| client.create(&machine));
    for result in futures::future::join_all(creates).await {
        result.unwrap();
    }
    assert_eq!(tokens.lines(), ["POST /v3/auth/tokens"; 2]);
    let request = tokens.requests()[0].json();
    let user = &request["auth"]["identity"]["password"]["user"];
    assert_eq!(user["password"], PASSWORD);
    assert_eq!(request["auth"]["scope"]["project"]["name"], "mesos");

    client.create(&machine).await.unwrap();
    assert_eq!(tokens.requests().len(), 2);
}

#[tokio::test]
async fn rejected_token_is_renewed_only_once() {
    let tokens =
        ScriptedServer::start(|_, _| Reply::WithHeader(201, "x-subject-token", "useless")).await;
    let server = server_with_token("other").await;
    let client = client_with(&server, keystone(format!("http://{}", tokens.address)));
    let error = client.create(&machine()).await.unwrap_err();
    assert!(
        matches!(error.kind, VncErrorKind::Unauthorised { .. }),
        "{error}"
    );
    assert_eq!((tokens.requests().len(), server.requests().len()), (2, 2));
}

#[tokio::test]
async fn keystone_v2_is_used_if_v3_is_missing() {
    let tokens = ScriptedServer::start(|request, _| match request.path.as_str() {
        "/v2.0/tokens" => ok(&json!({ "access": { "token": { "id": "t2" } } })),
        _ => Reply::Answer(404, "not found".to_owned()),
    })
    .await;
    let server = server_with_token("t2").await;
    let client = client_with(&server, keystone(format!("http://{}/", tokens.address)));
    client.create(&machine()).await.unwrap();
    assert_eq!(
        tokens.lines(),
        ["POST /v3/auth/tokens", "POST /v2.0/tokens"]
    );
    assert_eq!(tokens.requests()[1].json()["auth"]["tenantName"], "mesos");

    // The format of mesos-manager's auth_token_url.
    let client = client_with(
        &server,
        keystone(format!("http://{}/v2.0/tokens", tokens.address)),
    );
    client.create(&machine()).await.unwrap();
    assert_eq!(tokens.requests().len(), 3);
}

#[tokio::test]
async fn keystone_error_names_keystone() {
    let server = server_with_token("t").await;
    let no = "Could not recognize Authentication Token".to_owned();
    let tokens = ScriptedServer::start(move |_, _| Reply::Answer(401, no.clone())).await;
    let error = client_with(&server, keystone(format!("http://{}", tokens.address)))
        .create(&machine())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, VncErrorKind::Unauthorised { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("keystone"), "{error}");

    let client = VncClient::new(VncOptions {
        auth: keystone(format!("http://{}", unused_address())),
        call_timeout: Duration::from_millis(200),
        ..options(&[server.address])
    });
    let error = client.unwrap().create(&machine()).await.unwrap_err();
    assert!(error.to_string().contains("keystone"), "{error}");

    let error = client_with(&server, keystone("invalid".to_owned()))
        .create(&machine())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("invalid"), "{error}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn secrets_are_absent_from_debug_output() {
    let tokens =
        ScriptedServer::start(|_, _| Reply::WithHeader(201, "x-subject-token", "t0ken")).await;
    let server = server_with_token("t0ken").await;
    let basic = Auth::Basic {
        user: "admin".to_owned(),
        password: SecretString::from(PASSWORD),
    };
    for auth in [basic, keystone(format!("http://{}", tokens.address))] {
        let client = client_with(&server, auth.clone());
        let result = client.create(&machine()).await;
        let printed = format!("{client:?} {auth:?} {result:?}");
        assert!(!printed.contains(PASSWORD), "{printed}");
        assert!(!printed.contains("t0ken"), "{printed}");
        assert!(printed.contains("admin"), "{printed}");
    }
    let request = &server.requests()[0];
    assert_eq!(
        request.header("authorization"),
        Some("Basic YWRtaW46Y29ycmVjdCBob3JzZQ==")
    );
}

#[tokio::test]
async fn keystone_that_repeats_the_request_does_not_reveal_the_password() {
    for status in [401, 500] {
        let echo = ScriptedServer::start(move |request, _| {
            Reply::Answer(status, request.json().to_string())
        })
        .await;
        let server = server_with_token("any").await;
        let mut options = VncOptions {
            auth: keystone(format!("http://{}", echo.address)),
            ..options(&[server.address])
        };
        options.call_timeout = Duration::from_millis(200);
        let client = VncClient::new(options).unwrap();
        let error = client.create(&machine()).await.unwrap_err().to_string();
        assert!(
            error.contains("passwordCredentials") || error.contains("methods"),
            "{error}"
        );
        assert!(!error.contains(PASSWORD), "{error}");
    }
}
