//! The calls of the hook. They do nothing if the agent has not created the isolator.

use cxx::CxxString;
use prost::Message;

use super::guard::guard;
use super::isolator::{decode, isolator};
use super::runtime;
use crate::isolator::checkpoint::ExecutorKey;
use crate::proto::mesos::{ExecutorInfo, FrameworkId, TaskStatus};

/// The only field of `mesos.FrameworkInfo` that is used.
#[derive(Clone, PartialEq, prost::Message)]
struct FrameworkInfo {
    #[prost(message, optional, tag = "3")]
    id: Option<FrameworkId>,
}

/// Returns a serialised `TaskStatus` whose labels and container status replace those of `status`, or
/// nothing for no change.
pub(super) fn decorate_status(
    framework: &CxxString,
    status: &CxxString,
) -> Result<Vec<u8>, String> {
    guard("decorating a task status", || {
        let Some(isolator) = isolator() else {
            return Ok(Vec::new());
        };
        let framework: FrameworkId = decode("a FrameworkID", framework.as_bytes())?;
        let status: TaskStatus = decode("a TaskStatus", status.as_bytes())?;
        let decorated = isolator.decorate_status(&id_string(&framework), &status);
        Ok(decorated.map_or_else(Vec::new, |status| status.encode_to_vec()))
    })
}

/// Called when the agent has removed an executor.
pub(super) fn executor_removed(framework: &CxxString, executor: &CxxString) -> Result<(), String> {
    guard("removal of an executor", || {
        let Some(isolator) = isolator() else {
            return Ok(());
        };
        let framework: FrameworkInfo = decode("a FrameworkInfo", framework.as_bytes())?;
        let executor: ExecutorInfo = decode("an ExecutorInfo", executor.as_bytes())?;
        let executor = ExecutorKey {
            framework: id_string(&framework.id.unwrap_or_default()).into_owned(),
            executor: String::from_utf8_lossy(&executor.executor_id.value).into_owned(),
        };
        runtime::handle()?.spawn(async move { isolator.executor_removed(&executor).await });
        Ok(())
    })
}

/// A framework's id. If it is not UTF-8, it matches no framework.
fn id_string(framework: &FrameworkId) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&framework.value)
}
