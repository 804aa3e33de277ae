//! The agents' API over HTTP: statuses, who may ask, TLS, and stopping.

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use secrecy::SecretString;

use super::*;
use contrail_mesos_api::agent_api::{AGENT_HEADER, Ports, PortsList, Refusal};
use contrail_mesos_api::http::tls::Identity;
use contrail_mesos_api::http::{HttpClient, HttpError, Request, Response, TlsOptions};
use contrail_mesos_sim::vnc::{Effect, Fault};

/// An agent's side of the API.
pub(super) struct Agent {
    http: HttpClient,
    base: String,
    name: Option<String>,
    token: Option<String>,
}

impl Agent {
    pub(super) fn new(manager: &Manager, name: &str) -> Self {
        Self::with_tls(manager, name, &TlsOptions::default())
    }

    pub(super) fn with_tls(manager: &Manager, name: &str, tls: &TlsOptions) -> Self {
        Self {
            http: HttpClient::new(Limits::default(), tls).unwrap(),
            base: manager.url().replace("127.0.0.1", "localhost"),
            name: Some(name.to_owned()),
            token: None,
        }
    }

    pub(super) fn set_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    pub(super) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response, HttpError> {
        let mut headers = vec![];
        if let Some(name) = &self.name {
            headers.push((
                HeaderName::from_static(AGENT_HEADER),
                HeaderValue::from_str(name).unwrap(),
            ));
        }
        if let Some(token) = &self.token {
            headers.push((AUTHORIZATION, HeaderValue::from_str(token).unwrap()));
        }
        let uri = format!("{}{path}", self.base).parse().unwrap();
        self.http
            .send(Request {
                method,
                uri,
                headers,
                body: Some(body.into()),
            })
            .await
    }

    pub(super) async fn send(&self, method: Method, path: &str, body: &str) -> Response {
        self.try_send(method, path, body.to_owned()).await.unwrap()
    }

    pub(super) async fn put(&self, vm: Uuid, request: &PortsRequest) -> Response {
        let body = serde_json::to_string(request).unwrap();
        self.send(Method::PUT, &format!("/v1/ports/{vm}"), &body)
            .await
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, "").await
    }
}

#[track_caller]
fn refused(response: &Response, status: u16, message: &str) {
    let text = response.text();
    assert_eq!(response.status.as_u16(), status, "{text}");
    let refusal: Refusal = serde_json::from_slice(&response.body).unwrap();
    assert!(refusal.error.contains(message), "{text}");
}

pub(super) async fn start(fixture: &Fixture) -> Manager {
    let manager = Manager::start(fixture.config.clone()).await.unwrap();
    manager.ready().await;
    manager
}

#[tokio::test]
async fn api_follows_the_contract() {
    let fixture = Fixture::with(|config| config.rollback_delay = Duration::from_millis(10)).await;
    let manager = start(&fixture).await;
    let agent = Agent::new(&manager, "node1");
    let (vm, request) = plain(1);
    let path = format!("/v1/ports/{vm}");
    refused(&agent.get(&path).await, 404, &vm.to_string());
    let response = agent.put(vm, &request).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text());
    let made: Ports = serde_json::from_slice(&response.body).unwrap();
    let read: Ports = serde_json::from_slice(&agent.get(&path).await.body).unwrap();
    assert_eq!(read, made);
    let list = agent.get("/v1/ports?agent=node1").await;
    let list: PortsList = serde_json::from_slice(&list.body).unwrap();
    assert_eq!(list.containers, [made]);
    refused(
        &agent.get("/v1/ports?agent=node2").await,
        403,
        "only its own containers",
    );
    refused(&agent.get("/v1/ports").await, 400, "?agent=");

    let other = Agent::new(&manager, "node2");
    refused(
        &other.get(&path).await,
        403,
        "not belong to agent \"node2\"",
    );
    refused(
        &other.put(vm, &request).await,
        403,
        "not belong to agent \"node2\"",
    );
    refused(
        &other.send(Method::DELETE, &path, "").await,
        403,
        "not belong to agent \"node2\"",
    );
    for _ in 0..2 {
        let response = agent.send(Method::DELETE, &path, "").await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (StatusCode::OK, "{}")
        );
    }
    fixture.assert_clean("deleted");

    refused(
        &agent.send(Method::PUT, &path, "{").await,
        400,
        "not a request for ports",
    );
    let wrong = r#"{"container": ["a"], "ports": [{"interface": 5}]}"#;
    refused(
        &agent.send(Method::PUT, &path, wrong).await,
        400,
        "ports[0].interface",
    );
    let long = " ".repeat(300 << 10);
    assert_eq!(
        agent.send(Method::PUT, &path, &long).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let shouted = path.to_uppercase().replace("V1/PORTS", "v1/ports");
    refused(
        &agent.get(&shouted).await,
        400,
        "not a virtual-machine's uuid",
    );
    refused(&agent.get("/v2").await, 404, "/v1/ports");
    refused(
        &agent.send(Method::POST, &path, "").await,
        405,
        "does not support this method",
    );
    let mut nobody = Agent::new(&manager, "node1");
    nobody.name = None;
    refused(&nobody.get(&path).await, 400, AGENT_HEADER);
    nobody.name = Some("no\"de".to_owned());
    refused(&nobody.get(&path).await, 400, "not an agent's name");

    // What the API server says comes through as what the agent can do about it.
    for (effect, status) in [
        (Effect::Status(500, "oops".to_owned()), 502),
        (Effect::Status(401, "who?".to_owned()), 502),
        (Effect::Status(403, "Permission Denied".to_owned()), 502),
        (Effect::Status(412, "quota".to_owned()), 409),
        (Effect::InvalidBody("<html>".to_owned()), 502),
    ] {
        fixture
            .server
            .fault(Fault::new(effect).on("POST", "/virtual-machine-interfaces"));
        assert_eq!(agent.put(vm, &request).await.status.as_u16(), status);
        fixture.server.clear_faults();
        while manager.contrail().unwrap().containers.unfinished() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fixture.assert_clean("rolled back");
    }
}

