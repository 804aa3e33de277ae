//! A probe of the Star demonstration, for a container.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use mesos_module_tests::star;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match star::run(star::Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("star-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}
