//! The library that the agent loads, compared with the Mesos that loads it, by their files alone.

use std::path::{Path, PathBuf};

use contrail_mesos_api::text::Quoted;

use super::Check;
use super::files::changeable_by_others;
use crate::module_info::{AbiLayout, MesosBinary, ModuleInfo};

/// Where the installation puts the library.
const DEFAULT_LIBRARY: &str = "/usr/lib/mesos/modules/libcontrail_mesos.so";
/// Where packages of Mesos put its library, or else the agent's program, which names it.
const MESOS_FILES: [&str; 6] = [
    "/usr/lib/libmesos.so",
    "/usr/lib64/libmesos.so",
    "/usr/local/lib/libmesos.so",
    "/usr/sbin/mesos-agent",
    "/usr/local/sbin/mesos-agent",
    "/opt/mesosphere/lib/libmesos.so",
];

/// What is compared.
#[derive(Clone, Debug, Default)]
pub(super) struct LibraryOptions {
    /// The library that the operator gave.
    pub(super) library: Option<PathBuf>,
    /// The library that the agent's flags name.
    pub(super) configured: Option<PathBuf>,
    /// `libmesos` or a program of Mesos.
    pub(super) mesos: Option<PathBuf>,
    /// The version that the agent says.
    pub(super) version: Option<String>,
    /// Whether the agent has loaded another library than the file that is there now.
    pub(super) is_replaced: bool,
}

/// Blocks on the file system.
pub(super) fn checks(options: LibraryOptions) -> Vec<Check> {
    let name = "library";
    let default = || Some(PathBuf::from(DEFAULT_LIBRARY)).filter(|path| path.exists());
    let path = options.library.or(options.configured).or_else(default);
    let Some(path) = path else {
        return vec![Check::warning(
            name,
            format!("there is no library at {DEFAULT_LIBRARY}, and no agent names another one"),
            "install libcontrail_mesos.so there, or give its path by --library",
        )];
    };
    let shown = Quoted(path.as_os_str().as_encoded_bytes()).to_string();
    let info = match ModuleInfo::read(&path) {
        Ok(info) => info,
        Err(error) => {
            let remedy =
                "install libcontrail_mesos.so of this version, or give its path by --library";
            return vec![Check::failure(name, error.to_string(), remedy)];
        }
    };
    let mut checks = vec![library(&shown, &info)];
    checks.extend(changeable_by_others(name, &path));
    if options.is_replaced {
        checks.push(Check::warning(
            name,
            format!(
                "the agent runs with a library that was replaced since: not the one at {shown}"
            ),
            "restart the agent, which keeps its containers",
        ));
    }
    checks.push(compatibility(
        &info,
        options.mesos.as_deref(),
        options.version.as_deref(),
    ));
    checks
}

fn library(shown: &str, info: &ModuleInfo) -> Check {
    let name = "library";
    let build = info
        .builds
        .iter()
        .find(|build| build.package == env!("CARGO_PKG_NAME"));
    let Some(build) = build.filter(|_| info.has_module("network/contrail")) else {
        return Check::failure(
            name,
            format!("the library {shown} has no module network/contrail"),
            "name libcontrail_mesos.so, not one of the other libraries",
        );
    };
    let layout = match build.layout {
        AbiLayout::Recorded => "the recorded layout of its official binary",
        AbiLayout::Headers => "its headers",
    };
    let versions: Vec<_> = info.mesos_versions().into_iter().collect();
    let versions = versions.join(" and ");
    let text = format!(
        "the library {shown} is version {}, built for Mesos {} by {layout}",
        Quoted(build.version.as_bytes()),
        Quoted(versions.as_bytes())
    );
    if build.version == env!("CARGO_PKG_VERSION") {
        Check::ok(name, text)
    } else {
        Check::warning(
            name,
            format!(
                "{text}, and this program is version {}",
                env!("CARGO_PKG_VERSION")
            ),
            "install the library and the programs of one version",
        )
    }
}

/// Whether Mesos can load the library.
fn compatibility(info: &ModuleInfo, mesos: Option<&Path>, version: Option<&str>) -> Check {
    let name = "library-mesos";
    let usual = || MESOS_FILES.iter().map(Path::new).find(|path| path.exists());
    // The program of a running agent says more than a file that it may not be of.
    let file = mesos.or_else(|| if version.is_none() { usual() } else { None });
    let read = file.map(|path| (path, MesosBinary::read(path)));
    let (source, mut mesos) = match read {
        Some((path, Ok(mesos))) => (
            Quoted(path.as_os_str().as_encoded_bytes()).to_string(),
            mesos,
        ),
        Some((_, Err(error))) if version.is_none() => {
            let remedy = "give the path of libmesos or of mesos-agent by --mesos";
            return Check::warning(name, error.to_string(), remedy);
        }
        _ => ("the agent's answer".to_owned(), MesosBinary::default()),
    };
    if let Some(version) = version {
        mesos.version = Some(version.to_owned());
    }
    let Some(version) = &mesos.version else {
        return Check::warning(
            name,
            "the version of Mesos is not known: no agent runs, and no file of Mesos names it",
            "give the path of libmesos or of mesos-agent by --mesos",
        );
    };
    match info.mismatch(&mesos) {
        None => Check::ok(
            name,
            format!(
                "Mesos {} can load it, by {source}",
                Quoted(version.as_bytes())
            ),
        ),
        Some(mismatch) => Check::failure(
            name,
            format!("the library does not fit, by {source}: {mismatch}"),
            "build it for this Mesos (make module MESOS_TREE=<its source tree>), and install it before the agent is restarted",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn missing_and_wrong_libraries_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libcontrail_mesos.so");
        let checks_of = |path: &Path| {
            checks(LibraryOptions {
                library: Some(path.to_owned()),
                ..LibraryOptions::default()
            })
        };
        let checks = checks_of(&path);
        assert_eq!((checks.len(), checks[0].severity), (1, Severity::Failure));
        std::fs::write(&path, "no library").unwrap();
        let checks = checks_of(&path);
        assert_eq!((checks.len(), checks[0].severity), (1, Severity::Failure));
        assert!(
            checks[0].text.contains("no library of contrail-mesos"),
            "{checks:?}"
        );
    }
}
