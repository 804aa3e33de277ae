//! A message, and what becomes of it. Knows no sockets.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::ResponseCode;
use tokio::sync::Semaphore;

use super::access::{Access, Decision};
use super::answer::{Class, Rotation, answer};
use super::forward::{ForwardLimits, Forwarder};
use super::message::{Received, Request, Response, Transport, receive};
use super::metrics::DnsMetrics;
use super::upstreams::Upstreams;
use super::zones::Zones;
use crate::cluster_state::ClusterState;
use crate::services::AppliedServices;

/// How many messages wait until the addresses of this host are read.
const MAX_UNDECIDED: usize = 64;

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    zones: RwLock<Zones>,
    access: Access,
    rotation: Rotation,
    forwarder: Arc<Forwarder>,
    metrics: Arc<DnsMetrics>,
    undecided: Semaphore,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Reaction {
    /// Nothing.
    Ignore,
    /// This response.
    Respond(Vec<u8>),
    /// A response later.
    Later(Later),
}

/// What a response waits for.
#[derive(Debug)]
pub(crate) enum Later {
    /// Another server.
    Forward(Box<Request>, IpAddr),
    /// The addresses of this host.
    Undecided(Vec<u8>, IpAddr, Transport),
}

impl Server {
    pub(crate) fn new(
        access: Access,
        upstreams: Arc<Upstreams>,
        metrics: Arc<DnsMetrics>,
        limits: ForwardLimits,
    ) -> Self {
        Self {
            zones: RwLock::default(),
            access,
            rotation: Rotation::default(),
            forwarder: Arc::new(Forwarder::new(upstreams, Arc::clone(&metrics), limits)),
            metrics,
            undecided: Semaphore::new(MAX_UNDECIDED),
        }
    }

    pub(crate) fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    pub(crate) fn metrics(&self) -> &DnsMetrics {
        &self.metrics
    }

    /// What is answered now.
    pub(crate) fn zones(&self) -> Zones {
        let zones = self.zones.read().unwrap_or_else(PoisonError::into_inner);
        zones.clone()
    }

    /// Changes what is answered.
    pub(crate) fn change_zones(&self, change: impl FnOnce(&mut Zones)) {
        change(&mut self.zones.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Publishes what the managers and the data path have.
    pub(crate) fn publish(
        &self,
        state: Option<Arc<ClusterState>>,
        applied: Option<Arc<AppliedServices>>,
    ) {
        self.change_zones(|zones| {
            zones.state = state;
            zones.applied = applied;
        });
    }

    /// What becomes of a message. Waits for nothing.
    pub(crate) fn react(&self, packet: &[u8], source: IpAddr, transport: Transport) -> Reaction {
        let zones = self.zones();
        match self.access.decide(source, zones.state.as_deref()) {
            Decision::Allowed => self.react_to_allowed(packet, source, transport, &zones),
            Decision::Refused => self.refuse(packet, transport),
            Decision::Stale => {
                Reaction::Later(Later::Undecided(packet.to_vec(), source, transport))
            }
        }
    }

    fn react_to_allowed(
        &self,
        packet: &[u8],
        source: IpAddr,
        transport: Transport,
        zones: &Zones,
    ) -> Reaction {
        let request = match receive(packet, transport) {
            Received::Request(request) => request,
            Received::Refused(bytes, code) => {
                self.metrics.responded(Class::Refused, code);
                return Reaction::Respond(bytes);
            }
            Received::Ignored => {
                self.metrics.malformed.inc();
                return Reaction::Ignore;
            }
        };
        if let Some((class, response)) = answer(&request, zones, &self.rotation) {
            return self.respond(&request, class, &response);
        }
        if let Some(response) = self.forwarder.cached_response(&request) {
            return self.respond(&request, Class::Forwarded, &response);
        }
        if !request.recursion_desired {
            let refused = Response::of_code(ResponseCode::Refused);
            return self.respond(&request, Class::Forwarded, &refused);
        }
        Reaction::Later(Later::Forward(request, source))
    }

    /// Refuses a query of somebody who may not ask. The response is no longer than the query.
    fn refuse(&self, packet: &[u8], transport: Transport) -> Reaction {
        match receive(packet, transport) {
            Received::Request(request) => {
                let refused = Response::of_code(ResponseCode::Refused);
                self.respond(&request, Class::Refused, &refused)
            }
            Received::Refused(..) | Received::Ignored => Reaction::Ignore,
        }
    }

    fn respond(&self, request: &Request, class: Class, response: &Response) -> Reaction {
        match self.encode(request, class, response) {
            Some(bytes) => Reaction::Respond(bytes),
            None => Reaction::Ignore,
        }
    }

    fn encode(&self, request: &Request, class: Class, response: &Response) -> Option<Vec<u8>> {
        let bytes = request.respond(response)?;
        self.metrics.responded(class, response.code);
        if super::message::is_truncated(&bytes) {
            self.metrics.truncated.inc();
        }
        Some(bytes)
    }

    /// The response that something is waited for; none if there is none.
    pub(crate) async fn finish(self: &Arc<Self>, later: Later) -> Option<Vec<u8>> {
        let (request, source) = match later {
            Later::Forward(request, source) => (request, source),
            Later::Undecided(packet, source, transport) => {
                match self.decide_later(packet, source, transport).await {
                    Reaction::Ignore | Reaction::Later(Later::Undecided(..)) => return None,
                    Reaction::Respond(bytes) => return Some(bytes),
                    Reaction::Later(Later::Forward(request, source)) => (request, source),
                }
            }
        };
        let response = self.forwarder.resolve(&request, source).await;
        self.encode(&request, Class::Forwarded, &response)
    }

    async fn decide_later(
        self: &Arc<Self>,
        packet: Vec<u8>,
        source: IpAddr,
        transport: Transport,
    ) -> Reaction {
        // Beyond the limit the client asks again.
        let Ok(_permit) = self.undecided.try_acquire() else {
            return Reaction::Ignore;
        };
        let server = Arc::clone(self);
        let decided = tokio::task::spawn_blocking(move || {
            if let Err(error) = server.access.refresh() {
                log::warn!("cannot tell who asks the DNS server: {error}");
                return Reaction::Ignore;
            }
            server.react(&packet, source, transport)
        });
        decided.await.unwrap_or(Reaction::Ignore)
    }
}
