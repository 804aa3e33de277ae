//! What a check of a configuration found, in the same words for all programs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{EXIT_FAILURE, Output, OutputError, Tone, painted, print};
use crate::config_reader::{ConfigError, ConfigProblem, Severity};

/// The version of the form of the JSON. It grows when a field is removed, or means something else.
const SCHEMA_VERSION: u32 = 1;

/// The options of a check.
#[derive(Args, Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Check the file, and those that it names as far as they are there, but neither host nor network:
    /// for a file that is meant for another host
    #[arg(long)]
    pub offline: bool,
    /// Output format
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: Output,
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Problem => "problem",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Problem => Tone::Problem,
        Severity::Warning => Tone::Warning,
        Severity::Note => Tone::Note,
    }
}

/// Something that was found.
#[derive(Clone, Debug)]
struct Finding {
    severity: Severity,
    text: String,
    /// Whether it is of the file that was checked, rather than of one that it names; the file; line and
    /// column.
    order: (bool, String, u64, u64),
    key: String,
    message: String,
}

/// What a check of a configuration found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    file: PathBuf,
    findings: Vec<Finding>,
    /// How many problems are not among the findings.
    omitted: usize,
    /// What is in a file without problems, such as `2 networks`.
    summary: String,
    /// The details of it, a line each.
    details: Vec<String>,
}

impl CheckReport {
    /// A report on this file without findings.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            findings: vec![],
            omitted: 0,
            summary: String::new(),
            details: vec![],
        }
    }

    /// Adds findings.
    pub fn add<'a>(
        &mut self,
        severity: Severity,
        problems: impl IntoIterator<Item = &'a ConfigProblem>,
    ) {
        for problem in problems {
            let (file, line, column) = split_place(&problem.place);
            let is_other = Path::new(file) != self.file;
            self.push(Finding {
                severity,
                text: problem.to_string(),
                order: (is_other, file.to_owned(), line, column),
                key: problem.key.clone(),
                message: problem.message.clone(),
            });
        }
    }

    /// Adds a finding, unless two checks found the same.
    fn push(&mut self, finding: Finding) {
        let is_same =
            |other: &Finding| (other.severity, &other.text) == (finding.severity, &finding.text);
        if !self.findings.iter().any(is_same) {
            self.findings.push(finding);
        }
    }

    /// Adds the problems of an error.
    pub fn add_error(&mut self, error: &ConfigError) {
        self.add(Severity::Problem, &error.problems);
        self.omitted += error.omitted;
    }

    /// Adds a finding that says its place itself.
    pub fn add_text(&mut self, severity: Severity, text: String) {
        self.push(Finding {
            severity,
            order: (true, String::new(), 0, 0),
            key: String::new(),
            message: text.clone(),
            text,
        });
    }

    /// What is in the file, such as `2 networks`, and a line for each.
    pub fn describe(&mut self, summary: String, details: Vec<String>) {
        self.summary = summary;
        self.details = details;
    }

    fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        let found = findings.filter(|finding| finding.severity == severity);
        let omitted = if severity == Severity::Problem {
            self.omitted
        } else {
            0
        };
        found.count() + omitted
    }

    /// Whether nothing is refused.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.count(Severity::Problem) == 0
    }

    /// The findings in the order of the file. Those of other files come after them.
    fn sorted(&self) -> Vec<&Finding> {
        let mut sorted: Vec<&Finding> = self.findings.iter().collect();
        sorted.sort_by_key(|finding| (&finding.order, finding.severity));
        sorted
    }

    /// Prints the report. The result is the exit code.
    pub fn print(&self, output: Output, is_quiet: bool) -> Result<ExitCode, OutputError> {
        let text = match output {
            Output::Table => self.text(is_quiet),
            Output::Json => format!("{:#}\n", self.json()),
        };
        print(&text)?;
        Ok(if self.is_valid() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_FAILURE)
        })
    }

    fn text(&self, is_quiet: bool) -> String {
        let mut text = String::new();
        for finding in self.sorted() {
            if is_quiet && finding.severity != Severity::Problem {
                continue;
            }
            let word = painted(tone(finding.severity), word(finding.severity));
            let _ = writeln!(text, "{word}: {}", finding.text);
        }
        if self.omitted > 0 {
            let _ = writeln!(text, "and {} more", self.omitted);
        }
        if is_quiet {
            return text;
        }
        let file = self.file.display();
        let counted = |count: usize, word: &str| {
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} {word}{plural}")
        };
        let warnings = match self.count(Severity::Warning) {
            0 => String::new(),
            count => format!(", {}", counted(count, "warning")),
        };
        match self.count(Severity::Problem) {
            0 => {
                let valid = painted(Tone::Good, "valid");
                let summary = match self.summary.as_str() {
                    "" => String::new(),
                    summary => format!(", {summary}"),
                };
                let _ = writeln!(text, "{file}: {valid}{summary}{warnings}");
            }
            count => {
                let _ = writeln!(text, "{} in {file}{warnings}", counted(count, "problem"));
            }
        }
        for detail in &self.details {
            let _ = writeln!(text, "  {detail}");
        }
        text
    }

    fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .sorted()
            .into_iter()
            .map(|finding| {
                let (_, file, line, column) = &finding.order;
                let known = |number: u64| (number > 0).then_some(number);
                let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                json!({
                    "severity": word(finding.severity),
                    "file": some(file),
                    "line": known(*line),
                    "column": known(*column),
                    "key": some(&finding.key),
                    "message": crate::text::redact_text(&finding.message),
                })
            })
            .collect();
        json!({
            "schema_version": SCHEMA_VERSION,
            "file": self.file.display().to_string(),
            "valid": self.is_valid(),
            "problems": self.count(Severity::Problem),
            "warnings": self.count(Severity::Warning),
            "findings": findings,
            "omitted": self.omitted,
        })
    }
}

