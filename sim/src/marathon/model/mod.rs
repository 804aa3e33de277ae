//! Apps and pods as the API takes and serves them: pure.
//!
//! On the way in: [`app::parse`] rewrites the deprecated forms ([`legacy`]), reads the result,
//! checks it ([`validate`]) and fills in what Marathon fills in. On the way out only the canonical
//! form exists, with `networks[]` and never `ipAddress`.

pub mod app;
pub mod legacy;
pub mod network;
pub mod pod;
pub mod run_spec;
#[cfg(test)]
mod tests;
pub mod validate;

use serde_json::Value;

use validate::Violations;

/// Why a definition was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The JSON does not have the shape of a definition (400).
    #[error("{path}: {problem}")]
    Shape {
        /// Where, as `/networks(0)/mode`.
        path: String,
        /// What was expected there.
        problem: String,
    },
    /// The definition contradicts itself (422).
    #[error("Object is not valid")]
    Invalid(Violations),
}

/// Names that a definition leaves to Marathon's own flags.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// `--default_network_name`: what a container network without a name is called.
    pub network_name: Option<String>,
    /// `--mesos_bridge_name`: what `container/bridge` is called towards Mesos.
    pub mesos_bridge_name: String,
    /// `--mesos_role`: the role of a run spec that names none.
    pub role: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            network_name: None,
            mesos_bridge_name: "mesos-bridge".to_owned(),
            role: "*".to_owned(),
        }
    }
}

/// Takes out every `null`: to Marathon it means the same as nothing.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Reads `value` as a `T`; what does not fit is named with its place.
fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Rejection> {
    serde_path_to_error::deserialize(value).map_err(|error| Rejection::Shape {
        path: marathon_path(error.path()),
        problem: error.inner().to_string(),
    })
}

/// A place in a definition as Marathon's answers write it.
fn marathon_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("({index})"),
            Segment::Map { key } => format!("/{key}"),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => "/?".to_owned(),
        })
        .collect()
}
