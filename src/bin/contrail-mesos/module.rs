//! `contrail-mesos module info`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use contrail_mesos::module_info::{AbiLayout, ModuleInfo};
use contrail_mesos_api::text::Escaped;
use serde::Serialize;

use crate::Output;
use crate::output::print;

/// The version of the form of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// Show how a library was built and which modules are in it, without loading it
#[derive(Args)]
pub(crate) struct ModuleInfoCommand {
    /// The library, such as `/usr/lib/mesos/modules/libcontrail_mesos.so`
    library: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    #[serde(flatten)]
    info: ModuleInfo,
}

impl ModuleInfoCommand {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let info = ModuleInfo::read(&self.library)?;
        let text = match self.output {
            Output::Table => text(&info)?,
            Output::Json => {
                let schema_version = SCHEMA_VERSION;
                let document = Document {
                    schema_version,
                    info,
                };
                format!("{}\n", serde_json::to_string_pretty(&document)?)
            }
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn text(info: &ModuleInfo) -> Result<String> {
    let mut text = String::new();
    for build in &info.builds {
        writeln!(
            text,
            "package      {} {}",
            Escaped(&build.package),
            Escaped(&build.version)
        )?;
        let commit = build.commit.as_deref().unwrap_or("unknown");
        writeln!(text, "  commit     {}", Escaped(commit))?;
        writeln!(text, "  Mesos      {}", Escaped(&build.mesos_version))?;
        let layout = match build.layout {
            AbiLayout::Recorded => "recorded facts about the official binary",
            AbiLayout::Headers => "headers",
        };
        writeln!(
            text,
            "  layout     {layout}; {}",
            Escaped(&build.defines.join(" "))
        )?;
    }
    for module in &info.modules {
        writeln!(
            text,
            "module       {} ({} for Mesos {}): {}",
            Escaped(&module.name),
            Escaped(&module.kind),
            Escaped(&module.mesos_version),
            Escaped(&module.description)
        )?;
    }
    Ok(text)
}
