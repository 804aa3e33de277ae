//! Apps and pods as the API accepts and returns them: pure.
//!
//! On input, [`app::parse`] rewrites the deprecated forms ([`legacy`]), reads the result, validates
//! it and fills in Marathon's defaults. Output has only the canonical form, with `networks[]` and
//! never `ipAddress`.

pub mod app;
pub mod constraint;
mod definition;
pub mod health;
pub mod legacy;
pub mod network;
pub mod pod;
pub mod run_spec;
#[cfg(test)]
mod tests;

pub use definition::{Defaults, Rejection, Violations};
