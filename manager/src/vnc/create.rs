//! Idempotent creation of objects.

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::FqName;
use super::client::{BACKOFF, Call, VncClient};
use super::compare::differing_fields;
use super::error::{CallKind, VncError, VncErrorKind};
use super::object::Object;

/// How often to retry a create when the object appears and disappears between the calls.
const CREATE_ATTEMPTS: usize = 3;
/// How often to read an object whose create reported that its name is taken.
const CONFIRM_ATTEMPTS: usize = 6;

/// The result of [`VncClient::ensure`]: an object that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Ensured<T> {
    /// The object's uuid.
    pub uuid: Uuid,
    /// The object that existed before; `None` if it was created.
    pub existing: Option<ExistingObject<T>>,
}

/// An object that existed before.
#[derive(Clone, Debug, PartialEq)]
pub struct ExistingObject<T> {
    /// The object.
    pub object: T,
    /// The fields that differ from the requested ones.
    pub differing_fields: Vec<String>,
}

/// Corrects an error about addresses by what was requested. The server tries a network's own and its
/// flat subnets one after the other and reports what the last ones lack, so the same words mean that
/// a requested address is outside of all of them, or that none of them has a free one.
fn correct_address_error(mut error: VncError, call: &Call) -> VncError {
    let requests = |fields: &[&str]| {
        call.body
            .iter()
            .filter_map(Value::as_object)
            .flat_map(|body| body.values())
            .any(|object| fields.iter().any(|field| object[*field].is_string()))
    };
    let requests_address = requests(&["instance_ip_address", "floating_ip_address"]);
    error.kind = match error.kind {
        VncErrorKind::Exhausted { message } if requests_address => {
            VncErrorKind::AddressOutside { message }
        }
        VncErrorKind::AddressOutside { message } if !requests_address => {
            VncErrorKind::Exhausted { message }
        }
        VncErrorKind::Invalid { message } if message.contains("has invalid subnet(") => {
            if requests_address {
                VncErrorKind::AddressOutside { message }
            } else {
                VncErrorKind::NoSuchSubnet { message }
            }
        }
        kind => kind,
    };
    error
}

impl VncClient {
    /// Creates an object, with a new uuid if it has none. An object that exists already is an
    /// error; see [`VncClient::ensure`].
    pub async fn create<T: Object>(&self, object: &T) -> Result<Uuid, VncError> {
        let mut object = object.clone();
        let uuid = *object.common_mut().uuid.get_or_insert_with(Uuid::new_v4);
        let fq_name = &object.common().fq_name;
        let operation = format!("create the {} {fq_name}", T::TYPE);
        let call = Call {
            kind: CallKind::Create,
            ..Call::new(operation, Method::POST, format!("/{}", T::collection()))
        };
        let call = match serde_json::to_value(&object) {
            Ok(body) => call.with_body(json!({ T::TYPE: body })),
            Err(error) => return Err(self.invalid(call.operation, error.to_string())),
        };
        match self.execute(&call).await {
            Ok(response) => {
                let created = self.object_in(&call, &response, T::TYPE)?;
                let created_uuid = created.get("uuid").and_then(Value::as_str);
                if created_uuid.and_then(|text| text.parse().ok()) == Some(uuid) {
                    Ok(uuid)
                } else {
                    let problem =
                        format!("the new object has the uuid {created_uuid:?}, not {uuid}");
                    Err(self.invalid_response(&call, problem))
                }
            }
            // An earlier attempt of this call created it, and its response was lost.
            Err(failure)
                if failure.maybe_applied_before && is_same(&failure.error.kind, uuid, fq_name) =>
            {
                self.confirm::<T>(uuid, failure.error).await
            }
            Err(failure) => Err(correct_address_error(failure.into(), &call)),
        }
    }

    /// Waits until the object with a taken name can be read: the server reserves the name first,
    /// and may still be processing the earlier attempt, or roll it back.
    async fn confirm<T: Object>(&self, uuid: Uuid, error: VncError) -> Result<Uuid, VncError> {
        let mut delays = BACKOFF.delays();
        for _ in 0..CONFIRM_ATTEMPTS {
            if self.read::<T>(uuid).await?.is_some() {
                return Ok(uuid);
            }
            sleep(delays.next_delay()).await;
        }
        Err(error)
    }

    /// Creates an object unless one with its name exists. Reports how an existing one differs, and
    /// does not change it. An object with the same uuid and another name is an error.
    pub async fn ensure<T: Object>(&self, object: &T) -> Result<Ensured<T>, VncError> {
        let fq_name = &object.common().fq_name;
        let mut delays = BACKOFF.delays();
        let mut attempts = 0;
        loop {
            let error = match self.create(object).await {
                Ok(uuid) => {
                    return Ok(Ensured {
                        uuid,
                        existing: None,
                    });
                }
                Err(error) => error,
            };
            let existing_uuid = match &error.kind {
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
            if let Some(uuid) = existing_uuid
                && let Some(existing) = self.read::<T>(uuid).await?
            {
                let differing_fields = differing_fields(object, &existing);
                return Ok(Ensured {
                    uuid,
                    existing: Some(ExistingObject {
                        object: existing,
                        differing_fields,
                    }),
                });
            }
            // It was deleted in between, or another client's create has not finished yet.
            if attempts == CREATE_ATTEMPTS {
                return Err(error);
            }
            attempts += 1;
            sleep(delays.next_delay()).await;
        }
    }
}

/// Whether the existing object is the requested one.
fn is_same(kind: &VncErrorKind, expected: Uuid, name: &FqName) -> bool {
    match kind {
        VncErrorKind::Exists {
            uuid: Some(uuid), ..
        } => *uuid == expected,
        VncErrorKind::Exists {
            fq_name: Some(fq_name),
            ..
        } => fq_name == name,
        _ => false,
    }
}
