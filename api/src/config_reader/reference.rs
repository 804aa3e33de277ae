//! For tests: compares the tables of keys in a page of the documentation with what the reader of a
//! configuration accepts. Every key that a reader reads is recorded, so a key that is added to the code
//! alone, or to the page alone, is found.
//!
//! A table counts if its columns are `key`, `type`, `default` and `meaning`. The nearest heading above
//! names the table of the file: `[dns]`, `[[network]]`, or in JSON the path of an array, `overlays[]`, as
//! code. Another heading means the top level.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::ValueKind;

thread_local! {
    /// What the readers of this thread have read, if that is recorded.
    static READS: RefCell<Option<BTreeMap<String, ValueKind>>> = const { RefCell::new(None) };
}

/// Called for each key that a reader reads.
pub(super) fn record(path: &str, key: &str, kind: ValueKind) {
    READS.with_borrow_mut(|reads| {
        if let Some(reads) = reads {
            let separator = if path.is_empty() { "" } else { "." };
            reads.insert(format!("{}{separator}{key}", without_indexes(path)), kind);
        }
    });
}

/// `network[0].dns` becomes `network[].dns`.
fn without_indexes(path: &str) -> String {
    path.chars().filter(|one| !one.is_ascii_digit()).collect()
}

/// A part of a page, and how to try what it says.
pub struct Reference<'a> {
    /// The page, as Markdown.
    pub page: &'a str,
    /// The heading of the part: what is below it, up to the next heading of its level.
    pub part: &'a str,
    /// Valid files. Together they have every table, and every key that is read only if it is there.
    pub probes: &'a [String],
    /// Tables with the keys of another one, such as `network[].dns` and `dns`.
    pub same: &'a [(&'a str, &'a str)],
    /// Keys and tables that are described elsewhere, or whose keys the operator chooses.
    pub free: &'a [&'a str],
}

/// A key in a table of the page.
#[derive(Clone, Debug)]
struct Row {
    /// Such as `network[].subnet`.
    path: String,
    /// The other keys of the same row.
    beside: Vec<String>,
    kind: String,
    default: String,
}

