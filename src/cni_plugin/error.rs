//! Errors in the form of CNI.

use std::fmt;

use serde_json::{Value, json};

/// CNI's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCode {
    /// The configuration's version is not supported.
    Version = 1,
    /// A variable of the environment is missing or invalid.
    Environment = 4,
    /// The standard input cannot be read as JSON.
    Decode = 6,
    /// The configuration is invalid.
    Config = 7,
    /// A retry may succeed.
    TryAgain = 11,
    /// Any other error, with the code of the plugin that came with Contrail.
    Other = 100,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniError {
    code: ErrorCode,
    message: String,
    details: String,
}

impl CniError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// An error with its cause.
    pub(super) fn caused_by(message: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self {
            code: ErrorCode::Other,
            message: format!("{}: {cause}", message.into()),
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

impl fmt::Display for CniError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match self.details.as_str() {
            "" => Ok(()),
            details => write!(formatter, "; {details}"),
        }
    }
}
