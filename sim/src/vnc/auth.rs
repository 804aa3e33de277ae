//! Tokens, as a Keystone beside the server would issue them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::response::{ApiError, Reply};

/// The role that permits everything.
const ADMIN: &str = "admin";

/// A Keystone.
#[derive(Clone, Debug)]
pub struct Keystone {
    /// The accounts.
    pub users: Vec<User>,
    /// How long a token is valid.
    pub lifetime: Duration,
    /// Whether it serves `/v3/auth/tokens`.
    pub v3: bool,
    /// Whether it serves `/v2.0/tokens`.
    pub v2: bool,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name to log in with.
    pub name: String,
    /// The password to log in with.
    pub password: String,
    /// The project of the user's tokens.
    pub project: String,
    /// The roles: `admin` permits everything, any other role nothing.
    pub roles: Vec<String>,
}

impl Keystone {
    /// One administrator, both API versions, and tokens that are valid for an hour.
    #[must_use]
    pub fn with_admin(name: &str, password: &str, project: &str) -> Self {
        Self {
            users: vec![User {
                name: name.to_owned(),
                password: password.to_owned(),
                project: project.to_owned(),
                roles: vec![ADMIN.to_owned()],
            }],
            lifetime: Duration::from_hours(1),
            v3: true,
            v2: true,
        }
    }
}

/// Checks the credentials of a request on the local administrator's port.
pub(crate) fn check_basic(
    header: Option<&str>,
    user: &str,
    password: &str,
) -> Result<(), ApiError> {
    let Some(header) = header else {
        return Err(ApiError::new(401, "HTTP_AUTHORIZATION header missing"));
    };
    let given = header
        .split_once(' ')
        .and_then(|(_, encoded)| {
            let engine = base64::engine::general_purpose::STANDARD;
            engine.decode(encoded.trim()).ok()
        })
        .and_then(|decoded| String::from_utf8(decoded).ok());
    if given.is_some_and(|given| given == format!("{user}:{password}")) {
        Ok(())
    } else {
        Err(ApiError::new(401, "Authentication check failed"))
    }
}

/// The user of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) project_id: String,
    pub(crate) roles: Vec<String>,
}

impl Identity {
    pub(crate) fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == ADMIN)
    }

    /// The token as version 3 of the API describes it.
    pub(crate) fn token_info(&self) -> Value {
        let roles: Vec<_> = self
            .roles
            .iter()
            .map(|role| json!({"name": role}))
            .collect();
        let domain = json!({"id": "default", "name": "Default"});
        json!({"token": {
            "methods": ["password"], "roles": roles,
            "project": {"id": self.project_id, "name": self.project, "domain": domain},
            "user": {"name": self.user, "domain": domain}
        }})
    }
}

/// The issued tokens and when they expire.
#[derive(Default)]
pub(crate) struct Tokens(HashMap<String, (Identity, Option<Instant>)>);

impl Tokens {
    /// Expires every token.
    pub(crate) fn expire(&mut self) {
        self.0.clear();
    }

    /// Handles a request for a token; none if this is another request.
    pub(crate) fn issue(
        &mut self,
        keystone: &Keystone,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Reply> {
        let v3 = match path {
            "/v3/auth/tokens" => true,
            "/v2.0/tokens" => false,
            _ => return None,
        };
        let error = |code: u16, title: &str, message: &str| {
            let error = json!({"code": code, "title": title, "message": message});
            Some(Reply::Token(json!({ "error": error }), code, None))
        };
        if method != "POST" || !(if v3 { keystone.v3 } else { keystone.v2 }) {
            return error(404, "Not Found", "The resource could not be found.");
        }
        let auth = body.map_or(&Value::Null, |body| &body["auth"]);
        let (name, password) = if v3 {
            let user = &auth["identity"]["password"]["user"];
            (&user["name"], &user["password"])
        } else {
            let user = &auth["passwordCredentials"];
            (&user["username"], &user["password"])
        };
        let mut users = keystone.users.iter();
        let Some(user) = users.find(|user| *name == user.name && *password == user.password) else {
            let message = "The request you have made requires authentication.";
            return error(401, "Unauthorized", message);
        };
        let identity = Identity {
            user: user.name.clone(),
            project: user.project.clone(),
            project_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, user.project.as_bytes())
                .simple()
                .to_string(),
            roles: user.roles.clone(),
        };
        let token = Uuid::new_v4().simple().to_string();
        let until = Instant::now().checked_add(keystone.lifetime);
        self.0.insert(token.clone(), (identity.clone(), until));
        let expires = crate::harness::clock::python_after(keystone.lifetime);
        if v3 {
            let mut info = identity.token_info();
            info["token"]["expires_at"] = expires.into();
            return Some(Reply::Token(info, 201, Some(token)));
        }
        let tenant = json!({"id": identity.project_id, "name": identity.project});
        let roles = &identity.token_info()["token"]["roles"];
        let access = json!({
            "token": {"id": token, "expires": expires, "tenant": tenant},
            "user": {"name": identity.user, "roles": roles}, "serviceCatalog": []
        });
        Some(Reply::Token(json!({ "access": access }), 200, None))
    }

    /// The user of this token, or an error if the token is invalid or does not permit the request.
    pub(crate) fn check(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        base: &str,
    ) -> Result<Option<Identity>, ApiError> {
        if path == "/" || path.starts_with("/documentation") {
            return Ok(None);
        }
        let known = token.and_then(|token| self.0.get(token));
        let Some((identity, _)) =
            known.filter(|(_, until)| until.is_none_or(|until| until > Instant::now()))
        else {
            return Err(ApiError {
                challenge: Some(format!("Keystone uri='{base}'")),
                ..ApiError::new(401, "Authentication required")
            });
        };
        if identity.is_admin() {
            return Ok(Some(identity.clone()));
        }
        let operation = match method {
            "POST" => "C",
            "PUT" => "U",
            "DELETE" => "D",
            _ => "R",
        };
        let object = path
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        let object = match object.strip_suffix('s') {
            Some(one) if super::schema::schema().id(object).is_none() => one,
            _ => object,
        };
        Err(ApiError::new(
            403,
            format!(
                "Permission Denied for {} as {} to {operation} {object} in {}",
                identity.user,
                super::python_repr::names(&identity.roles),
                identity.project
            ),
        ))
    }
}
