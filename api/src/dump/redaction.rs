//! What is hidden in a dump.
//!
//! Two ways at once: the secrets that are known, such as those of files that the configuration names, are
//! hidden wherever they are; and what looks like a secret is hidden by its place: the values of names such
//! as `password`, user information of URLs, headers for authentication, private keys, environments, labels
//! of frameworks and command lines.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::text::{HIDDEN, hide, redact_text};

/// The labels whose values are shown: this project reads them, and they name networks, groups and addresses.
const SHOWN_LABELS: [&str; 7] = [
    "networks",
    "network-subnets",
    "project-name",
    "domain-name",
    "security-groups",
    "floating-ips",
    "netgroups",
];
/// The keys of a CNI plugin's configuration whose texts are shown. Those of others may be anything.
const SHOWN_PLUGIN_KEYS: [&str; 16] = [
    "bridge",
    "cniVersion",
    "dataDir",
    "dst",
    "gateway",
    "gw",
    "ipMasqBackend",
    "master",
    "mode",
    "name",
    "rangeEnd",
    "rangeStart",
    "sandbox",
    "subnet",
    "type",
    "vlan",
];
/// Parts of the names of secrets, in lower case without separators.
const SECRET_PARTS: [&str; 15] = [
    "accesskey",
    "apikey",
    "authkey",
    "authorization",
    "cookie",
    "credential",
    "fastopenkey",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "token",
];
/// Ends of the names of what only says where a secret is.
const PLACES: [&str; 5] = ["file", "path", "env", "dir", "directory"];
/// Words before a secret in the value of a header.
const SCHEMES: [&str; 4] = ["bearer", "basic", "negotiate", "token"];
const KEY_BEGIN: &str = "-----BEGIN ";
const KEY_END: &str = "-----END ";
/// JSON within strings of JSON is looked at to this depth.
const MAX_DEPTH: usize = 64;

