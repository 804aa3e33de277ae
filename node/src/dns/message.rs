//! Messages: a query from a client, and the response to it.
//!
//! Invariants: what is not a query gets no response. The header is checked before anything else is
//! parsed, so that what a message claims to have costs no memory. A response repeats the question as it was
//! asked, in its case, and fits into what the client and its transport take.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

/// The length of a header, in bytes.
const HEADER_BYTES: usize = 12;
/// The most records of a query. Queries have one at most, for EDNS.
const MAX_QUERY_RECORDS: u16 = 16;
/// The size of UDP messages that every client takes.
const MIN_UDP_BYTES: u16 = 512;
/// The largest UDP message that is sent, and that is asked for: it fits into the packets of any network.
pub(crate) const MAX_UDP_BYTES: u16 = 1232;
/// The length of the record for EDNS in a response.
const EDNS_BYTES: u16 = 11;
/// The version of EDNS that there is.
const EDNS_VERSION: u8 = 0;
/// The bit of a header's third byte that says that a message is truncated.
const TRUNCATED: u8 = 0x02;
/// Types above it, up to 255, are those of questions, not of records.
const FIRST_QUESTION_TYPE: u16 = 128;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u16,
    pub(crate) question: Query,
    pub(crate) recursion_desired: bool,
    pub(crate) flags: QueryFlags,
    has_edns: bool,
    /// The most bytes of the response.
    limit: u16,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Received {
    /// It is answered.
    Request(Box<Request>),
    /// It gets this response, with this code.
    Refused(Vec<u8>, ResponseCode),
    /// It gets none.
    Ignored,
}

/// A response, before its records are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(crate) code: ResponseCode,
    pub(crate) is_authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Response {
    pub(crate) fn of_code(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }
}

/// Reads a message.
pub(crate) fn receive(packet: &[u8], transport: Transport) -> Received {
    let Ok(header) = Header::read(&mut BinDecoder::new(packet)) else {
        return Received::Ignored;
    };
    if header.metadata.message_type != MessageType::Query {
        return Received::Ignored;
    }
    let refused = |code| {
        let mut metadata = hickory_proto::op::Metadata::response_from_request(&header.metadata);
        metadata.response_code = code;
        let mut message = Message::response(metadata.id, metadata.op_code);
        message.metadata = metadata;
        match message.to_vec() {
            Ok(bytes) => Received::Refused(bytes, code),
            Err(_) => Received::Ignored,
        }
    };
    if header.metadata.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    let counts = &header.counts;
    let records = [counts.answers, counts.authorities, counts.additionals];
    if counts.queries != 1 || records.iter().any(|count| *count > MAX_QUERY_RECORDS) {
        return refused(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(packet) else {
        return refused(ResponseCode::FormErr);
    };
    let Some(question) = message.queries.into_iter().next() else {
        return refused(ResponseCode::FormErr);
    };
    let edns = message.edns.as_ref();
    let limit = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => edns.map_or(MIN_UDP_BYTES, |edns| {
            edns.max_payload().clamp(MIN_UDP_BYTES, MAX_UDP_BYTES)
        }),
    };
    let request = Request {
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        flags: QueryFlags {
            dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: message.metadata.checking_disabled,
        },
        has_edns: edns.is_some(),
        limit,
        question,
    };
    let refused = |code| {
        let response = Response::of_code(code);
        match request.respond(&response) {
            Some(bytes) => Received::Refused(bytes, code),
            None => Received::Ignored,
        }
    };
    if edns.is_some_and(|edns| edns.version() != EDNS_VERSION) {
        return refused(ResponseCode::BADVERS);
    }
    if request.question.query_class() != DNSClass::IN {
        return refused(ResponseCode::Refused);
    }
    let kind = u16::from(request.question.query_type());
    match request.question.query_type() {
        RecordType::OPT | RecordType::ZERO => refused(ResponseCode::FormErr),
        // A whole zone.
        RecordType::AXFR | RecordType::IXFR => refused(ResponseCode::Refused),
        RecordType::ANY => Received::Request(Box::new(request)),
        _ if (FIRST_QUESTION_TYPE..=255).contains(&kind) => refused(ResponseCode::NotImp),
        _ => Received::Request(Box::new(request)),
    }
}

impl Request {
    /// The most records of a fixed length that can fit into the response.
    pub(crate) fn max_records(&self, record_bytes: usize) -> usize {
        usize::from(self.limit) / record_bytes.max(1) + 1
    }

    /// The response as a message; none if it cannot be written, which no response of this server does.
    pub(crate) fn respond(&self, response: &Response) -> Option<Vec<u8>> {
        let bytes = self.encode(response)?;
        if is_truncated(&bytes) && !response.additionals.is_empty() {
            // Nobody needs those.
            let needed = Response {
                additionals: vec![],
                ..response.clone()
            };
            return self.encode(&needed);
        }
        Some(bytes)
    }

    fn encode(&self, response: &Response) -> Option<Vec<u8>> {
        use hickory_proto::serialize::binary::BinEncoder;

        let mut message = Message::response(self.id, OpCode::Query);
        let metadata = &mut message.metadata;
        metadata.recursion_desired = self.recursion_desired;
        metadata.recursion_available = true;
        metadata.checking_disabled = self.flags.checking_disabled;
        metadata.authoritative = response.is_authoritative;
        metadata.response_code = response.code;
        let limit = if self.has_edns {
            self.limit - EDNS_BYTES
        } else {
            self.limit
        };
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit);
        hickory_proto::op::emit_message_parts(
            &message.metadata,
            &mut std::iter::once(&self.question),
            &mut response.answers.iter(),
            &mut response.authorities.iter(),
            &mut response.additionals.iter(),
            None,
            None,
            &mut encoder,
        )
        .ok()?;
        // Of the record that did not fit.
        encoder.trim();
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        if self.has_edns {
            append_edns(&mut bytes, response.code, self.flags.dnssec_ok);
        }
        if self.limit == u16::MAX {
            // There is nothing that could carry more.
            bytes[2] &= !TRUNCATED;
        }
        Some(bytes)
    }
}

