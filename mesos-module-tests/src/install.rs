//! Where the real Mesos and the testbed's own programs are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The installed programs.
#[derive(Clone, Debug)]
pub struct Install {
    /// The real Mesos: the cluster and mesos-containerizer.
    pub mesos_containerizer: PathBuf,
    /// The executors.
    pub mesos_executor: PathBuf,
    /// The first process of a host.
    pub testbed_host: PathBuf,
}

impl Install {
    /// Finds them; an error says how to make what is missing.
    pub fn find() -> Result<Self> {
        let mesos = env::var_os("CONTRAIL_TEST_MESOS").map(PathBuf::from);
        let mesos = match mesos {
            Some(mesos) => mesos,
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
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let built = profile()?.parent().map(Path::to_owned);
    let usual = manifest.parent().map(|root| root.join("target"));
    let mut places = [given, built, usual].into_iter().flatten();
    let found = places.clone().find(|place| place.join("mesos").is_dir());
    found
        .or_else(|| places.next_back())
        .context("cannot tell where the target directory is")
}

fn program(name: &str) -> Result<PathBuf> {
    let path = profile()?.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run cargo build -p mesos-module-tests --bins",
        path.display()
    );
    Ok(path)
}
