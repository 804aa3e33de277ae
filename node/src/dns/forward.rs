//! Queries for names that are not ours: other servers answer them.
//!
//! Invariants: a server that is slow or dead delays a query by [`HEAD_START`] only, and not at all once
//! it is known. The same question is asked once, however many clients wait for its answer; so a query that
//! comes back to this server by another one ends with the first one's time. What waits is bounded, in
//! total and for each client.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cache::{Answer, Cache, Question};
use super::exchange::{self, ExchangeError};
use super::message::{Request, Response};
use super::metrics::DnsMetrics;
use super::upstreams::Upstreams;

/// How long a server is waited for before the next one is asked, too.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long all servers together have.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long they have if none of them has answered lately.
const SHORT_DEADLINE: Duration = Duration::from_secs(1);
/// The part of the clients that wait that one client may be.
const CLIENT_DIVISOR: usize = 4;

/// The most of what waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardLimits {
    /// Different questions that servers are asked.
    pub(crate) questions: usize,
    /// Queries of clients.
    pub(crate) queries: usize,
}

/// Asks other servers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Arc<Upstreams>,
    metrics: Arc<DnsMetrics>,
    limits: ForwardLimits,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<Question, PendingQuestion>>,
    waiting: Mutex<Waiting>,
}

/// A question that servers are asked.
#[derive(Debug)]
struct PendingQuestion {
    /// Who asked first.
    client: IpAddr,
    answer: watch::Receiver<Option<Arc<Answer>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: usize,
    clients: HashMap<IpAddr, usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The question of a request.
pub(crate) fn question_of(request: &Request) -> Question {
    Question {
        name: request.question.name().to_lowercase(),
        kind: request.question.query_type(),
        flags: request.flags,
    }
}

/// A query that waits; it is counted.
#[derive(Debug)]
struct Admitted<'a> {
    forwarder: &'a Forwarder,
    client: IpAddr,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.forwarder.waiting);
        waiting.total -= 1;
        if let Some(count) = waiting.clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                waiting.clients.remove(&self.client);
            }
        }
    }
}

/// A question that servers are asked; it is in the table.
struct InFlight {
    forwarder: Arc<Forwarder>,
    question: Question,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.forwarder.in_flight).remove(&self.question);
    }
}

