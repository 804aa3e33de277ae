//! What can be done with an object that is there.

use hyper::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::FqName;
use super::client::{Answer, Call, VncClient};
use super::error::{VncError, VncErrorKind};
use super::object::Object;

/// What of an object to read besides its own properties and references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What refers to it.
    pub back_refs: bool,
    /// Its children.
    pub children: bool,
    /// These fields only; the server adds some of its own choice.
    pub fields: Vec<String>,
}

impl ReadOptions {
    /// Apart from the call, for a serializer must not be kept across an await.
    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("exclude_hrefs", "true");
        if !self.back_refs {
            query.append_pair("exclude_back_refs", "true");
        }
        if !self.children {
            query.append_pair("exclude_children", "true");
        }
        if !self.fields.is_empty() {
            query.append_pair("fields", &self.fields.join(","));
        }
        query.finish()
    }
}

/// A change of some fields of an object. A list of references replaces the old one.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    fields: Map<String, Value>,
    problem: Option<String>,
}

impl Patch {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field. The server ignores one that it does not know, without a word.
    #[must_use]
    pub fn set(mut self, field: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.fields.insert(field.to_owned(), value);
            }
            Err(error) => self.problem = Some(format!("{field}: {error}")),
        }
        self
    }
}

/// A change of one entry of a map such as the annotations, beside which others may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyUpdate {
    /// Sets a key.
    Set {
        /// The map's field, such as `annotations`.
        field: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Removes a key.
    Delete {
        /// The map's field.
        field: String,
        /// The key.
        key: String,
    },
}

impl PropertyUpdate {
    fn json(&self) -> Value {
        match self {
            Self::Set { field, key, value } => json!({
                "field": field, "operation": "set",
                "value": { "key": key, "value": value }, "position": key,
            }),
            Self::Delete { field, key } => json!({
                "field": field, "operation": "delete", "position": key,
            }),
        }
    }
}

impl VncClient {
    /// Reads an object's own properties and references; `None` where there is none.
    pub async fn read<T: Object>(&self, uuid: Uuid) -> Result<Option<T>, VncError> {
        self.read_with(uuid, &ReadOptions::default()).await
    }

    /// Reads an object and what is around it; `None` where there is none.
    pub async fn read_with<T: Object>(
        &self,
        uuid: Uuid,
        reading: &ReadOptions,
    ) -> Result<Option<T>, VncError> {
        let call = Call::new(
            format!("read the {} {uuid}", T::TYPE),
            Method::GET,
            format!("/{}/{uuid}?{}", T::TYPE, reading.query()),
        );
        let Some(answer) = self.ask_existing(&call).await? else {
            return Ok(None);
        };
        let object = self.inner_object(&call, &answer, T::TYPE)?;
        self.decode(&call, object).map(Some)
    }

    /// Reads the object of that name; `None` where there is none.
    pub async fn find<T: Object>(&self, fq_name: &FqName) -> Result<Option<T>, VncError> {
        match self.id_of::<T>(fq_name).await? {
            Some(uuid) => self.read(uuid).await,
            None => Ok(None),
        }
    }

    /// The uuid of the object of that name.
    pub async fn id_of<T: Object>(&self, fq_name: &FqName) -> Result<Option<Uuid>, VncError> {
        let call = Call::new(
            format!("find the {} {fq_name}", T::TYPE),
            Method::POST,
            "/fqname-to-id",
        )
        .with_body(json!({ "type": T::TYPE, "fq_name": fq_name }));
        let Some(answer) = self.ask_existing(&call).await? else {
            return Ok(None);
        };
        let mut answer = self.json(&call, &answer)?;
        self.decode(&call, answer["uuid"].take()).map(Some)
    }

    /// The type and name of the object with that uuid.
    pub async fn name_of(&self, uuid: Uuid) -> Result<Option<(String, FqName)>, VncError> {
        let call = Call::new(
            format!("find the name of {uuid}"),
            Method::POST,
            "/id-to-fqname",
        )
        .with_body(json!({ "uuid": uuid }));
        let Some(answer) = self.ask_existing(&call).await? else {
            return Ok(None);
        };
        let mut answer = self.json(&call, &answer)?;
        let object_type = self.decode(&call, answer["type"].take())?;
        let fq_name = self.decode(&call, answer["fq_name"].take())?;
        Ok(Some((object_type, fq_name)))
    }

    /// Changes some fields of an object. The last writer wins.
    pub async fn update<T: Object>(&self, uuid: Uuid, patch: Patch) -> Result<(), VncError> {
        let operation = format!("change the {} {uuid}", T::TYPE);
        if let Some(problem) = patch.problem {
            return Err(self.invalid(operation, problem));
        }
        let call = Call::new(operation, Method::PUT, format!("/{}/{uuid}", T::TYPE))
            .with_body(json!({ T::TYPE: patch.fields }));
        self.ask(&call).await?;
        Ok(())
    }

