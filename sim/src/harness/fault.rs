//! Faults, in Rust and as control listeners read and write them.
//!
//! ```json
//! {"method": "POST", "path": "/instance-ips", "skip": 2, "times": 1, "performed": true,
//!  "effect": "cut"}
//! ```
//!
//! Effects: `"cut"`, `"cut-in-body"`, `"hang"`, `{"delay": 250}` in milliseconds,
//! `{"status": [503, "text"]}`, `{"invalid-body": "text"}`, `"empty-list"`, `"half-list"`. All
//! fields but the effect are optional.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lock;

/// A fault: which requests it applies to, and its effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Only requests with this method.
    #[serde(default)]
    pub method: Option<String>,
    /// Only requests whose path begins like this.
    #[serde(default)]
    pub path: Option<String>,
    /// How many requests to leave alone first.
    #[serde(default)]
    pub skip: u64,
    /// How many requests to apply to; all if it is none.
    #[serde(default)]
    pub times: Option<u64>,
    /// Whether the request is carried out although the client does not receive its response. A
    /// request that is only delayed or shortened always is.
    #[serde(default)]
    pub performed: bool,
    /// What the client sees.
    pub effect: Effect,
}

/// What a client sees of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The correct response after a delay.
    Delay(#[serde(with = "milliseconds")] Duration),
    /// Another status and body.
    Status(u16, String),
    /// 200, a JSON content type, and this body.
    InvalidBody(String),
    /// The correct response with its list emptied.
    EmptyList,
    /// The correct response with the first half of its list only, rounded down.
    HalfList,
    /// The connection closes without a response.
    Cut,
    /// The connection closes within the response body.
    CutInBody,
    /// No response, and the connection stays open.
    Hang,
}

impl Effect {
    /// Whether the effect alters the correct response, so that there has to be one.
    fn needs_response(&self) -> bool {
        matches!(self, Self::Delay(_) | Self::EmptyList | Self::HalfList)
    }

    /// Shortens a response that is a list, or whose fields are lists.
    pub(super) fn shorten_lists(&self, response: &mut Value) {
        let shorten = |list: &mut Vec<Value>| match self {
            Self::EmptyList => list.clear(),
            _ => list.truncate(list.len() / 2),
        };
        match response {
            Value::Array(list) => shorten(list),
            Value::Object(fields) => fields
                .values_mut()
                .filter_map(Value::as_array_mut)
                .for_each(shorten),
            _ => {}
        }
    }
}

impl Fault {
    /// A fault of every request, which is not carried out unless the effect needs its response.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            method: None,
            path: None,
            skip: 0,
            times: None,
            performed: effect.needs_response(),
            effect,
        }
    }

    /// Limits the fault to requests with this method and a path that begins like this.
    #[must_use]
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.method = Some(method.to_owned());
        self.path = Some(path.to_owned());
        self
    }

    /// Limits the fault to `times` requests, after `skip` that succeed.
    #[must_use]
    pub fn times(mut self, skip: u64, times: u64) -> Self {
        self.skip = skip;
        self.times = Some(times);
        self
    }

    /// Carries the request out although the client does not receive its response.
    #[must_use]
    pub fn performed(mut self) -> Self {
        self.performed = true;
        self
    }

    /// Whether the fault applies to this request; counts the requests that it could apply to.
    fn applies(&mut self, method: &str, path: &str) -> bool {
        let matches = self.method.as_ref().is_none_or(|only| only == method)
            && self
                .path
                .as_ref()
                .is_none_or(|start| path.starts_with(start.as_str()));
        matches && countdown(&mut self.skip, &mut self.times)
    }
}

/// Whether the next match of a fault takes effect: not the first `skip`, then `times` of them.
pub(crate) fn countdown(skip: &mut u64, times: &mut Option<u64>) -> bool {
    if *times == Some(0) {
        return false;
    }
    if *skip > 0 {
        *skip -= 1;
        return false;
    }
    if let Some(times) = times {
        *times -= 1;
    }
    true
}

/// The faults of a simulated service, and how long it delays every response.
///
/// A service may have several servers: a fault is of one of them, or of any.
#[derive(Default)]
pub(crate) struct FaultTable {
    faults: Mutex<Vec<(Option<usize>, Fault)>>,
    delay: Mutex<Duration>,
}

impl FaultTable {
    /// Adds a fault. Of several faults that match a request, the one that was added first applies.
    pub(crate) fn add(&self, server: Option<usize>, mut fault: Fault) {
        fault.performed |= fault.effect.needs_response();
        lock(&self.faults).push((server, fault));
    }

    pub(crate) fn clear(&self) {
        lock(&self.faults).clear();
    }

    pub(crate) fn list(&self) -> Vec<(Option<usize>, Fault)> {
        lock(&self.faults).clone()
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        *lock(&self.delay) = delay;
    }

    pub(crate) fn delay(&self) -> Duration {
        *lock(&self.delay)
    }

    /// The effect on this request, and whether to carry it out. `is_meant` decides whether a fault
    /// of a server, or of any, concerns the server that received the request.
    pub(super) fn effect_on(
        &self,
        is_meant: impl Fn(Option<usize>) -> bool,
        method: &str,
        path: &str,
    ) -> (Option<Effect>, bool) {
        lock(&self.faults)
            .iter_mut()
            .find_map(|(server, fault)| {
                let applies = is_meant(*server) && fault.applies(method, path);
                applies.then(|| (Some(fault.effect.clone()), fault.performed))
            })
            .unwrap_or((None, true))
    }
}

/// Durations as whole milliseconds, for `#[serde(with)]`.
pub(crate) mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
        u64::try_from(time.as_millis())
            .unwrap_or(u64::MAX)
            .serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        u64::deserialize(input).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_json_round_trips() {
        for effect in [
            r#""cut""#,
            r#""cut-in-body""#,
            r#""hang""#,
            r#"{"delay":250}"#,
            r#"{"status":[503,"busy"]}"#,
            r#"{"invalid-body":"[}"}"#,
            r#""empty-list""#,
            r#""half-list""#,
        ] {
            let json = format!(r#"{{"path":"/vm","skip":2,"times":1,"effect":{effect}}}"#);
            let fault: Fault = serde_json::from_str(&json).unwrap();
            assert_eq!((fault.skip, fault.times), (2, Some(1)));
            let table = FaultTable::default();
            table.add(None, fault);
            let written = serde_json::to_value(&table.list()[0].1).unwrap();
            let effect: Value = serde_json::from_str(effect).unwrap();
            assert_eq!(written["effect"], effect);
            let delayed = effect.get("delay").is_some();
            let list = effect.as_str().is_some_and(|word| word.ends_with("-list"));
            assert_eq!(written["performed"], delayed || list);
        }
        assert!(serde_json::from_str::<Fault>(r#"{"effect":"melt"}"#).is_err());
        assert!(serde_json::from_str::<Fault>(r#"{"pat":"/vm","effect":"cut"}"#).is_err());
    }
}
