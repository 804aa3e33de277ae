//! Whom to believe, and who we are: TLS with an own CA and a client certificate.
//!
//! Certificates are always checked. `insecure`, which the Python client knows, does not exist
//! here: name the server's CA, or its self-signed certificate, instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// TLS of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file of the CAs to believe, in place of the system's.
    pub ca: Option<PathBuf>,
    /// What to show when the server asks who we are.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file of the certificate, and those between it and its CA.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// A certificate or key that is no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{}: {problem}; name a PEM file with {wanted}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key do not belong together, or the like.
    #[error("TLS cannot be used with these certificates: {0}")]
    Unusable(#[from] rustls::Error),
}

impl TlsOptions {
    pub(super) fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
        } else {
            // A system without CAs talks plain HTTP all the same; TLS then says what it misses.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
            }
        })
    }
}

/// The certificates of a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |problem: String| TlsError::File {
        path: path.to_owned(),
        wanted: "certificates",
        problem,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|problem| error(problem.to_string()))?;
    if certificates.is_empty() {
        return Err(error("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// The private key of a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|problem| TlsError::File {
        path: path.to_owned(),
        wanted: "a private key",
        problem: problem.to_string(),
    })
}
