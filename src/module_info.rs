//! What is in a library for Mesos, and which Mesos a program is of: read from the files, which are never
//! loaded.
//!
//! A library says how it was built in ELF notes, one for each package that is in it. Its modules are the
//! descriptors that Mesos looks up: exported data of the size of `mesos::modules::Module`, whose pointers
//! the dynamic relocations have. Invariant: no file, whatever is in it, makes this panic.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use contrail_mesos_api::text::Quoted;
use nix::fcntl::OFlag;
use object::elf;
use object::read::elf::{ElfFile64, SectionHeader as _};
use object::{Endianness, Object as _, ObjectSegment as _, ObjectSymbol as _};
use serde::Serialize;

/// The largest file that is read: libraries with all debug information have a few hundred MiB.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// The owner of our notes, and their type.
const NOTE_NAME: &[u8] = b"contrail-mesos";
const NOTE_TYPE: elf::NoteType = elf::NoteType(1);
/// The size of a descriptor: eight pointers.
const DESCRIPTOR_BYTES: u64 = 64;
/// The longest string of a descriptor that is read.
const MAX_STRING_BYTES: usize = 256;
/// What the mangled names of the functions of Mesos have in them.
const MESOS_NAMESPACES: [&str; 3] = ["5mesos", "7process", "6google8protobuf"];

/// How the modules of a package were built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The commit of its sources, with `-dirty` if they had changes; none if it is not known.
    pub commit: Option<String>,
    /// The version of Mesos that it was built for.
    pub mesos_version: String,
    /// Where the layout of the objects of Mesos is from.
    pub layout: AbiLayout,
    /// The macros of that Mesos, which change the layout.
    pub defines: Vec<String>,
}

/// Where a library has the layout of the objects of Mesos from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AbiLayout {
    /// The recorded facts about the official binary.
    Recorded,
    /// The headers of a source tree or an installation.
    Headers,
}

/// A module of a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleDescriptor {
    /// The name by which flags and JSON refer to it.
    pub name: String,
    /// The kind of module, such as `Isolator`.
    pub kind: String,
    /// The version of Mesos that Mesos compares with its own.
    pub mesos_version: String,
    /// What it does.
    pub description: String,
}

/// What is in a library of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleInfo {
    /// How its packages were built, by their names.
    pub builds: Vec<Build>,
    /// Its modules, by their names.
    pub modules: Vec<ModuleDescriptor>,
    /// The symbols of Mesos that it needs when it is loaded.
    #[serde(skip)]
    imports: BTreeSet<Vec<u8>>,
}

/// A file could not be read as what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ModuleInfoError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", Quoted(.path.as_os_str().as_encoded_bytes()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It is no 64-bit ELF file, or a damaged one.
    #[error(
        "{} is no library of contrail-mesos: {problem}; give the path of libcontrail_mesos.so",
        Quoted(.path.as_os_str().as_encoded_bytes())
    )]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It does not say how it was built, or has no modules.
    #[error(
        "{} is no library of contrail-mesos: {problem}; give the path of libcontrail_mesos.so, of this version or a later one",
        Quoted(.path.as_os_str().as_encoded_bytes())
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is missing.
        problem: &'static str,
    },
}

impl ModuleInfo {
    /// Reads a library. Blocks on the file system.
    pub fn read(path: &Path) -> Result<Self, ModuleInfoError> {
        let bytes = read_file(path)?;
        let elf = parse(path, &bytes)?;
        let fail = |problem| ModuleInfoError::NotOurs {
            path: path.to_owned(),
            problem,
        };
        let builds = builds(&elf).map_err(|error| not_elf(path, &error))?;
        if builds.is_empty() {
            return Err(fail("it does not say how it was built"));
        }
        let modules = modules(&elf);
        if modules.is_empty() {
            return Err(fail("it exports no modules"));
        }
        let imports = elf
            .dynamic_symbols()
            .filter(|symbol| symbol.is_undefined() && !symbol.is_weak())
            .filter_map(|symbol| symbol.name_bytes().ok())
            .filter(|name| is_of_mesos(name))
            .map(<[u8]>::to_vec)
            .collect();
        Ok(Self {
            builds,
            modules,
            imports,
        })
    }

    /// Whether it has a module of that name.
    #[must_use]
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.iter().any(|module| module.name == name)
    }

    /// The versions of Mesos that its modules are for; one, unless something is wrong with it.
    #[must_use]
    pub fn mesos_versions(&self) -> BTreeSet<&str> {
        let versions = self.modules.iter();
        versions
            .map(|module| module.mesos_version.as_str())
            .collect()
    }

    /// Why a Mesos cannot load the library, or nothing.
    #[must_use]
    pub fn mismatch(&self, mesos: &MesosBinary) -> Option<String> {
        let versions = self.mesos_versions();
        if let Some(version) = &mesos.version
            && versions.iter().any(|other| other != version)
        {
            let versions: Vec<&str> = versions.into_iter().collect();
            return Some(format!(
                "it is built for Mesos {}, and this is Mesos {}",
                versions.join(" and "),
                Quoted(version.as_bytes())
            ));
        }
        // A program has what it needs of Mesos in another file.
        if mesos.exports.is_empty() {
            return None;
        }
        let missing: Vec<_> = self.imports.difference(&mesos.exports).collect();
        let first = missing.first()?;
        Some(format!(
            "it needs {} functions that this Mesos does not have, such as {}",
            missing.len(),
            Quoted(first)
        ))
    }
}

