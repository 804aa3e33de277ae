//! Ids of run specs (apps and pods), instances and tasks, in the formats of 1.7 and of 1.8 to 1.11.
//!
//! ```text
//!                   1.7                             1.8 to 1.11
//! instance, app     a_b.marathon-UUID               a_b.instance-UUID
//! instance, pod     a_b.instance-UUID               a_b.instance-UUID
//! task of an app    a_b.UUID[.ATTEMPT]              a_b.instance-UUID._app.N
//! task of a pod     a_b.instance-UUID.CONTAINER[.ATTEMPT]
//!                                                   a_b.instance-UUID.CONTAINER.N
//! executor, pod     instance-a_b.UUID               instance-a_b.UUID
//! ```
//!
//! Invariant: a parsed run spec id is safe in the path of a request.

use std::fmt;

/// The container name in the task id of an app.
const APP_CONTAINER_NAME: &str = "_app";

/// The id of an app or a pod: `/shop/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunSpecId(Box<str>);

impl RunSpecId {
    /// Parses an id; `None` unless it has Marathon's format.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let path = text.strip_prefix('/')?;
        path.split('/').all(is_element).then(|| Self(text.into()))
    }

    /// Parses the prefix of a task or instance id: `shop_web`.
    fn from_safe_path(text: &str) -> Option<Self> {
        Self::parse(&format!("/{}", text.replace('_', "/")))
    }

    /// The prefix of task and instance ids: `shop_web`.
    #[must_use]
    pub fn safe_path(&self) -> String {
        self.0.trim_start_matches('/').replace('/', "_")
    }

    /// The id as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunSpecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a string is a valid path element. More lenient than Marathon about hyphens and case, but
/// rejects everything with a meaning in URLs.
fn is_element(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= 255
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// The id of an instance, with its run spec.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstanceId {
    /// The app or pod.
    pub run_spec: RunSpecId,
    /// The complete id.
    pub id: Box<str>,
}

impl InstanceId {
    /// Parses an instance id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (path, rest) = split_prefix(text)?;
        is_uuid(rest).then_some(())?;
        Some(Self {
            run_spec: RunSpecId::from_safe_path(path)?,
            id: text.into(),
        })
    }
}

/// Splits at `.instance-` or `.marathon-` into `PATH` and the rest.
fn split_prefix(text: &str) -> Option<(&str, &str)> {
    // The last occurrence: an element of the path may contain the separator too.
    let (index, length) = [".instance-", ".marathon-"]
        .into_iter()
        .filter_map(|separator| Some((text.rfind(separator)?, separator.len())))
        .max()?;
    Some((&text[..index], &text[index + length..]))
}

/// As lenient as Marathon itself: UUIDs have neither dots nor underscores.
fn is_uuid(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The parsed id of a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    /// The instance, with the app or pod.
    pub instance: InstanceId,
    /// The container's name; `None` for the task of an app.
    pub container: Option<Box<str>>,
    /// The number of launches of the instance, if the id has it.
    pub incarnation: Option<u64>,
}

impl TaskId {
    /// Parses a task id in any format.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let instance = |path: &str, kind: &str, uuid: &str| {
            is_uuid(uuid).then_some(())?;
            Some(InstanceId {
                run_spec: RunSpecId::from_safe_path(path)?,
                id: format!("{path}.{kind}-{uuid}").into(),
            })
        };
        if let Some((path, rest)) = split_prefix(text) {
            let (uuid, container) = rest.split_once('.')?;
            let kind = &text[path.len() + 1..path.len() + 1 + "instance".len()];
            let (container, incarnation) = split_number(container);
            let is_name = !container.is_empty() && !container.contains('.');
            return Some(Self {
                instance: instance(path, kind, uuid).filter(|_| is_name)?,
                container: (container != APP_CONTAINER_NAME).then(|| container.into()),
                incarnation,
            });
        }
        // The task of an app in 1.7: PATH.UUID[.ATTEMPT]
        let (text, incarnation) = split_number(text);
        let (path, uuid) = text.rsplit_once('.')?;
        Some(Self {
            instance: instance(path, "marathon", uuid)?,
            container: None,
            incarnation,
        })
    }
}

/// Splits off the suffix `.N`.
fn split_number(text: &str) -> (&str, Option<u64>) {
    text.rsplit_once('.')
        .and_then(|(rest, number)| Some((rest, Some(number.parse().ok()?))))
        .unwrap_or((text, None))
}

/// The instance of a pod's executor.
#[must_use]
pub fn instance_of_executor(executor: &str) -> Option<InstanceId> {
    let (path, uuid) = executor.strip_prefix("instance-")?.rsplit_once('.')?;
    InstanceId::parse(&format!("{path}.instance-{uuid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0bcd1234-c7a5-11ea-8f39-0242ac110002";

    #[test]
    fn task_id_parses_in_all_formats() {
        for (text, instance, container, incarnation) in [
            ("a_b.instance-U._app.1", "a_b.instance-U", None, Some(1)),
            ("a_b.marathon-U._app.3", "a_b.marathon-U", None, Some(3)),
            ("a_b.instance-U.c1.7", "a_b.instance-U", Some("c1"), Some(7)),
            ("a_b.instance-U.c1", "a_b.instance-U", Some("c1"), None),
            ("a_b.U", "a_b.marathon-U", None, None),
            ("a_b.U.2", "a_b.marathon-U", None, Some(2)),
        ] {
            let text = text.replace('U', UUID);
            let task = TaskId::parse(&text).unwrap();
            assert_eq!(task.instance.run_spec.as_str(), "/a/b", "{text}");
            assert_eq!(*task.instance.id, *instance.replace('U', UUID), "{text}");
            assert_eq!(task.container.as_deref(), container, "{text}");
            assert_eq!(task.incarnation, incarnation, "{text}");
        }
    }

    #[test]
    fn task_id_parses_with_dots_in_path() {
        let text = format!("a.instance-1_b.c.instance-{UUID}._app.1");
        let task = TaskId::parse(&text).unwrap();
        assert_eq!(task.instance.run_spec.as_str(), "/a.instance-1/b.c");
    }

    #[test]
    fn instance_id_parses_from_instance_and_executor() {
        let instance = InstanceId::parse(&format!("a_b.instance-{UUID}")).unwrap();
        assert_eq!(instance.run_spec.as_str(), "/a/b");
        assert_eq!(instance.run_spec.safe_path(), "a_b");
        assert_eq!(
            instance_of_executor(&format!("instance-a_b.{UUID}")),
            Some(instance)
        );
        assert_eq!(instance_of_executor("web"), None);
    }

    #[test]
    fn invalid_ids_do_not_parse() {
        for text in [
            "",
            "web",
            ".",
            "..",
            "a_b.instance-",
            "a_b.instance-x.",
            "a_b.instance-x.c.d.1",
            "../a.instance-x._app.1",
            "a?b.x",
        ] {
            assert_eq!(TaskId::parse(text), None, "{text:?}");
        }
        for text in [
            "", "/", "a", "/a//b", "/a/", "/../a", "/a?b", "/a%2fb", "/a b", "/ä",
        ] {
            assert_eq!(RunSpecId::parse(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "[._a-z0-9-]{0,40}|.{0,40}") {
            let _ = (TaskId::parse(&text), InstanceId::parse(&text), instance_of_executor(&text));
        }
    }
}
