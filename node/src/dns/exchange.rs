//! One question to one server.
//!
//! Invariants: each question has a socket of its own, so a port that the kernel chooses at random, and an
//! id that is random. What does not repeat the id and the question is not the answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::cache::{Answer, Question};
use super::message;

/// How long an answer by UDP is waited for before the question is sent again, each time.
const UDP_TIMEOUTS: [Duration; 3] = [
    Duration::from_millis(700),
    Duration::from_secs(1),
    Duration::from_millis(1200),
];
/// How long an exchange by TCP may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest message by UDP that is received.
const MAX_UDP_BYTES: usize = 4096;

/// Why a server has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not answer")]
    Timeout,
    #[error("it answers {0}")]
    Code(ResponseCode),
    #[error("its answer makes no sense")]
    Malformed,
    #[error("the question cannot be written")]
    Question,
}

/// Asks one server.
pub(crate) async fn ask(server: SocketAddr, question: &Question) -> Result<Answer, ExchangeError> {
    let answer = ask_with(server, question, true).await;
    match answer {
        // Old servers do not know EDNS.
        Err(ExchangeError::Code(ResponseCode::FormErr | ResponseCode::NotImp)) => {
            ask_with(server, question, false).await
        }
        answer => answer,
    }
}

async fn ask_with(
    server: SocketAddr,
    question: &Question,
    has_edns: bool,
) -> Result<Answer, ExchangeError> {
    let query = Query::query(question.name.clone(), question.kind);
    let id = Message::query().metadata.id;
    let packet =
        message::query(id, &query, question.flags, has_edns).ok_or(ExchangeError::Question)?;
    let (mut answer, mut bytes) = by_udp(server, &packet, id, &query).await?;
    if answer.metadata.truncation {
        let whole = timeout(TCP_TIMEOUT, by_tcp(server, &packet, id, &query));
        (answer, bytes) = whole.await.map_err(|_| ExchangeError::Timeout)??;
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(Answer::new(answer, bytes)),
        code => Err(ExchangeError::Code(code)),
    }
}

async fn by_udp(
    server: SocketAddr,
    packet: &[u8],
    id: u16,
    query: &Query,
) -> Result<(Message, usize), ExchangeError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // The kernel then drops what comes from elsewhere, and reports a closed port.
    socket.connect(server).await?;
    let mut buffer = vec![0; MAX_UDP_BYTES];
    for limit in UDP_TIMEOUTS {
        socket.send(packet).await?;
        let end = Instant::now() + limit;
        while let Ok(received) = timeout_at(end, socket.recv(&mut buffer)).await {
            let received = received?;
            match read_answer(&buffer[..received], id, query) {
                Ok(Some(answer)) => return Ok((answer, received)),
                // Of another question, or forged.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(ExchangeError::Timeout)
}

async fn by_tcp(
    server: SocketAddr,
    packet: &[u8],
    id: u16,
    query: &Query,
) -> Result<(Message, usize), ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(|_| ExchangeError::Question)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(packet);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    let message = read_answer(&answer, id, query)?.ok_or(ExchangeError::Malformed)?;
    Ok((message, answer.len()))
}

/// The answer to a query; none if it is not that.
fn read_answer(packet: &[u8], id: u16, query: &Query) -> Result<Option<Message>, ExchangeError> {
    if packet.get(..2) != Some(&id.to_be_bytes()) {
        return Ok(None);
    }
    let message = Message::from_vec(packet).map_err(|_| ExchangeError::Malformed)?;
    let metadata = &message.metadata;
    let is_response =
        metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    let is_asked = match &message.queries[..] {
        [other] => {
            other.name() == query.name()
                && other.query_type() == query.query_type()
                && other.query_class() == query.query_class()
        }
        // Servers that do not understand a query cannot repeat its question.
        [] => {
            metadata.response_code == ResponseCode::FormErr
                || metadata.response_code == ResponseCode::NotImp
        }
        _ => false,
    };
    Ok((is_response && is_asked).then_some(message))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use contrail_mesos_api::parser_testing::for_damaged_input;
    use hickory_proto::rr::rdata::SOA;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    #[test]
    fn damaged_input_never_panics() {
        let name = Name::from_str("a.example.").unwrap();
        let query = Query::query(name.clone(), RecordType::SOA);
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(query.clone());
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 5);
        message.add_answer(Record::from_rdata(name, 60, RData::SOA(soa)));
        message.set_edns(hickory_proto::op::Edns::new());
        for_damaged_input(&message.to_vec().unwrap(), |bytes| {
            if let Ok(Some(answer)) = read_answer(bytes, 7, &query) {
                assert_eq!(answer.metadata.message_type, MessageType::Response);
            }
        });
    }

    #[test]
    fn queries_and_other_operations_are_no_answers() {
        let query = Query::query(Name::from_str("a.example.").unwrap(), RecordType::A);
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(query.clone());
        let is_answer = |message: &Message| {
            let bytes = message.to_vec().unwrap();
            read_answer(&bytes, 7, &query).unwrap().is_some()
        };
        assert!(!is_answer(&message));
        message.metadata.message_type = MessageType::Response;
        assert!(is_answer(&message));
        message.metadata.op_code = OpCode::Update;
        assert!(!is_answer(&message));
    }
}
