//! The isolator's calls: each decodes its arguments, calls the [`Isolator`] and encodes the result.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cxx::{CxxString, CxxVector, UniquePtr};
use prost::Message;

use super::bridge::ffi::Completion;
use super::guard::guard;
use super::pending::{Answer, Call, OnLoss, Sink, start};
use super::runtime;
use crate::isolator::{Isolator, IsolatorError};
use crate::proto::mesos;
use contrail_mesos_api::container::ContainerId;

/// The isolator, as its C++ facade owns it.
pub(super) struct IsolatorHandle {
    isolator: Arc<Isolator>,
    /// The watch of every container, to be ended when the container is.
    watches: Mutex<HashMap<ContainerId, Call>>,
}

/// The isolator of this process, which the hook also uses. The agent creates at most one.
static ISOLATOR: OnceLock<Arc<Isolator>> = OnceLock::new();

/// The isolator, once the agent has created it.
pub(super) fn isolator() -> Option<&'static Arc<Isolator>> {
    ISOLATOR.get()
}

/// Makes the isolator of serialised `mesos.Parameters`.
pub(super) fn create_isolator(parameters: &CxxString) -> Result<Box<IsolatorHandle>, String> {
    guard("creation of the isolator", || {
        runtime::start_logging();
        let parameters: mesos::Parameters =
            decode("the module's parameters", parameters.as_bytes())?;
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

/// Decodes a message that crossed the border. Never panics, whatever the bytes are.
pub(super) fn decode<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| {
        format!(
            "contrail-mesos: cannot decode {what}, {} bytes: {error}. Names, ids and labels must \
             be UTF-8; if they are, this agent speaks another dialect than Mesos 1.11.",
            bytes.len()
        )
    })
}

fn decode_all<M: Message + Default>(
    what: &str,
    messages: &CxxVector<CxxString>,
) -> (Vec<M>, Vec<String>) {
    let mut good = Vec::with_capacity(messages.len());
    let mut bad = Vec::new();
    for message in messages {
        match decode(what, message.as_bytes()) {
            Ok(message) => good.push(message),
            Err(reason) => bad.push(reason),
        }
    }
    (good, bad)
}

fn container(bytes: &[u8]) -> Result<ContainerId, String> {
    let id: mesos::ContainerId = decode("a container's id", bytes)?;
    Ok(ContainerId::from(&id))
}

fn nothing((): ()) -> Answer {
    Answer::Nothing
}

fn message(message: &impl Message) -> Answer {
    Answer::Message(message.encode_to_vec())
}

fn outcome<T>(
    result: Result<T, IsolatorError>,
    answer: impl FnOnce(T) -> Answer,
) -> Result<Answer, String> {
    result.map(answer).map_err(|error| error.to_string())
}

/// Starts a call on one container; what cannot even start fails `sink` at once.
fn call<S: Sink, F>(
    name: &str,
    mut sink: S,
    on_loss: OnLoss,
    id: &[u8],
    work: impl FnOnce(ContainerId) -> Result<F, String>,
) -> (Option<ContainerId>, Call)
where
    F: Future<Output = Result<Answer, String>> + Send + 'static,
{
    let begun = guard(name, || {
        let id = container(id)?;
        Ok((id.clone(), work(id)?))
    });
    match begun {
        Ok((id, work)) => {
            let what = format!("{name} of container {id}");
            (Some(id), start(what, sink, on_loss, work))
        }
        Err(reason) => {
            match on_loss {
                OnLoss::Fail => sink.fail(&reason),
                OnLoss::StayPending => log::error!("{reason}"),
            }
            (None, Call::done())
        }
    }
}

#[allow(
    clippy::unnecessary_box_returns,
    reason = "cxx hands a Rust type over in a box"
)]
impl IsolatorHandle {
    pub(super) fn recover(
        &self,
        states: &CxxVector<CxxString>,
        orphans: &CxxVector<CxxString>,
        completion: UniquePtr<Completion>,
    ) -> Box<Call> {
        let isolator = Arc::clone(&self.isolator);
        let (states, mut bad) = decode_all("a recovered container's state", states);
        let (orphans, worse) = decode_all("an orphaned container's id", orphans);
        bad.extend(worse);
        // One unreadable container must not keep the agent from starting.
        for reason in bad {
            log::error!("{reason} The container is not recovered.");
        }
        Box::new(start(
            "recovery".to_owned(),
            completion,
            OnLoss::Fail,
            async move { outcome(isolator.recover(states, orphans).await, nothing) },
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
            let config = decode("a container's configuration", config.as_bytes())?;
            Ok(async move {
                outcome(isolator.prepare(&id, config).await, |info| {
                    info.as_ref().map_or(Answer::Nothing, message)
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
                .map_err(|_| format!("contrail-mesos: isolate with the impossible pid {pid}"))?;
            Ok(async move { outcome(isolator.isolate(&id, pid).await, nothing) })
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
            let before = self.lock_watches().insert(id, call.clone());
            // The agent watches a container once; if it ever asks again, the last one counts.
            if let Some(before) = before {
                before.cancel();
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
            // The agent is destroying the container by now, and heeds no limitation of it.
            if let Some(watch) = self.lock_watches().remove(&id) {
                watch.cancel();
            }
            Ok(async move { outcome(isolator.cleanup(&id).await, nothing) })
        };
        let (_, call) = call("cleanup", completion, OnLoss::Fail, id.as_bytes(), work);
        Box::new(call)
    }

    pub(super) fn status(&self, id: &CxxString) -> Result<Vec<u8>, String> {
        guard("status", || {
            let id = container(id.as_bytes())?;
            Ok(self.isolator.status(&id).encode_to_vec())
        })
    }

    fn lock_watches(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Call>> {
        // A map of handles is whole after every step.
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
    fn too_deep_nesting_is_an_error() {
        assert!(container(&nested(50)).is_ok());
        let reason = container(&nested(5_000)).unwrap_err();
        assert!(
            reason.contains("cannot decode a container's id"),
            "{reason}"
        );
    }

    #[test]
    fn names_that_are_not_utf8_are_refused_with_a_reason() {
        let reason = container(&[0x0a, 0x02, 0xff, 0xfe]).unwrap_err();
        assert!(reason.contains("UTF-8"), "{reason}");
    }

    #[test]
    fn every_cut_of_a_message_is_decoded_or_refused() {
        let whole = ContainerState {
            container_id: mesos::ContainerId {
                value: "c1".to_owned(),
                parent: Some(Box::default()),
            },
            pid: 17,
            directory: b"/sandbox".to_vec(),
            ..ContainerState::default()
        }
        .encode_to_vec();
        for length in 0..whole.len() {
            let _ = decode::<ContainerState>("a state", &whole[..length]);
            let _ = decode::<ContainerConfig>("a configuration", &whole[..length]);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = container(&bytes);
            let _ = decode::<ContainerState>("a state", &bytes);
            let _ = decode::<ContainerConfig>("a configuration", &bytes);
            let _ = decode::<mesos::TaskStatus>("a status", &bytes);
            let _ = decode::<mesos::Parameters>("parameters", &bytes);
        }
    }
}
