//! The calls of the isolator. Each decodes its arguments, calls the [`Isolator`] and encodes the
//! result.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cxx::{CxxString, CxxVector, UniquePtr};
use prost::Message;

use super::bridge::ffi::Completion;
use super::guard::guard;
use super::pending::{Call, OnLoss, Response, Sink, start};
use super::runtime;
use crate::isolator::{Isolator, IsolatorError};
use crate::proto::mesos;
use contrail_mesos_api::container::ContainerId;

/// The isolator, owned by its C++ facade.
pub(super) struct IsolatorHandle {
    isolator: Arc<Isolator>,
    /// The running `watch` of each container, which its cleanup cancels.
    watches: Mutex<HashMap<ContainerId, Call>>,
}

/// The isolator of this process, for the hook. The agent creates at most one.
static ISOLATOR: OnceLock<Arc<Isolator>> = OnceLock::new();

/// The isolator, once the agent has created it.
pub(super) fn isolator() -> Option<&'static Arc<Isolator>> {
    ISOLATOR.get()
}

/// Creates the isolator from serialised `mesos.Parameters`.
pub(super) fn create_isolator(parameters: &CxxString) -> Result<Box<IsolatorHandle>, String> {
    guard("creation of the isolator", || {
        runtime::start_logging();
        let parameters: mesos::Parameters =
            decode("the Parameters of the module", parameters.as_bytes())?;
        let parameters: Vec<_> = parameters
            .parameter
            .into_iter()
            .map(|parameter| (parameter.key, parameter.value))
            .collect();
        // Providers may spawn tasks in their constructors.
        let _runtime = runtime::handle()?.enter();
        let isolator = Isolator::new(&parameters).map_err(|error| error.to_string())?;
        Ok(Box::new(IsolatorHandle {
            isolator: Arc::clone(ISOLATOR.get_or_init(|| isolator)),
            watches: Mutex::default(),
        }))
    })
}

/// Decodes a message from C++. `name` names it in the error. Never panics.
pub(super) fn decode<M: Message + Default>(name: &str, bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| {
        format!(
            "contrail-mesos: cannot decode {name} of {} bytes: {error}. Container ids must be \
             UTF-8; if they are, the messages of this agent differ from those of Mesos 1.11.",
            bytes.len()
        )
    })
}

fn decode_all<M: Message + Default>(
    name: &str,
    messages: &CxxVector<CxxString>,
) -> (Vec<M>, Vec<String>) {
    let mut decoded = Vec::with_capacity(messages.len());
    let mut errors = Vec::new();
    for message in messages {
        match decode(name, message.as_bytes()) {
            Ok(message) => decoded.push(message),
            Err(error) => errors.push(error),
        }
    }
    (decoded, errors)
}

fn decode_container_id(bytes: &[u8]) -> Result<ContainerId, String> {
    let id: mesos::ContainerId = decode("a ContainerID", bytes)?;
    Ok(ContainerId::from(&id))
}

fn nothing((): ()) -> Response {
    Response::Nothing
}

fn message(message: &impl Message) -> Response {
    Response::Message(message.encode_to_vec())
}

fn respond<T>(
    result: Result<T, IsolatorError>,
    response: impl FnOnce(T) -> Response,
) -> Result<Response, String> {
    result.map(response).map_err(|error| error.to_string())
}

/// Starts a call for one container. If its arguments are invalid, `sink` fails at once.
fn call<S: Sink, F>(
    name: &str,
    mut sink: S,
    on_loss: OnLoss,
    id: &[u8],
    work: impl FnOnce(ContainerId) -> Result<F, String>,
) -> (Option<ContainerId>, Call)
where
    F: Future<Output = Result<Response, String>> + Send + 'static,
{
    let prepared = guard(name, || {
        let id = decode_container_id(id)?;
        Ok((id.clone(), work(id)?))
    });
    match prepared {
        Ok((id, work)) => {
            let description = format!("{name} of container {id}");
            (Some(id), start(description, sink, on_loss, work))
        }
        Err(reason) => {
            match on_loss {
                OnLoss::Fail => sink.fail(&reason),
                OnLoss::StayPending => log::error!("{reason}"),
            }
            (None, Call::completed())
        }
    }
}

