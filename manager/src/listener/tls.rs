//! TLS of the agents' API.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::Tls;
use contrail_mesos_api::http::TlsError;
use contrail_mesos_api::http::tls::{certificates, private_key};

/// The common name and the DNS names in a verified certificate.
pub(super) fn names_of(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return vec![];
    };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<String> = common
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push((*name).to_owned());
            }
        }
    }
    names
}

/// What is read of the files of `[tls]`.
#[derive(Clone, Debug)]
pub(crate) struct LoadedTls {
    /// The configuration of the listener.
    pub config: Arc<ServerConfig>,
    /// When the own certificate expires, in seconds since the epoch; none if that cannot be read.
    pub certificate_expiry: Option<i64>,
}

/// When a certificate expires, in seconds since the epoch.
fn expiry_of(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The TLS configuration. Reads certificate files, which blocks.
pub(crate) fn server_config(tls: &Tls) -> Result<LoadedTls, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let identity = &tls.identity;
    let chain = certificates(&identity.certificate)?;
    // The own certificate is the first of the chain.
    let certificate_expiry = chain.first().and_then(|own| expiry_of(own));
    let config = builder.with_single_cert(chain, private_key(&identity.key)?)?;
    Ok(LoadedTls {
        config: Arc::new(config),
        certificate_expiry,
    })
}
