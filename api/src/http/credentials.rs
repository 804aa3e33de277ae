//! Credentials for a server: none, user and password, or a DC/OS token from a file.
//!
//! Invariant: no message contains a secret; the header with the secret is marked sensitive.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use hyper::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

/// The longest accepted token.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// How to authenticate to a server.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Not at all.
    #[default]
    None,
    /// HTTP basic authentication.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A file that contains only a DC/OS authentication token. It is read for every request, so
    /// that a renewed token takes effect at once.
    TokenFile(PathBuf),
}

/// Credentials that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The token file is missing or invalid.
    #[error("the token cannot be read from {}: {problem}; write the token into it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The user's name cannot be sent in a header.
    #[error("the user's name contains a colon, which HTTP's basic authentication does not allow")]
    Name,
}

impl Credentials {
    /// The `Authorization` header, if there is one.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, CredentialsError> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Basic { user, .. } if user.contains(':') => return Err(CredentialsError::Name),
            Self::Basic { user, password } => {
                let pair = format!("{user}:{}", password.expose_secret());
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                format!("Basic {encoded}")
            }
            Self::TokenFile(path) => {
                let file = path.clone();
                let read = tokio::task::spawn_blocking(move || token(&file)).await;
                let token = read.map_err(|error| invalid_file(path, &error))??;
                format!("token={token}")
            }
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| match self {
            Self::TokenFile(path) => invalid_file(path, &"it cannot be sent in a header"),
            _ => CredentialsError::Name,
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn invalid_file(path: &Path, problem: &dyn std::fmt::Display) -> CredentialsError {
    CredentialsError::File {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn token(path: &Path) -> Result<String, CredentialsError> {
    let bytes = std::fs::read(path).map_err(|error| invalid_file(path, &error))?;
    let text = String::from_utf8(bytes).map_err(|_| invalid_file(path, &"it is not UTF-8"))?;
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES || token.contains(char::is_whitespace) {
        return Err(invalid_file(
            path,
            &"it must contain one token and nothing else",
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_header_should_match_the_scheme_and_be_sensitive() {
        let basic = Credentials::Basic {
            user: "Aladdin".to_owned(),
            password: "open sesame".into(),
        };
        let header = basic.header().await.unwrap().unwrap();
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(header.is_sensitive());
        assert!(!format!("{basic:?}").contains("sesame"));

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let credentials = Credentials::TokenFile(path.clone());
        credentials.header().await.unwrap_err();
        for invalid in ["", "\n", "two tokens", "a\0b"] {
            std::fs::write(&path, invalid).unwrap();
            let error = credentials.header().await.unwrap_err();
            assert!(error.to_string().contains("token"), "{error}");
        }
        // A renewed token is read from the file.
        for token in ["eyJ0.first.sig", "eyJ0.second.sig"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            let header = credentials.header().await.unwrap().unwrap();
            assert_eq!(header, format!("token={token}"));
        }
    }

    #[tokio::test]
    async fn credentials_should_refuse_a_colon_in_the_user_name() {
        let credentials = Credentials::Basic {
            user: "a:b".to_owned(),
            password: "c".into(),
        };
        assert_eq!(credentials.header().await, Err(CredentialsError::Name));
    }
}
