//! The packages as files.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build::{SERVICES, packages, source};

#[test]
fn packages_are_reproducible_and_without_complaints() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [first, second] = ["first", "second/deeper"].map(|name| directory.path().join(name));
    // contrail-mesos-overlay-modules is as contrail-mesos, and large.
    let names = [&SERVICES[..], &["contrail-mesos-doc"]].concat();
    packages(&first, "1.0.0", "deb rpm", &names)?;
    // At another time, and in another directory.
    packages(&second, "1.0.0", "deb rpm", &names)?;
    let sums = |directory: &std::path::Path| fs::read_to_string(directory.join("SHA256SUMS"));
    let (sums, again) = (sums(&first)?, sums(&second)?);
    ensure!(sums == again, "built twice, they differ:\n{sums}\n{again}");
    ensure!(sums.lines().count() == 2 * names.len(), "{sums}");

    let list = |extension: &str| -> Result<Vec<_>> {
        let mut files = vec![];
        for entry in fs::read_dir(&first)? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    };
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--allow-root", "--no-cfg", "--fail-on", "error,warning"])
        // What dev builds have and releases do not, and what the generator of man pages adds.
        .args(["--suppress-tags-from-file"])
        .arg(source()?.join("packaging/lintian/suppressed"))
        .args(list("deb")?);
    expect_no_complaint(lintian)?;
    let mut rpmlint = Command::new("rpmlint");
    rpmlint
        .arg("--config")
        .arg(source()?.join("packaging/rpmlint.toml"))
        .args(list("rpm")?);
    let report = expect_no_complaint(rpmlint)?;
    ensure!(report.contains(" 0 errors, 0 warnings"), "{report}");
    Ok(())
}

#[test]
fn units_are_valid_and_hardened() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // The least exposure that each can do with, in systemd's tenths, from 0 to 100.
    for (unit, threshold) in [("contrail-mesos-node", 45), ("contrail-mesos-manager", 15)] {
        let text = fs::read_to_string(source()?.join(format!("packaging/systemd/{unit}.service")))?;
        let path = directory.path().join(format!("{unit}.service"));
        // A program that is there, for the verification.
        let program = format!("@bindir@/{unit}");
        ensure!(text.contains(&program), "{text}");
        fs::write(&path, text.replace(&program, "/bin/true"))?;
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(&path);
        let report = expect_no_complaint(verify)?;
        ensure!(!report.contains(unit), "{report}");
        let mut security = Command::new("systemd-analyze");
        security
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={threshold}"))
            .arg(&path);
        expect_no_complaint(security)?;
    }
    Ok(())
}

fn expect_no_complaint(mut command: Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}; is it installed?"))?;
    let report = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(output.status.success(), "{command:?}:\n{report}");
    Ok(report)
}
