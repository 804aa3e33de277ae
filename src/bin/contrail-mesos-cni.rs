//! `contrail-mesos-cni`: a CNI plugin that attaches containers to Contrail, for agents that use
//! `network/cni`. Reads the CNI variables of its environment and the network configuration from its
//! standard input, and writes a CNI result or error to its standard output.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use contrail_mesos::cni_plugin;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut input = vec![];
    let longest = cni_plugin::MAX_INPUT_BYTES as u64;
    if let Err(error) = std::io::stdin().take(longest).read_to_end(&mut input) {
        eprintln!("contrail-mesos-cni: cannot read the standard input: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let output = match runtime {
        Ok(runtime) => runtime.block_on(cni_plugin::run(&environment, &input)),
        Err(error) => {
            eprintln!("contrail-mesos-cni: cannot start its runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Fails if the runtime has closed the pipe; the exit code still has the result.
    let _ = std::io::stdout().write_all(output.stdout.as_bytes());
    if output.is_success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
