//! The commands of the documentation: what is in code blocks of the kinds `console` and `sh`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::page::{Line, Page};

/// A command in a page, with the output that the page shows.
#[derive(Clone, Debug)]
pub(crate) struct DocumentedCommand {
    /// The page.
    pub(crate) page: String,
    /// The nearest heading above.
    pub(crate) section: String,
    /// How many commands of the section are before it.
    pub(crate) ordinal: usize,
    /// The line of its prompt.
    pub(crate) line: usize,
    /// The command without its prompt; it may have several lines.
    pub(crate) text: String,
    /// The lines of output that the page shows.
    pub(crate) output: Vec<String>,
}

/// Every command of a page. A line that begins with `$ ` or `# ` begins a command; what follows belongs
/// to it until it is complete, and then is output.
pub(crate) fn commands(page: &Page) -> Result<Vec<DocumentedCommand>> {
    let mut commands: Vec<DocumentedCommand> = vec![];
    let mut section = String::new();
    let (mut is_console, mut is_complete) = (false, true);
    for (number, line) in page.lines() {
        match line {
            Line::Heading(heading) => heading.clone_into(&mut section),
            Line::Open(info) => {
                is_console = ["console", "sh", "bash", "shell"].contains(&info);
                ensure!(is_complete, "{}:{number}: an open command", page.name);
            }
            Line::Code(text) if is_console => {
                let begins = text.strip_prefix("$ ").or_else(|| text.strip_prefix("# "));
                let open = commands.last_mut().filter(|_| !is_complete);
                if let Some(open) = open {
                    open.text += "\n";
                    open.text += text;
                    is_complete = is_whole(&open.text)?;
                } else if let Some(begins) = begins {
                    is_complete = is_whole(begins)?;
                    let before = commands.iter().filter(|other| other.section == section);
                    let ordinal = before.count();
                    commands.push(DocumentedCommand {
                        page: page.name.clone(),
                        section: section.clone(),
                        ordinal,
                        line: number,
                        text: begins.to_owned(),
                        output: vec![],
                    });
                } else {
                    let last = commands.last_mut();
                    let last = last.filter(|last| last.section == section);
                    let last = last
                        .with_context(|| format!("{}:{number}: output of no command", page.name))?;
                    last.output.push(text.to_owned());
                }
            }
            Line::Close | Line::Code(_) | Line::Text(_) => {}
        }
    }
    ensure!(is_complete, "{}: the last command is open", page.name);
    Ok(commands)
}

/// Whether a shell finds the command complete. Placeholders such as `<container id>` are words.
fn is_whole(text: &str) -> Result<bool> {
    if text.ends_with('\\') {
        return Ok(false);
    }
    let mut shell = Command::new("bash");
    let script = with_words(text);
    shell.args(["-n", "-c", &script]).stdout(Stdio::null());
    let output = shell
        .stderr(Stdio::piped())
        .output()
        .context("cannot run bash")?;
    // An open here-document is a warning only.
    Ok(output.status.success() && output.stderr.is_empty())
}

/// The text with a word in place of each placeholder.
fn with_words(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        words.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = placeholder(rest).map_or(1, str::len);
        words.push_str(if length > 1 { "placeholder" } else { "<" });
        rest = &rest[length..];
    }
    words + rest
}

/// The placeholder at the beginning of the text.
fn placeholder(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('<')?;
    let end = inner.find('>')?;
    let is_name = |name: &str| {
        name.starts_with(|one: char| one.is_ascii_alphabetic())
            && name
                .chars()
                .all(|one| one.is_ascii_alphanumeric() || " -".contains(one))
    };
    is_name(&inner[..end]).then(|| &text[..end + 2])
}

impl DocumentedCommand {
    /// The command with values in place of its placeholders.
    pub(crate) fn with(&self, value: &dyn Fn(&str) -> Result<String>) -> Result<String> {
        let mut text = String::new();
        let mut rest = self.text.as_str();
        while let Some(start) = rest.find('<') {
            text.push_str(&rest[..start]);
            rest = &rest[start..];
            let open = placeholder(rest).unwrap_or("<");
            match open {
                "<" => text.push('<'),
                open => text += &value(open).with_context(|| self.place())?,
            }
            rest = &rest[open.len()..];
        }
        Ok(text + rest)
    }

    /// Where it is, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}: {}", self.page, self.line, self.text)
    }
}

/// How much of an id `contrail-mesos status` shows.
const SHORT_ID_CHARS: usize = 8;

