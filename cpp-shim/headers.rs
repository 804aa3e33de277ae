//! Finds the headers of a Mesos to build the module on. Part of the build script, and of the tests of
//! the library.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

/// The versions of Mesos whose headers the shim compiles with: major and minor numbers.
const SUPPORTED_VERSIONS: std::ops::RangeInclusive<(u32, u32)> = (1, 10)..=(1, 12);

/// The libraries that Mesos bundles and whose headers its own include.
const BUNDLED_LIBRARIES: [&str; 5] = ["protobuf-", "glog-", "boost-", "picojson-", "rapidjson-"];

/// The macro of a Mesos with SSL, whose headers include those of OpenSSL.
const SSL_DEFINE: &str = "USE_SSL_SOCKET";

/// Where the headers of one Mesos are.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// A source tree, and its build directory or the output of `mesos-tree-headers.sh`.
    Tree { source: PathBuf, generated: PathBuf },
    /// An installation with module dependencies.
    Prefix(PathBuf),
}

/// The headers of one Mesos.
#[derive(Debug)]
pub(crate) struct Headers {
    /// The directories to include. A change of any file in them requires another build.
    pub(crate) directories: Vec<PathBuf>,
    /// The version, such as `1.11.0`.
    pub(crate) version: String,
}

impl Headers {
    /// What the build script prints, so that a library of changed headers does not stay. Cargo looks
    /// at every file below a directory.
    pub(crate) fn rerun_directives(&self) -> Vec<String> {
        self.directories
            .iter()
            .map(|directory| format!("cargo::rerun-if-changed={}", directory.display()))
            .collect()
    }
}

