//! Repeats the requests that were recorded with the real VNC API server of release 2005 on the
//! simulated one.
//!
//! The requests are sent in the recorded order, and status, content type and body are compared.
//! Times and the server's address are ignored, and each recorded id corresponds to exactly one id of
//! ours, wherever one of them occurs. `vectors/differences.txt` lists the requests whose responses
//! may differ, with the reasons. A listed request whose response does not differ fails the test, too.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use contrail_mesos_sim::vnc::{Options, Server};
use serde_json::{Map, Value};
use uuid::Uuid;

const VECTORS: &str = include_str!("../vectors/vnc-api-r2005.txt");
const DIFFERENCES: &str = include_str!("../vectors/differences.txt");
const RECORDED_AT: &str = "http://127.0.0.1:8082";

/// A recorded request and its response.
#[derive(Debug)]
struct Vector {
    title: String,
    method: String,
    path: String,
    body: Option<String>,
    status: u16,
    content_type: String,
    response: String,
}

fn vectors() -> Vec<Vector> {
    VECTORS
        .split("### ")
        .filter(|block| !block.trim().is_empty())
        .map(|block| {
            let (title, block) = block.split_once('\n').unwrap();
            let (request, response) = block.split_once("\n< ").unwrap();
            let (line, body) = match request.split_once("\n> ") {
                Some((line, body)) => (line, Some(body)),
                None => (request, None),
            };
            let (method, path) = line.split_once(' ').unwrap();
            let (status, response) = response.split_once("\n< ").unwrap();
            let (status, content_type) = status.split_once(" ct=").unwrap();
            Vector {
                title: title.to_owned(),
                method: method.to_owned(),
                path: path.to_owned(),
                body: body.map(|body| match body.strip_prefix("RAW ") {
                    Some(raw) => raw.trim_matches('\'').to_owned(),
                    None => body.to_owned(),
                }),
                status: status.split(' ').next().unwrap().parse().unwrap(),
                content_type: content_type.to_owned(),
                response: response.trim_end_matches('\n').to_owned(),
            }
        })
        .collect()
}

/// The recorded ids and the corresponding ids of ours.
#[derive(Clone, Default)]
struct Ids {
    ours: HashMap<Uuid, Uuid>,
    recorded: HashMap<Uuid, Uuid>,
}

impl Ids {
    fn correspond(&mut self, recorded: Uuid, ours: Uuid) -> bool {
        *self.ours.entry(recorded).or_insert(ours) == ours
            && *self.recorded.entry(ours).or_insert(recorded) == recorded
    }

    /// Replaces every recorded id with ours.
    fn translate(&self, text: &str) -> String {
        let mut out = String::new();
        for piece in pieces(text) {
            match piece {
                Piece::Id(id) => {
                    let id = self.ours.get(&id).copied().unwrap_or(id);
                    write!(out, "{id}").unwrap();
                }
                Piece::Text(text) => out.push_str(text),
            }
        }
        out
    }
}

#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    Id(Uuid),
}

/// Splits a text into ids and the parts between them.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let id = text
            .get(at..at + 36)
            .filter(|id| id.as_bytes()[8] == b'-')
            .and_then(|id| Uuid::try_parse(id).ok());
        if let Some(id) = id {
            pieces.push(Piece::Text(&text[start..at]));
            pieces.push(Piece::Id(id));
            at += 36;
            start = at;
        } else {
            at += 1;
        }
    }
    pieces.push(Piece::Text(&text[start..]));
    pieces
}

fn same_text(recorded: &str, ours: &str, url: &str, ids: &mut Ids) -> bool {
    let recorded = recorded.replace(RECORDED_AT, "http://server");
    let ours = ours.replace(url, "http://server");
    let (recorded, ours) = (pieces(&recorded), pieces(&ours));
    recorded.len() == ours.len()
        && recorded.iter().zip(&ours).all(|pair| match pair {
            (Piece::Text(recorded), Piece::Text(ours)) => recorded == ours,
            (Piece::Id(recorded), Piece::Id(ours)) => ids.correspond(*recorded, *ours),
            _ => false,
        })
}

/// Completes a truncated JSON body.
fn complete(text: &str) -> String {
    let (mut open, mut quoted, mut escaped) = (Vec::new(), false, false);
    let mut safe = (0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => {
                open.pop();
                safe = (at + 1, open.clone());
            }
            ',' => safe = (at, open.clone()),
            _ => {}
        }
    }
    let (end, open) = safe;
    let closing: String = open.into_iter().rev().collect();
    format!("{}{closing}", &text[..end])
}

