//! The first process of a simulated host of the testbed.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use mesos_module_tests::testbed::init;

fn main() -> ExitCode {
    match init::main(&init::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}
