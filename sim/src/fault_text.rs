//! Faults and times as control listeners read and write them.
//!
//! ```json
//! {"method": "POST", "path": "/instance-ips", "skip": 2, "times": 1, "performed": true,
//!  "effect": "cut"}
//! ```
//!
//! Effects: `"cut"`, `"cut-in-body"`, `"hang"`, `{"delay": 250}` in milliseconds,
//! `{"status": [503, "text"]}`, `{"nonsense": "text"}`, `"empty-list"`, `"half-list"`. Everything but the effect may be left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use serde_json::Value;

use super::vnc::{Effect, Fault, Keep};

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultText {
    /// Only with this method.
    #[serde(default)]
    pub method: Option<String>,
    /// Only where the path begins so.
    #[serde(default)]
    pub path: Option<String>,
    /// Not with the first so many.
    #[serde(default)]
    pub skip: u64,
    /// Only with so many.
    #[serde(default)]
    pub times: Option<u64>,
    /// Whether the request is carried out; a request that is only late always is.
    #[serde(default)]
    pub performed: bool,
    /// What the client sees.
    pub effect: EffectText,
}

/// What a client sees of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectText {
    /// The right answer, so many milliseconds later.
    Delay(u64),
    /// Another status and text.
    Status(u16, String),
    /// 200, JSON by name, and this.
    Nonsense(String),
    /// The right answer, but its list is empty.
    EmptyList,
    /// The right answer, but with the first half of its list only.
    HalfList,
    /// The connection ends without an answer.
    Cut,
    /// The connection ends within the answer.
    CutInBody,
    /// No answer, and the connection stays.
    Hang,
}

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milliseconds {
    /// How long.
    pub milliseconds: u64,
}

impl From<Duration> for Milliseconds {
    fn from(time: Duration) -> Self {
        let milliseconds = time.as_millis().try_into().unwrap_or(u64::MAX);
        Self { milliseconds }
    }
}

impl From<Milliseconds> for Duration {
    fn from(time: Milliseconds) -> Self {
        Self::from_millis(time.milliseconds)
    }
}

impl From<FaultText> for Fault {
    fn from(text: FaultText) -> Self {
        let effect = match text.effect {
            EffectText::Delay(time) => Effect::Delay(Duration::from_millis(time)),
            EffectText::Status(status, text) => Effect::Status(status, text),
            EffectText::Nonsense(text) => Effect::Nonsense(text),
            EffectText::EmptyList => Effect::List(Keep::None),
            EffectText::HalfList => Effect::List(Keep::Half),
            EffectText::Cut => Effect::Cut,
            EffectText::CutInBody => Effect::CutInBody,
            EffectText::Hang => Effect::Hang,
        };
        Self {
            method: text.method,
            path: text.path,
            skip: text.skip,
            times: text.times,
            performed: text.performed || effect.needs_the_answer(),
            effect,
        }
    }
}

impl From<Fault> for FaultText {
    fn from(fault: Fault) -> Self {
        Self {
            method: fault.method,
            path: fault.path,
            skip: fault.skip,
            times: fault.times,
            performed: fault.performed,
            effect: match fault.effect {
                Effect::Delay(time) => EffectText::Delay(Milliseconds::from(time).milliseconds),
                Effect::Status(status, text) => EffectText::Status(status, text),
                Effect::Nonsense(text) => EffectText::Nonsense(text),
                Effect::List(Keep::None) => EffectText::EmptyList,
                Effect::List(Keep::Half) => EffectText::HalfList,
                Effect::Cut => EffectText::Cut,
                Effect::CutInBody => EffectText::CutInBody,
                Effect::Hang => EffectText::Hang,
            },
        }
    }
}

/// Leaves only so much of an answer that is a list, or whose fields are.
pub(crate) fn keep_of_lists(answer: &mut Value, keep: Keep) {
    let shorten = |list: &mut Vec<Value>| match keep {
        Keep::None => list.clear(),
        Keep::Half => list.truncate(list.len() / 2),
    };
    match answer {
        Value::Array(list) => shorten(list),
        Value::Object(fields) => fields
            .values_mut()
            .filter_map(Value::as_array_mut)
            .for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_being_written_and_read() {
        for effect in [
            r#""cut""#,
            r#""cut-in-body""#,
            r#""hang""#,
            r#"{"delay":250}"#,
            r#"{"status":[503,"busy"]}"#,
            r#"{"nonsense":"[}"}"#,
            r#""empty-list""#,
            r#""half-list""#,
        ] {
            let text = format!(r#"{{"path":"/vm","skip":2,"times":1,"effect":{effect}}}"#);
            let read: FaultText = serde_json::from_str(&text).unwrap();
            let fault = Fault::from(read);
            assert_eq!((fault.skip, fault.times), (2, Some(1)));
            let written = serde_json::to_value(FaultText::from(fault)).unwrap();
            let effect: serde_json::Value = serde_json::from_str(effect).unwrap();
            assert_eq!(written["effect"], effect);
            let late = effect.get("delay").is_some();
            let list = effect.as_str().is_some_and(|word| word.ends_with("-list"));
            assert_eq!(written["performed"], late || list);
        }
        assert!(serde_json::from_str::<FaultText>(r#"{"effect":"melt"}"#).is_err());
        assert!(serde_json::from_str::<FaultText>(r#"{"pat":"/vm","effect":"cut"}"#).is_err());
    }
}