/// What provides a header.
#[derive(Clone, Copy)]
enum Provider {
    /// Mesos itself, or a library that it bundles.
    Mesos(&'static str),
    /// A Debian package.
    Package(&'static str),
}

/// One header of each component, so that an error can name what is missing.
const REQUIRED: [(&str, Provider); 12] = [
    (
        "mesos/slave/isolator.hpp",
        Provider::Mesos("Mesos' include directory"),
    ),
    (
        "mesos/version.hpp",
        Provider::Mesos("Mesos' configured include directory"),
    ),
    (
        "mesos/mesos.pb.h",
        Provider::Mesos("the generated protobuf code"),
    ),
    (
        "process/future.hpp",
        Provider::Mesos("3rdparty/libprocess/include"),
    ),
    (
        "stout/option.hpp",
        Provider::Mesos("3rdparty/stout/include"),
    ),
    (
        "google/protobuf/message.h",
        Provider::Mesos("protobuf, of the version that Mesos was built with"),
    ),
    ("glog/logging.h", Provider::Mesos("glog")),
    ("boost/functional/hash.hpp", Provider::Mesos("boost")),
    ("picojson.h", Provider::Mesos("picojson")),
    ("rapidjson/document.h", Provider::Mesos("rapidjson")),
    ("curl/curl.h", Provider::Package("libcurl4-openssl-dev")),
    ("openssl/ssl.h", Provider::Package("libssl-dev")),
];

/// The directories of the compiler.
pub(crate) fn system_directories() -> Vec<PathBuf> {
    vec![
        PathBuf::from("/usr/include"),
        PathBuf::from(format!("/usr/include/{}-linux-gnu", env::consts::ARCH)),
    ]
}

/// Finds the headers. `external` are directories of libraries that Mesos was built with in place of
/// those that it bundles; they come first. `defines` are the macros of the Mesos.
pub(crate) fn find(
    location: &Location,
    external: &[PathBuf],
    defines: &[&str],
    system: &[PathBuf],
) -> Result<Headers, Box<dyn Error>> {
    if let Some(missing) = external.iter().find(|directory| !directory.is_dir()) {
        return Err(format!(
            "MESOS_INCLUDE_DIRS has {}, which is not a directory",
            missing.display()
        )
        .into());
    }
    let mut directories = external.to_vec();
    directories.extend(
        candidates(location)
            .into_iter()
            .filter(|path| path.is_dir()),
    );
    directories.dedup();
    let find = |header: &str| {
        directories
            .iter()
            .chain(system)
            .map(|directory| directory.join(header))
            .find(|path| path.is_file())
    };
    // First: another version may lack any header.
    let version = match find("mesos/version.hpp") {
        Some(header) => Some(
            version(&fs::read_to_string(&header)?)
                .ok_or_else(|| format!("{} has no MESOS_VERSION", header.display()))?,
        ),
        None => None,
    };
    if let Some(version) = &version {
        check_version(version)?;
    }
    let missing: Vec<(&str, Provider)> = REQUIRED
        .into_iter()
        .filter(|(header, _)| *header != "openssl/ssl.h" || defines.contains(&SSL_DEFINE))
        .filter(|(header, _)| find(header).is_none())
        .collect();
    match version {
        Some(version) if missing.is_empty() => Ok(Headers {
            directories,
            version,
        }),
        _ => Err(missing_message(location, &missing).into()),
    }
}

fn candidates(location: &Location) -> Vec<PathBuf> {
    let (source, generated) = match location {
        Location::Tree { source, generated } => (source, generated),
        Location::Prefix(prefix) => {
            return [
                "include",
                "lib/mesos/3rdparty/include",
                "lib64/mesos/3rdparty/include",
            ]
            .map(|inside| prefix.join(inside))
            .to_vec();
        }
    };
    let mut candidates = vec![
        source.join("include"),
        source.join("3rdparty/libprocess/include"),
        source.join("3rdparty/stout/include"),
        generated.join("include"),
        generated.join("3rdparty/libprocess/include"),
    ];
    let unpacked: BTreeSet<PathBuf> = fs::read_dir(generated.join("3rdparty"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            BUNDLED_LIBRARIES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map(|entry| entry.path())
        .collect();
    for library in unpacked {
        // The layouts of the autotools and the CMake builds.
        for inside in ["src", "include", "src/include", "build/src"] {
            candidates.push(library.join(inside));
        }
        candidates.push(library);
    }
    candidates
}

/// The version in the source of `mesos/version.hpp`.
fn version(source: &str) -> Option<String> {
    let line = source
        .lines()
        .find(|line| line.contains("define MESOS_VERSION "))?;
    line.split('"').nth(1).map(str::to_owned)
}

fn check_version(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let is_supported = match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => SUPPORTED_VERSIONS.contains(&(major, minor)),
        _ => false,
    };
    if is_supported {
        return Ok(());
    }
    let ((major, minor), (_, last)) = (SUPPORTED_VERSIONS.start(), SUPPORTED_VERSIONS.end());
    Err(format!(
        "the tree is Mesos {version}, whose headers are not supported: build on a tree of Mesos \
         {major}.{minor} to {major}.{last}, the one that your agents run"
    ))
}

fn missing_message(location: &Location, missing: &[(&str, Provider)]) -> String {
    let names: Vec<String> = missing
        .iter()
        .map(|(header, provider)| match provider {
            Provider::Mesos(component) => format!("{header} ({component})"),
            Provider::Package(package) => format!("{header} (Debian package {package})"),
        })
        .collect();
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|(_, provider)| match provider {
            Provider::Package(package) => Some(*package),
            Provider::Mesos(_) => None,
        })
        .collect();
    let mut sentences = vec![format!("missing headers: {}.", names.join(", "))];
    if packages.len() < missing.len() {
        sentences.push(match location {
            Location::Tree { source, .. } => format!(
                "Set MESOS_BUILD to the build directory of {source}, or run \
                 cpp-shim/mesos-tree-headers.sh {source} to generate what the tree lacks. If Mesos \
                 was built with libraries of your own, set MESOS_INCLUDE_DIRS to their include \
                 directories, separated by colons.",
                source = source.display()
            ),
            Location::Prefix(prefix) => format!(
                "Configure Mesos with --enable-install-module-dependencies and install it in {}, or \
                 set MESOS_INCLUDE_DIRS to the include directories of the libraries that it was \
                 built with, separated by colons.",
                prefix.display()
            ),
        });
    }
    if !packages.is_empty() {
        sentences.push(format!("Install: apt-get install {}.", packages.join(" ")));
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINES: [&str; 1] = [SSL_DEFINE];

    /// A source tree with everything, and a system.
    struct Fixture {
        place: tempfile::TempDir,
        external: Vec<PathBuf>,
    }

    impl Fixture {
        fn new(version: &str) -> Self {
            let fixture = Self {
                place: tempfile::tempdir().unwrap(),
                external: vec![],
            };
            for file in [
                "tree/include/mesos/slave/isolator.hpp",
                "tree/3rdparty/libprocess/include/process/future.hpp",
                "tree/3rdparty/stout/include/stout/option.hpp",
                "build/include/mesos/mesos.pb.h",
                "build/3rdparty/protobuf-3.5.0/src/google/protobuf/message.h",
                "build/3rdparty/glog-0.4.0/src/glog/logging.h",
                "build/3rdparty/boost-1.81.0/boost/functional/hash.hpp",
                "build/3rdparty/picojson-1.3.0/picojson.h",
                "build/3rdparty/rapidjson-1.1.0/include/rapidjson/document.h",
                "system/curl/curl.h",
                "system/openssl/ssl.h",
            ] {
                fixture.write(file, "");
            }
            fixture.write(
                "build/include/mesos/version.hpp",
                &format!("#define MESOS_VERSION \"{version}\"\n"),
            );
            fixture
        }

        fn path(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }

        fn write(&self, file: &str, content: &str) {
            let path = self.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn find(&self, defines: &[&str]) -> Result<Headers, String> {
            let location = Location::Tree {
                source: self.path("tree"),
                generated: self.path("build"),
            };
            find(&location, &self.external, defines, &[self.path("system")])
                .map_err(|error| error.to_string())
        }
    }

    #[test]
    fn every_directory_of_headers_is_found() {
        let fixture = Fixture::new("1.11.0");
        let headers = fixture.find(&DEFINES).unwrap();
        assert_eq!(headers.version, "1.11.0");
        for directory in [
            "tree/include",
            "tree/3rdparty/libprocess/include",
            "tree/3rdparty/stout/include",
            "build/include",
            "build/3rdparty/boost-1.81.0",
            "build/3rdparty/protobuf-3.5.0/src",
        ] {
            let directory = fixture.path(directory);
            assert!(headers.directories.contains(&directory), "{directory:?}");
            let directive = format!("cargo::rerun-if-changed={}", directory.display());
            assert!(headers.rerun_directives().contains(&directive));
        }
    }

    /// Runs `mesos-tree-headers.sh` for a tree that it cannot use, and returns its message.
    fn script_error(fixture: &Fixture) -> String {
        #[expect(
            clippy::disallowed_methods,
            reason = "the subject of the test is a script"
        )]
        let output = std::process::Command::new("cpp-shim/mesos-tree-headers.sh")
            .args([fixture.path("tree"), fixture.path("output")])
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(!fixture.path("output").exists());
        String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn script_says_what_a_tree_lacks_before_it_begins() {
        let fixture = Fixture::new("1.11.0");
        assert!(script_error(&fixture).contains("is not a Mesos source tree"));
        fixture.write("tree/include/mesos/version.hpp.in", "");
        for (version, expected) in [
            ("1.9.0", "is Mesos 1.9.0"),
            ("1.13.0", "give a tree of Mesos 1.10 to 1.12"),
            ("1.11.0", "has no archive of glog"),
        ] {
            fixture.write(
                "tree/configure.ac",
                &format!("AC_INIT([mesos], [{version}])\n"),
            );
            let error = script_error(&fixture);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn installation_without_its_dependencies_is_refused_with_advice() {
        let fixture = Fixture::new("1.11.0");
        let location = Location::Prefix(fixture.path("build"));
        let error = find(&location, &[], &[], &system_directories()).unwrap_err();
        let error = error.to_string();
        for part in [
            "mesos/slave/isolator.hpp",
            "--enable-install-module-dependencies",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn other_versions_of_mesos_are_refused_by_name() {
        for version in ["1.10.0", "1.11.0", "1.11.1-rc1", "1.12.0"] {
            assert_eq!(
                Fixture::new(version).find(&DEFINES).unwrap().version,
                version
            );
        }
        for version in ["1.9.0", "1.13.0", "2.0.0", "0.28.3", "next"] {
            let fixture = Fixture::new(version);
            // They may lack headers, too.
            fs::remove_dir_all(fixture.path("build/3rdparty")).unwrap();
            let error = fixture.find(&DEFINES).unwrap_err();
            assert!(
                error.contains(&format!("is Mesos {version}")) && error.contains("1.10 to 1.12"),
                "{error}"
            );
        }
    }

    #[test]
    fn advice_fits_what_is_missing() {
        let fixture = Fixture::new("1.11.0");
        fs::remove_dir_all(fixture.path("system")).unwrap();
        let error = fixture.find(&DEFINES).unwrap_err();
        assert!(
            error.contains("apt-get install libcurl4-openssl-dev libssl-dev."),
            "{error}"
        );
        assert!(!error.contains("mesos-tree-headers.sh"), "{error}");
        let error = fixture.find(&[]).unwrap_err();
        assert!(!error.contains("libssl-dev"), "{error}");
        fixture.write("system/curl/curl.h", "");
        fixture.write("system/openssl/ssl.h", "");
        fs::remove_dir_all(fixture.path("build")).unwrap();
        let error = fixture.find(&DEFINES).unwrap_err();
        for part in [
            "mesos/version.hpp",
            "glog/logging.h (glog)",
            "mesos-tree-headers.sh",
            "MESOS_INCLUDE_DIRS",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        assert!(!error.contains("apt-get"), "{error}");
    }

    #[test]
    fn external_libraries_come_first() {
        let mut fixture = Fixture::new("1.11.0");
        fs::remove_dir_all(fixture.path("build/3rdparty/glog-0.4.0")).unwrap();
        assert!(fixture.find(&DEFINES).is_err());
        fixture.write("external/glog/logging.h", "");
        fixture.external = vec![fixture.path("external")];
        let headers = fixture.find(&DEFINES).unwrap();
        assert_eq!(headers.directories[0], fixture.path("external"));
        fixture.external = vec![fixture.path("nowhere")];
        let error = fixture.find(&DEFINES).unwrap_err();
        assert!(
            error.contains("nowhere, which is not a directory"),
            "{error}"
        );
    }
}
