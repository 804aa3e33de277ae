//! Compiles the shim, from the ABI facts or with the headers of a Mesos.
//!
//! | environment | headers |
//! |---|---|
//! | none | none: `mesos_abi_1_11.hpp` has the facts |
//! | `MESOS_TREE`, `MESOS_BUILD` | of a source tree and its build directory |
//! | `MESOS_PREFIX` | of an installation configured with `--enable-install-module-dependencies` |

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const SOURCES: &str = "cpp-shim";

/// The version of Mesos that the ABI facts are about.
const ABI_VERSION: &str = "1.11.0";

/// The macros of the official binary, which change layouts.
const DEFAULT_DEFINES: &str = "USE_SSL_SOCKET USE_LIBEVENT ENABLE_SECCOMP_ISOLATOR";

/// The headers of one Mesos.
struct Headers {
    directories: Vec<PathBuf>,
    version: String,
}

/// Compiles the bridge and the shim into one static library.
pub(crate) fn compile() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-changed=src/module/bridge.rs");
    for variable in ["MESOS_TREE", "MESOS_BUILD", "MESOS_PREFIX", "MESOS_DEFINES"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let headers = match (
        path("MESOS_TREE"),
        path("MESOS_BUILD"),
        path("MESOS_PREFIX"),
    ) {
        (None, None, None) => None,
        (Some(tree), build, None) => Some(tree_headers(&tree, build.as_deref())?),
        (None, None, Some(prefix)) => Some(prefix_headers(&prefix)?),
        (None, Some(_), None) => return Err("MESOS_BUILD needs MESOS_TREE: set both".into()),
        (_, _, Some(_)) => {
            return Err(
                "MESOS_PREFIX excludes MESOS_TREE and MESOS_BUILD: set one or the other".into(),
            );
        }
    };
    let mut build = cxx_build::bridge("src/module/bridge.rs");
    build
        .std("c++17")
        .file(format!("{SOURCES}/shim.cpp"))
        .warnings(true)
        .extra_warnings(true);
    let version = if let Some(headers) = headers {
        for directory in &headers.directories {
            // As system headers, to suppress their warnings.
            build.flag("-isystem").flag(directory);
        }
        let defines = env::var("MESOS_DEFINES").unwrap_or_else(|_| DEFAULT_DEFINES.to_owned());
        for define in defines.split_whitespace() {
            build.define(define, "1");
        }
        build
            .define("CONTRAIL_MESOS_TREE", None)
            .file(format!("{SOURCES}/abi_check.cpp"));
        headers.version
    } else {
        build.file(format!("{SOURCES}/mesos_abi_imports.cpp"));
        ABI_VERSION.to_owned()
    };
    println!("cargo::rustc-env=CONTRAIL_MESOS_MESOS_VERSION={version}");
    build.try_compile("contrail_mesos_shim")?;
    Ok(())
}

fn path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn tree_headers(tree: &Path, build: Option<&Path>) -> Result<Headers, Box<dyn Error>> {
    let generated = match build {
        Some(build) => build.to_owned(),
        // The output of mesos-tree-headers.sh.
        None => path("CARGO_MANIFEST_DIR")
            .unwrap_or_default()
            .join("target/mesos-headers"),
    };
    let mut candidates = vec![
        tree.join("include"),
        tree.join("3rdparty/libprocess/include"),
        tree.join("3rdparty/stout/include"),
        generated.join("include"),
        generated.join("3rdparty/libprocess/include"),
    ];
    let bundled = generated.join("3rdparty");
    for entry in fs::read_dir(&bundled).into_iter().flatten().flatten() {
        let unpacked = entry.path();
        // The layouts of the autotools and the CMake builds.
        for inside in ["", "src", "include", "src/include", "build/src"] {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let libraries = ["protobuf-", "glog-", "boost-", "picojson-", "rapidjson-"];
            if libraries.iter().any(|prefix| name.starts_with(prefix)) {
                candidates.push(unpacked.join(inside));
            }
        }
    }
    check_headers(
        candidates,
        &format!(
            "Set MESOS_BUILD to the build directory of {}, or run cpp-shim/mesos-tree-headers.sh {} \
             to generate the missing headers",
            tree.display(),
            tree.display()
        ),
    )
}

fn prefix_headers(prefix: &Path) -> Result<Headers, Box<dyn Error>> {
    check_headers(
        vec![
            prefix.join("include"),
            prefix.join("lib/mesos/3rdparty/include"),
            prefix.join("lib64/mesos/3rdparty/include"),
        ],
        &format!(
            "Configure Mesos with --enable-install-module-dependencies and install it in {}",
            prefix.display()
        ),
    )
}

/// Checks for one header of each component, so that the error can name what is missing, and reads
/// the version.
fn check_headers(candidates: Vec<PathBuf>, advice: &str) -> Result<Headers, Box<dyn Error>> {
    let mut directories: Vec<PathBuf> = candidates
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let multiarch = Path::new(&multiarch);
    let find = |header: &str| {
        directories
            .iter()
            .map(|directory| directory.join(header))
            .chain([
                Path::new("/usr/include").join(header),
                multiarch.join(header),
            ])
            .find(|path| path.is_file())
    };
    let required = [
        ("mesos/slave/isolator.hpp", "Mesos' include directory"),
        ("mesos/version.hpp", "Mesos' configured include directory"),
        ("mesos/mesos.pb.h", "the generated protobuf code"),
        ("process/future.hpp", "3rdparty/libprocess/include"),
        ("stout/option.hpp", "3rdparty/stout/include"),
        ("google/protobuf/message.h", "protobuf 3.5.0"),
        ("glog/logging.h", "glog 0.4.0"),
        (
            "boost/functional/hash.hpp",
            "boost, Debian package libboost-dev",
        ),
        ("picojson.h", "picojson 1.3.0"),
        (
            "rapidjson/document.h",
            "rapidjson 1.1.0, or Debian package rapidjson-dev",
        ),
        ("curl/curl.h", "Debian package libcurl4-openssl-dev"),
    ];
    let missing: Vec<String> = required
        .iter()
        .filter(|(header, _)| find(header).is_none())
        .map(|(header, component)| format!("{header} ({component})"))
        .collect();
    if !missing.is_empty() {
        return Err(format!("missing headers: {}. {advice}.", missing.join(", ")).into());
    }
    let version = find("mesos/version.hpp")
        .and_then(|header| fs::read_to_string(header).ok())
        .and_then(|source| {
            let line = source
                .lines()
                .find(|line| line.contains("define MESOS_VERSION "))?;
            line.split('"').nth(1).map(str::to_owned)
        })
        .ok_or("mesos/version.hpp has no MESOS_VERSION")?;
    directories.dedup();
    Ok(Headers {
        directories,
        version,
    })
}