/// A program or library of Mesos.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MesosBinary {
    /// The version in the name of the library that it is, or that it needs; none if it has another name.
    pub version: Option<String>,
    /// The symbols of Mesos that it has.
    exports: BTreeSet<Vec<u8>>,
}

impl MesosBinary {
    /// Reads `libmesos`, or a program that needs it. Blocks on the file system.
    pub fn read(path: &Path) -> Result<Self, ModuleInfoError> {
        let bytes = read_file(path)?;
        let elf = parse(path, &bytes)?;
        let table = elf
            .elf_section_table()
            .dynamic_table(elf.endian(), elf.data())
            .map_err(|error| not_elf(path, &error))?;
        let mut names = table
            .iter()
            .filter(|entry| matches!(entry.tag, elf::DT_SONAME | elf::DT_NEEDED))
            .filter_map(|entry| table.string(entry).ok());
        let version = names.find_map(library_version);
        let exports = elf
            .dynamic_symbols()
            .filter(object::ObjectSymbol::is_definition)
            .filter_map(|symbol| symbol.name_bytes().ok())
            .filter(|name| is_of_mesos(name))
            .map(<[u8]>::to_vec)
            .collect();
        Ok(Self { version, exports })
    }

    /// A Mesos of which nothing but the version is known.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        Self {
            version: Some(version.to_owned()),
            exports: BTreeSet::new(),
        }
    }
}

/// The version in a name such as `libmesos-1.11.0.so`.
fn library_version(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let version = name.strip_prefix("libmesos-")?.split_once(".so")?.0;
    let is_version = version.starts_with(|first: char| first.is_ascii_digit());
    is_version.then(|| version.to_owned())
}

fn is_of_mesos(symbol: &[u8]) -> bool {
    std::str::from_utf8(symbol)
        .is_ok_and(|symbol| MESOS_NAMESPACES.iter().any(|part| symbol.contains(part)))
}

type Elf<'a> = ElfFile64<'a, Endianness, &'a [u8]>;

