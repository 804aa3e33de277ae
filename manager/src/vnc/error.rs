//! Classification of the API server's errors.
//!
//! The server returns errors as plain text, and one status code has several meanings: 409 is
//! *exists*, *still in use* and *address taken*. [`classify`] distinguishes them by the text. The
//! test vectors of this module are recorded responses.

use std::fmt;

use hyper::StatusCode;
use uuid::Uuid;

use super::FqName;
use contrail_mesos_api::http::{ApiError, HttpError, Response};

/// The error of a call to the API server.
pub type VncError = ApiError<VncErrorKind>;

/// The meaning of an error. The message of each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VncErrorKind {
    /// An object with this name or uuid exists already.
    #[error("{}", exists(uuid.as_ref(), fq_name.as_ref()))]
    Exists {
        /// The uuid of the existing object, if the name is taken.
        uuid: Option<Uuid>,
        /// The name of the existing object, if the uuid is taken.
        fq_name: Option<FqName>,
    },
    /// Other objects refer to the object.
    #[error("it is still in use by {}; delete these first", join(by))]
    Referenced {
        /// The referring objects, as far as the server names them.
        by: Vec<Referrer>,
    },
    /// The object has children.
    #[error("it still has the children {}; delete those first", join(children))]
    HasChildren {
        /// The children, as far as the server names them.
        children: Vec<Referrer>,
    },
    /// Another object has the address.
    #[error("the address is in use; request another one, or none to get a free one")]
    AddressTaken,
    /// The address is outside of the network's subnets.
    #[error(
        "the address is outside of the network's subnets; request one inside of them ({message})"
    )]
    AddressOutside {
        /// The server's response.
        message: String,
    },
    /// The network has no free address.
    #[error("the network has no free address; add a subnet to it ({message})")]
    Exhausted {
        /// The server's response.
        message: String,
    },
    /// The subnet that an address was requested from is used up, or not the network's any more: the
    /// server says the same of both.
    #[error("the subnet has no free address, or is not one of the network's any more ({message})")]
    NoSuchSubnet {
        /// The server's response.
        message: String,
    },
    /// The parent of the new object does not exist.
    #[error("its parent does not exist; create it first ({message})")]
    NoSuchParent {
        /// The server's response.
        message: String,
    },
    /// An object that the new object refers to does not exist.
    #[error("an object that it refers to does not exist; create it first ({message})")]
    NoSuchReference {
        /// The server's response.
        message: String,
    },
    /// The object does not exist.
    #[error("it does not exist ({message})")]
    NotFound {
        /// The server's response.
        message: String,
    },
    /// Credentials are missing or wrong.
    #[error("authentication failed; check user, password and project ({message})")]
    Unauthorised {
        /// The response of the server or Keystone.
        message: String,
    },
    /// The user lacks a permission.
    #[error("permission denied; add a rule for the user's role to the API access list ({message})")]
    Forbidden {
        /// The server's response.
        message: String,
    },
    /// The project's quota is exceeded.
    #[error("the project's quota is exceeded; raise it or delete objects ({message})")]
    Quota {
        /// The server's response.
        message: String,
    },
    /// The request exceeds the server's size limit.
    #[error("the request exceeds the server's size limit; split it ({message})")]
    TooLarge {
        /// The server's response.
        message: String,
    },
    /// The server or one of its backends is temporarily unavailable.
    #[error("the server is unavailable; check its database and ZooKeeper ({message})")]
    Unavailable {
        /// The server's response.
        message: String,
    },
    /// The request is invalid.
    #[error("the server rejected it: {message}")]
    Invalid {
        /// The server's response.
        message: String,
    },
    /// The server failed in a way that a retry does not fix.
    #[error("the server failed with {status}: {message}; see its log")]
    Server {
        /// The status code.
        status: u16,
        /// The server's response.
        message: String,
    },
    /// The response does not follow the API.
    #[error("invalid response: {problem}; check that the address is a Contrail API server")]
    InvalidResponse {
        /// Why it is invalid.
        problem: String,
    },
    /// No server can be reached.
    #[error("{problem}; check the address and that the API server is running")]
    Unreachable {
        /// What went wrong.
        problem: String,
    },
    /// The response is missing or incomplete. The call may or may not have been applied.
    #[error("{problem}; the call may have been applied")]
    Unknown {
        /// What went wrong.
        problem: String,
    },
}

impl VncErrorKind {
    /// Whether a retry, at another server or later, may succeed. Does not say whether a retry is
    /// safe.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Unreachable { .. } | Self::Unknown { .. }
        )
    }

    /// Whether the server may have applied the call, after a transient failure.
    pub(super) fn maybe_applied(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

impl From<HttpError> for VncErrorKind {
    fn from(error: HttpError) -> Self {
        let problem = error.to_string();
        match error {
            HttpError::Connect(_) => Self::Unreachable { problem },
            HttpError::ConnectionClosed(_) | HttpError::Timeout(_) | HttpError::IdleTimeout(_) => {
                Self::Unknown { problem }
            }
            HttpError::BodyTooLarge(_) => Self::InvalidResponse { problem },
        }
    }
}

/// An object that prevents a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its type, such as `instance-ip`.
    pub object_type: String,
    /// Its uuid.
    pub uuid: Uuid,
}

impl fmt::Display for Referrer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.object_type, self.uuid)
    }
}

