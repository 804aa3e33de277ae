//! Who asks, and whether it may.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::config::Access;
use super::error::ManagerError;
use super::listener::Peer;
use contrail_mesos_api::agent_api::AGENT_HEADER;
use contrail_mesos_api::text::Quoted;

/// What a request must show.
#[derive(Debug)]
pub(super) struct Gate(RwLock<Shown>);

#[derive(Debug)]
struct Shown {
    tokens: Vec<SecretString>,
    certificates: bool,
}

impl Shown {
    fn new(access: &Access) -> Self {
        let tls = access.tls.as_ref();
        Self {
            tokens: access.tokens.clone(),
            certificates: tls.is_some_and(|tls| tls.client_ca.is_some()),
        }
    }
}

impl Gate {
    pub(super) fn new(access: &Access) -> Self {
        Self(RwLock::new(Shown::new(access)))
    }

    /// From now on something else must be shown, also on connections that are open.
    pub(super) fn replace(&self, access: &Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Shown::new(access);
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent that asks.
    pub(super) fn agent(&self, headers: &HeaderMap, peer: &Peer) -> Result<String, ManagerError> {
        self.check_token(headers)?;
        let agent = headers.get(AGENT_HEADER).ok_or_else(|| {
            ManagerError::invalid(format!(
                "the header {AGENT_HEADER} is missing: the agent's name, which its virtual-router has too"
            ))
        })?;
        let agent = agent.as_bytes();
        let right = (1..=255).contains(&agent.len())
            && agent
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
        let name = std::str::from_utf8(agent)
            .ok()
            .filter(|_| right)
            .ok_or_else(|| {
                ManagerError::invalid(format!(
                    "{} is not an agent's name: letters, digits and any of . _ -",
                    Quoted(agent)
                ))
            })?;
        if self.shown().certificates && !peer.names.iter().any(|own| own == name) {
            return Err(ManagerError::Foreign(format!(
                "the certificate is not that of agent {name:?}; it names {}",
                Quoted(peer.names.join(", ").as_bytes())
            )));
        }
        Ok(name.to_owned())
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ManagerError> {
        let wanted = self.shown();
        if wanted.tokens.is_empty() {
            return Ok(());
        }
        let shown = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        let Some(shown) = shown else {
            return Err(ManagerError::Unauthorised(
                "the manager wants its token in the header Authorization: Bearer …".to_owned(),
            ));
        };
        // Digests, so that the time to compare tells nothing of the token.
        let digest = |token: &str| Sha256::digest(token.as_bytes());
        let shown = digest(shown);
        if wanted
            .tokens
            .iter()
            .any(|token| digest(token.expose_secret()) == shown)
        {
            Ok(())
        } else {
            Err(ManagerError::Unauthorised(
                "the token is not the manager's; see its token_file".to_owned(),
            ))
        }
    }
}
