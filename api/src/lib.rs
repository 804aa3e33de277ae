//! The library that agents and the manager share.
//!
//! ```text
//! agent_api      the API that the manager serves to agents: wire types and client
//! backoff        the delays between attempts
//! cluster        what managers and node daemons exchange: the watch, and the nodes' reports
//! http           the HTTP client: TLS, credentials, redirects to a leader, streams
//! container      container ids, and the names that derive from them
//! command_line   what the command lines have in common (feature `command-line`)
//! config_reader  reads a TOML file and collects every problem
//! dump           an archive for the report of a problem, without secrets
//! files          reading files of directories that others can write to
//! limits         the limits of one container
//! log_line       the formats of log lines
//! overlay_modules what the modules with the names of DC/OS' overlay modules share
//! parser_testing damaged input and growth, for tests of parsers (feature `test-util`)
//! process_metrics the metrics of the process (feature `process-metrics`)
//! program        how the programs begin and end
//! query          the parameters of a request
//! recordio       the framing of Mesos' event streams
//! routes         routes of HTTP servers with their OpenAPI documents (feature `routes`)
//! text           untrusted strings in messages
//! ```
//!
//! Invariant: nothing here depends on a network provider, on Mesos or on the VNC API.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod agent_api;
pub mod backoff;
pub mod cluster;
#[cfg(feature = "command-line")]
pub mod command_line;
pub mod config_reader;
pub mod container;
pub mod dump;
pub mod files;
pub mod http;
pub mod limits;
pub mod log_line;
pub mod overlay_modules;
#[cfg(any(test, feature = "test-util"))]
pub mod parser_testing;
#[cfg(feature = "process-metrics")]
pub mod process_metrics;
pub mod program;
pub mod query;
pub mod recordio;
#[cfg(feature = "routes")]
pub mod routes;
pub mod text;
