//! `contrail-mesos-cni`: a CNI plugin that attaches containers to Contrail, for agents that use
//! `network/cni`. Reads the CNI variables of its environment and the network configuration from its
//! standard input, and writes a CNI result or error to its standard output.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these panic if nobody reads, or a disk is full"
)]

use std::io::Read as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use contrail_mesos::cni_plugin;
use contrail_mesos_api::build;
use contrail_mesos_api::command_line::{Example, Generate, Program, print};
use contrail_mesos_api::program::{exit_code, print_error};

const PROGRAM: Program = Program {
    build: build!(),
    examples: &[Example {
        command: "",
        purpose: "Which version is installed",
        line: "contrail-mesos-cni --version",
    }],
};

/// Attaches containers to Contrail, for agents that use network/cni
///
/// A plugin of the Container Network Interface: without arguments it reads the variables `CNI_COMMAND` and
/// so on from its environment and a network configuration from its standard input, and writes the result,
/// or a CNI error, to its standard output.
#[derive(Debug, Parser)]
#[command(name = "contrail-mesos-cni", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write manual pages and completions
    #[command(hide = true)]
    Generate(Generate),
}

fn main() -> ExitCode {
    match PROGRAM.parse::<Arguments>() {
        Err(code) => code,
        Ok(Arguments { command: None }) => run_plugin(),
        Ok(Arguments {
            command: Some(Command::Generate(command)),
        }) => {
            let written = command.run::<Arguments>(&PROGRAM);
            exit_code("contrail-mesos-cni", written.map(|()| ExitCode::SUCCESS))
        }
    }
}

fn run_plugin() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut input = vec![];
    let longest = cni_plugin::MAX_INPUT_BYTES as u64;
    if let Err(error) = std::io::stdin().take(longest).read_to_end(&mut input) {
        print_error(&format!(
            "contrail-mesos-cni: cannot read the standard input: {error}"
        ));
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let output = match runtime {
        Ok(runtime) => runtime.block_on(cni_plugin::run(&environment, &input)),
        Err(error) => {
            print_error(&format!(
                "contrail-mesos-cni: cannot start its runtime: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = print(&output.stdout) {
        print_error(&format!("contrail-mesos-cni: {error}"));
        return ExitCode::FAILURE;
    }
    if output.is_success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_that_are_parsed() {
        assert_eq!(
            PROGRAM.commands_without_examples::<Arguments>(),
            Vec::<String>::new()
        );
        assert_eq!(PROGRAM.wrong_examples::<Arguments>(), Vec::<String>::new());
    }
}
