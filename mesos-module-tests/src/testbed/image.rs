//! Container images without a registry: a root filesystem made of busybox, as the tar file that
//! the agent's Docker store takes from a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

/// Where Debian's busybox-static is.
const BUSYBOX: &str = "/bin/busybox";
/// The one layer's id; any 64 hexadecimal digits.
const LAYER: &str = "00000000000000000000000000000000000000000000000000000000b055b0c5";
/// Mount points that the agent expects, and what programs do.
const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "mnt/mesos/sandbox",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "var",
];

/// Makes a root filesystem with busybox and its applets.
pub fn rootfs(root: &Path) -> Result<()> {
    for directory in DIRECTORIES {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let busybox = root.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox)
        .with_context(|| format!("cannot copy {BUSYBOX}; is busybox-static installed?"))?;
    let list = Command::new(&busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        let path = root.join("bin").join(applet);
        if !path.exists() {
            std::os::unix::fs::symlink("busybox", path)?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    // Mount points; their content shows if nothing was mounted.
    fs::write(root.join("etc/hosts"), "# of the image\n")?;
    fs::write(root.join("etc/hostname"), "image\n")?;
    fs::write(root.join("etc/resolv.conf"), "# of the image\n")?;
    Ok(())
}

/// Packs a root filesystem as the image `name` into a directory for `--docker_registry`.
pub fn pack(root: &Path, name: &str, registry: &Path) -> Result<PathBuf> {
    let build = tempfile::tempdir().context("cannot make a directory for the image")?;
    let layer = build.path().join(LAYER);
    fs::create_dir_all(&layer)?;
    fs::create_dir_all(registry)?;
    fs::write(layer.join("VERSION"), "1.0")?;
    let config = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]});
    let manifest = json!({"id": LAYER, "architecture": "amd64", "os": "linux",
        "created": "2026-01-01T00:00:00Z", "config": config, "container_config": config});
    fs::write(layer.join("json"), manifest.to_string())?;
    tar(root, &layer.join("layer.tar"))?;
    let repositories = json!({name: {"latest": LAYER}});
    fs::write(build.path().join("repositories"), repositories.to_string())?;
    let archive = registry.join(format!("{name}.tar"));
    tar(build.path(), &archive)?;
    Ok(archive)
}

/// Makes the image `busybox` in a directory for `--docker_registry`.
pub fn busybox(registry: &Path) -> Result<()> {
    let root = tempfile::tempdir().context("cannot make a root filesystem")?;
    rootfs(root.path())?;
    pack(root.path(), "busybox", registry)?;
    Ok(())
}

fn tar(directory: &Path, archive: &Path) -> Result<()> {
    let output = Command::new("tar")
        .arg("-C")
        .arg(directory)
        .arg("-cf")
        .arg(archive)
        .arg(".")
        .output()
        .context("cannot run tar")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "tar of {}: {errors}",
        directory.display()
    );
    Ok(())
}
