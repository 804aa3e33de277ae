//! What `status` and `detach` need: the state directory, whatever else is wrong with the
//! configuration.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use contrail_mesos::config::{Config, Source};
use contrail_mesos::isolator::attacher::Attacher;
use tokio::sync::mpsc::unbounded_channel;

use crate::output::print_error;

/// Where the state of the containers is
#[derive(Args)]
pub(crate) struct StateOptions {
    /// State directory [default: that of the configuration]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
}

impl StateOptions {
    /// The configuration without what is wrong with it, which is said on the standard error.
    pub(crate) fn load(&self, source: &Source) -> Result<Config> {
        let (mut config, error) = match (source.load_directories(), &self.state_dir) {
            (Ok(loaded), _) => loaded,
            (Err(error), Some(_)) => (Config::default(), Some(error)),
            (Err(error), None) => {
                return Err(error).context(
                    "the state directory is not known: correct the configuration, or give --state-dir",
                );
            }
        };
        if let Some(directory) = &self.state_dir {
            config.state_dir.clone_from(directory);
        }
        if let Some(error) = error {
            print_error(&format!(
                "contrail-mesos: the configuration is not usable, going on with the state directory {}: {error}",
                config.state_dir.display()
            ));
        }
        Ok(config)
    }

    /// An attacher that does without Contrail's managers if they cannot be reached by this
    /// configuration. Needs a tokio runtime.
    pub(crate) fn attacher(config: &Config) -> Result<Attacher> {
        let (lost, _receiver) = unbounded_channel();
        let error = match Attacher::new(config, lost) {
            Ok(attacher) => return Ok(attacher),
            Err(error) if config.contrail.is_none() => return Err(error.into()),
            Err(error) => error,
        };
        print_error(&format!(
            "contrail-mesos: going on without the managers: {error}"
        ));
        let without_contrail = Config {
            contrail: None,
            ..config.clone()
        };
        let (lost, _receiver) = unbounded_channel();
        Ok(Attacher::new(&without_contrail, lost)?)
    }
}