impl Reference<'_> {
    /// What is wrong, a line for each problem. `parse` reads a file with the configuration's reader, and
    /// returns the result as text, or its problems.
    pub fn problems(&self, parse: impl Fn(&str) -> Result<String, String>) -> Vec<String> {
        let rows = self.rows();
        let mut problems = vec![];
        let reads = self.reads(&parse, &mut problems);
        // A table is documented by its own heading.
        let headings = self.part_lines().map(|(path, _)| path);
        let headings = headings.map(|path| path.trim_end_matches("[]").to_owned());
        let documented: BTreeSet<String> = headings
            .chain(rows.iter().map(|row| row.path.clone()))
            .collect();
        let known = |key: &&String| {
            let is_same = self.same.iter().any(|(table, _)| table == key);
            is_same || documented.contains(&self.canonical(key))
        };
        for key in reads.keys().filter(|key| !self.is_free(key)) {
            if !known(&key) {
                problems.push(format!("{key} is read, but has no row"));
            }
        }
        for row in &rows {
            let Some(kind) = reads.get(&row.path) else {
                problems.push(format!("{} has a row, but is not read", row.path));
                continue;
            };
            if !is_kind(&row.kind, *kind) {
                let message = format!("{} is {kind:?}, not {:?}", row.path, row.kind);
                problems.push(message);
                continue;
            }
            let result = if row.default == "required" {
                self.try_without(row, &parse)
            } else if let Some(default) = literal(&row.default, *kind) {
                self.try_default(row, &default, &parse)
            } else {
                Ok(())
            };
            if let Err(problem) = result {
                problems.push(format!("{}: {problem}", row.path));
            }
        }
        problems
    }

    /// The lines of the page's part, each with the table of the file that its heading names.
    fn part_lines(&self) -> impl Iterator<Item = (String, &str)> {
        let is_part = |line: &&str| line.trim_start_matches('#').trim() == self.part;
        let level = |line: &str| line.len() - line.trim_start_matches('#').len();
        let mut lines = self.page.lines().skip_while(move |line| !is_part(line));
        let own_level = lines.next().map_or(0, level);
        let mut path = String::new();
        lines
            .take_while(move |line| level(line) == 0 || level(line) > own_level)
            .map(move |line| {
                if level(line) > 0 {
                    path = heading_path(line);
                }
                (path.clone(), line)
            })
    }

    /// The rows of the page's part.
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![];
        let mut is_table = false;
        for (path, line) in self.part_lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, keys, kind, default, ..] = cells[..] else {
                is_table = false;
                continue;
            };
            if (keys, kind, default) == ("key", "type", "default") {
                is_table = true;
            } else if is_table && !keys.starts_with("---") {
                let keys: Vec<String> = code_spans(keys).map(|key| own_key(&path, key)).collect();
                let kinds: Vec<&str> = kind.split(", ").collect();
                rows.extend(keys.iter().enumerate().map(|(index, key)| Row {
                    path: key.clone(),
                    beside: keys.iter().filter(|other| *other != key).cloned().collect(),
                    // One for all, or one for each.
                    kind: if kinds.len() == keys.len() {
                        kinds[index].to_owned()
                    } else {
                        kind.to_owned()
                    },
                    default: default.to_owned(),
                }));
            }
        }
        rows
    }

    /// Every key that the reader reads from the probes, with what it must be.
    fn reads(
        &self,
        parse: impl Fn(&str) -> Result<String, String>,
        problems: &mut Vec<String>,
    ) -> BTreeMap<String, ValueKind> {
        READS.set(Some(BTreeMap::new()));
        for probe in self.probes {
            if let Err(error) = parse(probe) {
                problems.push(format!("a probe is not valid: {error}"));
            }
        }
        READS.take().unwrap_or_default()
    }

    /// The path of the row that describes a key.
    fn canonical(&self, path: &str) -> String {
        let same = |(table, other): &(&str, &str)| {
            let rest = path.strip_prefix(table)?.strip_prefix('.')?;
            Some(format!("{other}.{rest}"))
        };
        let found = self.same.iter().find_map(same);
        found.unwrap_or_else(|| path.to_owned())
    }

    fn is_free(&self, path: &str) -> bool {
        let is_in = |table: &&str| {
            let rest = path.strip_prefix(*table);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.free.iter().any(is_in)
    }

    /// Without a required key, the file must be refused, and the problem must name the key.
    fn try_without(
        &self,
        row: &Row,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let mut is_tried = false;
        for (table, key, probe) in self.places(&row.path) {
            if !is_there(&probe, &table, &key) {
                continue;
            }
            is_tried = true;
            match parse(&edited(probe, &table, &key, None)) {
                Ok(_) => return Err("it is not required".to_owned()),
                Err(error) if error.contains(&key) => {}
                Err(error) => return Err(format!("without it the problem is {error}")),
            }
        }
        let stands_in = |other: &String| {
            let mut places = self.places(other);
            places.any(|(table, key, probe)| is_there(&probe, &table, &key))
        };
        if is_tried || row.beside.iter().any(stands_in) {
            Ok(())
        } else {
            Err("no probe has this required key".to_owned())
        }
    }

    /// A file with the default must mean the same as one without the key.
    fn try_default(
        &self,
        row: &Row,
        default: &Value,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let mut refused = String::from("no probe has its table");
        let mut is_tried = false;
        for (table, key, probe) in self.places(&row.path) {
            let without = parse(&edited(probe.clone(), &table, &key, None));
            let with = parse(&edited(probe, &table, &key, Some(default.clone())));
            match (without, with) {
                (Ok(without), Ok(with)) if without == with => is_tried = true,
                (Ok(without), Ok(with)) => {
                    let message = format!("the default is not {default}: {with}\nbut {without}");
                    return Err(message);
                }
                (Err(error), _) | (_, Err(error)) => refused = error,
            }
        }
        if is_tried {
            Ok(())
        } else {
            Err(format!("the default {default} cannot be tried: {refused}"))
        }
    }

    /// The tables of all probes in which a key can be: where the table is, the key, and the probe.
    fn places(&self, path: &str) -> impl Iterator<Item = (Vec<Step>, String, Table)> {
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        let steps: Vec<&str> = table.split('.').filter(|step| !step.is_empty()).collect();
        let mut places = vec![];
        for probe in self.probes {
            // An invalid probe has been reported.
            let probe: Table = probe.parse().unwrap_or_default();
            for place in concrete(&probe, &steps) {
                places.push((place, key.to_owned(), probe.clone()));
            }
        }
        places.into_iter()
    }
}

