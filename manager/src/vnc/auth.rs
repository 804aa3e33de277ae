//! Credentials: none, basic authentication at the API server, or Keystone tokens.

use std::fmt;

use base64::Engine as _;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::error::VncErrorKind;
use contrail_mesos_api::http::{HttpClient, Request, Response};
use contrail_mesos_api::text::{excerpt, hide};

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT_TOKEN: &str = "x-subject-token";

/// How the client authenticates itself.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// No authentication.
    #[default]
    None,
    /// A user name and password in every request: for the local administrator's port.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A Keystone token, renewed when the server rejects it.
    Keystone(Keystone),
}

impl PartialEq for Auth {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (
                Self::Basic { user, password },
                Self::Basic {
                    user: other_user,
                    password: other_password,
                },
            ) => user == other_user && password.expose_secret() == other_password.expose_secret(),
            (Self::Keystone(own), Self::Keystone(other)) => own == other,
            _ => false,
        }
    }
}

/// The Keystone that issues tokens.
#[derive(Clone, Debug)]
pub struct Keystone {
    /// The address, such as `http://10.84.22.1:35357`. An optional path such as `/v3` or
    /// `/v2.0/tokens` selects the version.
    pub url: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: SecretString,
    /// The project; version 2 calls it tenant.
    pub project: String,
    /// The domain of user and project; version 2 has none.
    pub domain: String,
    /// Which version of the API to use.
    pub version: KeystoneVersion,
}

impl PartialEq for Keystone {
    fn eq(&self, other: &Self) -> bool {
        let fields = |keystone: &Self| {
            let Self {
                url,
                user,
                password,
                project,
                domain,
                version,
            } = keystone.clone();
            let password = password.expose_secret().to_owned();
            (url, user, password, project, domain, version)
        };
        fields(self) == fields(other)
    }
}

/// A version of the identity API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeystoneVersion {
    /// Version 3, and version 2 if the server has no version 3.
    #[default]
    Any,
    /// `/v3/auth/tokens`
    V3,
    /// `/v2.0/tokens`
    V2,
}

/// The credentials in use. The first call that needs a token fetches it.
pub(super) struct Credentials {
    auth: Auth,
    /// Locked while a token is fetched, so concurrent calls fetch only one.
    token: Mutex<Option<Token>>,
}

/// An authentication header, marked sensitive so that nothing prints it.
#[derive(Clone, PartialEq)]
pub(super) struct Token(HeaderName, HeaderValue);

impl Token {
    fn new(name: HeaderName, value: &str) -> Result<Self, VncErrorKind> {
        let mut value =
            HeaderValue::try_from(value).map_err(|_| VncErrorKind::InvalidResponse {
                problem: "the token is not a valid header value".to_owned(),
            })?;
        value.set_sensitive(true);
        Ok(Self(name, value))
    }

    pub(super) fn header(&self) -> (HeaderName, HeaderValue) {
        (self.0.clone(), self.1.clone())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.auth.fmt(formatter)
    }
}

impl Credentials {
    pub(super) fn new(auth: Auth) -> Self {
        Self {
            auth,
            token: Mutex::new(None),
        }
    }

    /// The token to send, if any. Replaces a `rejected` token, unless another call has done so
    /// already.
    pub(super) async fn token(
        &self,
        http: &HttpClient,
        rejected: Option<&Token>,
    ) -> Result<Option<Token>, VncErrorKind> {
        let keystone = match &self.auth {
            Auth::None => return Ok(None),
            Auth::Basic { user, password } => {
                let pair = format!("{user}:{}", password.expose_secret());
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                return Token::new(AUTHORIZATION, &format!("Basic {encoded}")).map(Some);
            }
            Auth::Keystone(keystone) => keystone,
        };
        let mut current = self.token.lock().await;
        if current.is_none() || current.as_ref() == rejected {
            *current = None;
            *current = Some(keystone.fetch(http).await?);
        }
        Ok(current.clone())
    }

