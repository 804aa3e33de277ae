//! `contrail-mesos-cni`: a CNI plugin that attaches containers to Contrail, for agents that stay
//! with network/cni. It takes its orders from the environment and its configuration from the
//! standard input; what it says is CNI's.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use contrail_mesos::cni_plugin;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut input = vec![];
    let longest = cni_plugin::LONGEST_INPUT as u64;
    if let Err(error) = std::io::stdin().take(longest).read_to_end(&mut input) {
        eprintln!("contrail-mesos-cni: cannot read the standard input: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(cni_plugin::run(&environment, &input)),
        Err(error) => {
            eprintln!("contrail-mesos-cni: cannot begin: {error}");
            return ExitCode::FAILURE;
        }
    };
    // If nobody reads it, nobody is told.
    let _ = std::io::stdout().write_all(answer.text.as_bytes());
    if answer.is_success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
