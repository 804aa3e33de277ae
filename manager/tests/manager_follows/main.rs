//! The binary `contrail-mesos-manager` with a simulated Mesos master: dry run, reload, metrics, the
//! pages of the status page, and the OpenAPI documents.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

mod admin;
mod dry_run;
mod fixture;
mod metrics;
mod openapi;
mod page;
mod reload;
mod streams;