    /// Whether a rejected token can be replaced by a new one.
    pub(super) fn can_renew(&self) -> bool {
        matches!(self.auth, Auth::Keystone(_))
    }
}

impl Keystone {
    async fn fetch(&self, http: &HttpClient) -> Result<Token, VncErrorKind> {
        let (base, version) = self.base();
        if version != KeystoneVersion::V2 {
            let (url, response) = request_token(http, &base, "/v3/auth/tokens", &self.v3()).await?;
            let missing = matches!(
                response.status,
                StatusCode::NOT_FOUND | StatusCode::MULTIPLE_CHOICES | StatusCode::GONE
            );
            if !(missing && version == KeystoneVersion::Any) {
                self.check_status(&url, &response)?;
                let token = response
                    .headers
                    .get(SUBJECT_TOKEN)
                    .and_then(|value| value.to_str().ok())
                    .ok_or_else(|| no_token(&url))?;
                return Token::new(AUTH_TOKEN, token);
            }
        }
        let (url, response) = request_token(http, &base, "/v2.0/tokens", &self.v2()).await?;
        self.check_status(&url, &response)?;
        let body: Value = serde_json::from_slice(&response.body).map_err(|_| no_token(&url))?;
        let token = body["access"]["token"]["id"]
            .as_str()
            .ok_or_else(|| no_token(&url))?;
        Token::new(AUTH_TOKEN, token)
    }

    fn check_status(&self, url: &str, response: &Response) -> Result<(), VncErrorKind> {
        let message = || {
            // The request contains the password, and the server may repeat it.
            let secret = self.password.expose_secret();
            let hidden = hide(&response.body, [secret]);
            let text = excerpt(hidden.as_deref().unwrap_or(&response.body));
            format!("keystone at {url}: {}: {text}", response.status)
        };
        match response.status {
            status if status.is_success() => Ok(()),
            status if status.is_server_error() => {
                Err(VncErrorKind::Unavailable { message: message() })
            }
            _ => Err(VncErrorKind::Unauthorised { message: message() }),
        }
    }

    /// The address without the path of a version, and that version.
    fn base(&self) -> (String, KeystoneVersion) {
        let url = self.url.trim_end_matches('/');
        for (end, version) in [
            ("/v3/auth/tokens", KeystoneVersion::V3),
            ("/v3", KeystoneVersion::V3),
            ("/v2.0/tokens", KeystoneVersion::V2),
            ("/v2.0", KeystoneVersion::V2),
        ] {
            if let Some(base) = url.strip_suffix(end) {
                return (base.to_owned(), version);
            }
        }
        (url.to_owned(), self.version)
    }

    fn v3(&self) -> Value {
        let domain = json!({ "name": self.domain });
        json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": self.user,
                "domain": domain,
                "password": self.password.expose_secret(),
            }}},
            "scope": { "project": { "name": self.project, "domain": domain } },
        }})
    }

    fn v2(&self) -> Value {
        json!({ "auth": {
            "tenantName": self.project,
            "passwordCredentials": {
                "username": self.user,
                "password": self.password.expose_secret(),
            },
        }})
    }
}

async fn request_token(
    http: &HttpClient,
    base: &str,
    path: &str,
    body: &Value,
) -> Result<(String, Response), VncErrorKind> {
    let url = format!("{base}{path}");
    let uri: Uri = url.parse().map_err(|_| VncErrorKind::Unauthorised {
        message: format!("{url:?} is not a valid Keystone address"),
    })?;
    let request = Request {
        method: Method::POST,
        uri,
        headers: vec![],
        body: Some(body.to_string().into()),
    };
    match http.send(request).await {
        Ok(response) => Ok((url, response)),
        // The API server has not received the request yet.
        Err(error) => Err(VncErrorKind::Unreachable {
            problem: format!("cannot get a token from keystone at {url}: {error}"),
        }),
    }
}

fn no_token(url: &str) -> VncErrorKind {
    VncErrorKind::InvalidResponse {
        problem: format!("the response of {url} has no token"),
    }
}
