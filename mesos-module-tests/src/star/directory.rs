//! Where probes find each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::Addresses;
use crate::testbed::Host;

/// Names with their addresses, served by HTTP. It lives as long as its host.
#[derive(Clone, Debug)]
pub struct Directory {
    addresses: Arc<Mutex<Addresses>>,
    url: String,
}

impl Directory {
    /// Starts an empty directory on a host, which containers must reach.
    pub fn start(host: &Host) -> Result<Self> {
        let addresses = Arc::new(Mutex::new(BTreeMap::new()));
        let router = Router::new()
            .route("/", get(serve))
            .with_state(addresses.clone());
        let address = SocketAddr::new(host.address(), 0);
        let url = host.block_on(async {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.context("cannot listen for the directory of probes")?;
            let url = format!("http://{}/", listener.local_addr()?);
            tokio::spawn(async move { axum::serve(listener, router).await });
            anyhow::Ok(url)
        })?;
        Ok(Self { addresses, url })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Replaces all entries.
    pub fn set(&self, addresses: Addresses) {
        *lock(&self.addresses) = addresses;
    }
}

fn lock(addresses: &Mutex<Addresses>) -> std::sync::MutexGuard<'_, Addresses> {
    // It is replaced as a whole.
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(State(addresses): State<Arc<Mutex<Addresses>>>) -> Json<Addresses> {
    Json(lock(&addresses).clone())
}
