//! `nf_tables` transactions: all changes happen, or none.

use netlink_bindings::nftables::{Nfgenmsg, OpBatchBeginDo, OpBatchEndDo};
use netlink_packet_core::NLM_F_ACK;
use nix::errno::Errno;

use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
/// The family of tables that see IPv4 and IPv6 packets.
pub(super) const NFPROTO_INET: u8 = 1;
/// The family of tables that see the frames of bridges.
pub(super) const NFPROTO_BRIDGE: u8 = 7;

/// The message types of `nf_tables`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
    NewGeneration = 15,
    GetGeneration = 16,
}

/// The header of all messages about tables of family `inet`.
pub(super) fn header() -> Nfgenmsg {
    header_of(NFPROTO_INET)
}

/// The header of all messages about tables of a family.
pub(super) fn header_of(family: u8) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family;
    header
}

/// The number of a message type in the header.
pub(super) const fn message_type(message: Message) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message as u16
}

/// A request of the type `message`. `action` as in [`Request::new`].
pub(super) fn request(
    message: Message,
    flags: u16,
    action: impl Into<String>,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Request {
    let mut payload = Vec::new();
    encode(&mut payload);
    Request::new(message_type(message), flags, payload, action)
}

/// A transaction did not happen.
#[derive(Debug)]
pub(super) enum BatchError {
    /// A table has changed since the generation that the transaction was for.
    Stale,
    /// The index of the first change that the kernel refused, and the reason.
    Refused(usize, NetlinkError),
    /// The kernel's answer was lost: the transaction may have happened or not.
    Unknown(NetlinkError),
    /// The transaction as a whole failed.
    Failed(NetlinkError),
}

/// Sends `changes` as one transaction. With a generation, it happens only if no table of the
/// namespace has changed since that generation.
pub(super) fn commit(
    socket: &mut NetlinkSocket,
    generation: Option<u32>,
    changes: Vec<Request>,
) -> Result<(), BatchError> {
    let mut begin_header = Nfgenmsg::new();
    begin_header.set_res_id(NFNL_SUBSYS_NFTABLES);
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
    let results = socket
        .execute_batch(&requests)
        .map_err(BatchError::Failed)?;
    let mut outcome = Ok(());
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::ERESTART) => return Err(BatchError::Stale),
            // Unless the kernel has refused a change, too.
            Err(error @ NetlinkError::OutcomeUnknown { .. }) => {
                outcome = Err(BatchError::Unknown(error));
            }
            Err(error) if (1..=count).contains(&index) => {
                return Err(BatchError::Refused(index - 1, error));
            }
            Err(error) => return Err(BatchError::Failed(error)),
        }
    }
    outcome
}

/// Sends `changes` as one transaction, if there are any. `subject` is what they change, for errors.
pub(super) fn commit_if_any(
    socket: &mut NetlinkSocket,
    changes: Vec<Request>,
    subject: &str,
) -> Result<(), NetlinkError> {
    if changes.is_empty() {
        return Ok(());
    }
    commit(socket, None, changes).map_err(|error| match error {
        BatchError::Refused(_, error) | BatchError::Unknown(error) | BatchError::Failed(error) => {
            error
        }
        BatchError::Stale => NetlinkError::Interrupted {
            action: format!("change {subject}"),
        },
    })
}

impl NetlinkSocket {
    /// Like `execute`, for a transaction, which the kernel takes as a whole only. Requests just one
    /// acknowledgement, that of the last change: errors of other changes come without one, and
    /// before it. The messages that begin and end the transaction get none, because kernels do not
    /// send it or, if older, send a wrong one; an error of the first message is the result of the
    /// whole transaction.
    fn execute_batch(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let last_change = requests.len().saturating_sub(2);
        self.execute_with(
            requests,
            |index| {
                if index == last_change { NLM_F_ACK } else { 0 }
            },
            |index, is_error| index == 0 && is_error,
        )
    }
}
