//! What all programs do at their start and at their end.

use std::error::Error;
use std::fmt::Display;
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

/// Raises the limit of open files of this process as far as it may. The new limit counts from now
/// on; most systems start services with a limit of 1,024 that they may raise.
pub fn raise_open_files_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!(error:%; "cannot raise the limit of open files");
    }
}
