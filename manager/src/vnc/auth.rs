//! Credentials: none, a name and password for the API server itself, or tokens of a keystone.

use std::fmt;

use base64::Engine as _;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::error::VncErrorKind;
use contrail_mesos_api::http::{HttpClient, Request, Response};

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT_TOKEN: &str = "x-subject-token";

/// How the API server knows who we are.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// It does not ask.
    #[default]
    None,
    /// A name and password in every request: the local administrator's port.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A token of a keystone, renewed when the server no longer takes it.
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

/// Where tokens come from.
#[derive(Clone, Debug)]
pub struct Keystone {
    /// Address of the keystone, such as `http://10.84.22.1:35357`; a path such as `/v3` or
    /// `/v2.0/tokens` may be there and decides the version.
    pub url: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: SecretString,
    /// The project, which version 2 calls tenant.
    pub project: String,
    /// The domain of user and project, which version 2 does not know.
    pub domain: String,
    /// Which version to talk.
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
    /// 3, and 2 where there is none.
    #[default]
    Any,
    /// `/v3/auth/tokens`
    V3,
    /// `/v2.0/tokens`
    V2,
}

/// The credentials in use. Tokens are asked for when they are first needed.
pub(super) struct Credentials {
    auth: Auth,
    /// Held while a token is fetched, so that many calls at once fetch one.
    token: Mutex<Option<Token>>,
}

/// A header that proves who we are; marked sensitive, so that nothing prints it.
#[derive(Clone, PartialEq)]
pub(super) struct Token(HeaderName, HeaderValue);

impl Token {
    fn new(name: HeaderName, text: &str) -> Result<Self, VncErrorKind> {
        let mut value = HeaderValue::try_from(text).map_err(|_| VncErrorKind::InvalidResponse {
            problem: "the token cannot be sent in a header".to_owned(),
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

    /// What to send, if anything. A token that was `refused` is replaced first, unless another
    /// call has done so in the meantime.
    pub(super) async fn token(
        &self,
        http: &HttpClient,
        refused: Option<&Token>,
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
        if current.is_none() || current.as_ref() == refused {
            *current = None;
            *current = Some(keystone.fetch(http).await?);
        }
        Ok(current.clone())
    }

    /// Whether a new token may help where an old one was refused.
    pub(super) fn renews(&self) -> bool {
        matches!(self.auth, Auth::Keystone(_))
    }
}

impl Keystone {
    async fn fetch(&self, http: &HttpClient) -> Result<Token, VncErrorKind> {
        let (base, version) = self.base();
        if version != KeystoneVersion::V2 {
            let (url, response) = ask(http, &base, "/v3/auth/tokens", &self.v3()).await?;
            let missing = matches!(
                response.status,
                StatusCode::NOT_FOUND | StatusCode::MULTIPLE_CHOICES | StatusCode::GONE
            );
            if !(missing && version == KeystoneVersion::Any) {
                refusal(&url, &response)?;
                let token = response
                    .headers
                    .get(SUBJECT_TOKEN)
                    .and_then(|value| value.to_str().ok())
                    .ok_or_else(|| no_token(&url))?;
                return Token::new(AUTH_TOKEN, token);
            }
        }
        let (url, response) = ask(http, &base, "/v2.0/tokens", &self.v2()).await?;
        refusal(&url, &response)?;
        let answer: Value = serde_json::from_slice(&response.body).map_err(|_| no_token(&url))?;
        let token = answer["access"]["token"]["id"]
            .as_str()
            .ok_or_else(|| no_token(&url))?;
        Token::new(AUTH_TOKEN, token)
    }

    /// The address without what belongs to a version, and that version.
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

async fn ask(
    http: &HttpClient,
    base: &str,
    path: &str,
    body: &Value,
) -> Result<(String, Response), VncErrorKind> {
    let url = format!("{base}{path}");
    let uri: Uri = url.parse().map_err(|_| VncErrorKind::Unauthorised {
        message: format!("{url:?} is not the address of a keystone"),
    })?;
    let request = Request {
        method: Method::POST,
        uri,
        headers: vec![],
        body: Some(body.to_string().into()),
    };
    match http.send(request).await {
        Ok(response) => Ok((url, response)),
        // A token is asked for before the API server is, which has therefore seen nothing.
        Err(error) => Err(VncErrorKind::Unreachable {
            problem: format!("no token from the keystone at {url}: {error}"),
        }),
    }
}

fn refusal(url: &str, response: &Response) -> Result<(), VncErrorKind> {
    let message = || {
        format!(
            "keystone at {url}: {}: {}",
            response.status,
            response.text()
        )
    };
    match response.status {
        status if status.is_success() => Ok(()),
        status if status.is_server_error() => Err(VncErrorKind::Unavailable { message: message() }),
        _ => Err(VncErrorKind::Unauthorised { message: message() }),
    }
}

fn no_token(url: &str) -> VncErrorKind {
    VncErrorKind::InvalidResponse {
        problem: format!("there is no token in the answer of {url}"),
    }
}
