//! A blocking netlink socket that sends many requests at once and returns their results in order.
//!
//! An attach takes a thread of its own for about a millisecond, so an event loop would cost more
//! than the work. A socket belongs to the network namespace in which it was opened, even if its
//! thread enters another one later.
//!
//! The kernel puts each acknowledgement into the socket's receive buffer while the requests are
//! being sent, and drops what does not fit. So no more requests are sent at once than have room for
//! their acknowledgements, and a request whose acknowledgement is missing nevertheless has an
//! unknown outcome ([`NetlinkError::OutcomeUnknown`]).

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Length of a message header.
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Flag of the messages of a dump during which objects changed.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Flag of error messages that have attributes, such as an explanation.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// Flag of error messages that repeat only the header of the request.
const NLM_F_CAPPED: u16 = 0x100;
/// The attribute of an error message that has the explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel responds within the send, so a response is there when it is read; the timeout only
/// guards against defects. Callers hold locks meanwhile, so it is far below the deadline of a step.
const RESPONSE_TIMEOUT_SECONDS: i64 = 2;
/// What an acknowledgement takes of the receive buffer, with the kernel's overhead and an
/// explanation. It is 832 bytes on Linux 6.18.
const ACK_BYTES: usize = 2048;
/// How many requests are sent at once, at most.
const MAX_REQUESTS_AT_ONCE: usize = 64;
/// How often objects are listed that change meanwhile.
const MAX_DUMP_ATTEMPTS: usize = 5;
/// How many sockets wait for their next use, at most.
const MAX_IDLE_SOCKETS: usize = 4;
/// What fits into every send buffer: the kernel allows none below 4,608 bytes.
const MIN_SEND_BUFFER_BYTES: usize = 2048;
/// The largest datagram of a dump is 32 KiB.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {0}; is the process root, and does the kernel have {1}?")]
    Socket(#[source] io::Error, &'static str),
    /// The kernel refused the request.
    #[error("the kernel refused to {action}: {source}{}", hint(.source, .explanation.as_deref()))]
    Refused {
        /// The request, completing the sentence "the kernel refused to …".
        action: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
        /// The kernel's explanation, if it gave one.
        explanation: Option<String>,
    },
    /// The kernel's answer was lost, so the request may have been carried out or not.
    #[error(
        "the kernel's answer to the request to {action} is lost, so its outcome is unknown: {source}"
    )]
    OutcomeUnknown {
        /// The request, as in [`NetlinkError::Refused`].
        action: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Objects changed whenever they were listed.
    #[error("cannot {action}: they change all the time; try again")]
    Interrupted {
        /// The request, as in [`NetlinkError::Refused`].
        action: String,
    },
    /// There is no link of that name.
    #[error("there is no interface {0} on this host")]
    NoLink(String),
    /// The response could not be parsed.
    #[error("the kernel's response to the request to {action} is invalid: {message}")]
    InvalidResponse {
        /// The request, as in [`NetlinkError::Refused`].
        action: String,
        /// What is wrong with the response.
        message: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if the kernel refused the request.
    #[must_use]
    pub fn errno(&self) -> Option<nix::errno::Errno> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error().map(nix::errno::Errno::from_raw),
            _ => None,
        }
    }
}

fn hint(error: &io::Error, explanation: Option<&str>) -> String {
    match (error.kind(), explanation) {
        (_, Some(explanation)) => format!(" ({explanation})"),
        (io::ErrorKind::PermissionDenied, None) => {
            " (this needs root, or CAP_NET_ADMIN in this network namespace)".to_owned()
        }
        _ => String::new(),
    }
}

/// A request to the kernel.
#[derive(Debug)]
pub struct Request {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
    /// For error messages.
    action: String,
}

impl Request {
    /// A request of type `kind` with `flags` in addition to `NLM_F_REQUEST`. `action` completes the
    /// sentence "the kernel refused to …".
    #[must_use]
    pub fn new(kind: u16, flags: u16, payload: Vec<u8>, action: impl Into<String>) -> Self {
        Self {
            kind,
            flags,
            payload,
            action: action.into(),
        }
    }