/// Output without what differs between runs: ids, numbers of namespaces, times, and the width of columns.
pub(crate) fn normalized(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let word = masked(word, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
        let word = masked(&word, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
        // Columns have the beginning of long ids.
        let word = masked(&word, "xxxxxxxx-xxxx-xxxx-xxxx");
        let word = if word.len() == SHORT_ID_CHARS {
            masked(&word, "xxxxxxxx")
        } else {
            word
        };
        // The names of interfaces, which derive from the ids.
        let word = masked(&word, "cmxxxxxxxxxxxxx");
        match word.split_once('=') {
            Some(("time", _)) => "time=…".to_owned(),
            _ if word.starts_with("net:[") => "net:[…]".to_owned(),
            _ if is_age(&word) => "…s".to_owned(),
            _ => without_revision(word),
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.split_once("% packet loss, time ") {
        Some((before, _)) => format!("{before}% packet loss"),
        None if line.starts_with("rtt min/avg/max") => "rtt …".to_owned(),
        None => line,
    }
}

/// Whether the word is a number of seconds.
fn is_age(word: &str) -> bool {
    let digits = word.strip_suffix('s').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The word without the revision that it may be or begin with: a term, which is a time in milliseconds, and
/// a counter.
fn without_revision(word: String) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (revision, colon) = match word.strip_suffix(':') {
        Some(revision) => (revision, ":"),
        None => (word.as_str(), ""),
    };
    match revision.split_once('.') {
        Some((term, counter)) if term.len() > 9 && is_number(term) && is_number(counter) => {
            format!("…{colon}")
        }
        _ => word,
    }
}

/// The word with `…` in place of what has this form, where `x` is a hexadecimal digit.
fn masked(word: &str, form: &str) -> String {
    let is_it = |part: &str| {
        part.len() == form.len()
            && part
                .bytes()
                .zip(form.bytes())
                .all(|(byte, form)| match form {
                    b'x' => byte.is_ascii_hexdigit(),
                    form => byte == form,
                })
    };
    for (start, _) in word.char_indices() {
        let end = start + form.len();
        if word.get(start..end).is_some_and(is_it) {
            let rest = masked(&word[end..], form);
            return format!("{}…{rest}", &word[..start]);
        }
    }
    word.to_owned()
}

/// Whether output is what the page shows. A line `…` stands for any number of lines. The order of the
/// lines of `contrail-mesos status` does not count: it is that of ids.
pub(crate) fn is_as_shown(command: &DocumentedCommand, output: &str) -> bool {
    let (shown, lines) = (
        shown_lines(&command.output),
        output.lines().map(ToOwned::to_owned),
    );
    let mut lines = shown_lines(&lines.collect::<Vec<_>>());
    let mut shown = shown;
    if command.text.starts_with("contrail-mesos status") {
        shown.sort_unstable();
        lines.sort_unstable();
    }
    matches(&shown, &lines)
}

/// Lines to compare, without empty ones.
fn shown_lines(lines: &[String]) -> Vec<String> {
    let lines = lines.iter().map(|line| normalized(line));
    lines.filter(|line| !line.is_empty()).collect()
}

fn matches(shown: &[String], lines: &[String]) -> bool {
    match (shown.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "…" => {
            (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]))
        }
        (Some((first, shown)), Some((line, lines))) => first == line && matches(shown, lines),
        _ => false,
    }
}

#[test]
fn commands_end_where_a_shell_finds_them_complete() -> Result<()> {
    let text = "## a\n```console\n$ cat > f <<'END'\n# no command\nEND\n# a \\\n    b\nout\n\
                $ curl <a b>/x -d '{\n  }'\n[]\n```\n```\n$ not a console\n```\n";
    let page = Page::of("docs/x.md", text);
    let commands = commands(&page)?;
    let texts: Vec<&str> = commands
        .iter()
        .map(|command| command.text.as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "cat > f <<'END'\n# no command\nEND",
            "a \\\n    b",
            "curl <a b>/x -d '{\n  }'"
        ]
    );
    assert_eq!(commands[1].output, ["out"]);
    assert_eq!((commands[2].line, commands[2].section.as_str()), (9, "a"));
    assert!(commands[2].with(&|name| anyhow::bail!("{name}")).is_err());
    let curl = commands[2].with(&|_| Ok("h".to_owned()))?;
    assert_eq!(curl, "curl h/x -d '{\n  }'");
    Ok(())
}

#[test]
fn output_is_compared_without_ids_times_and_widths() {
    let is_as_shown = |command: &str, shown: &str, output: &str| {
        let command = DocumentedCommand {
            page: String::new(),
            section: String::new(),
            ordinal: 0,
            line: 1,
            text: command.to_owned(),
            output: shown.lines().map(ToOwned::to_owned).collect(),
        };
        is_as_shown(&command, output)
    };
    let shown = "a  625ad62a-2cb9-46d4-aed7-8f217797ff3e net:[1]";
    let other = "a 11111111-2cb9-46d4-aed7-8f217797ff3e   net:[22]\n";
    assert!(is_as_shown("x", shown, other));
    assert!(!is_as_shown("x", shown, &format!("{other}more\n")));
    assert!(is_as_shown(
        "x",
        &format!("{shown}\n…"),
        &format!("{other}more\n")
    ));
    assert!(is_as_shown(
        "x",
        "52cad32f   web.instance-e0567b28-ecee-11f1-b78f…",
        "0dd01052   web.instance-937e7647-ecea-11f1-a39e…"
    ));
    assert!(!is_as_shown("x", "10.0.0.1", "10.0.0.2"));
    assert!(is_as_shown(
        "x",
        "time=1 ms 1796057162606.4: 3s",
        "time=0.04 ms 1796057162999.14: 10s"
    ));
    assert!(!is_as_shown("x", "a\nb", "b\na"));
    assert!(is_as_shown("contrail-mesos status", "a\nb", "b\na"));
}