    /// Deletes an object; `false` where there was none.
    pub async fn delete<T: Object>(&self, uuid: Uuid) -> Result<bool, VncError> {
        let call = Call::new(
            format!("delete the {} {uuid}", T::TYPE),
            Method::DELETE,
            format!("/{}/{uuid}", T::TYPE),
        );
        match self.ask(&call).await {
            Ok(_) => Ok(true),
            Err(failure) if matches!(failure.error.kind, VncErrorKind::NotFound { .. }) => {
                Ok(failure.maybe_done_before)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Makes one object refer to another. Does nothing where it does so already.
    pub async fn link<From: Object, To: Object>(
        &self,
        from: Uuid,
        to: Uuid,
    ) -> Result<(), VncError> {
        self.update_ref::<From, To>(from, to, "ADD", &Value::Null)
            .await
    }

    /// Makes one object refer to another, and the reference say something.
    pub async fn link_with<From: Object, To: Object>(
        &self,
        from: Uuid,
        to: Uuid,
        attribute: impl Serialize,
    ) -> Result<(), VncError> {
        match serde_json::to_value(attribute) {
            Ok(attribute) => {
                self.update_ref::<From, To>(from, to, "ADD", &attribute)
                    .await
            }
            Err(error) => {
                Err(self.invalid(format!("link the {} {from}", From::TYPE), error.to_string()))
            }
        }
    }

    /// Makes one object refer to another no longer; `false` where one of the two is gone. Does
    /// nothing where there is no reference.
    pub async fn unlink<From: Object, To: Object>(
        &self,
        from: Uuid,
        to: Uuid,
    ) -> Result<bool, VncError> {
        match self
            .update_ref::<From, To>(from, to, "DELETE", &Value::Null)
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind, VncErrorKind::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn update_ref<From: Object, To: Object>(
        &self,
        from: Uuid,
        to: Uuid,
        operation: &str,
        attribute: &Value,
    ) -> Result<(), VncError> {
        let verb = if operation == "ADD" { "link" } else { "unlink" };
        let call = Call::new(
            format!("{verb} the {} {from} and the {} {to}", From::TYPE, To::TYPE),
            Method::POST,
            "/ref-update",
        )
        .with_body(json!({
            "type": From::TYPE, "uuid": from,
            "ref-type": To::TYPE, "ref-uuid": to, "ref-fq-name": null,
            "operation": operation, "attr": attribute,
        }));
        self.ask(&call).await?;
        Ok(())
    }

    /// Lets `target` be deleted although `referrer` refers to it.
    pub async fn relax_for_delete(&self, referrer: Uuid, target: Uuid) -> Result<(), VncError> {
        let call = Call::new(
            format!("relax the reference of {referrer} to {target}"),
            Method::POST,
            "/ref-relax-for-delete",
        )
        .with_body(json!({ "uuid": referrer, "ref-uuid": target }));
        self.ask(&call).await?;
        Ok(())
    }

    /// Changes entries of an object's maps, and leaves the other entries alone.
    pub async fn update_properties(
        &self,
        uuid: Uuid,
        updates: &[PropertyUpdate],
    ) -> Result<(), VncError> {
        let updates: Vec<Value> = updates.iter().map(PropertyUpdate::json).collect();
        let call = Call::new(
            format!("change properties of {uuid}"),
            Method::POST,
            "/prop-collection-update",
        )
        .with_body(json!({ "uuid": uuid, "updates": updates }));
        self.ask(&call).await?;
        Ok(())
    }

    /// Whether an API server answers.
    pub async fn ping(&self) -> Result<(), VncError> {
        let call = Call::new("greet the API server".to_owned(), Method::GET, "/");
        let answer = self.ask(&call).await?;
        self.json(&call, &answer).map(drop)
    }

    /// The answer, or `None` where what was asked for is not there.
    async fn ask_existing(&self, call: &Call) -> Result<Option<Answer>, VncError> {
        match self.ask(call).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) if matches!(failure.error.kind, VncErrorKind::NotFound { .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The object in an answer `{"<type>": {…}}`.
    pub(super) fn inner_object(
        &self,
        call: &Call,
        answer: &Answer,
        key: &str,
    ) -> Result<Value, VncError> {
        let mut answer = self.json(call, answer)?;
        match answer.get_mut(key).map(Value::take) {
            Some(object @ Value::Object(_)) => Ok(object),
            _ => Err(self.invalid_response(call, format!("there is no {key} in it"))),
        }
    }

    pub(super) fn json(&self, call: &Call, answer: &Answer) -> Result<Value, VncError> {
        serde_json::from_slice(&answer.body)
            .map_err(|error| self.invalid_response(call, format!("it is not JSON: {error}")))
    }

    pub(super) fn decode<T: serde::de::DeserializeOwned>(
        &self,
        call: &Call,
        value: Value,
    ) -> Result<T, VncError> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| self.invalid_response(call, error.to_string()))
    }

    pub(super) fn invalid_response(&self, call: &Call, problem: String) -> VncError {
        let kind = VncErrorKind::InvalidResponse { problem };
        VncError::new(&call.operation, self.server(), kind)
    }

    pub(super) fn invalid(&self, operation: String, message: String) -> VncError {
        VncError::new(operation, self.server(), VncErrorKind::Invalid { message })
    }
}
