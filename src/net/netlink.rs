//! One blocking netlink socket: many requests in one send, their answers in order.
//!
//! The attach path lives on a thread of its own for a millisecond; a socket that blocks is what
//! it needs, an event loop would cost more than the work. A socket belongs to the network
//! namespace in which it was opened, whatever its thread does afterwards.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Length of a message header.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Error messages that carry the kernel's explanation say so with this flag.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// … and leave the request out with this one.
const NLM_F_CAPPED: u16 = 0x100;
/// The attribute of an error message that is the explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;
const ANSWER_TIMEOUT_SECONDS: i64 = 60;
/// Larger than anything that the kernel puts into one datagram of a dump.
const BUFFER: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {0}; is the process root, and does the kernel have {1}?")]
    Socket(#[source] io::Error, &'static str),
    /// The kernel refused the request.
    #[error("the kernel refused to {what}: {source}{}", hint(.source, .explanation.as_deref()))]
    Refused {
        /// What was asked, with the names of the things.
        what: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
        /// The kernel's own words, if it had any.
        explanation: Option<String>,
    },
    /// There is no link of that name.
    #[error("there is no interface {0} on this host")]
    NoLink(String),
    /// The answer made no sense.
    #[error("the kernel's answer to {what} cannot be read: {message}")]
    Garbled {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        message: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it was the kernel that refused.
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
        (_, Some(text)) => format!(" ({text})"),
        (io::ErrorKind::PermissionDenied, None) => {
            " (this needs root, or CAP_NET_ADMIN in this network namespace)".to_owned()
        }
        _ => String::new(),
    }
}

/// One message to send.
#[derive(Debug)]
pub struct Request {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
    /// For error messages.
    what: String,
}

impl Request {
    /// A request of type `kind` with `flags` besides `NLM_F_REQUEST`; `what` completes the
    /// sentence "the kernel refused to …".
    #[must_use]
    pub fn new(kind: u16, flags: u16, payload: Vec<u8>, what: impl Into<String>) -> Self {
        Self {
            kind,
            flags,
            payload,
            what: what.into(),
        }
    }

    /// What it asks, completing the sentence "the kernel refused to …".
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    fn write(&self, buffer: &mut Vec<u8>, flags: u16, sequence: u32) {
        // Never near 4 GiB: the largest payload is a handful of attributes.
        let length = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        buffer.extend_from_slice(&length.to_ne_bytes());
        buffer.extend_from_slice(&self.kind.to_ne_bytes());
        buffer.extend_from_slice(&(self.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        buffer.extend_from_slice(&self.payload);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
    }
}

/// A blocking netlink socket.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    family: &'static str,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// A socket of the routing family, in the network namespace of this thread.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(netlink_sys::protocols::NETLINK_ROUTE, "rtnetlink")
    }

