use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::connect::HttpConnector;
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
async fn failures_are_told_apart() {
    let server = ScriptedServer::start(|asked, _| match asked.path.as_str() {
        "/cut" => Reply::Close,
        "/half" => Reply::Truncate,
        "/hang" => Reply::Hang,
        "/not-http" => Reply::Raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        "/long" => ok(&"x".repeat(1001)),
        "/away" => Reply::WithHeader(302, "location", "http://169.254.169.254/"),
        _ => ok(&"yes"),
    })
    .await;
    let hasty = Limits {
        request_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let hasty = HttpClient::new(hasty, &TlsOptions::default()).unwrap();
    let uri = format!("http://{}/hang", server.address);
    let late = hasty.send(get(&uri)).await;
    assert!(matches!(late, Err(HttpError::Timeout(_))), "{late:?}");

    let client = client(&TlsOptions::default());
    let ask = async |path: &str| {
        let uri = format!("http://{}{path}", server.address);
        client.send(get(&uri)).await
    };
    assert_eq!(ask("/").await.unwrap().text(), "yes");
    assert_eq!(ask("/away").await.unwrap().status, 302);
    assert!(matches!(
        ask("/cut").await,
        Err(HttpError::ConnectionClosed(_))
    ));
    assert!(matches!(
        ask("/half").await,
        Err(HttpError::ConnectionClosed(_))
    ));
    assert!(matches!(
        ask("/not-http").await,
        Err(HttpError::ConnectionClosed(_))
    ));
    assert!(matches!(
        ask("/long").await,
        Err(HttpError::BodyTooLarge(1000))
    ));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let error = client.send(get(&uri)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

/// Acknowledging at once is a state of the socket, which every write ends.
#[tokio::test]
async fn sockets_acknowledge_at_once_after_every_read() {
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
        "an ordinary socket never delays: this test proves nothing"
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

/// `cargo test --lib quickack_saves -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement: prints times, asserts nothing"]
async fn quickack_saves_forty_milliseconds_a_call() {
    const CALLS: u32 = 100;
    let server = ScriptedServer::start(|_, _| ok(&"x".repeat(600))).await;
    let uri: Uri = format!("http://{}/", server.address).parse().unwrap();

    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let plain = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    let started = Instant::now();
    for _ in 0..CALLS {
        let response = plain.get(uri.clone()).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let without = started.elapsed() / CALLS;

    let quick = client(&TlsOptions::default());
    let started = Instant::now();
    for _ in 0..CALLS {
        quick.send(get(&uri.to_string())).await.unwrap();
    }
    let with = started.elapsed() / CALLS;
    println!(
        "a call: {without:?} with an ordinary socket, {with:?} acknowledging at once: 1/{:.0}",
        without.as_secs_f64() / with.as_secs_f64()
    );
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

/// A server that lets in only whom its own authority vouches for.
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
async fn only_those_that_the_authority_knows_talk_to_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let identity = authority.write(directory.path(), "localhost");
    let ours = authority.write(directory.path(), "manager");
    let tls = Some(acceptor(directory.path(), &identity));
    let server = ScriptedServer::start_with(tls, |_, _| ok(&"private")).await;
    let uri = format!("https://localhost:{}/", server.address.port());
    let ca = Some(directory.path().join("ca.pem"));

    let known = TlsOptions {
        ca: ca.clone(),
        identity: Some(ours),
    };
    let answer = client(&known).send(get(&uri)).await.unwrap();
    assert_eq!(answer.text(), "private");

    let nameless = TlsOptions { ca, identity: None };
    client(&nameless).send(get(&uri)).await.unwrap_err();

    let credulous = TlsOptions::default();
    let error = client(&credulous).send(get(&uri)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");

    // The right authority, but another host.
    let uri = format!("https://127.0.0.1:{}/", server.address.port());
    client(&known).send(get(&uri)).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn useless_certificates_are_named() {
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
