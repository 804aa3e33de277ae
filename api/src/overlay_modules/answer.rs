//! Answers of the endpoints: JSON, JSONP or protobuf.

use prost::Message;
use serde::Serialize;

use crate::text::Quoted;

const JSON: &str = "application/json";
const JAVASCRIPT: &str = "text/javascript";
const PROTOBUF: &str = "application/x-protobuf";
/// The longest name of a JSONP function.
const MAX_CALLBACK_BYTES: usize = 128;

/// The body of an answer, and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The header `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The client accepts none of the types. The HTTP status is 415, as that of the DC/OS modules.
    #[error("the client must accept {JSON} or {PROTOBUF}")]
    NotAccepted,
    /// The parameter `jsonp` is not the name of a function.
    #[error("{0} is not the name of a function; write letters, digits, dots, _ and $")]
    Callback(String),
}

/// Answers with a message. `accept` is the header `Accept`; `jsonp` the function that gets the JSON.
pub fn answer(
    message: &(impl Message + Serialize),
    accept: Option<&[u8]>,
    jsonp: Option<&str>,
) -> Result<Answer, AnswerError> {
    let accept = accept.map(String::from_utf8_lossy);
    let accepts = |kind: &str| accept.as_deref().is_none_or(|accept| accepts(accept, kind));
    if accepts(JSON) {
        // Serialization fails only for maps whose keys are not strings; there are none.
        let json = serde_json::to_string(message).unwrap_or_default();
        let Some(callback) = jsonp else {
            return Ok(Answer {
                content_type: JSON,
                body: json.into_bytes(),
            });
        };
        let is_name = (1..=MAX_CALLBACK_BYTES).contains(&callback.len())
            && callback
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte));
        if !is_name {
            return Err(AnswerError::Callback(
                Quoted(callback.as_bytes()).to_string(),
            ));
        }
        return Ok(Answer {
            content_type: JAVASCRIPT,
            body: format!("{callback}({json});").into_bytes(),
        });
    }
    if accepts(PROTOBUF) {
        return Ok(Answer {
            content_type: PROTOBUF,
            body: message.encode_to_vec(),
        });
    }
    Err(AnswerError::NotAccepted)
}

/// The value of a parameter of a query, decoded; none if it is not there. Others are ignored, as the
/// DC/OS modules do.
#[must_use]
pub fn query_parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// Whether a header `Accept` has this type, by itself or by a wildcard.
fn accepts(header: &str, kind: &str) -> bool {
    let group = kind.split('/').next().unwrap_or_default();
    header.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_excluded = parts.any(|part| {
            let quality = part
                .strip_prefix("q=")
                .and_then(|quality| quality.parse::<f32>().ok());
            quality.is_some_and(|quality| quality <= 0.0)
        });
        let is_kind = name == kind || name == "*/*" || name == format!("{group}/*");
        is_kind && !is_excluded
    })
}

#[cfg(test)]
mod tests {
    use super::super::proto::AgentInfo;
    use super::*;

    #[test]
    fn client_gets_what_it_accepts() {
        let agent = AgentInfo {
            ip: "10.0.0.5".to_owned(),
            ..AgentInfo::default()
        };
        let kind = |accept: Option<&str>| {
            let answer = answer(&agent, accept.map(str::as_bytes), None);
            answer.map(|answer| answer.content_type)
        };
        for accept in [
            None,
            Some("*/*"),
            Some("text/html, application/*;q=0.5"),
            Some("application/x-protobuf, application/json"),
        ] {
            assert_eq!(kind(accept), Ok(JSON), "{accept:?}");
        }
        assert_eq!(kind(Some("application/x-protobuf")), Ok(PROTOBUF));
        assert_eq!(
            kind(Some("application/json;q=0, */*;q=0")),
            Err(AnswerError::NotAccepted)
        );
        assert_eq!(kind(Some("text/html")), Err(AnswerError::NotAccepted));
        let protobuf = answer(&agent, Some(PROTOBUF.as_bytes()), None).unwrap();
        assert_eq!(protobuf.body, agent.encode_to_vec());
    }

    #[test]
    fn jsonp_calls_only_what_is_a_name() {
        let agent = AgentInfo::default();
        let call = answer(&agent, None, Some("jQuery._1")).unwrap();
        assert_eq!(call.content_type, JAVASCRIPT);
        assert_eq!(call.body, b"jQuery._1({\"ip\":\"\"});");
        for callback in ["", "alert(1)//", "<script>", &"x".repeat(129)] {
            let error = answer(&agent, None, Some(callback)).unwrap_err();
            assert!(matches!(error, AnswerError::Callback(_)), "{error}");
        }
    }
}
