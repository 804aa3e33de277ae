//! The playbook that rolls out to agents.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::page::root;

fn syntax_check(directory: &std::path::Path) -> Result<std::process::Output> {
    let mut command = Command::new("ansible-playbook");
    command.args(["--syntax-check", "-i", "inventory.example", "roll-out.yml"]);
    command.current_dir(directory).env("LC_ALL", "C.UTF-8");
    command
        .output()
        .context("cannot run ansible-playbook; is ansible-core installed?")
}

#[test]
fn playbook_of_the_roll_out_is_valid() -> Result<()> {
    let directory: PathBuf = root().join("examples/ansible");
    let output = syntax_check(&directory)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    // Ansible only warns of an inventory that it cannot read.
    ensure!(!errors.contains("WARNING"), "{errors}");
    Ok(())
}