    /// Like [`Self::new`], with `message` as its payload.
    #[must_use]
    pub fn with_message(
        kind: u16,
        flags: u16,
        message: &impl Emitable,
        action: impl Into<String>,
    ) -> Self {
        Self::new(kind, flags, encode(message), action)
    }

    /// What the request does, completing the sentence "the kernel refused to …".
    #[must_use]
    pub fn action(&self) -> &str {
        &self.action
    }

    fn write(&self, buffer: &mut Vec<u8>, flags: u16, sequence: u32) {
        // Never overflows: a payload is a few attributes.
        let length = u32::try_from(HEADER_BYTES + self.payload.len()).unwrap_or(u32::MAX);
        buffer.extend_from_slice(&length.to_ne_bytes());
        buffer.extend_from_slice(&self.kind.to_ne_bytes());
        buffer.extend_from_slice(&(self.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        buffer.extend_from_slice(&self.payload);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
    }
}

/// The bytes of a message or attribute.
pub(super) fn encode(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// A blocking netlink socket.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    family: &'static str,
    buffer: Vec<u8>,
    /// How many acknowledgements the receive buffer has room for.
    max_acks: usize,
}

impl NetlinkSocket {
    /// Opens a socket of the routing family, in the network namespace of the calling thread.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(netlink_sys::protocols::NETLINK_ROUTE, "rtnetlink")
    }

    /// Like [`Self::route`], for lists that the kernel filters: it takes only attributes that it
    /// knows, and applies all of them.
    pub fn strict_route() -> Result<Self, NetlinkError> {
        let socket = Self::route()?;
        let strict = socket.socket.set_netlink_get_strict_chk(true);
        strict.map_err(|error| NetlinkError::Socket(error, "strict checks (Linux 4.20)"))?;
        Ok(socket)
    }

    /// How many requests it has sent. Wraps.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sequence
    }