/// Hides secrets. Knows some of them.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: BTreeSet<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Adds a secret, each of its lines, and what HTTP's basic authentication makes of it.
    pub fn add(&mut self, secret: &str) {
        let whole = secret.trim();
        let lines = whole.lines().map(str::trim);
        for part in [whole].into_iter().chain(lines) {
            // What frames a key is in certificates as well.
            if !part.is_empty() && !part.starts_with("-----") {
                self.secrets.insert(part.to_owned());
                self.secrets.insert(STANDARD.encode(part));
            }
        }
    }

    /// Adds what a file of secrets has: a token, a password, lines of a principal and its secret, a key, or
    /// JSON.
    pub fn add_file_contents(&mut self, contents: &str) {
        if let Ok(json) = serde_json::from_str::<Value>(contents)
            && !json.is_string()
        {
            self.add_json(&json);
            return;
        }
        let is_key = contents.contains(KEY_BEGIN);
        for line in contents.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [principal, secret] if !is_key => {
                    self.add(secret);
                    self.secrets
                        .insert(STANDARD.encode(format!("{principal}:{secret}")));
                }
                _ => self.add(line),
            }
        }
    }

    /// Adds the texts of JSON whose names are those of secrets.
    pub fn add_json(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                let named = fields.get("name").or_else(|| fields.get("key"));
                let is_named = named.and_then(Value::as_str).is_some_and(is_secret_name);
                for (name, value) in fields {
                    match value {
                        Value::String(text) if is_secret_name(name) => self.add(text),
                        Value::String(text) if name == "value" && is_named => self.add(text),
                        _ => self.add_json(value),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.add_json(value)),
            _ => {}
        }
    }

    /// A text without secrets. What is JSON in it, as a whole or on a line, is redacted as JSON.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        if let Some(json) = parse_structure(text) {
            return format!("{:#}\n", self.json(&json));
        }
        let text = self.without_known(text);
        let text = without_keys(&text);
        let text = redact_text(&text);
        let mut redacted = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            match parse_structure(line) {
                Some(json) => {
                    redacted.push_str(&self.json(&json).to_string());
                    redacted.push('\n');
                }
                None => push_line(&mut redacted, line),
            }
        }
        redacted
    }

    /// JSON without secrets.
    #[must_use]
    pub fn json(&self, value: &Value) -> Value {
        self.value(value, Place::Any, 0)
    }

    fn without_known(&self, text: &str) -> String {
        let shortest = self.secrets.iter().map(String::len).min();
        if shortest.is_none_or(|shortest| text.len() < shortest) {
            return text.to_owned();
        }
        // The longest first: a secret may be part of another.
        let mut secrets: Vec<&str> = self.secrets.iter().map(String::as_str).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        hide(text.as_bytes(), secrets).map_or_else(
            || text.to_owned(),
            |hidden| String::from_utf8_lossy(&hidden).into_owned(),
        )
    }

    fn value(&self, value: &Value, place: Place, depth: usize) -> Value {
        if depth > MAX_DEPTH {
            return hidden();
        }
        match value {
            Value::String(text) => match place {
                Place::Hidden => hidden(),
                Place::Any => self.string(text, depth),
            },
            Value::Number(_) if place == Place::Hidden => hidden(),
            Value::Array(values) => values
                .iter()
                .map(|value| self.value(value, place, depth + 1))
                .collect(),
            Value::Object(fields) => Value::Object(self.object(fields, place, depth)),
            other => other.clone(),
        }
    }

    fn string(&self, text: &str, depth: usize) -> Value {
        match parse_structure(text) {
            Some(json) => Value::String(self.value(&json, Place::Any, depth + 1).to_string()),
            None => Value::String(self.text(text)),
        }
    }

    fn object(
        &self,
        fields: &Map<String, Value>,
        place: Place,
        depth: usize,
    ) -> Map<String, Value> {
        let named = fields.get("name").or_else(|| fields.get("key"));
        let is_secret = named.and_then(Value::as_str).is_some_and(is_secret_name);
        let redact = |(name, value): (&String, &Value)| {
            let redacted = match name.as_str() {
                "labels" => self.labels(value, depth + 1),
                "plugins" => self.plugins(value, depth + 1),
                "value" if is_secret => self.value(value, Place::Hidden, depth + 1),
                // Those of programs, for which a secret may be an argument.
                "command" | "cmd" | "args" | "arguments" | "argv" => {
                    self.value(value, Place::Hidden, depth + 1)
                }
                _ if is_environment(name) => match value {
                    Value::String(text) if place == Place::Any => self.environment(text, depth),
                    _ => self.hide_named(value, depth + 1),
                },
                _ if is_secret_name(name) => match value {
                    // The place of a secret is no secret.
                    Value::String(text) if is_place(text) => self.string(text, depth),
                    _ => self.value(value, Place::Hidden, depth + 1),
                },
                _ => self.value(value, place, depth + 1),
            };
            (self.without_known(name), redacted)
        };
        fields.iter().map(redact).collect()
    }

    /// The text of a flag with an environment, which is JSON.
    fn environment(&self, text: &str, depth: usize) -> Value {
        let json = serde_json::from_str::<Value>(text);
        json.map_or_else(
            |_| hidden(),
            |json| Value::String(self.hide_named(&json, depth + 1).to_string()),
        )
    }

    /// Hides all texts but names.
    fn hide_named(&self, value: &Value, depth: usize) -> Value {
        match value {
            _ if depth > MAX_DEPTH => hidden(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| {
                    let value = match value {
                        Value::String(text) if matches!(name.as_str(), "name" | "type" | "key") => {
                            Value::String(self.text(text))
                        }
                        _ => self.hide_named(value, depth + 1),
                    };
                    (self.without_known(name), value)
                })
                .collect(),
            Value::Array(values) => values
                .iter()
                .map(|value| self.hide_named(value, depth + 1))
                .collect(),
            Value::String(_) | Value::Number(_) => hidden(),
            other => other.clone(),
        }
    }

    /// Labels: an object, a list of objects with `key` and `value`, or a list of pairs.
    fn labels(&self, value: &Value, depth: usize) -> Value {
        let label = |name: &str, value: &Value| {
            if SHOWN_LABELS.contains(&name) || name.starts_with("VIP_") {
                self.value(value, Place::Any, depth + 1)
            } else {
                self.hide_named(value, depth + 1)
            }
        };
        match value {
            _ if depth > MAX_DEPTH => hidden(),
            Value::Object(fields) => match (fields.get("key"), fields.get("value")) {
                (Some(Value::String(name)), Some(value)) => Map::from_iter([
                    ("key".to_owned(), Value::String(self.text(name))),
                    ("value".to_owned(), label(name, value)),
                ])
                .into(),
                _ => fields
                    .iter()
                    .map(|(name, value)| {
                        let value = match value {
                            // `{"labels": [...]}` as Mesos writes it.
                            Value::Array(_) if name == "labels" => self.labels(value, depth + 1),
                            _ => label(name, value),
                        };
                        (self.without_known(name), value)
                    })
                    .collect(),
            },
            Value::Array(values) => match values.as_slice() {
                [Value::String(name), value] => {
                    vec![Value::String(self.text(name)), label(name, value)].into()
                }
                _ => values
                    .iter()
                    .map(|value| self.labels(value, depth + 1))
                    .collect(),
            },
            Value::String(_) | Value::Number(_) => hidden(),
            other => other.clone(),
        }
    }

    /// Configurations of CNI plugins.
    fn plugins(&self, value: &Value, depth: usize) -> Value {
        match value {
            _ if depth > MAX_DEPTH => hidden(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| {
                    let is_shown = SHOWN_PLUGIN_KEYS.contains(&name.as_str());
                    let value = match value {
                        Value::String(text) if is_shown => self.string(text, depth + 1),
                        _ if is_secret_name(name) => self.value(value, Place::Hidden, depth + 1),
                        _ => self.plugins(value, depth + 1),
                    };
                    (self.without_known(name), value)
                })
                .collect(),
            Value::Array(values) => values
                .iter()
                .map(|value| self.plugins(value, depth + 1))
                .collect(),
            Value::String(_) => hidden(),
            other => other.clone(),
        }
    }
}

