//! How the programs report what went wrong, and with which exit code they end.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use crate::text::with_causes;

/// The exit code of a program that came to this result. An error is printed, with its causes.
pub fn exit_code<E>(program: &str, result: Result<ExitCode, E>) -> ExitCode
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    result.unwrap_or_else(|error| {
        let error: Box<dyn Error + Send + Sync> = error.into();
        eprintln!("{program}: {}", with_causes(error.as_ref()));
        ExitCode::FAILURE
    })
}

/// Prints the problems of a configuration, and how many there are besides.
pub fn print_problems(problems: &[impl Display], omitted: usize) {
    for problem in problems {
        eprintln!("{problem}");
    }
    if omitted > 0 {
        eprintln!("and {omitted} more");
    }
}