    /// Opens a socket of the netfilter family, in the network namespace of the calling thread.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(
            netlink_sys::protocols::NETLINK_NETFILTER,
            "nf_tables (CONFIG_NF_TABLES)",
        )
    }

    /// Opens a socket that describes sockets, in the network namespace of the calling thread.
    pub fn sock_diag() -> Result<Self, NetlinkError> {
        Self::open(
            netlink_sys::protocols::NETLINK_SOCK_DIAG,
            "sock_diag (CONFIG_INET_DIAG)",
        )
    }

    fn open(protocol: isize, family: &'static str) -> Result<Self, NetlinkError> {
        let fail = |error| NetlinkError::Socket(error, family);
        let socket = Socket::new(protocol).map_err(fail)?;
        // Also binds it.
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(RESPONSE_TIMEOUT_SECONDS),
        )
        .map_err(|error| fail(error.into()))?;
        // Older kernels have no explanations, only error numbers.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let receive_buffer = getsockopt(&socket, sockopt::RcvBuf).unwrap_or(0);
        Ok(Self {
            socket,
            sequence: 0,
            family,
            buffer: Vec::new(),
            max_acks: (receive_buffer / ACK_BYTES).clamp(1, MAX_REQUESTS_AT_ONCE),
        })
    }

    /// Sends all `requests`, many at once, and returns the result of each, in order.
    pub fn execute(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(self.max_acks) {
            let last = chunk.len() - 1;
            // The kernel reports a refusal in any case, and in order: what is not refused by the time
            // that it acknowledges the last request was carried out.
            let flags = |index| if index == last { NLM_F_ACK } else { 0 };
            results.extend(self.execute_with(chunk, flags, |_, _| false)?);
        }
        Ok(results)
    }

    /// Sends all `requests` at once, each with the additional flags of `flags`. Waits for the
    /// responses to those with `NLM_F_ACK`, or until `is_last` returns true for the index of a
    /// response and whether it is an error. The caller keeps the number of responses small enough
    /// for the receive buffer: if one is lost, the outcome of every request without a response is
    /// unknown.
    pub(crate) fn execute_with(
        &mut self,
        requests: &[Request],
        flags: impl Fn(usize) -> u16,
        is_last: impl Fn(usize, bool) -> bool,
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut missing = 0_usize;
        for (index, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = flags(index);
            missing += usize::from(flags & NLM_F_ACK != 0);
            request.write(&mut bytes, flags, self.sequence);
        }
        self.send(&bytes)?;
        let mut results: Vec<Option<Result<(), NetlinkError>>> =
            requests.iter().map(|_| None).collect();
        let mut loss: Option<io::Error> = None;
        while missing > 0 {
            // After a loss, only what is in the buffer already is read.
            let wait = loss.is_none();
            let received = self.receive_with(wait, |kind, response_flags, sequence, payload| {
                let Some((index, slot, request)) = usize::try_from(sequence.wrapping_sub(first))
                    .ok()
                    .and_then(|index| Some((index, results.get_mut(index)?, requests.get(index)?)))
                else {
                    return;
                };
                if kind == NLMSG_ERROR && slot.is_none() {
                    let result = parse_ack(request, response_flags, payload);
                    missing = if is_last(index, result.is_err()) {
                        0
                    } else {
                        missing.saturating_sub(usize::from(flags(index) & NLM_F_ACK != 0))
                    };
                    *slot = Some(result);
                }
            });
            match received {
                Ok(()) => {}
                Err(NetlinkError::Socket(error, _)) if loss.is_none() && is_loss(&error) => {
                    loss = Some(error);
                }
                Err(error) => {
                    if loss.is_none() {
                        return Err(error);
                    }
                    break;
                }
            }
        }
        // The last acknowledgement may be there although a refusal before it was dropped.
        let cause = loss;
        Ok(results
            .into_iter()
            .enumerate()
            .map(|(index, result)| match (result, &cause) {
                (Some(result), _) => result,
                (None, Some(error)) => Err(NetlinkError::OutcomeUnknown {
                    action: requests
                        .get(index)
                        .map_or_else(String::new, |request| request.action.clone()),
                    source: io::Error::new(error.kind(), error.to_string()),
                }),
                (None, None) => Ok(()),
            })
            .collect())
    }

    /// Like [`Self::execute`], but returns only the first error.
    pub fn execute_all(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        self.execute(requests)?.into_iter().collect()
    }

    /// Requests one object and returns its message.
    pub fn get(&mut self, request: &Request) -> Result<Vec<u8>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request_sequence = self.sequence;
        let mut bytes = Vec::new();
        request.write(&mut bytes, 0, request_sequence);
        self.send(&bytes)?;
        let mut result = None;
        while result.is_none() {
            self.receive(|kind, flags, sequence, payload| {
                if sequence == request_sequence && result.is_none() {
                    result = Some(if kind == NLMSG_ERROR {
                        parse_ack(request, flags, payload).and(Ok(Vec::new()))
                    } else {
                        Ok(payload.to_vec())
                    });
                }
            })?;
        }
        result.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Requests all objects of a kind and calls `on_object` with the message of each.
    pub fn dump(
        &mut self,
        request: &Request,
        on_object: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.dump_once(request, on_object).map(drop)
    }

    /// Requests all objects of a kind, and returns those that `parse` returns. If objects change
    /// meanwhile, some may be missing in the kernel's answer: then it asks again.
    pub fn list<T>(
        &mut self,
        request: &Request,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..MAX_DUMP_ATTEMPTS {
            let mut objects = Vec::new();
            if self.dump_once(request, |bytes| objects.extend(parse(bytes)))? {
                return Ok(objects);
            }
        }
        Err(NetlinkError::Interrupted {
            action: request.action.clone(),
        })
    }

    /// Like [`Self::dump`], and returns whether the answer is consistent.
    fn dump_once(
        &mut self,
        request: &Request,
        mut on_object: impl FnMut(&[u8]),
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request_sequence = self.sequence;
        let mut bytes = Vec::new();
        request.write(&mut bytes, NLM_F_DUMP, request_sequence);
        self.send(&bytes)?;
        let mut is_consistent = true;
        let mut result = None;
        while result.is_none() {
            self.receive(|kind, flags, sequence, payload| {
                if sequence != request_sequence {
                    return;
                }
                is_consistent &= flags & NLM_F_DUMP_INTR == 0;
                if kind == NLMSG_ERROR || kind == NLMSG_DONE {
                    result = Some(parse_ack(request, flags, payload));
                } else {
                    on_object(payload);
                }
            })?;
        }
        result.unwrap_or(Ok(())).map(|()| is_consistent)
    }

    /// Sends complete messages.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        // What is sent at once must fit into the send buffer as a whole.
        if bytes.len() > MIN_SEND_BUFFER_BYTES
            && getsockopt(&self.socket, sockopt::SndBuf).is_ok_and(|size| size / 2 < bytes.len())
        {
            // Refused outside of the initial user namespace, where the send then reports it.
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len() * 2));
        }
        self.socket
            .send(bytes, 0)
            .map_err(|error| NetlinkError::Socket(error, self.family))?;
        Ok(())
    }

    /// Waits for one datagram and calls `on_message` with the type, flags, sequence number and
    /// payload of each of its messages.
    pub(crate) fn receive(
        &mut self,
        on_message: impl FnMut(u16, u16, u32, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.receive_with(true, on_message)
    }

    /// Like [`Self::receive`], but waits only if `wait`.
    fn receive_with(
        &mut self,
        wait: bool,
        mut on_message: impl FnMut(u16, u16, u32, &[u8]),
    ) -> Result<(), NetlinkError> {
        let flags = if wait {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        self.buffer.clear();
        self.buffer.reserve(RECEIVE_BUFFER_BYTES);
        loop {
            match self.socket.recv(&mut self.buffer, flags.bits()) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::Socket(error, self.family)),
            }
        }
        let mut rest = self.buffer.as_slice();
        while rest.len() >= HEADER_BYTES {
            let Ok(message) = NetlinkBuffer::new_checked(&rest) else {
                break;
            };
            let length = usize::try_from(message.length()).unwrap_or(rest.len());
            on_message(
                message.message_type(),
                message.flags(),
                message.sequence_number(),
                rest.get(HEADER_BYTES..length).unwrap_or_default(),
            );
            rest = rest
                .get(length.next_multiple_of(4).max(HEADER_BYTES)..)
                .unwrap_or_default();
        }
        Ok(())
    }

    /// Reads what has arrived on a socket that does not block, until there is no more, and calls
    /// `on_message` with the type and payload of each message. Returns whether the kernel dropped
    /// some.
    pub(crate) fn receive_pending(
        &mut self,
        mut on_message: impl FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        let mut has_missed = false;
        loop {
            match self.receive(|kind, _, _, payload| on_message(kind, payload)) {
                Ok(()) => {}
                Err(NetlinkError::Socket(error, _))
                    if error.kind() == io::ErrorKind::WouldBlock =>
                {
                    return Ok(has_missed);
                }
                Err(NetlinkError::Socket(error, _))
                    if error.raw_os_error() == Some(Errno::ENOBUFS as i32) =>
                {
                    has_missed = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket's port, by which notifications name who made a change.
    #[must_use]
    pub fn port(&self) -> u32 {
        let mut address = SocketAddr::new(0, 0);
        match self.socket.get_address(&mut address) {
            Ok(()) => address.port_number(),
            // No socket has it.
            Err(_) => 0,
        }
    }

    /// The underlying socket, for polling and multicast groups.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Open sockets of the routing family, for threads that share a network namespace.
#[derive(Debug, Default)]
pub struct SocketPool {
    sockets: Mutex<Vec<NetlinkSocket>>,
}

impl SocketPool {
    /// Takes a socket, or opens one in the network namespace of the calling thread.
    pub fn take(&self) -> Result<NetlinkSocket, NetlinkError> {
        let socket = self.lock().pop();
        socket.map_or_else(NetlinkSocket::route, Ok)
    }

    /// Keeps a socket for the next use, unless there are enough.
    pub fn put_back(&self, socket: NetlinkSocket) {
        let mut sockets = self.lock();
        if sockets.len() < MAX_IDLE_SOCKETS {
            sockets.push(socket);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<NetlinkSocket>> {
        // Each use is a single operation.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the error of a receive means that responses are lost: the receive buffer was full, or
/// nothing came.
fn is_loss(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32) || error.kind() == io::ErrorKind::WouldBlock
}

/// Parses an acknowledgement.
pub(crate) fn parse_ack(request: &Request, flags: u16, payload: &[u8]) -> Result<(), NetlinkError> {
    let Some((code, rest)) = payload.split_first_chunk::<4>() else {
        return Err(NetlinkError::InvalidResponse {
            action: request.action.clone(),
            message: "an acknowledgement without a code".to_owned(),
        });
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(());
    }
    Err(NetlinkError::Refused {
        action: request.action.clone(),
        source: io::Error::from_raw_os_error(code.saturating_neg()),
        explanation: explanation(flags, rest),
    })
}

/// Finds the explanation, which follows the request that an error message repeats.
fn explanation(flags: u16, rest: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let skip = if flags & NLM_F_CAPPED != 0 {
        HEADER_BYTES
    } else {
        usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?))
            .ok()?
            .next_multiple_of(4)
    };
    let mut attributes = rest.get(skip..)?;
    while let Some(header) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = attributes.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let message = String::from_utf8_lossy(value);
            return Some(message.trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::isolated;
    use crate::net::{addressing, links};

    fn add_many(socket: &mut NetlinkSocket) -> Vec<Request> {
        let lo = links::by_name(socket, "lo").unwrap().unwrap().index;
        (0..1000_u32)
            .map(|number| {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + number);
                addressing::add_address(lo, "lo", ipnet::Ipv4Net::from(address).into())
            })
            .collect()
    }

    #[test]
    fn more_requests_than_the_buffer_has_room_for_are_all_acknowledged() {
        isolated(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            let requests = add_many(&mut socket);
            let results = socket.execute(&requests).unwrap();
            assert_eq!(results.len(), requests.len());
            assert!(results.iter().all(Result::is_ok));
            // Refusals are longer than acknowledgements.
            let results = socket.execute(&requests).unwrap();
            let refused = |result: &Result<(), NetlinkError>| {
                result.as_ref().err().and_then(NetlinkError::errno) == Some(Errno::EEXIST)
            };
            assert!(results.iter().all(refused));
            assert!(addressing::addresses(&mut socket).unwrap().len() >= requests.len());
        });
    }

    #[test]
    fn refused_requests_among_others_are_told_apart() {
        isolated(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            let all = add_many(&mut socket);
            let [first, second, third, ..] = all.as_slice() else {
                panic!("too few requests");
            };
            let mut execute = |requests: &[&Request]| -> Vec<Option<Errno>> {
                let requests: Vec<Request> = requests
                    .iter()
                    .map(|request| {
                        Request::new(request.kind, request.flags, request.payload.clone(), "add")
                    })
                    .collect();
                let results = socket.execute(&requests).unwrap();
                results
                    .iter()
                    .map(|result| result.as_ref().err().and_then(NetlinkError::errno))
                    .collect()
            };
            let exists = Some(Errno::EEXIST);
            assert_eq!(execute(&[]), []);
            assert_eq!(execute(&[first, first, second]), [None, exists, None]);
            assert_eq!(execute(&[second, third, third]), [exists, None, exists]);
        });
    }

    #[test]
    fn lost_acknowledgement_is_an_unknown_outcome_and_the_socket_goes_on() {
        isolated(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            let requests = add_many(&mut socket);
            let results = socket
                .execute_with(&requests, |_| NLM_F_ACK, |_, _| false)
                .unwrap();
            let unknown = |result: &&Result<(), NetlinkError>| {
                matches!(result, Err(NetlinkError::OutcomeUnknown { .. }))
            };
            assert!(results.iter().filter(unknown).count() > 0);
            assert!(results.iter().filter(|result| result.is_ok()).count() > 0);
            // They were carried out all the same, and the socket is still in order.
            assert!(addressing::addresses(&mut socket).unwrap().len() >= requests.len());
            assert!(links::by_name(&mut socket, "lo").unwrap().is_some());
        });
    }
}
