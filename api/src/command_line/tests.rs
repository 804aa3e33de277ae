use clap::FromArgMatches as _;

use super::*;

#[derive(Debug, Parser)]
#[command(name = "tool")]
struct Arguments {
    #[command(flatten)]
    common: CommonOptions,
    #[command(subcommand)]
    command: ToolCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ToolCommand {
    /// Look at it
    #[command(after_long_help = "It is only looked at.")]
    Look {
        /// How
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Tools for it
    #[command(subcommand)]
    Tools(ToolsCommand),
    /// Write files
    #[command(hide = true)]
    Generate(Generate),
}

#[derive(Debug, clap::Subcommand)]
enum ToolsCommand {
    /// Mend it
    Mend,
}

const EXAMPLES: &[Example] = &[Example {
    command: "tools mend",
    purpose: "Mend everything",
    line: "tool tools mend -v",
}];

const PROGRAM: Program = Program {
    build: Build {
        version: "1.2.3",
        commit: "0123abcd",
        date: "",
        mesos: "1.11.0",
    },
    examples: EXAMPLES,
};

fn parsed(arguments: &[&str]) -> Result<Arguments, clap::Error> {
    let mut matches = PROGRAM
        .command::<Arguments>()
        .try_get_matches_from(arguments)?;
    Arguments::from_arg_matches_mut(&mut matches)
}

#[test]
fn help_of_each_command_has_examples_and_exit_codes() {
    for (arguments, expected) in [
        (&["tool", "--help"][..], &["RUST_LOG", "Exit codes:"][..]),
        (
            &["tool", "look", "--help"],
            &["It is only looked at.\n\nExit codes:\n  0  success\n"],
        ),
        (
            &["tool", "tools", "mend", "--help"],
            &["Examples:\n  Mend everything:\n    tool tools mend -v\n\nExit codes:"],
        ),
    ] {
        let help = parsed(arguments).unwrap_err().to_string();
        for part in expected {
            assert!(help.contains(part), "{part:?} is not in {help}");
        }
    }
    assert_eq!(PROGRAM.commands_without_examples::<Arguments>(), ["look"]);
}

#[test]
fn examples_are_parsed() {
    assert!(PROGRAM.wrong_examples::<Arguments>().is_empty());
    let program = Program {
        examples: &[
            Example {
                command: "look",
                purpose: "",
                line: "tool look --coulour | cat",
            },
            Example {
                command: "look",
                purpose: "",
                line: "tool tools mend",
            },
            Example {
                command: "look",
                purpose: "",
                line: "tool -v look --output json",
            },
            Example {
                command: "",
                purpose: "",
                line: "tool --version",
            },
        ],
        ..PROGRAM
    };
    assert_eq!(program.wrong_examples::<Arguments>().len(), 2);
}

#[test]
fn version_says_commit_date_and_mesos() {
    let short = parsed(&["tool", "-V"]).unwrap_err().to_string();
    assert_eq!(short, "tool 1.2.3\n");
    let long = parsed(&["tool", "--version"]).unwrap_err().to_string();
    assert_eq!(
        long,
        "tool 1.2.3\ncommit: 0123abcd\ndate: unknown\nMesos: 1.11.0\n"
    );
}

#[test]
fn verbose_and_quiet_choose_the_level_of_the_log() {
    for (options, default, expected) in [
        (&[][..], "warn", None),
        (&["-v"], "warn", Some("info")),
        (&["-vv"], "warn", Some("debug")),
        (&["-v", "-v", "-v", "-v", "-v"], "warn", Some("trace")),
        (&["--verbose"], "info", Some("debug")),
        (&["-q"], "info", Some("error")),
    ] {
        let arguments = [&["tool"], options, &["tools", "mend"]].concat();
        let before = parsed(&arguments).expect("arguments").common;
        let arguments = [&["tool", "tools", "mend"], options].concat();
        let after = parsed(&arguments).expect("arguments").common;
        assert_eq!(before.log_filter(default), expected, "{options:?}");
        assert_eq!(after.log_filter(default), expected, "{options:?}");
    }
    assert!(parsed(&["tool", "-v", "-q", "tools", "mend"]).is_err());
}

#[test]
fn colors_are_forbidden_by_an_option_before_the_dashes() {
    let forbids = |words: &[&str]| {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        forbids_colors(&words)
    };
    assert!(forbids(&["tool", "look", "--no-color"]));
    assert!(!forbids(&["tool", "look", "--", "--no-color"]));
    assert!(!forbids(&["--no-color", "look"]));
}

#[test]
fn pages_and_completions_are_written_for_shown_commands() {
    let directory = tempfile::tempdir().expect("a directory");
    let generate = |what: &str| {
        let path = directory.path().join(what);
        let arguments = ["tool", "generate", what, path.to_str().expect("UTF-8")];
        match parsed(&arguments).expect("arguments").command {
            ToolCommand::Generate(generate) => generate.run::<Arguments>(&PROGRAM).expect(what),
            other => panic!("{other:?}"),
        }
        let mut names: Vec<String> = std::fs::read_dir(path)
            .expect("files")
            .map(|entry| {
                entry
                    .expect("a file")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        generate("man"),
        ["tool-look.8", "tool-tools-mend.8", "tool-tools.8", "tool.8"]
    );
    assert_eq!(generate("completions"), ["bash", "fish", "zsh"]);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect(name);
    let page = read("man/tool-tools-mend.8");
    for part in [
        ".SH EXAMPLES",
        "tool tools mend \\-v",
        ".SH \"EXIT STATUS\"",
        ".SH ENVIRONMENT",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    assert!(page.starts_with(".TH \"tool-tools-mend\" 8 \"\" \"contrail-mesos 1.2.3\""));
    for file in [
        "man/tool.8",
        "completions/zsh/_tool",
        "completions/bash/tool.bash",
        "completions/fish/tool.fish",
    ] {
        let text = read(file);
        assert!(text.contains("look"), "{file}: {text}");
        assert!(!text.contains("generate"), "{file}: {text}");
    }
    // A directory that cannot be made.
    let generate = Generate::from_directory(directory.path().join("man/tool.8/x"));
    let error = generate.run::<Arguments>(&PROGRAM).expect_err("a file");
    assert!(error.to_string().contains("tool.8/x"), "{error}");
}
