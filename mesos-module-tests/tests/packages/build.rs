//! Makes packages of the programs of this build.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::program;

/// The time of all files: any.
const SOURCE_DATE_EPOCH: &str = "1700000000";

/// The packages that run something.
pub(crate) const SERVICES: [&str; 3] = [
    "contrail-mesos",
    "contrail-mesos-node",
    "contrail-mesos-manager",
];

/// The root of the source tree.
pub(crate) fn source() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no source tree")
}

/// The directory above that of the profile, with what `make test` has prepared.
pub(crate) fn target() -> Result<PathBuf> {
    let programs = programs()?;
    Ok(programs.parent().context("no target directory")?.to_owned())
}

fn programs() -> Result<PathBuf> {
    let program = program("contrail-mesos")?;
    Ok(program.parent().context("no directory")?.to_owned())
}

/// The bare Debian 12.
pub(crate) fn bare_root() -> Result<PathBuf> {
    let root = target()?.join("debian/root");
    ensure!(
        root.join("usr/bin/dpkg").is_file(),
        "there is no bare Debian at {}: run make bare-root",
        root.display()
    );
    Ok(root)
}

/// Makes packages of these kinds, `deb` and `rpm`, and of these names, or all, in a directory.
pub(crate) fn packages(directory: &Path, version: &str, kinds: &str, names: &[&str]) -> Result<()> {
    let tools = target()?.join("tools");
    ensure!(
        tools.is_dir(),
        "the programs that make packages are not in {}: run make packagers",
        tools.display()
    );
    let programs = programs()?;
    let assets = directory.join("assets");
    run(Command::new(source()?.join(".ci/man")).args([&programs, &assets]))?;
    run(Command::new(source()?.join("packaging/dist"))
        .arg(directory)
        .arg(programs.join("deps"))
        .arg(&programs)
        .arg(assets)
        .args(names)
        .env("CARGO_TOOLS", tools)
        .env("VERSION", version)
        .env("KINDS", kinds)
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .env("FAST", "yes"))
}

/// Runs a script, which must succeed.
fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
