//! Readers of keys that several tables have.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use contrail_mesos_api::config_reader::{Section, read_file, secret_file_warning};
use contrail_mesos_api::http::tls::Identity;

/// The keys `certificate` and `key`, both or neither.
pub(super) fn identity(section: &Section<'_>) -> Option<Identity> {
    let certificate = section.text("certificate", "a PEM file");
    let key = section.text("key", "a PEM file");
    if section.has("certificate") != section.has("key") {
        section.problem("", "certificate and key go together: write both or neither");
    }
    let identity = Identity {
        certificate: certificate?.into(),
        key: key?.into(),
    };
    section.check_files(|files| files.identity("certificate", "key", &identity));
    Some(identity)
}

/// A key that names the certificates of authorities.
pub(super) fn authorities(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    let path = PathBuf::from(section.text(key, "a PEM file")?);
    section.check_files(|files| files.authorities(key, &path));
    Some(path)
}

/// A secret from the file `<name>_file` or from the environment variable `<name>_env`.
pub(super) fn secret(section: &Section<'_>, name: &str, what: &str) -> Option<String> {
    let file_key = format!("{name}_file");
    let env_key = format!("{name}_env");
    let file = section.text(&file_key, &format!("a file with {what}"));
    let variable = section.text(
        &env_key,
        &format!("the name of an environment variable with {what}"),
    );
    let (key, read) = match (file, variable) {
        (None, None) => return None,
        (Some(_), Some(_)) => {
            let message = format!("{file_key} and {env_key} are both set; write one");
            section.problem(&env_key, message);
            return None;
        }
        (Some(file), None) => {
            if section.is_absent_offline(&file_key, Path::new(&file)) {
                return None;
            }
            if let Some(warning) = secret_file_warning(Path::new(&file)) {
                section.warning(&file_key, warning);
            }
            (
                file_key,
                read_file(Path::new(&file)).map_err(|error| {
                    format!("cannot read {file:?}: {error}; it should hold {what}")
                }),
            )
        }
        // Of the environment of another host.
        (None, Some(_)) if section.is_offline() => return None,
        (None, Some(name)) => {
            let set = std::env::var(&name);
            let problem = format!("the environment variable {name:?} is not set to {what}");
            (env_key, set.map_err(|_| problem))
        }
    };
    match read {
        Ok(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Ok(_) => {
            section.problem(&key, format!("is empty; it should be {what}"));
            None
        }
        Err(problem) => {
            section.problem(&key, problem);
            None
        }
    }
}

/// The keys `user` and `password_file` or `password_env`.
pub(super) fn credentials(section: &Section<'_>) -> (String, SecretString) {
    let user = section.text("user", "a user's name").unwrap_or_default();
    if !section.has("user") {
        section.problem("user", "is missing: a user's name");
    }
    let password = secret(section, "password", "the password");
    if password.is_none() && !section.has("password_file") && !section.has("password_env") {
        let message = "no password: write password_file, a file with it, or password_env, the name of an environment variable";
        section.problem("password_file", message);
    }
    (user, SecretString::from(password.unwrap_or_default()))
}
