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
        let (config, warning) = self.load_with_warning(source)?;
        print_warnings(warning.as_slice());
        Ok(config)
    }

    /// The configuration without what is wrong with it, and a warning about that.
    pub(crate) fn load_with_warning(&self, source: &Source) -> Result<(Config, Option<String>)> {
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
        let warning = error.map(|error| {
            format!(
                "the configuration is not usable, going on with the state directory {}: {error}",
                config.state_dir.display()
            )
        });
        Ok((config, warning))
    }

    /// An attacher that does without Contrail's managers if they cannot be reached by this
    /// configuration, which is said on the standard error. Needs a tokio runtime.
    pub(crate) fn attacher(config: &Config) -> Result<Attacher> {
        let (attacher, warning) = Self::attacher_with_warning(config)?;
        print_warnings(warning.as_slice());
        Ok(attacher)
    }

    /// As [`Self::attacher`], with a warning in place of the message.
    pub(crate) fn attacher_with_warning(config: &Config) -> Result<(Attacher, Option<String>)> {
        let (lost, _receiver) = unbounded_channel();
        let error = match Attacher::new(config, lost) {
            Ok(attacher) => return Ok((attacher, None)),
            Err(error) if config.contrail.is_none() => return Err(error.into()),
            Err(error) => error,
        };
        let without_contrail = Config {
            contrail: None,
            ..config.clone()
        };
        let (lost, _receiver) = unbounded_channel();
        let attacher = Attacher::new(&without_contrail, lost)?;
        Ok((
            attacher,
            Some(format!("going on without the managers: {error}")),
        ))
    }
}

/// Prints warnings to the standard error.
pub(crate) fn print_warnings(warnings: &[String]) {
    for warning in warnings {
        print_error(&format!("contrail-mesos: {warning}"));
    }
}