#[tokio::test]
async fn invalid_paths_and_parameters_are_refused() {
    let fixture = Fixture::new().await;
    let manager = start(&fixture).await;
    let agent = Agent::new(&manager, "node1");
    refused(&agent.get("/v1/ports/%ff").await, 400, "UTF-8");
    refused(
        &agent.get("/v1/ports?agent=node1&adress=10.0.0.1").await,
        400,
        "known are: agent, address",
    );
    refused(
        &agent.get("/v1/ports?agent=node1&address=x").await,
        400,
        "not an address",
    );
}

#[tokio::test]
async fn api_is_not_served_before_api_server_is_reachable() {
    let mut fixture = Fixture::new().await;
    fixture.server.unplug();
    fixture.config.vnc.as_mut().unwrap().call_timeout = Duration::from_millis(100);
    let manager = Manager::start(fixture.config.clone()).await.unwrap();
    let agent = Agent::new(&manager, "node1");
    let (vm, request) = plain(1);
    refused(&agent.put(vm, &request).await, 503, "not ready");
    fixture.server.plug().await.unwrap();
    manager.ready().await;
    assert_eq!(agent.put(vm, &request).await.status, StatusCode::OK);
    fixture.server.unplug();
    let status = agent
        .send(Method::DELETE, &format!("/v1/ports/{vm}"), "")
        .await
        .status;
    assert!([503, 504].contains(&status.as_u16()), "{status}");
}

#[tokio::test]
async fn api_requires_token() {
    const TOKENS: [&str; 2] = ["correct-horse-battery", "staple-0123456789"];
    let mut fixture = Fixture::new().await;
    fixture.config.access.tokens = TOKENS.map(SecretString::from).to_vec();
    let manager = start(&fixture).await;
    let mut agent = Agent::new(&manager, "node1");
    let path = "/v1/ports?agent=node1";
    for (token, status) in [
        (None, 401),
        (Some("Bearer wrong-horse-battery".to_owned()), 401),
        (Some("Bearer ".to_owned()), 401),
        (Some(TOKENS[0].to_owned()), 401),
        (Some(format!("Basic {}", TOKENS[0])), 401),
        (Some(format!("Bearer {}", TOKENS[0])), 200),
        (Some(format!("bearer {}", TOKENS[1])), 200),
    ] {
        agent.token.clone_from(&token);
        let response = agent.get(path).await;
        assert_eq!(response.status.as_u16(), status, "{token:?}");
        assert!(!response.text().contains(TOKENS[0]));
    }
    let shown = format!("{manager:?} {:?}", fixture.config);
    assert!(!shown.contains(TOKENS[0]));
}

