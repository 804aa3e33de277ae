//! One `nf_tables` transaction: every change of it happens, or none.

use netlink_bindings::nftables::{Nfgenmsg, OpBatchBeginDo, OpBatchEndDo};
use netlink_packet_core::NLM_F_ACK;
use nix::errno::Errno;

use super::super::netlink::{NetlinkError, NetlinkSocket, Request};

const SUBSYSTEM: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFPROTO_INET: u8 = 1;

/// Message types of `nf_tables`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    DelSet = 11,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
    GetGeneration = 16,
}

/// The header of every message: our tables are of family `inet`.
pub(super) fn header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = NFPROTO_INET;
    header
}

/// A single request.
pub(super) fn request(
    message: Message,
    flags: u16,
    what: impl Into<String>,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Request {
    let mut payload = Vec::new();
    encode(&mut payload);
    Request::new((SUBSYSTEM << 8) | message as u16, flags, payload, what)
}

/// Why a transaction did not happen.
#[derive(Debug)]
pub(super) enum BatchError {
    /// Somebody changed some table since the generation that the transaction was made for.
    Stale,
    /// The first of the changes that the kernel refused, and why.
    Refused(usize, NetlinkError),
    /// The transaction as a whole failed.
    Failed(NetlinkError),
}

/// Sends `changes` as one transaction. With a generation it happens only if no table of the
/// namespace was changed since that generation.
pub(super) fn commit(
    socket: &mut NetlinkSocket,
    generation: Option<u32>,
    changes: Vec<Request>,
) -> Result<(), BatchError> {
    let mut begin_header = Nfgenmsg::new();
    begin_header.set_res_id(SUBSYSTEM);
    let mut begin = Vec::new();
    let attributes = OpBatchBeginDo::encode_request(&mut begin, &begin_header);
    if let Some(generation) = generation {
        attributes.push_genid(generation);
    } else {
        drop(attributes);
    }
    let mut end = Vec::new();
    drop(OpBatchEndDo::encode_request(&mut end, &begin_header));

    let count = changes.len();
    let mut requests = Vec::with_capacity(count + 2);
    requests.push(Request::new(
        NFNL_MSG_BATCH_BEGIN,
        0,
        begin,
        "begin an nftables transaction",
    ));
    requests.extend(changes);
    requests.push(Request::new(
        NFNL_MSG_BATCH_END,
        0,
        end,
        "end an nftables transaction",
    ));
    let answers = socket
        .execute_batch(&requests)
        .map_err(BatchError::Failed)?;
    for (index, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::ERESTART) => return Err(BatchError::Stale),
            Err(error) if (1..=count).contains(&index) => {
                return Err(BatchError::Refused(index - 1, error));
            }
            Err(error) => return Err(BatchError::Failed(error)),
        }
    }
    Ok(())
}

impl NetlinkSocket {
    /// Like `execute`, for a transaction: its first and last message are acknowledged by no
    /// kernel in success (some older ones do it wrongly), and an error of the first is the
    /// answer to all.
    fn execute_batch(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let last = requests.len().saturating_sub(1);
        self.execute_where(
            requests,
            |index| {
                if index == 0 || index == last {
                    0
                } else {
                    NLM_F_ACK
                }
            },
            |index, failed| index == 0 && failed,
        )
    }
}
