//! What all programs do at their start and at their end.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::text::with_causes;

/// The exit code of a program that came to this result. An error is printed, with its causes.
pub fn exit_code<E>(program: &str, result: Result<ExitCode, E>) -> ExitCode
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    result.unwrap_or_else(|error| {
        let error: Box<dyn Error + Send + Sync> = error.into();
        print_error(&format!("{program}: {}", with_causes(error.as_ref())));
        ExitCode::FAILURE
    })
}

/// Prints a line to the standard error, if that is possible.
pub fn print_error(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints the problems of a configuration, and how many there are besides.
pub fn print_problems(problems: &[impl Display], omitted: usize) {
    for problem in problems {
        print_error(&problem.to_string());
    }
    if omitted > 0 {
        print_error(&format!("and {omitted} more"));
    }
}

/// Raises the limit of open files of this process as far as it may. The new limit counts from now
/// on; most systems start services with a limit of 1,024 that they may raise.
pub fn raise_open_files_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!(error:%; "cannot raise the limit of open files");
    }
}
