//! Manual pages: one for a program, and one for each of its commands.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{EXIT_CODES, Program, VARIABLES, joined_path};

/// The section of the manual: for system administrators.
const SECTION: &str = "8";

/// Writes the pages of a program.
pub(super) fn write_to<A: CommandFactory>(program: &Program, directory: &Path) -> io::Result<()> {
    let mut command = program.plain_command::<A>().disable_help_subcommand(true);
    command.build();
    write_page(program, &command, "", directory)
}

/// Writes the page of a command, and those of the commands below it.
fn write_page(
    program: &Program,
    command: &Command,
    path: &str,
    directory: &Path,
) -> io::Result<()> {
    for subcommand in command
        .get_subcommands()
        .filter(|other| !other.is_hide_set())
    {
        let path = joined_path(path, subcommand.get_name());
        write_page(program, subcommand, &path, directory)?;
    }
    let manual = Man::new(command.clone()).section(SECTION);
    let mut page = vec![];
    // The library leaves out a date that is not known, as if the next argument were the date.
    let name = command.get_display_name().unwrap_or(command.get_name());
    let (version, date) = (program.build.version, program.build.date);
    writeln!(
        page,
        ".TH \"{name}\" {SECTION} \"{date}\" \"contrail-mesos {version}\" \"contrail-mesos\""
    )?;
    manual.render_name_section(&mut page)?;
    manual.render_synopsis_section(&mut page)?;
    manual.render_description_section(&mut page)?;
    manual.render_options_section(&mut page)?;
    if command.get_subcommands().any(|other| !other.is_hide_set()) {
        manual.render_subcommands_section(&mut page)?;
    }
    sections(program, command, path).to_writer(&mut page)?;
    let mut file = fs::File::create(directory.join(manual.get_filename()))?;
    file.write_all(&page)
}

/// The sections that all pages have, and that the library does not know.
fn sections(program: &Program, command: &Command, path: &str) -> Roff {
    let mut roff = Roff::new();
    if let Some(text) = command.get_after_long_help() {
        roff.control("SH", ["NOTES"]);
        for line in text.to_string().lines() {
            match line.trim() {
                "" => roff.control("PP", []),
                line => roff.text([roman(line)]),
            };
        }
    }
    for (index, example) in program.examples_of(path).enumerate() {
        if index == 0 {
            roff.control("SH", ["EXAMPLES"]);
        }
        roff.control("TP", []);
        roff.text([roman(format!("{}:", example.purpose))]);
        roff.text([bold(example.line)]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in VARIABLES {
        roff.control("TP", []);
        roff.text([bold(name)]);
        roff.text([roman(meaning)]);
    }
    let mut others = vec![];
    if !path.is_empty() {
        let name = command.get_display_name().unwrap_or_default();
        others.extend(name.rsplit_once('-').map(|(parent, _)| parent.to_owned()));
    }
    let programs = [
        "contrail-mesos",
        "contrail-mesos-node",
        "contrail-mesos-manager",
    ];
    others.extend(programs.map(str::to_owned));
    others.retain(|name| command.get_display_name() != Some(name) && command.get_name() != name);
    others.dedup();
    roff.control("SH", ["SEE ALSO"]);
    let mut inlines = vec![];
    for name in others {
        if !inlines.is_empty() {
            inlines.push(roman(", "));
        }
        inlines.push(bold(name));
        inlines.push(roman(format!("({SECTION})")));
    }
    roff.text(inlines);
    roff
}