/// The file, line and column of a place such as `agent.toml:3:14`; zeros if they are unknown.
fn split_place(place: &str) -> (&str, u64, u64) {
    let last = |text: &'_ str| -> Option<(usize, u64)> {
        let (start, number) = text.rsplit_once(':')?;
        Some((start.len(), number.parse().ok()?))
    };
    let Some((end, column)) = last(place) else {
        return (place, 0, 0);
    };
    match last(&place[..end]) {
        Some((start, line)) => (&place[..start], line, column),
        // A line without a column.
        None => (&place[..end], column, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(place: &str, message: &str) -> ConfigProblem {
        ConfigProblem {
            place: place.to_owned(),
            key: "key".to_owned(),
            message: message.to_owned(),
        }
    }

    fn lines(report: &CheckReport, is_quiet: bool) -> Vec<String> {
        let text = anstream::adapter::strip_str(&report.text(is_quiet)).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn findings_are_in_the_order_of_the_file() {
        let mut report = CheckReport::new(Path::new("/etc/a.toml"));
        report.add(Severity::Note, &[problem("/etc/a.toml:10:1", "ten")]);
        report.add(
            Severity::Warning,
            &[
                problem("/etc/a.toml:9:12", "later"),
                problem("/etc/a.toml:9:2", "nine"),
            ],
        );
        report.add_error(&ConfigError {
            problems: vec![
                problem("/etc/0.json:1:1", "other file"),
                problem("/etc/a.toml:9:2", "nine too"),
            ],
            omitted: 3,
        });
        assert_eq!(
            lines(&report, false),
            [
                "problem: /etc/a.toml:9:2: key: nine too",
                "warning: /etc/a.toml:9:2: key: nine",
                "warning: /etc/a.toml:9:12: key: later",
                "note: /etc/a.toml:10:1: key: ten",
                "problem: /etc/0.json:1:1: key: other file",
                "and 3 more",
                "5 problems in /etc/a.toml, 2 warnings",
            ]
        );
        assert_eq!(
            lines(&report, true),
            [
                "problem: /etc/a.toml:9:2: key: nine too",
                "problem: /etc/0.json:1:1: key: other file",
                "and 3 more",
            ]
        );
        let json = report.json();
        assert_eq!(
            (&json["valid"], &json["problems"], &json["omitted"]),
            (&json!(false), &json!(5), &json!(3))
        );
        let first = &json["findings"][0];
        assert_eq!(
            (&first["file"], &first["line"], &first["column"]),
            (&json!("/etc/a.toml"), &json!(9), &json!(2))
        );
    }

    #[test]
    fn valid_file_has_a_summary_unless_quiet() {
        let mut report = CheckReport::new(Path::new("a.toml"));
        report.describe("1 network".to_owned(), vec!["blue: x".to_owned()]);
        report.add(Severity::Warning, &[problem("a.toml:1:1", "odd")]);
        report.add(Severity::Warning, &[problem("a.toml:1:1", "odd")]);
        assert!(report.is_valid());
        assert_eq!(
            lines(&report, false)[1..],
            ["a.toml: valid, 1 network, 1 warning", "  blue: x"]
        );
        assert!(lines(&report, true).is_empty());
    }

    #[test]
    fn place_has_a_line_a_column_or_neither() {
        for (place, expected) in [
            ("/a:b.toml:3:14", ("/a:b.toml", 3, 14)),
            ("a.json:7", ("a.json", 7, 0)),
            ("/etc/a.toml", ("/etc/a.toml", 0, 0)),
            ("module parameter \"x\"", ("module parameter \"x\"", 0, 0)),
            ("", ("", 0, 0)),
        ] {
            assert_eq!(split_place(place), expected, "{place}");
        }
    }
}
