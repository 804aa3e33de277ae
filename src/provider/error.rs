//! Errors of providers. The display of an error becomes part of a task's status message.

use std::fmt;

use tokio::task::JoinError;

/// Any error, as the source of a [`ProviderError`].
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a provider refused or failed: what, where, and what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The request cannot be granted on this network; retrying does not help.
    #[error("network {network:?}: {message}")]
    Refused {
        /// The network's name.
        network: String,
        /// What is wrong with the request, and what would be valid.
        message: String,
    },
    /// The network has no free address.
    #[error(
        "network {network:?}: no {family} address left in {range}; free containers of this network or give it a larger subnet"
    )]
    Exhausted {
        /// The network's name.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The subnet or range that is used up.
        range: String,
    },
    /// No address of a family is left in the blocks that this host has borrowed, and no other one came.
    #[error(
        "network {network:?}: no {family} address left in this host's blocks of the overlay {overlay:?}, \
         {blocks}; contrail-mesos-node asks the managers for more: if the next attempt fails as well, see \
         the problems of this node on the managers' page, which say whether the overlay is used up"
    )]
    NoBlock {
        /// The network's name.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The overlay that lends them.
        overlay: String,
        /// The blocks that are used up.
        blocks: String,
    },
    /// The kernel, the file system or a peer failed an operation.
    #[error("network {network:?}: cannot {action}: {source}")]
    Failed {
        /// The network's name; `*` if the operation concerns all of them.
        network: String,
        /// The operation, with the names of its objects.
        action: String,
        /// Why it failed.
        #[source]
        source: BoxError,
    },
    /// A task of the provider panicked, or the runtime shut down.
    #[error("internal error in a network provider: {0}; please report it with the agent's log")]
    Internal(#[from] JoinError),
}

pub(crate) fn failed(
    network: &str,
    action: impl Into<String>,
    source: impl Into<BoxError>,
) -> ProviderError {
    ProviderError::Failed {
        network: network.to_owned(),
        action: action.into(),
        source: source.into(),
    }
}

pub(super) fn refused(network: &str, message: impl Into<String>) -> ProviderError {
    ProviderError::Refused {
        network: network.to_owned(),
        message: message.into(),
    }
}

/// Every error of one operation.
#[derive(Debug, Default)]
pub struct ProviderErrors(Vec<ProviderError>);

impl ProviderErrors {
    /// No error yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error.
    pub fn push(&mut self, error: ProviderError) {
        self.0.push(error);
    }

    /// How many errors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no error.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The errors, in the order in which they occurred.
    pub fn iter(&self) -> std::slice::Iter<'_, ProviderError> {
        self.0.iter()
    }

    /// `value` if there is no error.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    /// The values if no result is an error, else every error.
    pub fn collect_results<T, E: Into<Self>>(
        results: impl IntoIterator<Item = Result<T, E>>,
    ) -> Result<Vec<T>, Self> {
        let mut values = Vec::new();
        let mut errors = Self::new();
        for result in results {
            match result {
                Ok(value) => values.push(value),
                Err(error) => errors.extend(error.into()),
            }
        }
        errors.into_result(values)
    }
}

impl fmt::Display for ProviderErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            error.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for ProviderErrors {}

impl From<ProviderError> for ProviderErrors {
    fn from(error: ProviderError) -> Self {
        Self(vec![error])
    }
}

impl From<JoinError> for ProviderErrors {
    fn from(error: JoinError) -> Self {
        ProviderError::from(error).into()
    }
}

impl Extend<ProviderError> for ProviderErrors {
    fn extend<I: IntoIterator<Item = ProviderError>>(&mut self, errors: I) {
        self.0.extend(errors);
    }
}

impl FromIterator<ProviderError> for ProviderErrors {
    fn from_iter<I: IntoIterator<Item = ProviderError>>(errors: I) -> Self {
        Self(errors.into_iter().collect())
    }
}

impl IntoIterator for ProviderErrors {
    type Item = ProviderError;
    type IntoIter = std::vec::IntoIter<ProviderError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ProviderErrors {
    type Item = &'a ProviderError;
    type IntoIter = std::slice::Iter<'a, ProviderError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_errors_display_joins_every_error() {
        let errors = ProviderErrors::collect_results([
            Ok(()),
            Err(refused("blue", "no such family")),
            Err(failed("red", "attach", "no route")),
        ])
        .unwrap_err();
        assert_eq!(
            errors.to_string(),
            "network \"blue\": no such family; network \"red\": cannot attach: no route"
        );
    }

    #[test]
    fn provider_errors_without_an_error_are_ok() {
        let results = [Ok::<_, ProviderError>(1), Ok(2)];
        assert_eq!(ProviderErrors::collect_results(results).unwrap(), [1, 2]);
    }
}
