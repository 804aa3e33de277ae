//! The error of a call to a server of any API.

/// A failed call. `K` is the reason, in the terms of the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} at {server}: {kind}")]
pub struct ApiError<K: std::error::Error + 'static> {
    /// What failed, such as `list the apps`.
    pub operation: String,
    /// The server that was tried last.
    pub server: String,
    /// What went wrong.
    #[source]
    pub kind: K,
}

impl<K: std::error::Error + 'static> ApiError<K> {
    /// An error of this operation at this server.
    pub fn new(
        operation: impl Into<String>,
        server: impl Into<String>,
        kind: impl Into<K>,
    ) -> Self {
        Self {
            operation: operation.into(),
            server: server.into(),
            kind: kind.into(),
        }
    }

    /// An error of this operation before any server was tried.
    pub fn without_server(operation: impl Into<String>, kind: impl Into<K>) -> Self {
        Self::new(operation, "(none)", kind)
    }
}
