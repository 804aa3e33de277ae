//! The Mesos module: the entry points that the agent loads, and the only unsafe code of the crate.
//!
//! The agent calls the C++ facades of `cpp-shim/`. They pass serialised messages to [`bridge`],
//! with a completion for each future that they return. [`isolator`] and [`hook`] decode the
//! messages and call the isolator on the [`runtime`].
//!
//! # Invariants
//! - No call of the agent blocks: what cannot be answered from memory runs on the runtime.
//! - No panic unwinds into C++, where it would abort the agent: every entry runs in a [`guard`].
//! - Every completion is completed exactly once: with a message, with a failure, or discarded on
//!   the agent's request. A completion that is dropped fails. The exception is `watch`, which stays
//!   pending, because the agent destroys a container whose `watch` fails.

mod abi;
mod bridge;
mod descriptor;
mod guard;
mod hook;
mod isolator;
mod pending;
mod runtime;
