//! Pages of the documentation, as Markdown.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A line of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A heading without its number signs.
    Heading(&'a str),
    /// Prose, lists and tables.
    Text(&'a str),
    /// The first line of a code block: what follows the fence.
    Open(&'a str),
    /// A line of a code block, without the indentation of its fence.
    Code(&'a str),
    /// The end of a code block.
    Close,
}

/// A page of the documentation.
pub(crate) struct Page {
    /// Its path from the root of the tree.
    pub(crate) name: String,
    text: String,
}

/// The root of the tree.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

impl Page {
    /// A page by its path from the root of the tree.
    pub(crate) fn read(name: &str) -> Result<Self> {
        let path = root().join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self::of(name, &text))
    }

    /// A page with this text.
    pub(crate) fn of(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The pages of the site: those at the top of the tree, and those below `docs/`.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let mut names = markdown_files(root())?;
        for directory in ["docs", "docs/adr", "docs/networks"] {
            names.extend(markdown_files(&root().join(directory))?);
        }
        ensure!(names.len() > 50, "only {} pages", names.len());
        names.sort();
        names
            .iter()
            .map(|path| Self::read(&path.strip_prefix(root())?.to_string_lossy()))
            .collect()
    }

    /// Its lines with their numbers from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, Line<'_>)> {
        let mut fence = None;
        self.text.lines().enumerate().map(move |(index, line)| {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            let line = match (fence, text.strip_prefix("```")) {
                (None, Some(info)) => {
                    fence = Some(indent);
                    Line::Open(info.trim())
                }
                (Some(_), Some("")) => {
                    fence = None;
                    Line::Close
                }
                (Some(outer), _) => Line::Code(line.get(outer.min(indent)..).unwrap_or_default()),
                (None, None) => heading(line).map_or(Line::Text(line), Line::Heading),
            };
            (index + 1, line)
        })
    }

    /// The anchors of its headings, as GitHub and mdBook make them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let headings = self.lines().filter_map(|(_, line)| match line {
            Line::Heading(text) => Some(text),
            _ => None,
        });
        headings
            .map(|heading| {
                let anchor = anchor(heading);
                let count = counts.entry(anchor.clone()).or_default();
                *count += 1;
                match *count {
                    1 => anchor,
                    more => format!("{anchor}-{}", more - 1),
                }
            })
            .collect()
    }

    /// The targets of its links with the numbers of their lines. A link may go over two lines.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut links = vec![];
        for (number, line) in self.lines() {
            let (Line::Text(text) | Line::Heading(text)) = line else {
                continue;
            };
            let text = without_code(text);
            for (start, _) in text.match_indices("](") {
                let rest = &text[start + 2..];
                if let Some(end) = rest.find(')') {
                    links.push((number, rest[..end].to_owned()));
                }
            }
        }
        links
    }

    /// The path from the root of the tree to which a link without an anchor leads.
    pub(crate) fn resolve(&self, target: &str) -> PathBuf {
        let mut parts: Vec<&str> = self.name.split('/').collect();
        parts.pop();
        for part in target.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." | "" => {}
                part => parts.push(part),
            }
        }
        parts.iter().collect()
    }
}

fn markdown_files(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(vec![]);
    }
    let entries = fs::read_dir(directory)?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    let is_markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    Ok(paths.into_iter().filter(is_markdown).collect())
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    (1..=6).contains(&level).then(|| text.strip_prefix(' '))?
}

fn anchor(heading: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
    let anchor = heading.chars().filter(kept).collect::<String>();
    anchor.to_lowercase().replace(' ', "-")
}

/// A line with spaces in place of its code spans: what looks like a link there is none. The text of a
/// link may be code, so brackets next to a span stay.
fn without_code(line: &str) -> String {
    let mut is_code = false;
    line.chars()
        .map(|character| {
            is_code ^= character == '`';
            if is_code { ' ' } else { character }
        })
        .collect()
}

#[test]
fn anchors_are_those_of_headings() {
    let text = "# `[node.dns]` of x's\n```\n# no heading\n```\n## Top-level\n## Top-level\n";
    let page = Page::of("docs/x.md", text);
    assert_eq!(
        page.anchors(),
        ["nodedns-of-xs", "top-level", "top-level-1"]
    );
    assert_eq!(page.resolve("adr/1.md"), Path::new("docs/adr/1.md"));
    assert_eq!(page.resolve("../A.md"), Path::new("A.md"));
}