    /// A socket of the netfilter family, in the network namespace of this thread.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(
            netlink_sys::protocols::NETLINK_NETFILTER,
            "nf_tables (CONFIG_NF_TABLES)",
        )
    }

    fn open(protocol: isize, family: &'static str) -> Result<Self, NetlinkError> {
        let fail = |error| NetlinkError::Socket(error, family);
        let mut socket = Socket::new(protocol).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        // The kernel answers while it works; only a defect of it, or of ours, could make us wait.
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS),
        )
        .map_err(|error| fail(error.into()))?;
        // Explanations are a courtesy of newer kernels; without them there is still the errno.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket,
            sequence: 0,
            family,
            buffer: Vec::new(),
        })
    }

    /// Sends all `requests` at once and returns the answer to each of them, in order.
    pub fn execute(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        self.execute_where(requests, |_| NLM_F_ACK, |_, _| false)
    }

    /// Sends all `requests` at once, each with the flags that `flags` gives it, and waits for the
    /// answers to those that ask for one, or until `enough` says so of an answer.
    pub(crate) fn execute_where(
        &mut self,
        requests: &[Request],
        flags: impl Fn(usize) -> u16,
        enough: impl Fn(usize, bool) -> bool,
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let (first, mut bytes) = (self.sequence.wrapping_add(1), Vec::new());
        let mut missing = 0_usize;
        for (index, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = flags(index);
            missing += usize::from(flags & NLM_F_ACK != 0);
            request.write(&mut bytes, flags, self.sequence);
        }
        self.send(&bytes)?;
        let mut answers: Vec<Option<Result<(), NetlinkError>>> =
            requests.iter().map(|_| None).collect();
        while missing > 0 {
            self.receive(|kind, answer_flags, sequence, payload| {
                let Some((index, slot, request)) = usize::try_from(sequence.wrapping_sub(first))
                    .ok()
                    .and_then(|index| Some((index, answers.get_mut(index)?, requests.get(index)?)))
                else {
                    return;
                };
                if kind == NLMSG_ERROR && slot.is_none() {
                    let result = answer(request, answer_flags, payload);
                    missing = if enough(index, result.is_err()) {
                        0
                    } else {
                        missing.saturating_sub(usize::from(flags(index) & NLM_F_ACK != 0))
                    };
                    *slot = Some(result);
                }
            })?;
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or(Ok(())))
            .collect())
    }

    /// Like [`Self::execute`], and the first error is the answer.
    pub fn execute_all(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        self.execute(requests)?.into_iter().collect()
    }

    /// Asks for one object; its message is the answer.
    pub fn get(&mut self, request: &Request) -> Result<Vec<u8>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let own = self.sequence;
        let mut bytes = Vec::new();
        request.write(&mut bytes, 0, own);
        self.send(&bytes)?;
        let mut result = None;
        while result.is_none() {
            self.receive(|kind, flags, sequence, payload| {
                if sequence == own && result.is_none() {
                    result = Some(if kind == NLMSG_ERROR {
                        answer(request, flags, payload).and(Ok(Vec::new()))
                    } else {
                        Ok(payload.to_vec())
                    });
                }
            })?;
        }
        result.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Asks for all objects of a kind.
    pub fn dump(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let own = self.sequence;
        let mut bytes = Vec::new();
        request.write(&mut bytes, NLM_F_DUMP, own);
        self.send(&bytes)?;
        let mut result = None;
        while result.is_none() {
            self.receive(|kind, flags, sequence, payload| {
                if sequence != own {
                } else if kind == NLMSG_ERROR || kind == NLMSG_DONE {
                    result = Some(answer(request, flags, payload));
                } else {
                    each(payload);
                }
            })?;
        }
        result.unwrap_or(Ok(()))
    }

    /// Sends messages that are framed already.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket
            .send(bytes, 0)
            .map_err(|error| NetlinkError::Socket(error, self.family))?;
        Ok(())
    }

    /// Waits for one datagram and hands over each of its messages.
    pub(crate) fn receive(
        &mut self,
        mut each: impl FnMut(u16, u16, u32, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.buffer.clear();
        self.buffer.reserve(BUFFER);
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::Socket(error, self.family)),
            }
        }
        let mut rest = self.buffer.as_slice();
        while rest.len() >= HEADER {
            let Ok(message) = NetlinkBuffer::new_checked(&rest) else {
                break;
            };
            let length = usize::try_from(message.length()).unwrap_or(rest.len());
            each(
                message.message_type(),
                message.flags(),
                message.sequence_number(),
                rest.get(HEADER..length).unwrap_or_default(),
            );
            rest = rest
                .get(length.next_multiple_of(4).max(HEADER)..)
                .unwrap_or_default();
        }
        Ok(())
    }

    /// The socket itself, for polling and multicast groups.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Reads an acknowledgement.
pub(crate) fn answer(request: &Request, flags: u16, payload: &[u8]) -> Result<(), NetlinkError> {
    let Some((code, rest)) = payload.split_first_chunk::<4>() else {
        return Err(NetlinkError::Garbled {
            what: request.what.clone(),
            message: "an acknowledgement without a code".to_owned(),
        });
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(());
    }
    Err(NetlinkError::Refused {
        what: request.what.clone(),
        source: io::Error::from_raw_os_error(code.saturating_neg()),
        explanation: explanation(flags, rest),
    })
}

/// Finds the kernel's words behind the header of the request that an error message repeats.
fn explanation(flags: u16, rest: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let skip = if flags & NLM_F_CAPPED != 0 {
        HEADER
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
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}
