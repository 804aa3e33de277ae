//! The binary `contrail-mesos-manager` beside a Mesos master: what it would write, a new
//! configuration while it runs, and what it shows of more than a page holds.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

mod bed;
mod dry_run;
mod metrics;
mod page;
mod reload;