pub(crate) fn is_truncated(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|byte| byte & TRUNCATED != 0)
}

/// Appends the record for EDNS, for which there is space, and counts it.
fn append_edns(bytes: &mut Vec<u8>, code: ResponseCode, dnssec_ok: bool) {
    bytes.extend([0]);
    bytes.extend(u16::from(RecordType::OPT).to_be_bytes());
    bytes.extend(MAX_UDP_BYTES.to_be_bytes());
    bytes.extend([code.high(), EDNS_VERSION]);
    bytes.extend([if dnssec_ok { 0x80 } else { 0 }, 0]);
    bytes.extend([0, 0]);
    let count = u16::from_be_bytes([bytes[10], bytes[11]]).saturating_add(1);
    bytes[10..HEADER_BYTES].copy_from_slice(&count.to_be_bytes());
}

/// A query for another server.
pub(crate) fn query(
    id: u16,
    question: &Query,
    flags: QueryFlags,
    has_edns: bool,
) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = flags.checking_disabled;
    message.add_query(question.clone());
    if has_edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_BYTES)
            .set_version(EDNS_VERSION)
            .set_dnssec_ok(flags.dnssec_ok);
        message.set_edns(edns);
    }
    message.to_vec().ok()
}

/// What clients ask for besides the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct QueryFlags {
    /// Whether they want signatures.
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use contrail_mesos_api::parser_testing::for_damaged_input;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn question(text: &str, kind: RecordType) -> Query {
        Query::query(name(text), kind)
    }

    fn packet(question: &Query, has_edns: bool) -> Vec<u8> {
        query(7, question, QueryFlags::default(), has_edns).unwrap()
    }

    fn request(packet: &[u8], transport: Transport) -> Request {
        match receive(packet, transport) {
            Received::Request(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    fn code(packet: &[u8]) -> ResponseCode {
        match receive(packet, Transport::Udp) {
            Received::Refused(bytes, code) => {
                let message = Message::from_vec(&bytes).unwrap();
                assert_eq!(message.metadata.id, 7);
                // Two names have the same number.
                let number = |code: ResponseCode| u16::from(code);
                assert_eq!(number(message.metadata.response_code), number(code));
                code
            }
            other => panic!("{other:?}"),
        }
    }

    fn addresses(owner: &Name, count: u8) -> Vec<Record> {
        let record = |last| Record::from_rdata(owner.clone(), 5, RData::A(A::new(10, 0, 0, last)));
        (0..count).map(record).collect()
    }

    #[test]
    fn case_of_the_question_is_kept() {
        let asked = question("wEb.MARATHON.l4lb.thisdcos.directory.", RecordType::A);
        let request = request(&packet(&asked, false), Transport::Udp);
        let response = Response {
            is_authoritative: true,
            answers: addresses(asked.name(), 1),
            ..Response::default()
        };
        let bytes = request.respond(&response).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.queries[0].name().eq_case(asked.name()));
        assert!(message.answers[0].name.eq_case(asked.name()));
        let metadata = message.metadata;
        assert!(metadata.authoritative && metadata.recursion_available);
        assert!(!metadata.truncation);
        assert_eq!((metadata.id, message.edns), (7, None));
    }

    #[test]
    fn response_is_truncated_to_what_the_client_takes() {
        let asked = question("many.example.", RecordType::A);
        let response = Response {
            answers: addresses(asked.name(), 250),
            ..Response::default()
        };
        for (has_edns, transport, limit) in [
            (false, Transport::Udp, 512),
            (true, Transport::Udp, 1232),
            (true, Transport::Tcp, 65_535),
        ] {
            let request = request(&packet(&asked, has_edns), transport);
            let bytes = request.respond(&response).unwrap();
            assert!(bytes.len() <= limit, "{}", bytes.len());
            let message = Message::from_vec(&bytes).unwrap();
            let is_tcp = transport == Transport::Tcp;
            assert_eq!(message.metadata.truncation, !is_tcp);
            assert_eq!(message.answers.len() == 250, is_tcp);
            assert_eq!(message.edns.is_some(), has_edns);
            let edns_limit = message.edns.map(|edns| edns.max_payload());
            assert_eq!(edns_limit, has_edns.then_some(MAX_UDP_BYTES));
        }
    }

    #[test]
    fn additional_records_that_do_not_fit_are_left_out() {
        let asked = question("few.example.", RecordType::A);
        let request = request(&packet(&asked, false), Transport::Udp);
        let response = Response {
            answers: addresses(asked.name(), 20),
            additionals: addresses(asked.name(), 100),
            ..Response::default()
        };
        let message = Message::from_vec(&request.respond(&response).unwrap()).unwrap();
        assert!(!message.metadata.truncation);
        assert_eq!((message.answers.len(), message.additionals.len()), (20, 0));
    }

    #[test]
    fn what_is_no_ordinary_query_is_refused_with_its_code() {
        use ResponseCode::{FormErr, NotImp, Refused};
        let asked = question("a.example.", RecordType::A);
        let valid = packet(&asked, false);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = valid.clone();
            change(&mut packet);
            packet
        };
        // The operation is UPDATE; then two questions, none, and fewer than there should be.
        assert_eq!(code(&with(&|packet| packet[2] |= 5 << 3)), NotImp);
        assert_eq!(code(&with(&|packet| packet[5] = 2)), FormErr);
        assert_eq!(code(&with(&|packet| packet[5] = 0)), FormErr);
        assert_eq!(code(&with(&|packet| packet[4] = 255)), FormErr);
        assert_eq!(code(&with(&|packet| packet[10] = 255)), FormErr);
        assert_eq!(code(&valid[..valid.len() - 1]), FormErr);
        // A name that points to itself.
        let looping = with(&|packet| {
            packet.truncate(HEADER_BYTES);
            packet.extend([0xc0, 12, 0, 1, 0, 1]);
        });
        assert_eq!(code(&looping), FormErr);
        for (kind, expected) in [
            (RecordType::AXFR, Refused),
            (RecordType::IXFR, Refused),
            (RecordType::OPT, FormErr),
            (RecordType::Unknown(253), NotImp),
        ] {
            assert_eq!(
                code(&packet(&question("a.example.", kind), false)),
                expected
            );
        }
        let mut chaos = question("version.bind.", RecordType::TXT);
        chaos.set_query_class(DNSClass::CH);
        assert_eq!(code(&packet(&chaos, true)), Refused);
        let mut version = packet(&asked, true);
        let at = version.len() - 5;
        version[at] = 1;
        assert_eq!(code(&version), ResponseCode::BADVERS);
    }

    #[test]
    fn responses_and_short_packets_are_ignored() {
        let mut packet = packet(&question("a.example.", RecordType::A), false);
        for length in 0..HEADER_BYTES {
            let received = receive(&packet[..length], Transport::Udp);
            assert!(matches!(received, Received::Ignored), "{length}");
        }
        packet[2] |= 0x80;
        let received = receive(&packet, Transport::Udp);
        assert!(matches!(received, Received::Ignored));
    }

    #[test]
    fn unknown_edns_options_are_ignored() {
        let mut packet = packet(&question("a.example.", RecordType::A), true);
        let at = packet.len() - 2;
        packet.truncate(at);
        packet.extend([0, 8, 0xfd, 0xe9, 0, 4, 1, 2, 3, 4]);
        assert!(request(&packet, Transport::Udp).has_edns);
    }

    #[test]
    fn damaged_input_never_panics() {
        let asked = question(
            "_80._tcp.web.marathon.l4lb.thisdcos.directory.",
            RecordType::SRV,
        );
        for has_edns in [false, true] {
            for_damaged_input(&packet(&asked, has_edns), |bytes| {
                if let Received::Request(request) = receive(bytes, Transport::Udp) {
                    let owner = request.question.name().clone();
                    let response = Response {
                        answers: addresses(&owner, 3),
                        ..Response::default()
                    };
                    let bytes = request.respond(&response).unwrap();
                    Message::from_vec(&bytes).unwrap();
                }
            });
        }
    }
}