/// The name of a table, and the index in an array of tables.
type Step = (String, usize);

/// Where there are tables with this path.
fn concrete(table: &Table, steps: &[&str]) -> Vec<Vec<Step>> {
    let Some((first, rest)) = steps.split_first() else {
        return vec![vec![]];
    };
    let name = first.trim_end_matches("[]");
    let tables: Vec<&Table> = match table.get(name) {
        Some(Value::Table(table)) => vec![table],
        Some(Value::Array(tables)) => tables.iter().filter_map(Value::as_table).collect(),
        _ => vec![],
    };
    let below = |(index, table): (usize, &Table)| {
        let step = (name.to_owned(), index);
        let paths = concrete(table, rest).into_iter();
        paths.map(move |path| [vec![step.clone()], path].concat())
    };
    tables.into_iter().enumerate().flat_map(below).collect()
}

fn table_at<'t>(root: &'t mut Table, steps: &[Step]) -> Option<&'t mut Table> {
    steps
        .iter()
        .try_fold(root, |table, (name, index)| match table.get_mut(name)? {
            Value::Table(table) => Some(table),
            Value::Array(tables) => tables.get_mut(*index)?.as_table_mut(),
            _ => None,
        })
}

fn is_there(probe: &Table, table: &[Step], key: &str) -> bool {
    table_at(&mut probe.clone(), table).is_some_and(|table| table.contains_key(key))
}

/// The probe with another value of a key, or without it.
fn edited(mut probe: Table, table: &[Step], key: &str, value: Option<Value>) -> String {
    if let Some(table) = table_at(&mut probe, table) {
        match value {
            Some(value) => drop(table.insert(key.to_owned(), value)),
            None => drop(table.remove(key)),
        }
    }
    probe.to_string()
}

/// `[node.dns]` becomes `node.dns`, and `[[network]]` becomes `network[]`.
fn heading_path(heading: &str) -> String {
    if let Some(path) = code_spans(heading).find(|path| path.ends_with("[]")) {
        return path.to_owned();
    }
    let Some((_, rest)) = heading.split_once('[') else {
        return String::new();
    };
    let (name, suffix) = match rest.strip_prefix('[') {
        Some(name) => (name, "[]"),
        None => (rest, ""),
    };
    let name = name.split(']').next().unwrap_or_default();
    let steps: Vec<String> = name
        .split('.')
        .map(|step| format!("{step}{suffix}"))
        .collect();
    steps.join(".")
}

/// A key in the table of the heading; `[network.dns]` is the key `dns`.
fn own_key(table: &str, key: &str) -> String {
    let key = key.trim_matches(['[', ']']);
    let key = key.rsplit_once('.').map_or(key, |(_, key)| key);
    let separator = if table.is_empty() { "" } else { "." };
    format!("{table}{separator}{key}")
}

fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether the words of the page mean this kind.
fn is_kind(words: &str, kind: ValueKind) -> bool {
    match kind {
        ValueKind::List => words.starts_with("list of ") || words == "array of strings",
        ValueKind::Boolean => words == "boolean",
        ValueKind::Integer { .. } => ["integer", "number"].contains(&words),
        ValueKind::Duration => words == "duration",
        ValueKind::Table => words.starts_with("table"),
        ValueKind::Tables => words == "array of objects",
        ValueKind::Text => {
            let others = [
                "list", "array", "boolean", "integer", "number", "duration", "table",
            ];
            !others.iter().any(|other| words.starts_with(other))
        }
    }
}