/// Certificates of one authority, in files.
pub(super) struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    pub(super) fn ca(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub(super) fn identity(&self, common: &str, alternative: &[&str]) -> Identity {
        let names: Vec<String> = alternative.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity {
            certificate: self.directory.path().join(format!("{common}.pem")),
            key: self.directory.path().join(format!("{common}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}

#[tokio::test]
async fn api_takes_agent_name_from_certificate() {
    let mut fixture = Fixture::new().await;
    let authority = Authority::new();
    let strangers = Authority::new();
    fixture.config.access.tls = Some(Tls {
        identity: authority.identity("manager", &["localhost"]),
        client_ca: Some(authority.ca()),
    });
    Manager::check(&fixture.config).unwrap();
    let manager = start(&fixture).await;
    let ask = async |name: &str, identity: Option<Identity>| {
        let tls = TlsOptions {
            ca: Some(authority.ca()),
            identity,
        };
        let agent = Agent::with_tls(&manager, name, &tls);
        let asked = agent
            .try_send(
                Method::GET,
                &format!("/v1/ports?agent={name}"),
                String::new(),
            )
            .await;
        asked.ok().map(|response| response.status.as_u16())
    };
    // A peer that says nothing keeps nobody waiting.
    let silent = tokio::net::TcpStream::connect(manager.address())
        .await
        .unwrap();
    let common = authority.identity("node1", &["other"]);
    let alternative = authority.identity("agent", &["node2", "node1"]);
    assert_eq!(ask("node1", Some(common.clone())).await, Some(200));
    assert_eq!(ask("node2", Some(common)).await, Some(403));
    assert_eq!(ask("node1", Some(alternative.clone())).await, Some(200));
    assert_eq!(ask("node2", Some(alternative)).await, Some(200));
    assert_eq!(ask("node1", None).await, None);
    assert_eq!(
        ask("node1", Some(strangers.identity("node1", &[]))).await,
        None
    );
    drop(silent);

    // Without client certificates TLS only hides, and the header decides.
    fixture.config.access.tls.as_mut().unwrap().client_ca = None;
    let manager = start(&fixture).await;
    let tls = TlsOptions {
        ca: Some(authority.ca()),
        identity: None,
    };
    let agent = Agent::with_tls(&manager, "node1", &tls);
    assert_eq!(
        agent.get("/v1/ports?agent=node1").await.status,
        StatusCode::OK
    );

    fixture.config.access.tls.as_mut().unwrap().identity.key = authority.ca();
    let error = Manager::check(&fixture.config).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    assert!(Manager::start(fixture.config.clone()).await.is_err());
}

#[tokio::test]
async fn agent_does_not_get_the_virtual_router_of_another_agent_by_its_address() {
    let fixture = Fixture::new().await;
    let manager = start(&fixture).await;
    let with_address = |number: u128, address: &str| {
        let (vm, mut request) = plain(number);
        request.virtual_router_address = Some(address.parse().unwrap());
        (vm, request)
    };
    // A virtual-router that has no agent of its name is found by its address.
    let stranger = Agent::new(&manager, "stranger");
    let (vm, request) = with_address(1, "10.84.22.28");
    assert_eq!(stranger.put(vm, &request).await.status, StatusCode::OK);

    let node1 = Agent::new(&manager, "node1");
    let (vm, request) = plain(2);
    assert_eq!(node1.put(vm, &request).await.status, StatusCode::OK);
    let (vm, request) = with_address(3, "10.84.22.27");
    refused(&stranger.put(vm, &request).await, 403, "agent \"node1\"");
    assert_eq!(fixture.added("virtual-machine"), 2);
    // Another manager has not seen the agent, but its container.
    let other = start(&fixture).await;
    let stranger = Agent::new(&other, "stranger");
    refused(&stranger.put(vm, &request).await, 403, "agent \"node1\"");
    assert_eq!(fixture.added("virtual-machine"), 2);
}

#[tokio::test]
async fn stop_finishes_requests_in_flight() {
    let fixture = Fixture::new().await;
    let manager = start(&fixture).await;
    let agent = std::sync::Arc::new(Agent::new(&manager, "node1"));
    fixture.server.set_delay(Duration::from_millis(50));
    let (vm, request) = plain(1);
    let asking = tokio::spawn({
        let agent = agent.clone();
        async move { agent.put(vm, &request).await.status }
    });
    // This one goes away while its container is being made.
    let (left, left_request) = plain(2);
    let leaving = tokio::spawn({
        let agent = Agent::new(&manager, "node1");
        async move { agent.put(left, &left_request).await.status }
    });
    while fixture.added("virtual-machine") < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    leaving.abort();
    manager.stop().await;
    assert_eq!(asking.await.unwrap(), StatusCode::OK);
    fixture.server.set_delay(Duration::ZERO);
    for vm in [vm, left] {
        assert_eq!(
            fixture
                .other_manager()
                .get(Some("node1"), vm)
                .await
                .unwrap()
                .ports[0]
                .addresses
                .len(),
            1
        );
    }
    assert!(
        agent
            .try_send(Method::GET, "/v1/ports", String::new())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn listen_address_in_use_is_named_in_error() {
    let fixture = Fixture::new().await;
    let manager = start(&fixture).await;
    let mut config = fixture.config.clone();
    config.listen = manager.address();
    let error = Manager::start(config).await.unwrap_err();
    assert!(
        error.to_string().contains(&manager.address().to_string()),
        "{error}"
    );
}
