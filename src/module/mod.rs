//! The module library: what the agent loads, and the only unsafe code of the crate.
//!
//! The agent calls the facades of `cpp-shim/`; these call [`bridge`] with bytes and a completion
//! for each future that the agent waits for; [`isolator`] and [`hook`] decode the bytes and drive
//! the isolator on the [`runtime`].
//!
//! # Invariants
//! - No call of the agent blocks: what is not answered from memory runs on the runtime.
//! - Nothing unwinds into C++, where it would end the agent: every entry is a [`guard`].
//! - Every completion is answered exactly once: with a message, a reason, or a discard when the
//!   agent asked for one. Dropping one unanswered answers it with a reason.

mod bridge;
mod descriptor;
mod guard;
mod hook;
mod isolator;
mod pending;
mod runtime;