/// The object or list that a text is.
fn parse_structure(text: &str) -> Option<Value> {
    let is_structure = text.trim_start().starts_with(['{', '[']);
    is_structure.then(|| serde_json::from_str(text).ok())?
}

/// What is done with texts and numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Any,
    Hidden,
}

fn hidden() -> Value {
    Value::String(HIDDEN.to_owned())
}

fn is_environment(name: &str) -> bool {
    name == "env" || name.ends_with("environment") || name.ends_with("environment_variables")
}

/// Whether a value is the path of a file. A secret may begin as one, so the file must exist.
fn is_place(text: &str) -> bool {
    let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
    path.is_absolute() && path.exists()
}

/// Whether the value with this name is a secret, and not only the place of one.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_lowercase();
    let parts = || name.split(|character: char| !character.is_alphanumeric());
    let last = parts().next_back().unwrap_or_default();
    if PLACES.contains(&last) {
        return false;
    }
    // A setting of the kernel, and no secret.
    let joined = parts().collect::<String>().replace("syncookies", "");
    let is_key = last == "key" && parts().count() > 1 && !joined.ends_with("publickey");
    is_key || joined == "auth" || SECRET_PARTS.iter().any(|part| joined.contains(part))
}

/// A text with the contents of private keys hidden, in PEM, also with the line breaks of JSON.
fn without_keys(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(KEY_BEGIN) {
        let (before, block) = rest.split_at(start);
        redacted.push_str(before);
        let title_end = block[KEY_BEGIN.len()..]
            .find("-----")
            .map(|end| end + KEY_BEGIN.len() + 5);
        let Some(title_end) = title_end.filter(|end| block[..*end].contains("PRIVATE KEY")) else {
            redacted.push_str(KEY_BEGIN);
            rest = &block[KEY_BEGIN.len()..];
            continue;
        };
        redacted.push_str(&block[..title_end]);
        redacted.push_str(HIDDEN);
        // One that was cut is hidden to its end.
        rest = block.find(KEY_END).map_or("", |end| &block[end..]);
    }
    redacted.push_str(rest);
    redacted
}

fn is_name_character(character: char) -> bool {
    character.is_alphanumeric() || "_-.".contains(character)
}

/// Appends a line, in which the values of secrets' names are hidden.
fn push_line(redacted: &mut String, line: &str) {
    let mut rest = line;
    while let Some(start) = rest.find(is_name_character) {
        let (before, word_on) = rest.split_at(start);
        redacted.push_str(before);
        let end = word_on
            .find(|character| !is_name_character(character))
            .unwrap_or(word_on.len());
        let (word, after) = word_on.split_at(end);
        redacted.push_str(word);
        rest = after;
        if SCHEMES.contains(&word.to_lowercase().as_str())
            && let Some(value) = rest.strip_prefix(' ')
        {
            let length = credential_length(value);
            // No prose, such as "a basic network".
            if length >= 16 {
                redacted.push(' ');
                redacted.push_str(HIDDEN);
                rest = &value[length..];
            }
            continue;
        }
        if !is_secret_name(word) {
            continue;
        }
        let Some((separator, value)) = split_separator(word, rest) else {
            continue;
        };
        redacted.push_str(separator);
        rest = value;
        let is_header = ["authorization", "cookie", "token"]
            .iter()
            .any(|end| word.to_lowercase().ends_with(end))
            && separator.contains(':');
        let length = value_length(separator, value, is_header);
        let shown = &value[..length];
        if matches!(shown, "" | "true" | "false" | "null" | HIDDEN) || is_place(shown) {
            redacted.push_str(shown);
        } else {
            redacted.push_str(HIDDEN);
        }
        rest = &rest[length..];
    }
    redacted.push_str(rest);
}