#[allow(
    clippy::unnecessary_box_returns,
    reason = "cxx passes a Rust type in a box"
)]
impl IsolatorHandle {
    pub(super) fn recover(
        &self,
        states: &CxxVector<CxxString>,
        orphans: &CxxVector<CxxString>,
        completion: UniquePtr<Completion>,
    ) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let (states, mut errors) = decode_all("a ContainerState", states);
        let (orphans, orphan_errors) = decode_all("the ContainerID of an orphan", orphans);
        errors.extend(orphan_errors);
        // An invalid container must not prevent the agent from starting.
        for error in errors {
            log::error!("{error} The container is not recovered.");
        }
        Box::new(start(
            "recovery".to_owned(),
            completion,
            OnLoss::Fail,
            async move { respond(isolator.recover(states, orphans).await, nothing) },
        ))
    }

    pub(super) fn prepare(
        &self,
        id: &CxxString,
        config: &CxxString,
        completion: UniquePtr<Completion>,
    ) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let work = |id| {
            let config = decode("a ContainerConfig", config.as_bytes())?;
            Ok(async move {
                respond(isolator.prepare(&id, config).await, |info| {
                    info.as_ref().map_or(Response::Nothing, message)
                })
            })
        };
        let (_, call) = call("prepare", completion, OnLoss::Fail, id.as_bytes(), work);
        Box::new(call)
    }

    pub(super) fn isolate(
        &self,
        id: &CxxString,
        pid: i32,
        completion: UniquePtr<Completion>,
    ) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let work = |id| {
            let pid = u32::try_from(pid)
                .map_err(|_| format!("contrail-mesos: isolate received the invalid pid {pid}"))?;
            Ok(async move { respond(isolator.isolate(&id, pid).await, nothing) })
        };
        let (_, call) = call("isolate", completion, OnLoss::Fail, id.as_bytes(), work);
        Box::new(call)
    }

    pub(super) fn watch(&self, id: &CxxString, completion: UniquePtr<Completion>) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let work = |id| Ok(async move { Ok(message(&isolator.watch(&id).await)) });
        let (id, call) = call(
            "watch",
            completion,
            OnLoss::StayPending,
            id.as_bytes(),
            work,
        );
        if let Some(id) = id {
            let previous = self.lock_watches().insert(id, call.clone());
            // The agent watches a container once. If it did so again, the last watch would count.
            if let Some(previous) = previous {
                previous.cancel();
            }
        }
        Box::new(call)
    }

    pub(super) fn usage(&self, id: &CxxString, completion: UniquePtr<Completion>) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let work = |id| Ok(async move { Ok(message(&isolator.usage(&id).await)) });
        let (_, call) = call("usage", completion, OnLoss::Fail, id.as_bytes(), work);
        Box::new(call)
    }

    pub(super) fn cleanup(&self, id: &CxxString, completion: UniquePtr<Completion>) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let work = |id: ContainerId| {
            // The agent is already destroying the container, and ignores its limitations.
            if let Some(watch) = self.lock_watches().remove(&id) {
                watch.cancel();
            }
            Ok(async move { respond(isolator.cleanup(&id).await, nothing) })
        };
        let (_, call) = call("cleanup", completion, OnLoss::Fail, id.as_bytes(), work);
        Box::new(call)
    }

    pub(super) fn status(&self, id: &CxxString) -> Result<Vec<u8>, String> {
        guard("status", || {
            let id = decode_container_id(id.as_bytes())?;
            Ok(self.isolator.status(&id).encode_to_vec())
        })
    }

    fn lock_watches(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Call>> {
        // Each use is a single map operation.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::mesos::slave::{ContainerConfig, ContainerState};

    fn nested(depth: usize) -> Vec<u8> {
        let mut id = mesos::ContainerId::default();
        for _ in 0..depth {
            id = mesos::ContainerId {
                value: "c".to_owned(),
                parent: Some(Box::new(id)),
            };
        }
        id.encode_to_vec()
    }

    #[test]
    fn container_id_with_deep_nesting_is_refused() {
        assert!(decode_container_id(&nested(50)).is_ok());
        let error = decode_container_id(&nested(5_000)).unwrap_err();
        assert!(error.contains("cannot decode a ContainerID"), "{error}");
    }

    #[test]
    fn container_id_that_is_not_utf8_is_refused() {
        let error = decode_container_id(&[0x0a, 0x02, 0xff, 0xfe]).unwrap_err();
        assert!(error.contains("UTF-8"), "{error}");
    }

    #[test]
    fn truncated_message_is_decoded_or_refused() {
        let bytes = ContainerState {
            container_id: mesos::ContainerId {
                value: "c1".to_owned(),
                parent: Some(Box::default()),
            },
            pid: 17,
            directory: b"/sandbox".to_vec(),
            ..ContainerState::default()
        }
        .encode_to_vec();
        for length in 0..bytes.len() {
            let _ = decode::<ContainerState>("a state", &bytes[..length]);
            let _ = decode::<ContainerConfig>("a configuration", &bytes[..length]);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode_container_id(&bytes);
            let _ = decode::<ContainerState>("a state", &bytes);
            let _ = decode::<ContainerConfig>("a configuration", &bytes);
            let _ = decode::<mesos::TaskStatus>("a status", &bytes);
            let _ = decode::<mesos::Parameters>("parameters", &bytes);
        }
    }
}
