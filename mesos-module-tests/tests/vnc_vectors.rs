//! What was asked of the real VNC API server of release 2005, asked of the simulated one.
//!
//! Every question is asked in the recorded order, and status, content type and body are compared.
//! Only what cannot be the same is put aside: ids (a recorded one stands for exactly one of ours,
//! wherever either of them turns up), times, and the server's address. The questions whose answers
//! differ all the same are listed in `vectors/differences.txt` with the reason; one that is listed
//! and does not differ fails the test as well.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use contrail_mesos_sim::vnc::{Options, Server};
use serde_json::{Map, Value};
use uuid::Uuid;

const VECTORS: &str = include_str!("../vectors/vnc-api-r2005.txt");
const DIFFERENCES: &str = include_str!("../vectors/differences.txt");
const RECORDED_AT: &str = "http://127.0.0.1:8082";

/// A recorded question and its answer.
#[derive(Debug)]
struct Vector {
    title: String,
    method: String,
    path: String,
    body: Option<String>,
    status: u16,
    content_type: String,
    answer: String,
}

fn vectors() -> Vec<Vector> {
    VECTORS
        .split("### ")
        .filter(|block| !block.trim().is_empty())
        .map(|block| {
            let (title, block) = block.split_once('\n').unwrap();
            let (question, answer) = block.split_once("\n< ").unwrap();
            let (ask, body) = match question.split_once("\n> ") {
                Some((ask, body)) => (ask, Some(body)),
                None => (question, None),
            };
            let (method, path) = ask.split_once(' ').unwrap();
            let (status, answer) = answer.split_once("\n< ").unwrap();
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
                answer: answer.trim_end_matches('\n').to_owned(),
            }
        })
        .collect()
}

/// Which recorded id stands for which of ours.
#[derive(Clone, Default)]
struct Ids {
    ours: HashMap<Uuid, Uuid>,
    recorded: HashMap<Uuid, Uuid>,
}

impl Ids {
    fn same(&mut self, recorded: Uuid, ours: Uuid) -> bool {
        *self.ours.entry(recorded).or_insert(ours) == ours
            && *self.recorded.entry(ours).or_insert(recorded) == recorded
    }

    /// A text with every recorded id replaced by ours.
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

/// A text taken apart into ids and what is between them.
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
            (Piece::Id(recorded), Piece::Id(ours)) => ids.same(*recorded, *ours),
            _ => false,
        })
}

/// The complete body of a truncated recording.
fn mend(text: &str) -> String {
    let (mut open, mut quoted, mut escaped) = (Vec::new(), false, false);
    let mut safe = (0, Vec::new());
    for (at, letter) in text.char_indices() {
        match letter {
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
    /// The recorded answer is only a beginning.
    cut: bool,
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
                self.cut || recorded.len() == ours.len()
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
        if let (Some(one), Some(other)) = (halves(recorded), halves(ours)) {
            if !self.ids.same(one, other) {
                self.differences
                    .push(format!("{at}: {one}, but here {other}"));
            }
            return;
        }
        for (name, value) in recorded {
            let at = format!("{at}.{name}");
            match ours.get(name) {
                // What is made of the id is as different as the id itself.
                Some(other) if mac(recorded, value) && mac(ours, other) => {}
                Some(other) => self.compare(&at, value, other),
                None => self
                    .differences
                    .push(format!("{at}: {value}, but nothing here")),
            }
        }
        for (name, value) in ours.iter().filter(|_| !self.cut) {
            if !recorded.contains_key(name) {
                self.differences
                    .push(format!("{at}.{name}: nothing, but here {value}"));
            }
        }
    }
}

/// The id that an object's two numbers make up.
fn halves(object: &Map<String, Value>) -> Option<Uuid> {
    let high = object.get("uuid_mslong")?.as_u64()?;
    Some(Uuid::from_u64_pair(
        high,
        object.get("uuid_lslong")?.as_u64()?,
    ))
}

/// Whether a value is the address that is made of an interface's id.
fn mac(interface: &Map<String, Value>, value: &Value) -> bool {
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
    let answer = response.text().await.unwrap();
    // The recording cut long answers off.
    let is_json = content_type == "application/json";
    let cut = is_json && serde_json::from_str::<Value>(&vector.answer).is_err();
    let recorded = if cut {
        mend(&vector.answer)
    } else {
        vector.answer.clone()
    };
    match (
        serde_json::from_str(&recorded),
        serde_json::from_str(&answer),
    ) {
        (Ok(recorded), Ok(ours)) => {
            let mut comparison = Comparison {
                ids,
                url,
                cut,
                differences,
            };
            comparison.compare("", &recorded, &ours);
            differences = comparison.differences;
        }
        _ if same_text(&vector.answer, &answer, url, ids) => {}
        _ => differences.push(format!("{:?}, but here {answer:?}", vector.answer)),
    }
    differences
}

/// The questions whose answers may differ, and why.
fn allowed() -> BTreeMap<&'static str, &'static str> {
    DIFFERENCES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_once(": ")
                .expect("every difference has its reason")
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
        let mut learned = ids.clone();
        let differences = differences(vector, &url, &mut learned).await;
        // Of an answer that is another one no id can be learned.
        if differences.is_empty() {
            ids = learned;
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
        writeln!(problems, "{title}: listed, but there is no such question").unwrap();
    }
    assert!(
        problems.is_empty(),
        "of {} questions:\n{problems}",
        vectors.len()
    );
    println!("{} questions", vectors.len());
}

#[test]
fn truncated_recording_is_completed() {
    assert_eq!(
        mend(r#"{"a": [{"b": 1, "c": "x,y"}, {"d": 2, "en"#),
        r#"{"a": [{"b": 1, "c": "x,y"}, {"d": 2}]}"#
    );
}