/// The characters of a value in a header for authentication.
fn credential_length(text: &str) -> usize {
    text.find(|character: char| {
        !(character.is_ascii_alphanumeric() || "+/=_-.~:".contains(character))
    })
    .unwrap_or(text.len())
}

/// What is between a name and its value, with an opening quote; none if no value follows.
fn split_separator<'a>(word: &str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    // A closing quote of the name, which may be escaped as in JSON within JSON.
    let after_quote = rest.trim_start_matches(['\\', '"', '\'']);
    let after_space = after_quote.trim_start_matches([' ', '\t']);
    let has_sign = after_space.starts_with(['=', ':']);
    let is_flag = word.starts_with("--") && after_space.len() < after_quote.len();
    if !has_sign && !is_flag {
        return None;
    }
    let value = after_space.trim_start_matches(['=', ':', '>', ' ', '\t']);
    let value = value.trim_start_matches(['\\', '"', '\'', '[']);
    Some(rest.split_at(rest.len() - value.len()))
}

/// How long a value is: to the quote that closes it, or to the end of its word or, in a header, of the line.
fn value_length(separator: &str, value: &str, is_header: bool) -> usize {
    let quote = separator.chars().rev().find(|last| *last != '\\');
    let end = match quote {
        Some(quote @ ('"' | '\'')) => return quoted_length(separator, value, quote),
        _ if is_header => value.find(['\r', '\n', '"', '\'']),
        _ => value.find(|end: char| end.is_whitespace() || ",;&\"'`)}]<>".contains(end)),
    };
    end.unwrap_or_else(|| value.trim_end().len())
}

