//! Creating an object once, however often it has to be asked for.

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::FqName;
use super::client::{BACKOFF, Call, VncClient};
use super::compare::differences;
use super::error::{Question, VncError, VncErrorKind};
use super::object::Object;

/// How often an object may come and go between our questions before we give up.
const CREATE_ATTEMPTS: usize = 3;
/// How often to look for an object whose name is taken.
const CONFIRMATIONS: usize = 6;

/// An object that is there now.
#[derive(Clone, Debug, PartialEq)]
pub struct Ensured<T> {
    /// Its uuid.
    pub uuid: Uuid,
    /// The object as it was found; `None` when it was created.
    pub found: Option<Found<T>>,
}

/// An object that was there before.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// The object.
    pub object: T,
    /// The fields that are not as they were asked for.
    pub differs: Vec<String>,
}

/// Corrects the refusal of a network whose own subnets are used up. The server goes on to look
/// among flat subnets and then calls the address outside of them, also where none was requested.
fn without_requested_address(mut error: VncError, call: &Call) -> VncError {
    let requests_address = call
        .body
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|body| body.values())
        .any(|object| {
            ["instance_ip_address", "floating_ip_address", "subnet_uuid"]
                .iter()
                .any(|field| object[*field].is_string())
        });
    if let VncErrorKind::AddressOutside { message } = &error.kind
        && !requests_address
    {
        error.kind = VncErrorKind::Exhausted {
            message: message.clone(),
        };
    }
    error
}

impl VncClient {
    /// Creates an object, with the uuid that it has or else a new one. What is there already is
    /// an error; see [`VncClient::ensure`].
    pub async fn create<T: Object>(&self, object: &T) -> Result<Uuid, VncError> {
        let mut object = object.clone();
        let uuid = *object.common_mut().uuid.get_or_insert_with(Uuid::new_v4);
        let fq_name = &object.common().fq_name;
        let operation = format!("create the {} {fq_name}", T::TYPE);
        let call = Call {
            question: Question::Create,
            ..Call::new(operation, Method::POST, format!("/{}", T::collection()))
        };
        let call = match serde_json::to_value(&object) {
            Ok(body) => call.with_body(json!({ T::TYPE: body })),
            Err(error) => return Err(self.invalid(call.operation, error.to_string())),
        };
        match self.ask(&call).await {
            Ok(answer) => {
                let made = self.inner_object(&call, &answer, T::TYPE)?;
                let made = made.get("uuid").and_then(Value::as_str);
                if made.and_then(|made| made.parse().ok()) == Some(uuid) {
                    Ok(uuid)
                } else {
                    let problem = format!("the new object has the uuid {made:?}, not {uuid}");
                    Err(self.invalid_response(&call, problem))
                }
            }
            // Our own first attempt made it, and its answer was lost.
            Err(failure)
                if failure.maybe_done_before && is_same(&failure.error.kind, uuid, fq_name) =>
            {
                self.confirm::<T>(uuid, failure.error).await
            }
            Err(failure) => Err(without_requested_address(failure.into(), &call)),
        }
    }

    /// Waits until an object is there whose name is taken already: the server takes the name
    /// first, and may still be at work on what was asked before, or undo it.
    async fn confirm<T: Object>(&self, uuid: Uuid, error: VncError) -> Result<Uuid, VncError> {
        let mut delays = BACKOFF.delays();
        for _ in 0..CONFIRMATIONS {
            if self.read::<T>(uuid).await?.is_some() {
                return Ok(uuid);
            }
            sleep(delays.next_delay()).await;
        }
        Err(error)
    }

    /// Creates an object unless there is one of that name, or that uuid with that name. Says how
    /// one that was there differs, and leaves it as it is. Another object with the uuid is an
    /// error.
    pub async fn ensure<T: Object>(&self, object: &T) -> Result<Ensured<T>, VncError> {
        let fq_name = &object.common().fq_name;
        let mut delays = BACKOFF.delays();
        let mut attempts = 0;
        loop {
            let error = match self.create(object).await {
                Ok(uuid) => return Ok(Ensured { uuid, found: None }),
                Err(error) => error,
            };
            let existing = match &error.kind {
                VncErrorKind::Exists {
                    uuid: Some(uuid), ..
                } => Some(*uuid),
                VncErrorKind::Exists {
                    fq_name: Some(name),
                    ..
                } if name == fq_name => object.common().uuid,
                VncErrorKind::Exists {
                    uuid: None,
                    fq_name: None,
                } => self.id_of::<T>(fq_name).await?,
                _ => return Err(error),
            };
            if let Some(uuid) = existing
                && let Some(found) = self.read::<T>(uuid).await?
            {
                let differs = differences(object, &found);
                return Ok(Ensured {
                    uuid,
                    found: Some(Found {
                        object: found,
                        differs,
                    }),
                });
            }
            // It was deleted in between, or somebody else's create is not done yet.
            if attempts == CREATE_ATTEMPTS {
                return Err(error);
            }
            attempts += 1;
            sleep(delays.next_delay()).await;
        }
    }
}

/// Whether what exists is what was to be created.
fn is_same(kind: &VncErrorKind, ours: Uuid, name: &FqName) -> bool {
    match kind {
        VncErrorKind::Exists {
            uuid: Some(uuid), ..
        } => *uuid == ours,
        VncErrorKind::Exists {
            fq_name: Some(fq_name),
            ..
        } => fq_name == name,
        _ => false,
    }
}
