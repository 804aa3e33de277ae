//! Authentication of agents: tokens and client certificates.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::config::Access;
use crate::error::ManagerError;
use crate::listener::Peer;
use contrail_mesos_api::agent_api::AGENT_HEADER;
use contrail_mesos_api::text::Quoted;

/// Authenticates the requests of agents.
#[derive(Debug)]
pub(crate) struct Authenticator(RwLock<Requirements>);

#[derive(Debug)]
struct Requirements {
    /// Accepted tokens. If empty, no token is required.
    tokens: Vec<SecretString>,
    /// Whether the client certificate must name the agent.
    certificate: bool,
    /// The names in certificates that may delete any node.
    operators: Arc<[String]>,
}

/// Who sent a request without the name of an agent.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    /// The names in its certificate; none if certificates are not required.
    names: Option<Arc<[String]>>,
    operators: Arc<[String]>,
}

impl Operator {
    /// Fails if it may not delete that node: it is not an operator, and the node is another one.
    pub(super) fn check(&self, node: &str) -> Result<(), ManagerError> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        let may = |name: &String| name == node || self.operators.contains(name);
        if names.iter().any(may) {
            return Ok(());
        }
        Err(ManagerError::Foreign(format!(
            "the certificate names {}, which may not delete node {}; list its name in operators",
            Quoted(names.join(", ").as_bytes()),
            Quoted(node.as_bytes())
        )))
    }
}

impl Requirements {
    fn new(access: &Access) -> Self {
        let tls = access.tls.as_ref();
        Self {
            tokens: access.tokens.clone(),
            certificate: tls.is_some_and(|tls| tls.client_ca.is_some()),
            operators: access.operators.clone().into(),
        }
    }
}

impl Authenticator {
    pub(crate) fn new(access: &Access) -> Self {
        Self(RwLock::new(Requirements::new(access)))
    }

    /// Replaces the requirements, for open connections as well.
    pub(crate) fn replace(&self, access: &Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Requirements::new(access);
    }

    fn requirements(&self) -> RwLockReadGuard<'_, Requirements> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the agent that sent the request.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<String, ManagerError> {
        self.check_token(headers)?;
        let agent = headers.get(AGENT_HEADER).ok_or_else(|| {
            ManagerError::invalid(format!(
                "the header {AGENT_HEADER} is missing: the name of the agent and of its virtual-router"
            ))
        })?;
        let agent = agent.as_bytes();
        let valid = (1..=255).contains(&agent.len())
            && agent
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
        let name = std::str::from_utf8(agent)
            .ok()
            .filter(|_| valid)
            .ok_or_else(|| {
                ManagerError::invalid(format!(
                    "{} is not an agent's name: use letters, digits and any of . _ -",
                    Quoted(agent)
                ))
            })?;
        if self.requirements().certificate && !peer.names.iter().any(|own| own == name) {
            return Err(ManagerError::Foreign(format!(
                "the certificate is not that of agent {name:?}; it names {}",
                Quoted(peer.names.join(", ").as_bytes())
            )));
        }
        Ok(name.to_owned())
    }

    /// The sender of a request that names no agent.
    pub(super) fn operator(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Operator, ManagerError> {
        self.check_token(headers)?;
        let requirements = self.requirements();
        Ok(Operator {
            names: requirements.certificate.then(|| peer.names.clone()),
            operators: requirements.operators.clone(),
        })
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ManagerError> {
        let requirements = self.requirements();
        if requirements.tokens.is_empty() {
            return Ok(());
        }
        let token = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        let Some(token) = token else {
            return Err(ManagerError::Unauthorised(
                "the manager requires its token in the header Authorization: Bearer …".to_owned(),
            ));
        };
        // Comparing digests keeps the time of the comparison independent of the token.
        let digest = |token: &str| Sha256::digest(token.as_bytes());
        let token = digest(token);
        if requirements
            .tokens
            .iter()
            .any(|accepted| digest(accepted.expose_secret()) == token)
        {
            Ok(())
        } else {
            Err(ManagerError::Unauthorised(
                "the token is not valid; see the manager's token_file".to_owned(),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use contrail_mesos_api::http::tls::Identity;

    use super::*;
    use crate::config::Tls;

    fn access(client_ca: Option<&str>) -> Access {
        Access {
            tokens: vec![SecretString::from("a-token-of-this-test")],
            tls: Some(Tls {
                identity: Identity {
                    certificate: PathBuf::from("/c"),
                    key: PathBuf::from("/k"),
                },
                client_ca: client_ca.map(PathBuf::from),
            }),
            operators: vec!["operator-1".to_owned()],
        }
    }

    fn peer(name: &str) -> Peer {
        Peer {
            address: ([192, 0, 2, 1], 1000).into(),
            names: [name.to_owned()].into(),
        }
    }

    fn headers(token: &str) -> HeaderMap {
        let value = format!("Bearer {token}").parse().unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    fn may_delete(access: &Access, certificate: &str, node: &str) -> bool {
        let headers = headers("a-token-of-this-test");
        let operator = Authenticator::new(access).operator(&headers, &peer(certificate));
        operator.unwrap().check(node).is_ok()
    }

    #[test]
    fn certificate_of_a_node_deletes_that_node_only() {
        let access = access(Some("/ca"));
        assert!(may_delete(&access, "node-1", "node-1"));
        assert!(!may_delete(&access, "node-1", "node-2"));
        assert!(may_delete(&access, "operator-1", "node-2"));
    }

    #[test]
    fn token_alone_deletes_every_node_without_certificates() {
        let access = access(None);
        assert!(may_delete(&access, "", "node-2"));
        let authenticator = Authenticator::new(&access);
        for headers in [HeaderMap::new(), headers("another-token-of-it")] {
            let error = authenticator.operator(&headers, &peer("operator-1"));
            assert!(matches!(error, Err(ManagerError::Unauthorised(_))));
        }
    }
}
