//! Marathon's identifiers: paths, instances, tasks and executors, in the forms of 1.7 and of 1.8 to
//! 1.11.
//!
//! Invariant: elements of a path contain no `_`, so that the flattened form in instance and task
//! ids can be parsed unambiguously.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The last part of an app's task id, where a pod's has the container's name.
const APP_CONTAINER: &str = "_app";

/// An absolute path that names an app, a pod or a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PathId(Vec<String>);

/// A path with an invalid element.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must fully match regular expression \
     '^(([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])\\.)*([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])|(\\.|\\.\\.)$'"
)]
pub struct InvalidPath;

impl PathId {
    /// Parses a path; like the API, it resolves relative paths against the root group.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let elements: Vec<String> = text
            .split('/')
            .filter(|element| !element.is_empty())
            .map(str::to_owned)
            .collect();
        if elements.is_empty() || !elements.iter().all(|element| is_path_element(element)) {
            return Err(InvalidPath);
        }
        Ok(Self(elements))
    }

    /// `/a/b` as it appears in instance and task ids: `a_b`.
    #[must_use]
    pub fn safe_path(&self) -> String {
        self.0.join("_")
    }

    /// `/shop/web` as a name for service discovery: `web.shop`.
    #[must_use]
    pub fn to_hostname(&self) -> String {
        let mut elements: Vec<&str> = self.0.iter().map(String::as_str).collect();
        elements.reverse();
        elements.join(".")
    }

    /// Whether this is inside a group (an absolute path, `/` for all).
    #[must_use]
    pub fn is_below(&self, group: &str) -> bool {
        let group: Vec<&str> = group.split('/').filter(|part| !part.is_empty()).collect();
        self.0.len() > group.len() && self.0.iter().zip(&group).all(|(own, other)| own == other)
    }
}

/// A DNS label, or several joined by dots.
fn is_path_element(element: &str) -> bool {
    element.split('.').all(is_name)
}

/// Whether `text` is a lower-case DNS label, as names of pods, containers and endpoints are.
/// named with.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

impl fmt::Display for PathId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|element| write!(out, "/{element}"))
    }
}

impl From<PathId> for String {
    fn from(path: PathId) -> Self {
        path.to_string()
    }
}

impl TryFrom<String> for PathId {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        Self::parse(&text)
    }
}

/// The format of the ids of an instance and its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdFormat {
    /// An app's before 1.8: `a_b.marathon-UUID` and `a_b.UUID`.
    OldApp,
    /// A pod's before 1.8: `a_b.instance-UUID` and `a_b.instance-UUID.CONTAINER`.
    OldPod,
    /// Any since 1.8: `a_b.instance-UUID` and `a_b.instance-UUID.CONTAINER.N`.
    Incarnated,
}

/// One instance of an app or a pod. Since 1.8 it keeps its id when it is launched again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    safe_path: String,
    uuid: Uuid,
    format: IdFormat,
}

impl InstanceId {
    /// A new instance's id. `node` is the node of its time-based UUID.
    #[must_use]
    pub fn new(run_spec: &PathId, format: IdFormat, node: [u8; 6]) -> Self {
        Self::with_uuid(run_spec, format, Uuid::now_v1(&node))
    }

    /// The id of an instance with this UUID.
    #[must_use]
    pub fn with_uuid(run_spec: &PathId, format: IdFormat, uuid: Uuid) -> Self {
        Self {
            safe_path: run_spec.safe_path(),
            uuid,
            format,
        }
    }

    /// The path of the app or pod.
    #[must_use]
    pub fn run_spec(&self) -> String {
        format!("/{}", self.safe_path.replace('_', "/"))
    }

    /// The id of the default executor of a pod's instance, in which the instance's id comes first.
    #[must_use]
    pub fn executor_id(&self) -> String {
        format!("instance-{}.{}", self.safe_path, self.uuid)
    }

