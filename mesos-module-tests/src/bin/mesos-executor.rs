//! The executors of the tests: what it does depends on the name that the agent calls it by.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match mesos_module_tests::testbed::executor::main(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("executor: {error:#}");
            ExitCode::FAILURE
        }
    }
}
