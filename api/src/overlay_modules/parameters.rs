//! The parameters of a module in the file that `--modules` of Mesos names.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use crate::config_reader::suggestion;
use crate::text::Quoted;

/// Why the parameters are not accepted. Each names the parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// They are not what Mesos sends.
    #[error("cannot decode the module's parameters: {0}; keys and values must be UTF-8")]
    Invalid(String),
    /// A parameter is there twice.
    #[error("the parameter {0} is there twice; remove one")]
    Repeated(String),
    /// A parameter that the module does not have.
    #[error("{0}")]
    Unknown(String),
    /// A parameter without which the module does not work.
    #[error("the parameter {key} is missing: {expected}")]
    Missing {
        /// The parameter.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A value that is not accepted.
    #[error("the parameter {key} has the value {value}: {reason}")]
    Value {
        /// The parameter.
        key: String,
        /// Its value, quoted.
        value: String,
        /// What is expected.
        reason: String,
    },
}

/// `mesos.Parameter`
#[derive(Clone, PartialEq, prost::Message)]
struct ParameterMessage {
    #[prost(string, required, tag = "1")]
    key: String,
    #[prost(string, required, tag = "2")]
    value: String,
}

/// `mesos.Parameters`
#[derive(Clone, PartialEq, prost::Message)]
struct ParametersMessage {
    #[prost(message, repeated, tag = "1")]
    parameter: Vec<ParameterMessage>,
}

/// The parameters of a module. What was asked for is known; others are refused by [`Self::finish`].
#[derive(Debug, Default)]
pub struct Parameters {
    values: BTreeMap<String, String>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl Parameters {
    /// Decodes a serialised `mesos.Parameters`.
    pub fn decode(bytes: &[u8]) -> Result<Self, ParameterError> {
        let message = ParametersMessage::decode(bytes)
            .map_err(|error| ParameterError::Invalid(error.to_string()))?;
        let mut values = BTreeMap::new();
        for ParameterMessage { key, value } in message.parameter {
            let name = Quoted(key.as_bytes()).to_string();
            if values.insert(key, value).is_some() {
                return Err(ParameterError::Repeated(name));
            }
        }
        Ok(Self {
            values,
            known: RefCell::default(),
        })
    }

    /// These parameters, for tests.
    #[must_use]
    pub fn of(parameters: &[(&str, &str)]) -> Self {
        let values = parameters
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Self {
            values: values.collect(),
            known: RefCell::default(),
        }
    }

    /// The value of a parameter, if it is there. An empty value counts as none.
    #[must_use]
    pub fn get(&self, key: &'static str) -> Option<&str> {
        self.known.borrow_mut().insert(key);
        let value = self.values.get(key)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The value of a parameter that must be there. `expected` says what it must be.
    pub fn required(
        &self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<&str, ParameterError> {
        self.get(key)
            .ok_or(ParameterError::Missing { key, expected })
    }

    /// A parameter as `parse` understands it. Its error says what is expected.
    pub fn parsed<T, E: ToString>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ParameterError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let value = parse(text).map_err(|error| ParameterError::Value {
            key: key.to_owned(),
            value: Quoted(text.as_bytes()).to_string(),
            reason: error.to_string(),
        })?;
        Ok(Some(value))
    }

    /// The entries of a list that is separated by commas; empty if the parameter is not there.
    pub fn list(&self, key: &'static str) -> impl Iterator<Item = &str> {
        let entries = self.get(key).unwrap_or_default().split(',');
        entries.map(str::trim).filter(|entry| !entry.is_empty())
    }

    /// Fails if there are parameters that nothing has asked for: they would have no effect.
    pub fn finish(self) -> Result<(), ParameterError> {
        let known = self.known.into_inner();
        let unknown = self.values.keys().find(|key| !known.contains(key.as_str()));
        let Some(unknown) = unknown else {
            return Ok(());
        };
        let name = Quoted(unknown.as_bytes());
        let hint = if let Some(similar) = suggestion(unknown, known.iter().copied()) {
            format!("did you mean {similar:?}?")
        } else {
            let known: Vec<_> = known.into_iter().collect();
            format!("there are {}", known.join(", "))
        };
        Err(ParameterError::Unknown(format!(
            "the module has no parameter {name}; {hint}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parameters: &[(&str, &str)]) -> Vec<u8> {
        let parameter = parameters.iter().map(|(key, value)| ParameterMessage {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        });
        ParametersMessage {
            parameter: parameter.collect(),
        }
        .encode_to_vec()
    }

    #[test]
    fn parameters_are_read_and_others_refused() {
        let parameters = Parameters::decode(&message(&[
            ("master", "a:1"),
            ("managers", " a, b,"),
            ("cni_dri", "/x"),
        ]))
        .unwrap();
        assert_eq!(parameters.get("master"), Some("a:1"));
        assert_eq!(parameters.list("managers").collect::<Vec<_>>(), ["a", "b"]);
        let error = parameters.required("cni_dir", "a directory").unwrap_err();
        assert!(matches!(
            error,
            ParameterError::Missing { key: "cni_dir", .. }
        ));
        let error = parameters.finish().unwrap_err().to_string();
        assert!(error.contains("did you mean \"cni_dir\""), "{error}");
    }

    #[test]
    fn repeated_and_damaged_parameters_are_refused() {
        let error = Parameters::decode(&message(&[("a", "1"), ("a", "2")])).unwrap_err();
        assert!(matches!(error, ParameterError::Repeated(_)), "{error}");
        let error = Parameters::decode(&[0x0a, 0x04, 0x0a, 0x02, 0xff, 0xfe]).unwrap_err();
        assert!(matches!(error, ParameterError::Invalid(_)), "{error}");
        let bytes = message(&[("port", "70000")]);
        for length in 0..bytes.len() {
            // Must not panic.
            let _ = Parameters::decode(&bytes[..length]);
        }
        let parameters = Parameters::decode(&bytes).unwrap();
        let error = parameters.parsed("port", str::parse::<u16>).unwrap_err();
        assert!(matches!(error, ParameterError::Value { .. }), "{error}");
    }
}
