//! The hook's calls. Without an isolator in the same process they change nothing.

use cxx::CxxString;
use prost::Message;

use super::guard::guard;
use super::isolator::{decode, isolator};
use super::runtime;
use crate::isolator::checkpoint::ExecutorKey;
use crate::proto::mesos::{ExecutorInfo, FrameworkId, TaskStatus};

/// The one field of `mesos.FrameworkInfo` that is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct FrameworkInfo {
    #[prost(message, optional, tag = "3")]
    id: Option<FrameworkId>,
}

/// A serialised `TaskStatus` whose labels replace those of `status`; empty for no change.
pub(super) fn decorate_status(
    framework: &CxxString,
    status: &CxxString,
) -> Result<Vec<u8>, String> {
    guard("the decoration of a task's status", || {
        let Some(isolator) = isolator() else {
            return Ok(Vec::new());
        };
        let framework: FrameworkId = decode("a framework's id", framework.as_bytes())?;
        let status: TaskStatus = decode("a task's status", status.as_bytes())?;
        let Some(labels) = isolator.status_labels(&text(&framework), &status) else {
            return Ok(Vec::new());
        };
        // Without a container status: that would replace the agent's.
        let decorated = TaskStatus {
            task_id: status.task_id,
            labels: Some(labels),
            ..TaskStatus::default()
        };
        Ok(decorated.encode_to_vec())
    })
}

/// The agent has removed an executor.
pub(super) fn executor_removed(framework: &CxxString, executor: &CxxString) -> Result<(), String> {
    guard("the removal of an executor", || {
        let Some(isolator) = isolator() else {
            return Ok(());
        };
        let framework: FrameworkInfo = decode("a framework", framework.as_bytes())?;
        let executor: ExecutorInfo = decode("an executor", executor.as_bytes())?;
        let executor = ExecutorKey {
            framework: text(&framework.id.unwrap_or_default()).into_owned(),
            executor: String::from_utf8_lossy(&executor.executor_id.value).into_owned(),
        };
        runtime::handle()?.spawn(async move { isolator.executor_removed(&executor).await });
        Ok(())
    })
}

/// A framework's id for logs and look-ups; one that is not UTF-8 is nobody's.
fn text(framework: &FrameworkId) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&framework.value)
}
