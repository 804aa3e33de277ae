//! Calls that read, update, delete and link existing objects.

use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::FqName;
use super::client::{Call, VncClient};
use super::error::{VncError, VncErrorKind};
use super::object::Object;

/// What to read of an object besides its own properties and references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The objects that refer to it.
    pub back_refs: bool,
    /// Its children.
    pub children: bool,
    /// Only these fields; the server adds some on its own.
    pub fields: Vec<String>,
}

impl ReadOptions {
    /// A function of its own: the serializer is not `Send`, so no await may be in its scope.
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

/// An update of some fields of an object. A list of references replaces the old list.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    fields: Map<String, Value>,
    problem: Option<String>,
}

impl Patch {
    /// An empty patch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field. The server silently ignores unknown fields.
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

/// An update of one entry of a map, such as the annotations, that has other writers too.
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
    /// Reads an object's own properties and references; `None` if it does not exist.
    pub async fn read<T: Object>(&self, uuid: Uuid) -> Result<Option<T>, VncError> {
        self.read_with(uuid, &ReadOptions::default()).await
    }

    /// Reads an object, and optionally its back references and children; `None` if it does not
    /// exist.
    pub async fn read_with<T: Object>(
        &self,
        uuid: Uuid,
        options: &ReadOptions,
    ) -> Result<Option<T>, VncError> {
        let call = Call::new(
            format!("read the {} {uuid}", T::TYPE),
            Method::GET,
            format!("/{}/{uuid}?{}", T::TYPE, options.query()),
        );
        let Some(response) = self.execute_optional(&call).await? else {
            return Ok(None);
        };
        let object = self.object_in(&call, &response, T::TYPE)?;
        self.decode(&call, object).map(Some)
    }

    /// Reads the object with this name; `None` if it does not exist.
    pub async fn find<T: Object>(&self, fq_name: &FqName) -> Result<Option<T>, VncError> {
        match self.id_of::<T>(fq_name).await? {
            Some(uuid) => self.read(uuid).await,
            None => Ok(None),
        }
    }

    /// The uuid of the object with this name.
    pub async fn id_of<T: Object>(&self, fq_name: &FqName) -> Result<Option<Uuid>, VncError> {
        let call = Call::new(
            format!("find the {} {fq_name}", T::TYPE),
            Method::POST,
            "/fqname-to-id",
        )
        .with_body(json!({ "type": T::TYPE, "fq_name": fq_name }));
        let Some(response) = self.execute_optional(&call).await? else {
            return Ok(None);
        };
        let mut response = self.json(&call, &response)?;
        self.decode(&call, response["uuid"].take()).map(Some)
    }

    /// The type and name of the object with this uuid.
    pub async fn name_of(&self, uuid: Uuid) -> Result<Option<(String, FqName)>, VncError> {
        let call = Call::new(
            format!("find the name of {uuid}"),
            Method::POST,
            "/id-to-fqname",
        )
        .with_body(json!({ "uuid": uuid }));
        let Some(response) = self.execute_optional(&call).await? else {
            return Ok(None);
        };
        let mut response = self.json(&call, &response)?;
        let object_type = self.decode(&call, response["type"].take())?;
        let fq_name = self.decode(&call, response["fq_name"].take())?;
        Ok(Some((object_type, fq_name)))
    }

    /// Updates some fields of an object. The last writer wins.
    pub async fn update<T: Object>(&self, uuid: Uuid, patch: Patch) -> Result<(), VncError> {
        let operation = format!("change the {} {uuid}", T::TYPE);
        if let Some(problem) = patch.problem {
            return Err(self.invalid(operation, problem));
        }
        let call = Call::new(operation, Method::PUT, format!("/{}/{uuid}", T::TYPE))
            .with_body(json!({ T::TYPE: patch.fields }));
        self.execute(&call).await?;
        Ok(())
    }

    /// Deletes an object; `false` if it did not exist.
    pub async fn delete<T: Object>(&self, uuid: Uuid) -> Result<bool, VncError> {
        let call = Call::new(
            format!("delete the {} {uuid}", T::TYPE),
            Method::DELETE,
            format!("/{}/{uuid}", T::TYPE),
        );
        match self.execute(&call).await {
            Ok(_) => Ok(true),
            Err(failure) if matches!(failure.error.kind, VncErrorKind::NotFound { .. }) => {
                Ok(failure.maybe_applied_before)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Adds a reference from one object to another. Does nothing if it exists.
    pub async fn link<From: Object, To: Object>(
        &self,
        from: Uuid,
        to: Uuid,
    ) -> Result<(), VncError> {
        self.update_ref::<From, To>(from, to, "ADD", &Value::Null)
            .await
    }

    /// Adds a reference with an attribute from one object to another.
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

    /// Removes the reference from one object to another; `false` if one of the two does not
    /// exist. Does nothing if there is no reference.
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
        self.execute(&call).await?;
        Ok(())
    }

    /// Allows `target` to be deleted although `referrer` refers to it.
    pub async fn relax_for_delete(&self, referrer: Uuid, target: Uuid) -> Result<(), VncError> {
        let call = Call::new(
            format!("relax the reference of {referrer} to {target}"),
            Method::POST,
            "/ref-relax-for-delete",
        )
        .with_body(json!({ "uuid": referrer, "ref-uuid": target }));
        self.execute(&call).await?;
        Ok(())
    }

    /// Updates entries of an object's maps and keeps the other entries.
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
        self.execute(&call).await?;
        Ok(())
    }

    /// Checks that an API server responds.
    pub async fn ping(&self) -> Result<(), VncError> {
        let call = Call::new("ping the API server".to_owned(), Method::GET, "/");
        let response = self.execute(&call).await?;
        self.json(&call, &response).map(drop)
    }

    /// Like [`VncClient::execute`], with `None` for an object that does not exist.
    async fn execute_optional(&self, call: &Call) -> Result<Option<Bytes>, VncError> {
        match self.execute(call).await {
            Ok(response) => Ok(Some(response)),
            Err(failure) if matches!(failure.error.kind, VncErrorKind::NotFound { .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The object in a response `{"<type>": {…}}`.
    pub(super) fn object_in(
        &self,
        call: &Call,
        response: &Bytes,
        key: &str,
    ) -> Result<Value, VncError> {
        let mut response = self.json(call, response)?;
        match response.get_mut(key).map(Value::take) {
            Some(object @ Value::Object(_)) => Ok(object),
            _ => Err(self.invalid_response(call, format!("it has no {key}"))),
        }
    }

    pub(super) fn json(&self, call: &Call, response: &Bytes) -> Result<Value, VncError> {
        serde_json::from_slice(response)
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