fn join(referrers: &[Referrer]) -> String {
    if referrers.is_empty() {
        return "(unknown objects)".to_owned();
    }
    let names: Vec<String> = referrers.iter().map(Referrer::to_string).collect();
    names.join(", ")
}

fn exists(uuid: Option<&Uuid>, fq_name: Option<&FqName>) -> String {
    match (uuid, fq_name) {
        (Some(uuid), _) => format!("the name is taken, by the object with uuid {uuid}"),
        (_, Some(name)) => format!("the uuid is taken, by the object named {name}"),
        _ => "it already exists".to_owned(),
    }
}

/// The kind of the failed call: the same error text means something else for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// POST to a collection.
    Create,
    /// Everything else.
    Other,
}

/// The meaning of an error response. Must not be called for a success.
pub(super) fn classify(kind: CallKind, response: &Response) -> VncErrorKind {
    let message = response.text();
    match response.status {
        // An address outside every subnet is a 400 for an instance-ip and a 500 for a floating-ip.
        StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR
            if message.contains("has exhausted subnet(") =>
        {
            if message.contains("has exhausted subnet([])") {
                VncErrorKind::AddressOutside { message }
            } else {
                VncErrorKind::Exhausted { message }
            }
        }
        // The same from a network with flat subnets only.
        StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR
            if message.contains("has no defined subnets") =>
        {
            VncErrorKind::AddressOutside { message }
        }
        // A reference with name and uuid is looked up late.
        StatusCode::INTERNAL_SERVER_ERROR
            if kind == CallKind::Create && message.contains("NoIdError: Unknown id") =>
        {
            VncErrorKind::NoSuchReference { message }
        }
        StatusCode::BAD_REQUEST => bad_request(message),
        StatusCode::UNAUTHORIZED => VncErrorKind::Unauthorised { message },
        StatusCode::FORBIDDEN if message.to_lowercase().contains("quota") => {
            VncErrorKind::Quota { message }
        }
        StatusCode::FORBIDDEN => VncErrorKind::Forbidden { message },
        // For a create, only the parent can be missing.
        StatusCode::NOT_FOUND if kind == CallKind::Create && message.starts_with("Name") => {
            VncErrorKind::NoSuchParent { message }
        }
        StatusCode::NOT_FOUND if names_missing_object(&response.body) => {
            VncErrorKind::NotFound { message }
        }
        StatusCode::NOT_FOUND => VncErrorKind::InvalidResponse {
            problem: format!("404: {message}"),
        },
        StatusCode::CONFLICT => conflict(&response.body, message),
        StatusCode::PRECONDITION_FAILED => VncErrorKind::Quota { message },
        StatusCode::PAYLOAD_TOO_LARGE => VncErrorKind::TooLarge { message },
        // A full message queue is the only transient 500.
        StatusCode::INTERNAL_SERVER_ERROR if message.contains("Too many pending updates") => {
            VncErrorKind::Unavailable { message }
        }
        StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS => VncErrorKind::Unavailable {
            message: format!("{}: {message}", response.status),
        },
        status if status.is_server_error() => VncErrorKind::Server {
            status: status.as_u16(),
            message,
        },
        status if status.is_client_error() => VncErrorKind::Invalid {
            message: format!("{status}: {message}"),
        },
        status => VncErrorKind::InvalidResponse {
            problem: format!("{status}: {message}"),
        },
    }
}

/// Whether a 404 is the API server's sentence about a missing object, and not a missing page.
/// Otherwise a wrong server address would read as "everything is deleted".
fn names_missing_object(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    !matches!(body.first(), None | Some(b'<' | b'{')) && !body.starts_with(b"Not found: '/")
}

fn bad_request(message: String) -> VncErrorKind {
    if message.starts_with("Parent ") && message.contains("does not exist") {
        VncErrorKind::NoSuchParent { message }
    } else if message.starts_with("Unknown reference") {
        VncErrorKind::NoSuchReference { message }
    } else {
        VncErrorKind::Invalid { message }
    }
}

fn conflict(body: &[u8], message: String) -> VncErrorKind {
    // The whole body: a network's list of referrers is longer than the shortened message.
    let text = String::from_utf8_lossy(body);
    if let Some((_, uuid)) = text.split_once("already exists with uuid:") {
        VncErrorKind::Exists {
            uuid: uuid.trim().parse().ok(),
            fq_name: None,
        }
    } else if let Some((_, name)) = text.split_once("already exists with fq_name:") {
        VncErrorKind::Exists {
            uuid: None,
            fq_name: FqName::from_python(name),
        }
    } else if text.contains("still referred") {
        VncErrorKind::Referenced {
            by: referrers(&text),
        }
    } else if text.contains("children still present") {
        VncErrorKind::HasChildren {
            children: referrers(&text),
        }
    } else if text.contains("address already in use") {
        VncErrorKind::AddressTaken
    } else if text.contains("already exists") {
        VncErrorKind::Exists {
            uuid: None,
            fq_name: None,
        }
    } else {
        VncErrorKind::Invalid { message }
    }
}

/// The objects in a list of links. The links contain the server's own view of its address, and
/// are never followed.
fn referrers(text: &str) -> Vec<Referrer> {
    text.split(['\'', '"'])
        .filter_map(|link| {
            let (rest, uuid) = link.rsplit_once('/')?;
            let (_, object_type) = rest.rsplit_once('/')?;
            Some(Referrer {
                object_type: object_type.to_owned(),
                uuid: uuid.parse().ok()?,
            })
        })
        .collect()
}
