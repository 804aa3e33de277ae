//! Compiles the shim, from the ABI facts or with the headers of a Mesos.
//!
//! | environment | headers |
//! |---|---|
//! | none | none: `mesos_abi_1_11.hpp` has the facts |
//! | `MESOS_TREE`, `MESOS_BUILD` | of a source tree and its build directory |
//! | `MESOS_PREFIX` | of an installation configured with `--enable-install-module-dependencies` |

use std::env;
use std::error::Error;
use std::path::PathBuf;

use super::headers::{self, Location};

/// The version of Mesos that the ABI facts are about.
const ABI_VERSION: &str = "1.11.0";

/// The variable with the commit that the sources are of, which a library says about itself. Without it,
/// the library says nothing: reading the repository here would compile everything after each commit.
const COMMIT: &str = "CONTRAIL_MESOS_COMMIT";
/// The variable with the day of that commit, for the same reason.
const COMMIT_DATE: &str = "CONTRAIL_MESOS_COMMIT_DATE";

/// The macros of the official binary, which change layouts.
const DEFAULT_DEFINES: &str = "USE_SSL_SOCKET USE_LIBEVENT ENABLE_SECCOMP_ISOLATOR";

/// The bridge of a package, which cxx generates the C++ side of.
const BRIDGE: &str = "src/module/bridge.rs";

/// What of the shim a package has.
pub(crate) struct Shim<'a> {
    /// The directory of the workspace, as the package sees it.
    pub(crate) workspace: &'a str,
    /// The name of the static library.
    pub(crate) library: &'a str,
    /// Its sources.
    pub(crate) sources: &'a [&'a str],
    /// More sources of a build without headers, and of one with them.
    pub(crate) without_headers: &'a [&'a str],
    pub(crate) with_headers: &'a [&'a str],
    /// Macros with their values.
    pub(crate) macros: &'a [(&'a str, &'a str)],
}

/// Compiles the bridge and the shim into one static library.
pub(crate) fn compile(shim: &Shim<'_>) -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(shim.workspace).join("cpp-shim");
    println!("cargo::rerun-if-changed={}", directory.display());
    println!("cargo::rerun-if-changed={BRIDGE}");
    for variable in [
        "MESOS_TREE",
        "MESOS_BUILD",
        "MESOS_PREFIX",
        "MESOS_DEFINES",
        "MESOS_INCLUDE_DIRS",
        COMMIT,
        COMMIT_DATE,
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let location = match (
        path("MESOS_TREE"),
        path("MESOS_BUILD"),
        path("MESOS_PREFIX"),
    ) {
        (None, None, None) => None,
        (Some(source), build, None) => Some(Location::Tree {
            source,
            generated: build.unwrap_or_else(|| generated_headers(shim.workspace)),
        }),
        (None, None, Some(prefix)) => Some(Location::Prefix(prefix)),
        (None, Some(_), None) => return Err("MESOS_BUILD needs MESOS_TREE: set both".into()),
        (_, _, Some(_)) => {
            return Err(
                "MESOS_PREFIX excludes MESOS_TREE and MESOS_BUILD: set one or the other".into(),
            );
        }
    };
    let mut build = cxx_build::bridge(BRIDGE);
    build.std("c++17").warnings(true).extra_warnings(true);
    let mut sources = shim.sources.to_vec();
    for (name, value) in shim.macros {
        build.define(name, *value);
    }
    let mut given_defines = DEFAULT_DEFINES.to_owned();
    let layout = if location.is_some() {
        "headers"
    } else {
        "recorded"
    };
    let version = if let Some(location) = location {
        given_defines = env::var("MESOS_DEFINES").unwrap_or(given_defines);
        let defines: Vec<&str> = given_defines.split_whitespace().collect();
        let external: Vec<PathBuf> = env::var_os("MESOS_INCLUDE_DIRS")
            .map(|directories| {
                env::split_paths(&directories)
                    .filter(|directory| !directory.as_os_str().is_empty())
                    .collect()
            })
            .unwrap_or_default();
        let system = headers::system_directories();
        let headers = headers::find(&location, &external, &defines, &system)?;
        for directive in headers.rerun_directives() {
            println!("{directive}");
        }
        for directory in &headers.directories {
            // As system headers, to suppress their warnings.
            build.flag("-isystem").flag(directory);
        }
        for define in &defines {
            build.define(define, "1");
        }
        given_defines = defines.join(" ");
        build.define("CONTRAIL_MESOS_TREE", None);
        sources.extend(shim.with_headers);
        headers.version
    } else {
        sources.extend(shim.without_headers);
        ABI_VERSION.to_owned()
    };
    build.files(sources.iter().map(|source| directory.join(source)));
    println!("cargo::rustc-env=CONTRAIL_MESOS_MESOS_VERSION={version}");
    println!("cargo::rustc-env=CONTRAIL_MESOS_LAYOUT={layout}");
    println!("cargo::rustc-env=CONTRAIL_MESOS_DEFINES={given_defines}");
    println!("cargo::rustc-env={COMMIT}={}", commit()?);
    println!("cargo::rustc-env={COMMIT_DATE}={}", commit_date()?);
    build.try_compile(shim.library)?;
    Ok(())
}

/// The commit, or nothing.
fn commit() -> Result<String, Box<dyn Error>> {
    let commit = env::var(COMMIT).unwrap_or_default();
    let hash = commit.strip_suffix("-dirty").unwrap_or(&commit);
    if hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(commit)
    } else {
        Err(format!("{COMMIT} is no commit such as 0123abcd or 0123abcd-dirty").into())
    }
}

/// The day of the commit, or nothing.
fn commit_date() -> Result<String, Box<dyn Error>> {
    let date = env::var(COMMIT_DATE).unwrap_or_default();
    if date
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-')
    {
        Ok(date)
    } else {
        Err(format!("{COMMIT_DATE} is no day such as 2026-11-30").into())
    }
}

fn path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The output of `mesos-tree-headers.sh`.
fn generated_headers(workspace: &str) -> PathBuf {
    path("CARGO_MANIFEST_DIR")
        .unwrap_or_default()
        .join(workspace)
        .join("target/mesos-headers")
}
