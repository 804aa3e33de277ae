//! The Mesos messages that we exchange with the agent, as generated from `proto/`.
#![allow(missing_docs, clippy::pedantic, reason = "generated code")]

/// Package `mesos`.
pub mod mesos {
    include!(concat!(env!("OUT_DIR"), "/mesos.rs"));

    /// Package `mesos.slave`.
    pub mod slave {
        include!(concat!(env!("OUT_DIR"), "/mesos.slave.rs"));
    }
}
