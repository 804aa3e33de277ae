use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::scripted::{Reply, ScriptedServer, ok};
use super::tls::Identity;
use super::*;

fn client(tls: &TlsOptions) -> HttpClient {
    let limits = Limits {
        request_timeout: Duration::from_secs(20),
        max_body_bytes: 1000,
        ..Limits::default()
    };
    HttpClient::new(limits, tls).unwrap()
}

fn get(uri: &str) -> Request {
    Request {
        method: Method::GET,
        uri: uri.parse().unwrap(),
        headers: vec![],
        body: None,
    }
}

#[tokio::test]
async fn http_client_should_distinguish_failures() {
    let server = ScriptedServer::start(|request, _| match request.path.as_str() {
        "/cut" => Reply::Close,
        "/half" => Reply::Truncate,
        "/hang" => Reply::Hang,
        "/not-http" => Reply::Raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        "/long" => ok(&"x".repeat(1001)),
        "/away" => Reply::WithHeader(302, "location", "http://169.254.169.254/"),
        _ => ok(&"yes"),
    })
    .await;
    let limits = Limits {
        request_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let impatient = HttpClient::new(limits, &TlsOptions::default()).unwrap();
    let uri = format!("http://{}/hang", server.address);
    let result = impatient.send(get(&uri)).await;
    assert!(matches!(result, Err(HttpError::Timeout(_))), "{result:?}");

    let client = client(&TlsOptions::default());
    let send = async |path: &str| {
        let uri = format!("http://{}{path}", server.address);
        client.send(get(&uri)).await
    };
    assert_eq!(send("/").await.unwrap().text(), "yes");
    assert_eq!(send("/away").await.unwrap().status, 302);
    assert!(matches!(
        send("/cut").await,
        Err(HttpError::ConnectionClosed(_))
    ));
    assert!(matches!(
        send("/half").await,
        Err(HttpError::ConnectionClosed(_))
    ));
    assert!(matches!(
        send("/not-http").await,
        Err(HttpError::ConnectionClosed(_))
    ));
    assert!(matches!(
        send("/long").await,
        Err(HttpError::BodyTooLarge(1000))
    ));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let error = client.send(get(&uri)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

/// `TCP_QUICKACK` is a state of the socket that every write ends.
#[tokio::test]
async fn quickack_stream_should_acknowledge_at_once_after_every_read() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });

    let mut plain = TcpStream::connect(address).await.unwrap();
    let mut delays = 0;
    for _ in 0..20 {
        plain.write_all(b"x").await.unwrap();
        plain.read_exact(&mut [0]).await.unwrap();
        delays += usize::from(!plain.quickack().unwrap());
    }
    assert!(
        delays > 0,
        "ordinary sockets never delay here, so the test shows nothing"
    );

    let mut connector = QuickAckConnector::new(Duration::from_secs(5));
    let uri = format!("http://{address}").parse().unwrap();
    let connecting: BoxFuture<'_, _> = connector.call(uri);
    let mut quick = TokioIo::new(connecting.await.unwrap());
    for _ in 0..20 {
        quick.write_all(b"x").await.unwrap();
        quick.read_exact(&mut [0]).await.unwrap();
        assert!(quick.inner().acknowledges_at_once().unwrap());
    }
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    /// Writes the authority's certificate, a certificate that it signed and its key.
    fn write(&self, directory: &Path, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let identity = Identity {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        std::fs::write(directory.join("ca.pem"), self.issuer.pem()).unwrap();
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}

/// A TLS server that accepts only clients with a certificate of the authority.
fn acceptor(directory: &Path, identity: &Identity) -> TlsAcceptor {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&identity.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&identity.key).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn tls_should_require_certificates_of_the_authority_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let identity = authority.write(directory.path(), "localhost");
    let client_identity = authority.write(directory.path(), "manager");
    let tls = Some(acceptor(directory.path(), &identity));
    let server = ScriptedServer::start_with(tls, |_, _| ok(&"private")).await;
    let uri = format!("https://localhost:{}/", server.address.port());
    let ca = Some(directory.path().join("ca.pem"));

    let trusting = TlsOptions {
        ca: ca.clone(),
        identity: Some(client_identity),
    };
    let response = client(&trusting).send(get(&uri)).await.unwrap();
    assert_eq!(response.text(), "private");

    let without_certificate = TlsOptions { ca, identity: None };
    client(&without_certificate)
        .send(get(&uri))
        .await
        .unwrap_err();

    let without_ca = TlsOptions::default();
    let error = client(&without_ca).send(get(&uri)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");

    // The right authority, but another host.
    let uri = format!("https://127.0.0.1:{}/", server.address.port());
    client(&trusting).send(get(&uri)).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn tls_error_should_name_the_invalid_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("empty.pem");
    let tls = TlsOptions {
        ca: Some(path.clone()),
        identity: None,
    };
    for content in [None, Some(""), Some("nonsense")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = HttpClient::new(Limits::default(), &tls).unwrap_err();
        assert!(error.to_string().contains("empty.pem"), "{error}");
    }
}

#[tokio::test]
async fn http_client_should_hide_its_credentials_in_a_response_that_repeats_them() {
    let server = ScriptedServer::start(|request, _| {
        let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
        let echo = serde_json::json!({
            "authorization": header("authorization"),
            "token": header("x-auth-token"),
            "other": header("x-other"),
        });
        match request.path.as_str() {
            "/fails" => Reply::Answer(500, echo.to_string()),
            "/plain" => Reply::Answer(403, header("authorization")),
            _ => ok(&echo),
        }
    })
    .await;
    let client = client(&TlsOptions::default());
    let header = |name: &'static str, value: &'static str, is_sensitive: bool| {
        let mut value = HeaderValue::from_static(value);
        value.set_sensitive(is_sensitive);
        (HeaderName::from_static(name), value)
    };
    for path in ["/", "/fails", "/plain"] {
        let request = Request {
            headers: vec![
                header("authorization", "Basic dXNlcjpTZWNyZXRQdzE=", true),
                header("x-auth-token", "gAAAAABk-token/of+keystone", true),
                header("x-other", "harmless", false),
            ],
            ..get(&format!("http://{}{path}", server.address))
        };
        let response = client.send(request).await.unwrap();
        let text = response.text();
        assert!(text.contains(crate::text::HIDDEN), "{text}");
        assert!(!text.contains("dXNlcjpTZWNyZXRQdzE"), "{text}");
        assert!(!text.contains("token/of"), "{text}");
        assert!(path == "/plain" || text.contains("harmless"), "{text}");
    }
}
