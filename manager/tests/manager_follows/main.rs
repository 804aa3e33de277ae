//! The binary `contrail-mesos-manager` with a simulated Mesos master: dry run, reload, metrics and the
//! pages of the status page.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

mod admin;
mod dry_run;
mod fixture;
mod metrics;
mod page;
mod reload;
mod streams;