impl Forwarder {
    pub(crate) fn new(
        upstreams: Arc<Upstreams>,
        metrics: Arc<DnsMetrics>,
        limits: ForwardLimits,
    ) -> Self {
        Self {
            upstreams,
            metrics,
            limits,
            cache: Mutex::default(),
            in_flight: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// How many answers are kept.
    pub(crate) fn cached(&self) -> usize {
        lock(&self.cache).len()
    }

    /// The response without asking anybody, if there is one.
    pub(crate) fn cached_response(&self, request: &Request) -> Option<Response> {
        let question = question_of(request);
        let found = lock(&self.cache).get(&question, request.question.name(), Instant::now())?;
        self.metrics.cache_hits.inc();
        Some(found)
    }

    /// The response, after other servers were asked.
    pub(crate) async fn resolve(self: &Arc<Self>, request: &Request, client: IpAddr) -> Response {
        let failure = || Response::of_code(ResponseCode::ServFail);
        let Some(_admitted) = self.admit(client) else {
            self.metrics.limited.inc();
            return failure();
        };
        let Some(mut answer) = self.ask_once(question_of(request), client) else {
            self.metrics.limited.inc();
            return failure();
        };
        // An error means that the task has panicked.
        let Ok(answer) = answer.wait_for(Option::is_some).await else {
            return failure();
        };
        answer.as_ref().map_or_else(failure, |answer| {
            answer.fresh_response(request.question.name())
        })
    }

    fn admit(&self, client: IpAddr) -> Option<Admitted<'_>> {
        let mut waiting = lock(&self.waiting);
        let Waiting { total, clients } = &mut *waiting;
        let of_client = clients.get(&client).copied().unwrap_or_default();
        if *total >= self.limits.queries || of_client >= self.limits.queries / CLIENT_DIVISOR {
            return None;
        }
        *total += 1;
        clients.insert(client, of_client + 1);
        Some(Admitted {
            forwarder: self,
            client,
        })
    }

    /// Asks, unless that is being done; none if too much is being asked, in total or for this client.
    fn ask_once(
        self: &Arc<Self>,
        question: Question,
        client: IpAddr,
    ) -> Option<watch::Receiver<Option<Arc<Answer>>>> {
        let mut in_flight = lock(&self.in_flight);
        if let Some(asked) = in_flight.get(&question) {
            self.metrics.merged.inc();
            return Some(asked.answer.clone());
        }
        let questions = self.limits.questions;
        if in_flight.len() >= questions {
            return None;
        }
        // Names that no server answers would be all that is asked.
        let all = in_flight.values();
        let of_client = all.filter(|asked| asked.client == client).count();
        if of_client >= (questions / CLIENT_DIVISOR).max(1) {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        let asked = PendingQuestion {
            client,
            answer: receiver.clone(),
        };
        in_flight.insert(question.clone(), asked);
        drop(in_flight);
        let entry = InFlight {
            forwarder: Arc::clone(self),
            question,
        };
        tokio::spawn(async move {
            let forwarder = &entry.forwarder;
            let answer = forwarder.ask(&entry.question).await;
            let question = entry.question.clone();
            let answer = lock(&forwarder.cache).put(question, answer, Instant::now());
            // Nobody asks again between the two: the cache has it.
            drop(entry);
            sender.send_replace(Some(answer));
        });
        Some(receiver)
    }

    async fn ask(&self, question: &Question) -> Arc<Answer> {
        let servers = self.upstreams.for_name(&question.name);
        let started = Instant::now();
        let limit = if self.upstreams.are_all_bad(&servers) {
            SHORT_DEADLINE
        } else {
            DEADLINE
        };
        let mut asked = vec![];
        let answer = timeout(limit, self.race(&servers, question, &mut asked)).await;
        self.metrics
            .forward_seconds
            .observe(started.elapsed().as_secs_f64());
        let answer = answer.unwrap_or_else(|_| {
            // Those that are still asked.
            for server in asked {
                self.upstreams.failed(server);
            }
            None
        });
        answer.map_or_else(
            || {
                self.metrics.forward_failures.inc();
                log::debug!("no server answers {}", question.name);
                Arc::new(Answer::failure())
            },
            Arc::new,
        )
    }

    /// Asks the servers in their order, each after the one before it has failed or has had its head
    /// start. `asked` are those that have not answered yet.
    async fn race(
        &self,
        servers: &[SocketAddr],
        question: &Question,
        asked: &mut Vec<SocketAddr>,
    ) -> Option<Answer> {
        let mut remaining = servers.iter().copied();
        let mut exchanges = FuturesUnordered::new();
        let exchange = |server| async move { (server, exchange::ask(server, question).await) };
        let mut start_next = true;
        loop {
            if std::mem::take(&mut start_next)
                && let Some(server) = remaining.next()
            {
                asked.push(server);
                exchanges.push(exchange(server));
            }
            let head_start = async {
                if remaining.len() == 0 {
                    std::future::pending::<()>().await;
                }
                sleep(HEAD_START).await;
            };
            tokio::select! {
                ended = exchanges.next() => match ended {
                    None => return None,
                    Some((server, Ok(answer))) => {
                        self.upstreams.answered(server);
                        // The ones before it were too slow.
                        for slow in asked.iter().take_while(|other| **other != server) {
                            self.upstreams.failed(*slow);
                        }
                        return Some(answer);
                    }
                    Some((server, Err(error))) => {
                        log::debug!("{server}, asked for {}: {error}", question.name);
                        if !matches!(error, ExchangeError::Code(_)) {
                            self.upstreams.failed(server);
                        }
                        asked.retain(|other| *other != server);
                        start_next = true;
                    }
                },
                () = head_start => start_next = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use contrail_mesos::config::DnsServer;
    use hickory_proto::op::{Message, MessageType, Query};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UdpSocket};
    use tokio::sync::Semaphore;

    use super::super::message::{QueryFlags, Received, Transport, query, receive};
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// What a server does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Behaviour {
        Answer,
        /// By UDP only that the answer is truncated.
        Truncate,
        Fail(ResponseCode),
        /// Nothing.
        Silent,
        /// First answers with another id, and to another question.
        Forge,
        /// Knows no EDNS.
        Old,
    }

    /// A server on this host.
    struct Upstream {
        address: SocketAddr,
        queries: Arc<AtomicUsize>,
        /// What it waits for before each answer.
        gate: Arc<Semaphore>,
    }

    impl Upstream {
        fn queries(&self) -> usize {
            self.queries.load(Ordering::SeqCst)
        }

        async fn start(behaviour: Behaviour) -> Self {
            let upstream = Self::start_closed(behaviour).await;
            upstream.gate.add_permits(1000);
            upstream
        }

        /// A server that answers only as its gate allows.
        async fn start_closed(behaviour: Behaviour) -> Self {
            let (udp, tcp) = loop {
                let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let address = udp.local_addr().unwrap();
                if let Ok(tcp) = TcpListener::bind(address).await {
                    break (udp, tcp);
                }
            };
            let address = udp.local_addr().unwrap();
            let queries = Arc::new(AtomicUsize::new(0));
            let gate = Arc::new(Semaphore::new(0));
            let (count, opened) = (Arc::clone(&queries), Arc::clone(&gate));
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                loop {
                    let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    opened.acquire().await.unwrap().forget();
                    for answer in answers(&buffer[..length], behaviour, Transport::Udp) {
                        udp.send_to(&answer, client).await.unwrap();
                    }
                }
            });
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let length = stream.read_u16().await.unwrap();
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    for answer in answers(&query, behaviour, Transport::Tcp) {
                        let length = u16::try_from(answer.len()).unwrap();
                        stream.write_u16(length).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                }
            });
            Self {
                address,
                queries,
                gate,
            }
        }
    }

    /// What a server sends for a query.
    fn answers(packet: &[u8], behaviour: Behaviour, transport: Transport) -> Vec<Vec<u8>> {
        let query = Message::from_vec(packet).unwrap();
        let question = query.queries[0].clone();
        let mut message = Message::new(
            query.metadata.id,
            MessageType::Response,
            query.metadata.op_code,
        );
        let mut forged = vec![];
        let owner = question.name().clone();
        let record =
            |last| Record::from_rdata(owner.clone(), 60, RData::A(A::new(192, 0, 2, last)));
        match behaviour {
            Behaviour::Silent => return vec![],
            Behaviour::Fail(code) => message.metadata.response_code = code,
            Behaviour::Old if query.edns.is_some() => {
                message.metadata.response_code = ResponseCode::FormErr;
                return vec![message.to_vec().unwrap()];
            }
            Behaviour::Truncate if transport == Transport::Udp => {
                message.metadata.truncation = true;
            }
            Behaviour::Forge => {
                let mut other_id = message.clone();
                other_id.metadata.id ^= 1;
                other_id.add_query(question.clone());
                other_id.add_answer(record(66));
                let mut other_question = message.clone();
                let other = Name::from_str("other.example.").unwrap();
                other_question.add_query(Query::query(other, RecordType::A));
                other_question.add_answer(record(66));
                forged = vec![other_id.to_vec().unwrap(), other_question.to_vec().unwrap()];
                message.add_answer(record(1));
            }
            Behaviour::Answer | Behaviour::Truncate | Behaviour::Old => {
                if owner.to_ascii().starts_with("missing") {
                    message.metadata.response_code = ResponseCode::NXDomain;
                    let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 60);
                    message.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
                } else {
                    message.add_answer(record(1));
                }
            }
        }
        message.add_query(question);
        forged.push(message.to_vec().unwrap());
        forged
    }

    fn forwarder(upstreams: &[&Upstream]) -> Arc<Forwarder> {
        let limits = ForwardLimits {
            questions: 8,
            queries: 40,
        };
        let config = DnsServer {
            upstreams: Some(upstreams.iter().map(|server| server.address).collect()),
            ..DnsServer::default()
        };
        let upstreams = Arc::new(Upstreams::new(&config));
        Arc::new(Forwarder::new(upstreams, Arc::default(), limits))
    }

    fn request(name: &str) -> Request {
        let question = Query::query(Name::from_str(name).unwrap(), RecordType::A);
        let packet = query(7, &question, QueryFlags::default(), true).unwrap();
        match receive(&packet, Transport::Udp) {
            Received::Request(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(response: &Response) -> Vec<String> {
        let records = response.answers.iter();
        records.map(|record| record.data.to_string()).collect()
    }

    async fn ask(forwarder: &Arc<Forwarder>, name: &str) -> Response {
        let request = request(name);
        match forwarder.cached_response(&request) {
            Some(response) => response,
            None => forwarder.resolve(&request, CLIENT).await,
        }
    }

    #[tokio::test]
    async fn answer_is_kept_and_has_the_case_of_each_client() {
        let upstream = Upstream::start(Behaviour::Answer).await;
        let forwarder = forwarder(&[&upstream]);
        for name in ["a.example.", "A.eXample.", "a.EXAMPLE."] {
            let response = ask(&forwarder, name).await;
            assert_eq!(addresses(&response), ["192.0.2.1"]);
            let asked = Name::from_str(name).unwrap();
            assert!(response.answers[0].name.eq_case(&asked), "{name}");
        }
        for _ in 0..2 {
            let response = ask(&forwarder, "missing.example.").await;
            assert_eq!(response.code, ResponseCode::NXDomain);
            assert_eq!(response.authorities.len(), 1);
        }
        assert_eq!((upstream.queries(), forwarder.cached()), (2, 2));
    }

    #[tokio::test]
    async fn truncated_answer_is_fetched_by_tcp() {
        let upstream = Upstream::start(Behaviour::Truncate).await;
        let response = ask(&forwarder(&[&upstream]), "a.example.").await;
        assert_eq!(addresses(&response), ["192.0.2.1"]);
    }

    #[tokio::test]
    async fn server_without_edns_is_asked_again() {
        let upstream = Upstream::start(Behaviour::Old).await;
        let response = ask(&forwarder(&[&upstream]), "a.example.").await;
        assert_eq!(addresses(&response), ["192.0.2.1"]);
        assert_eq!(upstream.queries(), 2);
    }

    #[tokio::test]
    async fn forged_answers_are_ignored() {
        let upstream = Upstream::start(Behaviour::Forge).await;
        let response = ask(&forwarder(&[&upstream]), "a.example.").await;
        assert_eq!(addresses(&response), ["192.0.2.1"]);
    }

    #[tokio::test]
    async fn servers_that_fail_or_are_silent_stop_nobody() {
        let good = Upstream::start(Behaviour::Answer).await;
        for behaviour in [
            Behaviour::Silent,
            Behaviour::Fail(ResponseCode::ServFail),
            Behaviour::Fail(ResponseCode::Refused),
        ] {
            let bad = Upstream::start(behaviour).await;
            let forwarder = forwarder(&[&bad, &good]);
            for name in ["a.example.", "b.example.", "c.example.", "d.example."] {
                let response = ask(&forwarder, name).await;
                assert_eq!(addresses(&response), ["192.0.2.1"], "{behaviour:?}");
            }
            if behaviour == Behaviour::Silent {
                // It is asked last once that is known.
                assert_eq!(bad.queries(), 2);
            }
        }
        // Nothing listens there any more.
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let closed = Upstream {
            address: closed.local_addr().unwrap(),
            queries: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let response = ask(&forwarder(&[&closed, &good]), "e.example.").await;
        assert_eq!(addresses(&response), ["192.0.2.1"]);
    }

    #[tokio::test]
    async fn failure_of_all_servers_is_kept_for_a_moment() {
        let bad = Upstream::start(Behaviour::Fail(ResponseCode::ServFail)).await;
        let forwarder_of_bad = forwarder(&[&bad]);
        for _ in 0..2 {
            let response = ask(&forwarder_of_bad, "a.example.").await;
            assert_eq!(response.code, ResponseCode::ServFail);
        }
        assert_eq!(bad.queries(), 1);
        let response = ask(&forwarder(&[]), "a.example.").await;
        assert_eq!(response.code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn same_question_is_asked_once() {
        let upstream = Upstream::start_closed(Behaviour::Answer).await;
        let forwarder = forwarder(&[&upstream]);
        let clients: Vec<_> = (0..8_u8)
            .map(|number| {
                let forwarder = Arc::clone(&forwarder);
                tokio::spawn(async move {
                    let client = [127, 0, 0, number].into();
                    forwarder.resolve(&request("A.example."), client).await
                })
            })
            .collect();
        while lock(&forwarder.waiting).total < 8 || upstream.queries() == 0 {
            tokio::task::yield_now().await;
        }
        upstream.gate.add_permits(1000);
        for client in clients {
            assert_eq!(addresses(&client.await.unwrap()), ["192.0.2.1"]);
        }
        assert_eq!(upstream.queries(), 1);
        assert_eq!(lock(&forwarder.waiting).total, 0);
        assert_eq!(lock(&forwarder.in_flight).len(), 0);
    }

    #[tokio::test]
    async fn what_waits_is_limited_in_total_and_for_each_client() {
        let upstream = Upstream::start_closed(Behaviour::Answer).await;
        let forwarder = forwarder(&[&upstream]);
        let ask = |name: &'static str, client: IpAddr| {
            let forwarder = Arc::clone(&forwarder);
            tokio::spawn(async move { forwarder.resolve(&request(name), client).await })
        };
        // A quarter of 40 for each client.
        let mut waiting: Vec<_> = (0..10).map(|_| ask("a.example.", CLIENT)).collect();
        while lock(&forwarder.waiting).total < 10 {
            tokio::task::yield_now().await;
        }
        let refused = ask("a.example.", CLIENT).await.unwrap();
        assert_eq!(refused.code, ResponseCode::ServFail);
        let other: IpAddr = [127, 0, 0, 2].into();
        // So is a quarter of 8 different questions, and other clients still get theirs.
        for (count, (name, last)) in [
            ("b.example.", 2),
            ("c.example.", 2),
            ("d.example.", 3),
            ("e.example.", 3),
            ("f.example.", 4),
            ("g.example.", 4),
            ("h.example.", 5),
        ]
        .into_iter()
        .enumerate()
        {
            waiting.push(ask(name, [127, 0, 0, last].into()));
            while lock(&forwarder.in_flight).len() < count + 2 {
                tokio::task::yield_now().await;
            }
            if name == "c.example." {
                let refused = ask("x.example.", other).await.unwrap();
                assert_eq!(refused.code, ResponseCode::ServFail);
            }
        }
        // A ninth question is one too many for anybody.
        let refused = ask("y.example.", [127, 0, 0, 6].into()).await.unwrap();
        assert_eq!(refused.code, ResponseCode::ServFail);
        upstream.gate.add_permits(1000);
        for client in waiting {
            assert_eq!(addresses(&client.await.unwrap()), ["192.0.2.1"]);
        }
        assert_eq!(forwarder.metrics.limited.get(), 3);
    }

    #[tokio::test]
    async fn loop_of_servers_ends_with_a_failure() {
        // A server that asks us what we ask it.
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream {
            address: socket.local_addr().unwrap(),
            queries: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let forwarder = forwarder(&[&upstream]);
        let queries = Arc::clone(&upstream.queries);
        let looping = Arc::clone(&forwarder);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                socket.recv_from(&mut buffer).await.unwrap();
                queries.fetch_add(1, Ordering::SeqCst);
                let looping = Arc::clone(&looping);
                tokio::spawn(async move { ask(&looping, "a.example.").await });
            }
        });
        let response = ask(&forwarder, "a.example.").await;
        assert_eq!(response.code, ResponseCode::ServFail);
        // It was sent again after a time, not by the loop.
        assert!(upstream.queries() <= 3, "{}", upstream.queries());
    }
}
