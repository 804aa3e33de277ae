//! Finds the real Mesos, the programs that cargo built and the module library.
//!
//! Programs are those of the profile that the running program was built with: a test runs dev
//! builds, `bench` and `soak` run release builds.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The installed programs.
#[derive(Clone, Debug)]
pub struct Install {
    /// `mesos-containerizer` of the real Mesos. The cluster program is beside it.
    pub mesos_containerizer: PathBuf,
    /// The executors.
    pub mesos_executor: PathBuf,
    /// The first process of a host.
    pub testbed_host: PathBuf,
}

impl Install {
    /// Finds the programs. The error tells how to build a missing one.
    pub fn find() -> Result<Self> {
        let mesos = match env::var_os("CONTRAIL_TEST_MESOS") {
            Some(mesos) => PathBuf::from(mesos),
            None => target()?.join("mesos"),
        };
        let mesos_containerizer = mesos.join("libexec/mesos-containerizer");
        ensure!(
            mesos_containerizer.is_file(),
            "the real Mesos is not at {}: run mesos-module-tests/mesos/install.sh",
            mesos_containerizer.display()
        );
        Ok(Self {
            mesos_containerizer,
            mesos_executor: program("mesos-executor")?,
            testbed_host: program("testbed-host")?,
        })
    }

    /// The directories of the real Mesos and of the programs.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &Path> {
        let mesos = self.mesos_containerizer.ancestors().nth(2);
        mesos.into_iter().chain(self.mesos_executor.parent())
    }
}

/// The path of a binary of this workspace, of the profile that is running.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = profile()?.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run cargo build --workspace --bins, for that profile",
        path.display()
    );
    Ok(path)
}

/// The path of the module library: the environment variable `MODULE`, or else the one that cargo
/// built beside the running program. Cargo leaves it in `deps/`, where it is current after every
/// build of something that depends on the library.
pub fn module() -> Result<PathBuf> {
    match env::var_os("MODULE") {
        Some(path) => library(Path::new(&path)),
        None => library(&profile()?.join("deps/libcontrail_mesos.so")),
    }
}

/// The path of the library with the overlay modules of the agent, beside [`module`]'s default.
pub fn agent_library() -> Result<PathBuf> {
    library(&profile()?.join("deps/libcontrail_mesos_node.so"))
}

/// The path of the library with the overlay modules of the master, beside [`module`]'s default.
pub fn master_library() -> Result<PathBuf> {
    library(&profile()?.join("deps/libcontrail_mesos_manager.so"))
}

fn library(path: &Path) -> Result<PathBuf> {
    ensure!(
        path.is_file(),
        "the module library is not at {}: run cargo build --workspace --bins, for that profile",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// The directory of the running profile: that of a binary, or above that of a test.
fn profile() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell which program this is")?;
    let mut directory = exe.parent().context("this program is in no directory")?;
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory = directory.parent().unwrap_or(directory);
    }
    Ok(directory.to_owned())
}

fn target() -> Result<PathBuf> {
    let given = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let built = profile()?.parent().map(Path::to_owned);
    let default = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(|root| root.join("target"));
    let mut candidates = [given, built, default].into_iter().flatten();
    candidates
        .clone()
        .find(|directory| directory.join("mesos").is_dir())
        .or_else(|| candidates.next_back())
        .context("cannot tell where the target directory is")
}