struct Comparison<'a> {
    ids: &'a mut Ids,
    url: &'a str,
    /// Whether the recorded response is truncated.
    truncated: bool,
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn compare(&mut self, at: &str, recorded: &Value, ours: &Value) {
        let same = match (recorded, ours) {
            (Value::Object(recorded), Value::Object(ours)) => {
                return self.objects(at, recorded, ours);
            }
            (Value::Array(recorded), Value::Array(ours)) => {
                for (index, recorded) in recorded.iter().enumerate() {
                    let ours = ours.get(index).unwrap_or(&Value::Null);
                    self.compare(&format!("{at}[{index}]"), recorded, ours);
                }
                self.truncated || recorded.len() == ours.len()
            }
            (Value::String(recorded), Value::String(ours)) => {
                let is_time = at.ends_with(".created") || at.ends_with(".last_modified");
                if is_time {
                    recorded.len() == ours.len()
                } else {
                    same_text(recorded, ours, self.url, self.ids)
                }
            }
            _ => recorded == ours,
        };
        if !same {
            self.differences
                .push(format!("{at}: {recorded}, but here {ours}"));
        }
    }

    fn objects(&mut self, at: &str, recorded: &Map<String, Value>, ours: &Map<String, Value>) {
        if let (Some(recorded), Some(ours)) = (uuid_of(recorded), uuid_of(ours)) {
            if !self.ids.correspond(recorded, ours) {
                self.differences
                    .push(format!("{at}: {recorded}, but here {ours}"));
            }
            return;
        }
        for (name, value) in recorded {
            let at = format!("{at}.{name}");
            match ours.get(name) {
                // The MAC address derives from the id.
                Some(other) if is_own_mac(recorded, value) && is_own_mac(ours, other) => {}
                Some(other) => self.compare(&at, value, other),
                None => self
                    .differences
                    .push(format!("{at}: {value}, but nothing here")),
            }
        }
        for (name, value) in ours.iter().filter(|_| !self.truncated) {
            if !recorded.contains_key(name) {
                self.differences
                    .push(format!("{at}.{name}: nothing, but here {value}"));
            }
        }
    }
}

/// The id in an object's two numbers.
fn uuid_of(object: &Map<String, Value>) -> Option<Uuid> {
    let high = object.get("uuid_mslong")?.as_u64()?;
    Some(Uuid::from_u64_pair(
        high,
        object.get("uuid_lslong")?.as_u64()?,
    ))
}

/// Whether a value is the MAC address that derives from the interface's id.
fn is_own_mac(interface: &Map<String, Value>, value: &Value) -> bool {
    let uuid = interface
        .get("uuid")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mac = value["mac_address"][0].as_str().unwrap_or_default();
    uuid.len() == 36 && mac.replace(':', "") == format!("02{}{}", &uuid[..8], &uuid[9..11])
}

async fn differences(vector: &Vector, url: &str, ids: &mut Ids) -> Vec<String> {
    let client = reqwest::Client::new();
    let target = format!("{url}{}", ids.translate(&vector.path));
    let mut request = client.request(vector.method.parse().unwrap(), target);
    if let Some(body) = &vector.body {
        if !vector.title.contains("no content-type") {
            request = request.header("content-type", "application/json");
        }
        request = request.body(ids.translate(body));
    }
    let response = request.send().await.unwrap();
    let mut differences = Vec::new();
    let status = response.status().as_u16();
    if status != vector.status {
        differences.push(format!("status {}, but here {status}", vector.status));
    }
    let content_type = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    if content_type != vector.content_type {
        differences.push(format!("{}, but here {content_type}", vector.content_type));
    }
    let text = response.text().await.unwrap();
    // Long responses are truncated in the recording.
    let is_json = content_type == "application/json";
    let truncated = is_json && serde_json::from_str::<Value>(&vector.response).is_err();
    let recorded = if truncated {
        complete(&vector.response)
    } else {
        vector.response.clone()
    };
    match (serde_json::from_str(&recorded), serde_json::from_str(&text)) {
        (Ok(recorded), Ok(ours)) => {
            let mut comparison = Comparison {
                ids,
                url,
                truncated,
                differences,
            };
            comparison.compare("", &recorded, &ours);
            differences = comparison.differences;
        }
        _ if same_text(&vector.response, &text, url, ids) => {}
        _ => differences.push(format!("{:?}, but here {text:?}", vector.response)),
    }
    differences
}

/// The requests whose responses may differ, with the reasons.
fn allowed() -> BTreeMap<&'static str, &'static str> {
    DIFFERENCES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_once(": ")
                .expect("every difference has a reason")
        })
        .collect()
}

#[tokio::test]
async fn recorded_requests_get_the_recorded_responses() {
    let (_, server) = Server::start(Options::default()).await.unwrap();
    let url = server.url();
    let (mut ids, mut problems) = (Ids::default(), String::new());
    let mut allowed = allowed();
    let vectors = vectors();
    assert_eq!(vectors.len(), VECTORS.matches("### ").count());
    for vector in &vectors {
        let mut matched_ids = ids.clone();
        let differences = differences(vector, &url, &mut matched_ids).await;
        // A response that differs may have other ids.
        if differences.is_empty() {
            ids = matched_ids;
        }
        match (
            allowed.remove(vector.title.as_str()),
            differences.is_empty(),
        ) {
            (None, true) | (Some(_), false) => {}
            (Some(_), true) => {
                writeln!(problems, "{}: listed, but does not differ", vector.title).unwrap();
            }
            (None, false) => {
                let differences = differences.join("\n    ");
                writeln!(problems, "{}:\n    {differences}", vector.title).unwrap();
            }
        }
    }
    for title in allowed.keys() {
        writeln!(problems, "{title}: listed, but there is no such request").unwrap();
    }
    assert!(
        problems.is_empty(),
        "of {} requests:\n{problems}",
        vectors.len()
    );
    println!("{} requests", vectors.len());
}

#[test]
fn truncated_recording_is_completed() {
    assert_eq!(
        complete(r#"{"a": [{"b": 1, "c": "x,y"}, {"d": 2, "en"#),
        r#"{"a": [{"b": 1, "c": "x,y"}, {"d": 2}]}"#
    );
}
