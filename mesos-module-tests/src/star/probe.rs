//! A probe, as it runs in a container.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use futures::future::join_all;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{MissedTickBehavior, interval};

use super::{Addresses, Matrix, Status, matrix};

/// The header in which a probe names itself.
const NAME_HEADER: &str = "star-probe";
/// The pause between two rounds.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);
/// How long a peer may take to answer: a dropped packet is not sent again within it, so a request that
/// begins while a peer cannot be reached does not succeed later.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);
/// The pause between two datagrams to each peer.
const DATAGRAM_INTERVAL: Duration = Duration::from_millis(20);
const MAX_DATAGRAM_BYTES: usize = 256;

/// How a probe is started.
#[derive(Clone, Debug, clap::Parser)]
pub struct Options {
    /// The probe's name in the directory
    #[arg(long)]
    pub name: String,
    /// Where it serves HTTP and UDP
    #[arg(long)]
    pub listen: SocketAddr,
    /// The URL of the directory of all probes
    #[arg(long)]
    pub directory: String,
}

#[derive(Debug, Default)]
struct Shared {
    status: Status,
    addresses: Addresses,
    /// The last answer of each peer that was reached in the last round.
    answers: BTreeMap<String, Status>,
}

impl Shared {
    /// The counters of a sender; none if the directory does not know it.
    fn received(&mut self, sender: &str) -> Option<&mut super::Received> {
        let is_known = self.addresses.contains_key(sender);
        is_known.then(|| self.status.received.entry(sender.to_owned()).or_default())
    }
}

type Handle = Arc<Mutex<Shared>>;

fn lock(shared: &Handle) -> MutexGuard<'_, Shared> {
    // Counters and whole values only.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a probe until one of its sockets fails.
pub async fn run(options: Options) -> Result<()> {
    let shared = Handle::default();
    lock(&shared).status.name.clone_from(&options.name);
    let listen = options.listen;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("cannot listen at {listen}"))?;
    let datagrams = UdpSocket::bind(listen).await;
    let datagrams = datagrams.with_context(|| format!("cannot receive at {listen}"))?;
    // Another one than the one that receives: otherwise what a peer sends by itself could be a reply.
    let sender = UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).await?;
    let router = Router::new()
        .route("/status", get(status))
        .route("/matrix", get(collected))
        .with_state(shared.clone());
    tokio::select! {
        ended = axum::serve(listener, router) => ended.context("cannot serve"),
        ended = receive(&datagrams, &shared) => ended.context("cannot receive datagrams"),
        () = send(&sender, &options.name, &shared) => Ok(()),
        ended = ask_all(&options, &shared) => ended,
    }
}

async fn status(State(shared): State<Handle>, headers: HeaderMap) -> Json<Status> {
    let mut shared = lock(&shared);
    let name = headers.get(NAME_HEADER).and_then(|name| name.to_str().ok());
    if let Some(received) = name.and_then(|name| shared.received(name)) {
        received.requests += 1;
    }
    Json(shared.status.clone())
}

/// What this probe and those that it reaches have found.
async fn collected(State(shared): State<Handle>) -> Json<Matrix> {
    let shared = lock(&shared);
    let all = shared.answers.values().chain([&shared.status]);
    Json(matrix(all))
}

async fn receive(socket: &UdpSocket, shared: &Handle) -> Result<()> {
    let mut buffer = [0; MAX_DATAGRAM_BYTES];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer).await?;
        let content = &buffer[..length];
        let name = std::str::from_utf8(content).unwrap_or_default();
        if let Some(received) = lock(shared).received(name) {
            received.datagrams += 1;
        }
        // The answer makes it a flow of both directions. Nobody may be there any more.
        let _ = socket.send_to(content, sender).await;
    }
}

/// Sends datagrams for ever.
async fn send(socket: &UdpSocket, name: &str, shared: &Handle) {
    let mut ticks = interval(DATAGRAM_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for address in peers(name, shared).into_values() {
            // A peer that cannot be reached is what this is about.
            let _ = socket.send_to(name.as_bytes(), address).await;
        }
    }
}

fn peers(name: &str, shared: &Handle) -> Addresses {
    let mut addresses = lock(shared).addresses.clone();
    addresses.remove(name);
    addresses
}

/// Asks all peers in rounds, for ever.
async fn ask_all(options: &Options, shared: &Handle) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()?;
    let mut ticks = interval(ROUND_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Without an answer, it goes on with those that it knows.
        if let Ok(addresses) = directory(&client, &options.directory).await {
            lock(shared).addresses = addresses;
        }
        let peers = peers(&options.name, shared);
        let asked = peers.into_iter().map(|(peer, address)| {
            let request = ask(&client, address, &options.name);
            async move {
                let answer = request.await.ok().filter(|answer| answer.name == peer);
                (peer, answer)
            }
        });
        let round = join_all(asked).await;
        let mut shared = lock(shared);
        shared.status.rounds += 1;
        shared.status.reached = (round.iter())
            .map(|(peer, answer)| (peer.clone(), answer.is_some()))
            .collect();
        shared.answers = (round.into_iter())
            .filter_map(|(peer, answer)| Some((peer, answer?)))
            .collect();
    }
}

async fn directory(client: &reqwest::Client, url: &str) -> reqwest::Result<Addresses> {
    client.get(url).send().await?.json().await
}

async fn ask(client: &reqwest::Client, address: SocketAddr, name: &str) -> reqwest::Result<Status> {
    let request = client.get(format!("http://{address}/status"));
    let response = request.header(NAME_HEADER, name).send().await?;
    response.error_for_status()?.json().await
}