    /// The id of a task: of the app, or of a pod's container.
    #[must_use]
    pub fn task_id(&self, container: Option<&str>, incarnation: u32) -> String {
        let container = container.unwrap_or(APP_CONTAINER);
        match self.format {
            IdFormat::OldApp => format!("{}.{}", self.safe_path, self.uuid),
            IdFormat::OldPod => format!("{self}.{container}"),
            IdFormat::Incarnated => format!("{self}.{container}.{incarnation}"),
        }
    }

    /// Parses a task id that this Marathon created.
    #[must_use]
    pub fn of_task(task_id: &str) -> Option<Self> {
        let Some((safe_path, rest)) = task_id.rsplit_once(".instance-") else {
            let (safe_path, uuid) = task_id.rsplit_once('.')?;
            return Self::read(safe_path, uuid, IdFormat::OldApp);
        };
        let (uuid, container) = rest.split_once('.')?;
        match container.split_once('.') {
            None => Self::read(safe_path, uuid, IdFormat::OldPod),
            Some((_, incarnation)) => {
                incarnation.parse::<u32>().ok()?;
                Self::read(safe_path, uuid, IdFormat::Incarnated)
            }
        }
    }

    fn read(safe_path: &str, uuid: &str, format: IdFormat) -> Option<Self> {
        Some(Self {
            safe_path: safe_path.to_owned(),
            uuid: uuid.parse().ok()?,
            format,
        })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.format {
            IdFormat::OldApp => "marathon",
            IdFormat::OldPod | IdFormat::Incarnated => "instance",
        };
        write!(out, "{}.{kind}-{}", self.safe_path, self.uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_parse_resolves_and_validates() {
        let path = PathId::parse("shop/web").unwrap();
        assert_eq!(path.to_string(), "/shop/web");
        assert_eq!(path.safe_path(), "shop_web");
        assert_eq!(path.to_hostname(), "web.shop");
        assert!(path.is_below("/shop") && path.is_below("/") && !path.is_below("/shop/web"));
        for bad in ["", "/", "/a_b", "/A", "/-a", "/a-", "/a b", "/a..b"] {
            assert_eq!(PathId::parse(bad), Err(InvalidPath), "{bad:?}");
        }
    }

    #[test]
    fn ids_have_the_format_of_their_release() {
        let path = PathId::parse("/a/b.c").unwrap();
        let uuid: Uuid = "0bcd1234-c7a5-11ea-8f39-0242ac110002".parse().unwrap();
        let id = InstanceId::with_uuid(&path, IdFormat::Incarnated, uuid);
        assert_eq!(id.to_string(), format!("a_b.c.instance-{uuid}"));
        assert_eq!(id.executor_id(), format!("instance-a_b.c.{uuid}"));
        assert_eq!(id.task_id(None, 1), format!("{id}._app.1"));
        assert_eq!(id.task_id(Some("c1"), 7), format!("{id}.c1.7"));
        assert_eq!(id.run_spec(), "/a/b.c");
        let app = InstanceId::with_uuid(&path, IdFormat::OldApp, uuid);
        assert_eq!(app.to_string(), format!("a_b.c.marathon-{uuid}"));
        assert_eq!(app.task_id(None, 1), format!("a_b.c.{uuid}"));
        let pod = InstanceId::with_uuid(&path, IdFormat::OldPod, uuid);
        assert_eq!(pod.to_string(), id.to_string());
        assert_eq!(pod.task_id(Some("c1"), 7), format!("{id}.c1"));
        for (id, container) in [(id, Some("c1")), (app, None), (pod, Some("c1"))] {
            assert_eq!(InstanceId::of_task(&id.task_id(container, 7)), Some(id));
        }
        for strange in ["t1", "a.b", "a.instance-x.c.1", "a.instance-x"] {
            assert_eq!(InstanceId::of_task(strange), None, "{strange}");
        }
    }

    #[test]
    fn new_instance_id_has_a_time_based_uuid() {
        let path = PathId::parse("/a").unwrap();
        let new = || InstanceId::new(&path, IdFormat::Incarnated, [2, 0, 0, 0, 0, 1]);
        let id = new();
        assert_eq!(id.uuid.get_version_num(), 1);
        assert_ne!(id, new());
    }
}
