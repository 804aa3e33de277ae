//! How a server knows who we are: nothing, a name and password, or a DC/OS token from a file.
//!
//! Invariant: what is secret is in no message; the header that carries it is marked sensitive.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use hyper::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

/// The longest token file that is believed.
const LONGEST_TOKEN: usize = 64 << 10;

/// How a server knows who we are.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// It does not ask.
    #[default]
    None,
    /// A name and password in every request.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A DC/OS authentication token, alone in a file. The file is read for every request, so that
    /// whoever renews the token has only to write it there.
    TokenFile(PathBuf),
}

/// There is nothing to prove who we are with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The file of the token is no use.
    #[error("the token cannot be read from {}: {problem}; write the token into it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The name or password cannot be in a header.
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
                let token = read.map_err(|error| wrong(path, &error))??;
                format!("token={token}")
            }
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| match self {
            Self::TokenFile(path) => wrong(path, &"it cannot be sent in a header"),
            _ => CredentialsError::Name,
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn wrong(path: &Path, problem: &dyn std::fmt::Display) -> CredentialsError {
    CredentialsError::File {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn token(path: &Path) -> Result<String, CredentialsError> {
    let bytes = std::fs::read(path).map_err(|error| wrong(path, &error))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(path, &"it is not text"))?;
    let token = text.trim();
    if token.is_empty() || token.len() > LONGEST_TOKEN || token.contains(char::is_whitespace) {
        return Err(wrong(path, &"there is not one token alone in it"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn headers_are_as_servers_expect_them_and_secret() {
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
        for useless in ["", "\n", "two tokens", "a\0b"] {
            std::fs::write(&path, useless).unwrap();
            let error = credentials.header().await.unwrap_err();
            assert!(error.to_string().contains("token"), "{error}");
        }
        // Whoever renews it only writes it there.
        for token in ["eyJ0.first.sig", "eyJ0.second.sig"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            let header = credentials.header().await.unwrap().unwrap();
            assert_eq!(header, format!("token={token}"));
        }
    }

    #[tokio::test]
    async fn a_colon_in_the_name_would_change_the_password() {
        let credentials = Credentials::Basic {
            user: "a:b".to_owned(),
            password: "c".into(),
        };
        assert_eq!(credentials.header().await, Err(CredentialsError::Name));
    }
}