/// The value of a default that is written as code; none for what is described, or depends on others.
fn literal(default: &str, kind: ValueKind) -> Option<Value> {
    let prose: String = default.split('`').step_by(2).collect();
    let is_code = prose.chars().all(|one| one == ',' || one == ' ') && default.contains('`');
    if !is_code || default.contains('<') {
        return None;
    }
    let spans: Vec<&str> = code_spans(default).collect();
    let text = |span: &str| Value::String(span.trim_matches('"').to_owned());
    let first = *spans.first()?;
    Some(match kind {
        ValueKind::List if first == "[]" => Value::Array(vec![]),
        ValueKind::List => Value::Array(spans.into_iter().map(text).collect()),
        ValueKind::Boolean => Value::Boolean(first.parse().ok()?),
        ValueKind::Integer { .. } => Value::Integer(first.parse().ok()?),
        _ => text(first),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::{Document, Section};
    use super::*;

    /// A reader of `[dns] port`, `[[network]] name` and `deadline`.
    fn parse(text: &str) -> Result<String, String> {
        let document = Document::new(Path::new("f.toml"), text);
        let table = document.parse();
        let top = Section::top(&document, &table);
        let port = top.section("dns").map(|section| {
            let port = section.integer("port", 1..=99).unwrap_or(53);
            section.finish();
            port
        });
        let mut networks = vec![];
        for section in top.sections("network") {
            let name = section.text("name", "a name");
            if name.is_none() {
                section.problem("name", "is missing");
            }
            let deadline = section.duration("deadline", Duration::from_secs(3));
            networks.push((name, deadline));
            section.finish();
        }
        top.text("level", "a level");
        top.finish();
        document.finish().map_err(|error| error.to_string())?;
        Ok(format!("{port:?} {networks:?}"))
    }

    fn problems(page: &str) -> Vec<String> {
        let probe = "[dns]\n[[network]]\nname = \"a\"\n".to_owned();
        let reference = Reference {
            page,
            part: "keys",
            probes: &[probe],
            same: &[],
            free: &[],
        };
        reference.problems(parse)
    }

    const PAGE: &str = "## keys\n\n| key | type | default | meaning |\n|---|---|---|---|\n\
        | `level` | string | - | x |\n\n### [dns]\n\n\
        | key | type | default | meaning |\n|---|---|---|---|\n| `port` | integer | `53` | x |\n\n\
        ### [[network]]\n\n| key | type | default | meaning |\n|---|---|---|---|\n\
        | `name` | string | required | x |\n| `deadline` | duration | `3s` | x |\n\n## more\n";

    #[test]
    fn page_that_says_what_is_read_has_no_problem() {
        assert_eq!(problems(PAGE), Vec::<String>::new());
    }

    #[test]
    fn page_that_drifts_from_the_reader_has_problems() {
        for (from, to, expected) in [
            ("`53`", "`54`", "dns.port: the default is not 54"),
            ("`3s`", "`4s`", "network[].deadline: the default is not"),
            ("| duration", "| integer", "network[].deadline is Duration"),
            ("`port` |", "`ports` |", "dns.port is read, but has no row"),
            (
                "`port` |",
                "`ports` |",
                "dns.ports has a row, but is not read",
            ),
            (
                "`name` | string | required",
                "`name` | string | `x`",
                "cannot be tried",
            ),
            ("`3s`", "required", "network[].deadline: no probe has"),
            ("### [dns]", "### [dsn]", "dns is read, but has no row"),
        ] {
            let problems = problems(&PAGE.replace(from, to));
            let is_found = problems.iter().any(|problem| problem.contains(expected));
            assert!(is_found, "{from} -> {to}: {problems:?}");
        }
    }
}
