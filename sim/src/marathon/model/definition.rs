//! What app and pod definitions share: defaults, errors, and deserialization.

use serde_json::{Value, json};

/// Why a definition is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The JSON does not have the shape of a definition (400).
    #[error("{path}: {problem}")]
    Shape {
        /// The path, such as `/networks(0)/mode`.
        path: String,
        /// What was expected.
        problem: String,
    },
    /// The definition contradicts itself (422).
    #[error("Object is not valid")]
    Invalid(Violations),
}

/// The errors of a definition, each with its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Adds an error.
    pub fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push((path.into(), problem.into()));
    }

    /// Adds an error unless the condition holds.
    pub(super) fn check(
        &mut self,
        holds: bool,
        path: impl Into<String>,
        problem: impl Into<String>,
    ) {
        if !holds {
            self.add(path, problem);
        }
    }

    /// These violations as an error, if there are any.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// `details` of Marathon's response: one entry per path.
    #[must_use]
    pub fn details(&self) -> Value {
        let mut paths: Vec<&str> = Vec::new();
        for (path, _) in &self.0 {
            if !paths.contains(&path.as_str()) {
                paths.push(path);
            }
        }
        let errors = |path: &str| -> Vec<&str> {
            self.0
                .iter()
                .filter(|(other, _)| other == path)
                .map(|(_, problem)| problem.as_str())
                .collect()
        };
        paths
            .into_iter()
            .map(|path| json!({"path": path, "errors": errors(path)}))
            .collect()
    }
}

/// Defaults of definitions, from Marathon's flags.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// `--default_network_name`: the name of a container network that has none.
    pub network_name: Option<String>,
    /// `--mesos_bridge_name`: the name that Mesos knows `container/bridge` by.
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

/// Removes every `null`, which to Marathon is the same as an absent field.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Deserializes a value; an error names the path.
pub(super) fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Rejection> {
    serde_path_to_error::deserialize(value).map_err(|error| Rejection::Shape {
        path: marathon_path(error.path()),
        problem: error.inner().to_string(),
    })
}

/// A path in a definition as Marathon's responses write it.
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
