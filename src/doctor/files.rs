//! Files and directories that the configuration names, and the configuration itself: whether they can be
//! used, and by whom.
//!
//! What `config check` opens is not opened again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use contrail_mesos_api::config_reader::secret_file_warning;
use contrail_mesos_api::text::{Quoted, with_causes};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::Check;
use crate::config::Config;

/// Blocks on the file system.
pub(super) fn checks(config: Option<&Config>, path: &Path) -> Vec<Check> {
    let mut checks = vec![];
    checks.extend(changeable_by_others("file-configuration", path));
    let Some(config) = config else {
        return checks;
    };
    checks.push(state_directory(&config.state_dir));
    checks.push(directory("file-netns-dir", "netns_dir", &config.netns_dir));
    if let Some(contrail) = &config.contrail {
        let key = "contrail.port_directory";
        checks.push(directory(
            "file-port-directory",
            key,
            &contrail.port_directory,
        ));
    }
    if let Some(cni) = &config.cni {
        for directory in [&cni.config_dir].into_iter().chain(&cni.plugin_dirs) {
            checks.extend(changeable_by_others("file-cni", directory));
        }
    }
    checks.extend(node_files(config));
    checks
}

/// The files of the node daemon, which it opens itself.
fn node_files(config: &Config) -> Vec<Check> {
    let name = "file-node";
    let node = &config.node;
    let mut checks = vec![];
    match node.cluster_client() {
        Ok(None) => {}
        Ok(Some(_)) => checks.push(Check::ok(name, "the token and the certificates of [node] can be used")),
        Err(error) => checks.push(Check::failure(
            name,
            format!("contrail-mesos-node cannot start: {}", with_causes(&error)),
            "correct the file, or the keys token_file, ca_file, certificate_file and key_file of [node]",
        )),
    }
    let key = node.tls.identity.as_ref().map(|identity| &identity.key);
    let secrets = [node.token_file.as_ref(), key].into_iter().flatten();
    checks.extend(secrets.filter_map(|path| {
        let warning = secret_file_warning(path)?;
        Some(Check::warning(
            name,
            warning,
            "run chmod 600 for the file, and replace the secret if others may have read it",
        ))
    }));
    checks
}

/// A warning if others than root, or than who runs this, can change a file that says what root does.
pub(super) fn changeable_by_others(name: &'static str, path: &Path) -> Option<Check> {
    // What is missing is reported by what needs it.
    let metadata = fs::metadata(path).ok()?;
    let shown = Quoted(path.as_os_str().as_encoded_bytes()).to_string();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let is_own = owner == 0 || owner == nix::unistd::geteuid().as_raw();
    // A sticky directory keeps others from replacing what is in it.
    let is_writable = mode & 0o022 != 0 && mode & 0o1000 == 0;
    let problem = match (is_own, is_writable) {
        (true, false) => return None,
        (false, _) => format!("{shown} belongs to the user {owner}, who can change what root does"),
        (true, true) => {
            format!("{shown} has the mode {mode:04o}: others can change what root does")
        }
    };
    Some(Check::warning(
        name,
        problem,
        "run chown root and chmod go-w for it",
    ))
}

fn state_directory(path: &Path) -> Check {
    let name = "file-state-dir";
    let check = directory(name, "state_dir", path);
    let is_lost =
        |path: &Path| statfs(path).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
    if check.remedy.is_none() && nearest(path).is_some_and(is_lost) {
        return Check::warning(
            name,
            format!(
                "the state directory {} is in memory: it is empty after a reboot, and pending teardowns are forgotten",
                Quoted(path.as_os_str().as_encoded_bytes())
            ),
            "set state_dir to a directory on a disk",
        );
    }
    check
}

/// What is at the path, or at the nearest one above it at which something is.
fn nearest(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

/// Whether files can be created in a directory, which may have to be created first.
fn directory(name: &'static str, key: &str, path: &Path) -> Check {
    let shown = Quoted(path.as_os_str().as_encoded_bytes()).to_string();
    let remedy = format!(
        "make it a writable directory of root with space left, or set {key} to another one"
    );
    let Some(nearest) = nearest(path).filter(|nearest| nearest.is_dir()) else {
        let text = format!("{shown} is not a directory, or not in one");
        return Check::failure(name, text, remedy);
    };
    match try_file(nearest) {
        Err(error) => Check::failure(
            name,
            format!("no file can be created in {shown}: {error}"),
            remedy,
        ),
        Ok(()) if nearest == path => Check::ok(name, format!("files can be created in {shown}")),
        Ok(()) => Check::ok(
            name,
            format!("{shown} does not exist yet, and can be created"),
        ),
    }
}

/// Creates a file that nobody else uses, and removes it.
fn try_file(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".contrail-mesos-doctor-{}", std::process::id()));
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let written = io::Write::write_all(&mut &file, b"x").and_then(|()| file.sync_all());
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Source;
    use crate::doctor::Severity;

    #[test]
    fn files_that_others_can_change_are_warnings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        assert_eq!(changeable_by_others("file", &path), None);
        fs::write(&path, "").unwrap();
        for (mode, is_warned) in [
            (0o644, false),
            (0o664, true),
            (0o666, true),
            (0o1777, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(
                changeable_by_others("file", &path).is_some(),
                is_warned,
                "{mode:o}"
            );
        }
    }

    #[test]
    fn directories_are_tried_and_left_as_they_were() {
        let root = tempfile::tempdir().unwrap();
        let check = |name: &str| directory("file", "state_dir", &root.path().join(name)).severity;
        assert_eq!(check("missing/below"), Severity::Ok);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(check("file"), Severity::Failure);
        assert_eq!(check("file/below"), Severity::Failure);
        // No files can be created there, not even by root.
        let check = directory("file", "state_dir", Path::new("/proc/contrail-mesos"));
        assert_eq!(check.severity, Severity::Failure);
    }

    #[test]
    fn token_of_the_node_daemon_must_be_readable_and_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let token = directory.path().join("token");
        let state = directory.path().join("state");
        let text = format!(
            "state_dir = '{}'\n[node]\nmanagers = ['192.0.2.1']\ntoken_file = '{}'\n",
            state.display(),
            token.display()
        );
        fs::write(&path, text).unwrap();
        let config = Source::file(&path).load().unwrap();
        let severities = || {
            let checks = node_files(&config);
            checks
                .iter()
                .map(|check| check.severity)
                .collect::<Vec<_>>()
        };
        assert_eq!(severities(), [Severity::Failure]);
        fs::write(&token, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(severities(), [Severity::Ok, Severity::Warning]);
        fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(severities(), [Severity::Ok]);
    }
}
