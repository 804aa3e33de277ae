//! Where the secrets of a configuration are, so that they can be hidden wherever else they appear.

use std::path::Path;

use serde_json::Value;

use super::redaction::{Redactor, is_secret_name};
use crate::files::read_regular_or_linked_file;

/// Files of secrets are short. Longer ones are something else.
const MAX_SECRET_FILE_BYTES: usize = 64 << 10;

impl Redactor {
    /// Adds the secrets of a configuration in TOML: those in it, and those of the files and environment
    /// variables that it names. It may be damaged. Blocks on the file system.
    pub fn add_configuration(&mut self, toml: &str) {
        if let Ok(table) = toml::from_str::<toml::Table>(toml)
            && let Ok(json) = serde_json::to_value(table)
        {
            self.add_json(&json);
            self.add_places(&json);
        }
        // Without its structure, what is damaged has lines at least.
        for line in toml.lines() {
            if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches(['"', '\'']);
                self.add_place(key.trim(), value);
                if is_secret_name(key.trim()) {
                    self.add(value);
                }
            }
        }
    }

    /// Adds the secrets of the files and environment variables that JSON such as flags names, and those
    /// in it.
    pub fn add_places(&mut self, json: &Value) {
        match json {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) => self.add_place(key, text),
                        _ => self.add_places(value),
                    }
                }
            }
            Value::Array(values) => {
                for value in values {
                    match value {
                        Value::String(text) => self.add_place("", text),
                        _ => self.add_places(value),
                    }
                }
            }
            _ => {}
        }
    }

    fn add_place(&mut self, key: &str, value: &str) {
        if let Some(password) = password_of_url(value) {
            self.add(password);
        }
        let trimmed = value.trim_start();
        if trimmed.starts_with(['{', '['])
            && let Ok(json) = serde_json::from_str::<Value>(value)
        {
            self.add_json(&json);
            self.add_places(&json);
            return;
        }
        if let Some(name) = key.strip_suffix("_env") {
            if is_secret_name(name)
                && let Ok(secret) = std::env::var(value)
            {
                self.add(&secret);
            }
            return;
        }
        let path = Path::new(value.strip_prefix("file://").unwrap_or(value));
        if !path.is_absolute() {
            return;
        }
        let Ok(contents) = read_regular_or_linked_file(path) else {
            return;
        };
        let Some(contents) = (contents.len() <= MAX_SECRET_FILE_BYTES)
            .then(|| String::from_utf8_lossy(&contents).into_owned())
        else {
            return;
        };
        let name = key.strip_suffix("_file").unwrap_or(key);
        if is_secret_name(name) || contents.contains("PRIVATE KEY") {
            self.add_file_contents(&contents);
        } else if let Ok(json) = serde_json::from_str::<Value>(&contents) {
            // Such as the file of --modules.
            self.add_json(&json);
        }
    }
}

/// The password in a URL.
fn password_of_url(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    Some(password)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn secrets_of_a_configuration_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, contents: &str| {
            let path = directory.path().join(name);
            fs::write(&path, contents).unwrap();
            path.display().to_string()
        };
        let token = file("token", "first-token-1\nsecond-token-2\n");
        let key = file(
            "agent.key",
            "-----BEGIN PRIVATE KEY-----\nkey-line-3\n-----END PRIVATE KEY-----\n",
        );
        let certificate = file("agent.pem", "-----BEGIN CERTIFICATE-----\nline-4\n");
        let toml = format!(
            "token_file = '{token}'\nurl = 'http://u:pass-word-5@h'\n[tls]\nkey = '{key}'\n\
             certificate = '{certificate}'\n[x]\npassword = \"\"\"\nin-line-6\n\"\"\"\n"
        );
        for (toml, is_damaged) in [(toml.clone(), false), (format!("{toml}[["), true)] {
            let mut redactor = Redactor::default();
            redactor.add_configuration(&toml);
            let text = "first-token-1 second-token-2 key-line-3 line-4 pass-word-5 in-line-6";
            let redacted = redactor.text(text);
            for (secret, is_hidden) in [
                ("first-token-1", true),
                ("second-token-2", true),
                ("key-line-3", true),
                (" line-4", false),
                ("pass-word-5", true),
                ("in-line-6", !is_damaged),
            ] {
                assert_eq!(
                    !redacted.contains(secret),
                    is_hidden,
                    "{secret}: {redacted}"
                );
            }
        }
    }
}