fn read_file(path: &Path) -> Result<Vec<u8>, ModuleInfoError> {
    let read = || {
        // Opening a pipe that somebody put there does not block.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(io::Error::other("it is larger than 2 GiB"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| ModuleInfoError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Elf<'a>, ModuleInfoError> {
    Elf::parse(bytes).map_err(|error| not_elf(path, &error))
}

fn not_elf(path: &Path, error: &object::Error) -> ModuleInfoError {
    ModuleInfoError::NotElf {
        path: path.to_owned(),
        problem: error.to_string(),
    }
}

/// What the notes say, by package.
fn builds(elf: &Elf<'_>) -> Result<Vec<Build>, object::Error> {
    let mut builds = BTreeMap::new();
    for section in elf.elf_section_table().iter() {
        let Some(mut notes) = section.notes(elf.endian(), elf.data())? else {
            continue;
        };
        while let Some(note) = notes.next()? {
            if note.name() == NOTE_NAME
                && note.n_type(elf.endian()) == NOTE_TYPE
                && let Some(build) = build(note.desc())
            {
                builds.insert(build.package.clone(), build);
            }
        }
    }
    Ok(builds.into_values().collect())
}

/// A line `key=value` for each key; more keys may follow in later versions.
fn build(description: &[u8]) -> Option<Build> {
    let text = std::str::from_utf8(description).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let values: BTreeMap<&str, &str> = lines.collect();
    let text = |key: &str| values.get(key).map(|value| (*value).to_owned());
    Some(Build {
        package: text("package")?,
        version: text("version")?,
        commit: text("commit").filter(|commit| !commit.is_empty()),
        mesos_version: text("mesos")?,
        layout: match *values.get("layout")? {
            "recorded" => AbiLayout::Recorded,
            "headers" => AbiLayout::Headers,
            _ => return None,
        },
        defines: values.get("defines").map_or_else(Vec::new, |defines| {
            defines.split_whitespace().map(str::to_owned).collect()
        }),
    })
}

/// The modules, by name.
fn modules(elf: &Elf<'_>) -> Vec<ModuleDescriptor> {
    let candidates: BTreeMap<u64, &[u8]> = elf
        .dynamic_symbols()
        .filter(|symbol| {
            symbol.is_definition()
                && symbol.kind() == object::SymbolKind::Data
                && symbol.size() == DESCRIPTOR_BYTES
        })
        .filter_map(|symbol| Some((symbol.address(), symbol.name_bytes().ok()?)))
        .collect();
    // The pointers: what the loader adds the library's own address to.
    let mut pointers = BTreeMap::new();
    for (offset, relocation) in elf.dynamic_relocations().into_iter().flatten() {
        let before = candidates.range(..=offset).next_back();
        if before.is_some_and(|(address, _)| offset - address < DESCRIPTOR_BYTES) {
            pointers.insert(offset, relocation.addend().cast_unsigned());
        }
    }
    let mut modules: Vec<_> = candidates
        .iter()
        .filter_map(|(address, name)| {
            let text = |word: u64| string_at(elf, *pointers.get(&(address + word * 8))?);
            // The first one is the version of the interface of modules.
            text(0).filter(|version| version == "2")?;
            Some(ModuleDescriptor {
                name: String::from_utf8(name.to_vec()).ok()?,
                mesos_version: text(1)?,
                kind: text(2)?,
                description: text(5)?,
            })
        })
        .collect();
    modules.sort_by(|one, other| one.name.cmp(&other.name));
    modules
}

/// The string at an address of the loaded library, which ends with a zero.
fn string_at(elf: &Elf<'_>, address: u64) -> Option<String> {
    elf.segments().find_map(|segment| {
        let offset = usize::try_from(address.checked_sub(segment.address())?).ok()?;
        let rest = segment.data().ok()?.get(offset..)?;
        let text = rest.get(..rest.len().min(MAX_STRING_BYTES))?;
        let end = text.iter().position(|byte| *byte == 0)?;
        String::from_utf8(text[..end].to_vec()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrail_mesos_api::parser_testing::for_damaged_input;

    const NOTE: &str = "package=p\nversion=1.2.3\ncommit=\nmesos=1.11.0\nlayout=headers\n\
                        defines=A B\nlater=1\n";

    #[test]
    fn note_is_read_with_unknown_keys() {
        let build = build(NOTE.as_bytes()).unwrap();
        assert_eq!(
            (build.package.as_str(), build.version.as_str()),
            ("p", "1.2.3")
        );
        assert_eq!((build.commit, build.layout), (None, AbiLayout::Headers));
        assert_eq!(build.defines, ["A", "B"]);
    }

    #[test]
    fn version_is_in_the_name_of_the_library() {
        for (name, version) in [
            ("libmesos-1.11.0.so", Some("1.11.0")),
            ("libmesos-1.11.0.so.0", Some("1.11.0")),
            ("libmesos.so", None),
            ("libmesos-x.so", None),
            ("libc.so.6", None),
        ] {
            assert_eq!(
                library_version(name.as_bytes()).as_deref(),
                version,
                "{name}"
            );
        }
    }

    #[test]
    fn mismatch_names_versions_and_missing_functions() {
        let module = ModuleDescriptor {
            name: "network/contrail".to_owned(),
            kind: "Isolator".to_owned(),
            mesos_version: "1.11.0".to_owned(),
            description: String::new(),
        };
        let info = ModuleInfo {
            builds: vec![],
            modules: vec![module],
            imports: [b"_ZN5mesos1f".to_vec()].into(),
        };
        assert_eq!(info.mismatch(&MesosBinary::of_version("1.11.0")), None);
        let other = info.mismatch(&MesosBinary::of_version("1.10.0")).unwrap();
        assert!(
            other.contains("1.11.0") && other.contains("1.10.0"),
            "{other}"
        );
        let mut mesos = MesosBinary::of_version("1.11.0");
        mesos.exports = [b"_ZN5mesos1g".to_vec()].into();
        let missing = info.mismatch(&mesos).unwrap();
        assert!(missing.contains("_ZN5mesos1f"), "{missing}");
        mesos.exports.insert(b"_ZN5mesos1f".to_vec());
        assert_eq!(info.mismatch(&mesos), None);
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let error = ModuleInfo::read(&path).unwrap_err();
        assert!(matches!(error, ModuleInfoError::Read { .. }), "{error}");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let error = ModuleInfo::read(&path).unwrap_err();
        assert!(matches!(error, ModuleInfoError::NotElf { .. }), "{error}");
        let error = ModuleInfo::read(directory.path()).unwrap_err();
        assert!(matches!(error, ModuleInfoError::Read { .. }), "{error}");
        // This program has the note, but no module.
        let error = ModuleInfo::read(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(matches!(error, ModuleInfoError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn damaged_input_never_panics() {
        for_damaged_input(NOTE.as_bytes(), |input| {
            let _ = build(input);
        });
        // The header of a file with a section that may be anywhere.
        let mut header = vec![0_u8; 128];
        header[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0");
        header[40] = 64;
        header[58] = 64;
        header[60] = 1;
        for_damaged_input(&header, |input| {
            if let Ok(elf) = Elf::parse(input) {
                let _ = builds(&elf);
                let _ = modules(&elf);
            }
        });
    }
}