/// The length of a quoted value. Of quotes with the same number of backslashes, the next closes it.
fn quoted_length(separator: &str, value: &str, quote: char) -> usize {
    let backslashes = |text: &str| text.len() - text.trim_end_matches('\\').len();
    let opening = separator.rfind(quote).map_or("", |end| &separator[..end]);
    let depth = backslashes(opening);
    let closes = |at: usize| backslashes(&value[..at]) <= depth;
    value
        .match_indices(quote)
        .map(|(at, _)| at)
        .find(|at| closes(*at))
        .map_or_else(
            || value.trim_end().len(),
            |at| at - backslashes(&value[..at]).min(depth),
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::parser_testing::{assert_linear, for_damaged_input};

    const SECRET: &str = "S3cr3t-unique_value";

    #[test]
    fn value_is_hidden_by_its_name_in_texts() {
        let redactor = Redactor::default();
        for line in [
            format!("password = \"{SECRET} with words\""),
            format!("vnc.password: '{SECRET}'"),
            format!("DB_PASSWORD={SECRET} next"),
            format!("--secret={SECRET}"),
            format!("--api-key {SECRET}"),
            format!("\"auth_token\": \"{SECRET}\\\" and more {SECRET}\""),
            format!("{{\\\"credential\\\":\\\"{SECRET}\\\"}}"),
            format!("Authorization: Bearer {SECRET}"),
            format!("authorization: token={SECRET}"),
            format!("sent Basic {SECRET}== to it"),
            format!("Set-Cookie: a={SECRET}; b={SECRET}"),
            format!("X-Auth-Token: {SECRET}"),
            format!("GET http://user:{SECRET}@host/x"),
            format!("--master=zk://a:{SECRET}@h1:2181,h2:2181/mesos"),
            format!("https://h/x?token={SECRET}&y=1"),
            format!("-----BEGIN RSA PRIVATE KEY-----\\n{SECRET}\\n-----END RSA PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n"),
            format!("tls_private_key = {SECRET}"),
            format!("net.ipv4.tcp_fastopen_key = {SECRET}"),
            format!("{{\"labels\":{{\"note\":\"{SECRET}\"}}}}"),
            format!("first\n{{\"labels\":{{\"note\":\"{SECRET}\"}}}}\nlast"),
        ] {
            let text = redactor.text(&line);
            assert!(!text.contains("S3cr3t"), "{line} -> {text}");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        let redactor = Redactor::default();
        for line in [
            "token_file = \"/etc/contrail-mesos/token\"\n",
            "--credential=file:///etc/passwd --port=5051",
            "contrail_mesos_tokens_total 5\n",
            "authenticate_agents = true",
            "password_env = \"VNC_PASSWORD\"",
            "slave(1)@10.0.0.1:5051",
            "a basic network",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "table inet contrail_mesos { chain forward { type filter hook forward priority 0; } }",
        ] {
            assert_eq!(redactor.text(line), line);
        }
    }

    #[test]
    fn known_secret_is_hidden_everywhere() {
        let mut redactor = Redactor::default();
        redactor.add_file_contents(&format!("principal {SECRET}\n"));
        redactor.add_file_contents(r#"{"principal": "p", "secret": "other-s3cret"}"#);
        let basic = STANDARD.encode(format!("principal:{SECRET}"));
        let text = redactor.text(&format!("a{SECRET}b other-s3cret {basic} principal"));
        assert_eq!(text, "a(hidden)b (hidden) (hidden) principal");
        let json = redactor.json(&json!({ SECRET: [SECRET, 1, null] }));
        assert_eq!(json, json!({ "(hidden)": ["(hidden)", 1, null] }));
        assert!(!format!("{redactor:?}").contains(SECRET));
    }

    #[test]
    fn json_is_redacted_by_its_structure() {
        let modules = json!({"libraries": [{"modules": [{"name": "x", "parameters": [
            {"key": "agent_secret", "value": SECRET}, {"key": "config", "value": "/etc/x"}]}]}]});
        let json = json!({
            "flags": {
                "modules": modules.to_string(),
                "credential": "/etc/passwd",
                "secret_key": format!("/{SECRET}"),
                "executor_environment_variables": json!({"PATH": SECRET}).to_string(),
                "docker_config": json!({"auths": {"h": {"auth": SECRET}}}).to_string(),
                "master": format!("zk://u:{SECRET}@h/mesos"),
                "port": "5051",
            },
            "environment": {"variables": [{"name": "HOME", "value": SECRET, "secret": {"value": {"data": SECRET}}}]},
            "labels": [["note", SECRET], ["networks", "blue"], ["x", null]],
            "more": {"labels": {"labels": [{"key": "note", "value": SECRET}]}},
            "tasks": {"labels": {"note": SECRET, "VIP_0": "/x:80"}, "command": {"value": SECRET}},
            "networks": [{"intent": {"plugins": [{"type": "x", "endpoint": SECRET, "mtu": 1500}]}}],
            "pin": {"password": 12_345_678},
        });
        let redacted = Redactor::default().json(&json);
        let text = redacted.to_string();
        assert!(
            !text.contains(SECRET) && !text.contains("12345678"),
            "{redacted:#}"
        );
        for shown in [
            "/etc/x",
            "/etc/passwd",
            "5051",
            "HOME",
            "blue",
            "/x:80",
            "1500",
            "note",
        ] {
            assert!(text.contains(shown), "{shown}: {redacted:#}");
        }
    }

    #[test]
    fn damaged_input_never_panics() {
        let texts = [
            "password=\"a\\\"b\" Authorization: Bearer x\nhttps://u:p@h/ -----BEGIN PRIVATE KEY-----\nx",
            "{\"labels\": {\"a\": \"b\"}, \"token\": \"\\\\\"}",
        ];
        let redactor = Redactor::default();
        for text in texts {
            for_damaged_input(text.as_bytes(), |bytes| {
                let text = String::from_utf8_lossy(bytes);
                let _ = redactor.text(&text);
                if let Ok(json) = serde_json::from_slice(bytes) {
                    let _ = redactor.json(&json);
                }
            });
        }
    }

    #[test]
    fn redaction_grows_with_its_text() {
        let mut redactor = Redactor::default();
        redactor.add(SECRET);
        assert_linear("redaction of a text", 20_000, |size| {
            let line = "password=\"\\\\\" https://u:p@h/ token: a\n";
            let _ = redactor.text(&line.repeat(size / line.len()));
            let _ = redactor.text(&"-----BEGIN ".repeat(size / 11));
            let _ = redactor.text(&format!("password=\"{}", "\\\"".repeat(size / 2)));
        });
    }
}
