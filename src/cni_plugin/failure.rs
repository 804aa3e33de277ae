//! Errors, as CNI has them told.

use std::fmt;

use serde_json::{Value, json};

/// CNI's numbers for kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The configuration's version is not supported.
    Version = 1,
    /// The environment is not as CNI says.
    Environment = 4,
    /// The standard input cannot be read as JSON.
    Decode = 6,
    /// The configuration cannot be used.
    Config = 7,
    /// It may work when it is tried again.
    Again = 11,
    /// Anything else: the number of the plugin that came with Contrail.
    Other = 100,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    code: Code,
    message: String,
    details: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// Something that could not be done, and why.
    pub(super) fn of(message: impl Into<String>, error: impl fmt::Display) -> Self {
        Self {
            code: Code::Other,
            message: format!("{}: {error}", message.into()),
            details: String::new(),
        }
    }

    pub(super) fn with_details(self, details: impl Into<String>) -> Self {
        Self {
            details: details.into(),
            ..self
        }
    }

    pub(super) fn json(&self, version: &str) -> Value {
        let mut error = json!({
            "cniVersion": version, "code": self.code as u32, "msg": self.message,
        });
        if !self.details.is_empty() {
            error["details"] = self.details.as_str().into();
        }
        error
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match self.details.as_str() {
            "" => Ok(()),
            details => write!(formatter, "; {details}"),
        }
    }
}
