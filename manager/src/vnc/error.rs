//! What the API server means when it refuses.
//!
//! The server answers errors as plain text, and one status code has several meanings: 409 is
//! *exists*, *still in use* and *address taken*. [`classify`] tells them apart by the text, whose
//! recorded originals are the test vectors of this module.

use std::fmt;

use hyper::StatusCode;
use uuid::Uuid;

use super::FqName;
use contrail_mesos_api::http::{ApiError, HttpError, Response};

/// A call to the API server that did not succeed.
pub type VncError = ApiError<VncErrorKind>;

/// What a failure means. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VncErrorKind {
    /// An object of that name, or of that uuid, is there already.
    #[error("{}", exists(uuid.as_ref(), fq_name.as_ref()))]
    Exists {
        /// The uuid of what is there, when the name was the one asked for.
        uuid: Option<Uuid>,
        /// The name of what is there, when the uuid was the one asked for.
        fq_name: Option<FqName>,
    },
    /// Something refers to the object.
    #[error("it is still in use by {}; delete what uses it first", join(by))]
    Referenced {
        /// What refers to it, as far as the server says.
        by: Vec<Referrer>,
    },
    /// The object has children.
    #[error("it still has the children {}; delete those first", join(children))]
    HasChildren {
        /// The children, as far as the server says.
        children: Vec<Referrer>,
    },
    /// Another object has the address.
    #[error("the address is in use; ask for another, or for none to be given a free one")]
    AddressTaken,
    /// The address is in none of the network's subnets.
    #[error("the address is in none of the network's subnets; ask for one that is ({message})")]
    AddressOutside {
        /// What the server answered.
        message: String,
    },
    /// The network has no free address.
    #[error("the network has no free address left; give it another subnet ({message})")]
    Exhausted {
        /// What the server answered.
        message: String,
    },
    /// The parent of the new object is not there.
    #[error("its parent does not exist; create that first ({message})")]
    NoSuchParent {
        /// What the server answered.
        message: String,
    },
    /// Something that the object refers to is not there.
    #[error("something that it refers to does not exist; create that first ({message})")]
    NoSuchReference {
        /// What the server answered.
        message: String,
    },
    /// The object is not there.
    #[error("it does not exist ({message})")]
    NotFound {
        /// What the server answered.
        message: String,
    },
    /// No credentials, or wrong ones.
    #[error(
        "the server wants credentials, or others; check user, password and project ({message})"
    )]
    Unauthorised {
        /// What the server or keystone answered.
        message: String,
    },
    /// These credentials do not suffice.
    #[error("the user may not do that; give its role the right in the API access list ({message})")]
    Forbidden {
        /// What the server answered.
        message: String,
    },
    /// The project's quota is used up.
    #[error("the project's quota is used up; raise it or delete something ({message})")]
    Quota {
        /// What the server answered.
        message: String,
    },
    /// The request is longer than the server takes.
    #[error("the request is longer than the server takes; ask for less at once ({message})")]
    TooLarge {
        /// What the server answered.
        message: String,
    },
    /// The server cannot now, or what it stands on is gone; later it may.
    #[error("the server is there but cannot serve; check its database and ZooKeeper ({message})")]
    Unavailable {
        /// What the server answered.
        message: String,
    },
    /// What was asked for cannot be.
    #[error("the server refuses it: {message}")]
    Invalid {
        /// What the server answered.
        message: String,
    },
    /// The server failed, in a way that asking again does not mend.
    #[error("the server failed with {status}: {message}; its log says more")]
    Server {
        /// The status code.
        status: u16,
        /// What the server answered.
        message: String,
    },
    /// The answer is not what the API describes.
    #[error("the answer makes no sense: {problem}; is this address a Contrail API server?")]
    InvalidResponse {
        /// What is wrong with it.
        problem: String,
    },
    /// No server can be reached.
    #[error("{problem}; check the address, and that the API server runs")]
    Unreachable {
        /// What went wrong.
        problem: String,
    },
    /// The answer never came or broke off: it may have been done, and it may not.
    #[error("{problem}; it may have been done nevertheless")]
    Unknown {
        /// What went wrong.
        problem: String,
    },
}

impl VncErrorKind {
    /// Whether another server, or the same one later, may do better. Says nothing of whether
    /// asking again does harm.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Unreachable { .. } | Self::Unknown { .. }
        )
    }
}

impl VncErrorKind {
    /// Whether the server may have done what was asked, after a transient failure.
    pub(super) fn maybe_done(&self) -> bool {
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

/// An object that stands in the way of a delete.
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
        return "(not named)".to_owned();
    }
    let names: Vec<String> = referrers.iter().map(Referrer::to_string).collect();
    names.join(", ")
}

fn exists(uuid: Option<&Uuid>, fq_name: Option<&FqName>) -> String {
    match (uuid, fq_name) {
        (Some(uuid), _) => format!("the name is taken, by the object with uuid {uuid}"),
        (_, Some(name)) => format!("the uuid is taken, by the object named {name}"),
        _ => "it exists already".to_owned(),
    }
}

/// What kind of question was refused: the same words mean different things to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// POST to a collection.
    Create,
    /// Everything else.
    Other,
}

/// The meaning of a refusal. Never called for a success.
pub(super) fn classify(question: Question, response: &Response) -> VncErrorKind {
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
        StatusCode::BAD_REQUEST => bad_request(message),
        StatusCode::UNAUTHORIZED => VncErrorKind::Unauthorised { message },
        StatusCode::FORBIDDEN if message.to_lowercase().contains("quota") => {
            VncErrorKind::Quota { message }
        }
        StatusCode::FORBIDDEN => VncErrorKind::Forbidden { message },
        // A create names nothing that could be missing but its parent.
        StatusCode::NOT_FOUND if question == Question::Create && message.starts_with("Name") => {
            VncErrorKind::NoSuchParent { message }
        }
        StatusCode::NOT_FOUND if is_of_an_object(&message) => VncErrorKind::NotFound { message },
        StatusCode::NOT_FOUND => VncErrorKind::InvalidResponse {
            problem: format!("404: {message}"),
        },
        StatusCode::CONFLICT => conflict(&response.body, message),
        StatusCode::PRECONDITION_FAILED => VncErrorKind::Quota { message },
        StatusCode::PAYLOAD_TOO_LARGE => VncErrorKind::TooLarge { message },
        // A full message queue is a 500 that passes; every other 500 is for good.
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

/// Whether a 404 says that an object is missing, in a sentence as the API server does, rather
/// than the page. Taken for the other, a wrong address would read as "all is deleted".
fn is_of_an_object(message: &str) -> bool {
    !message.is_empty() && !message.starts_with(['<', '{']) && !message.starts_with("Not found: '/")
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
    // The whole text: a network's list of what refers to it is longer than a message should be.
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

/// The objects in a list of links. The links themselves name the server as it sees itself, and
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
