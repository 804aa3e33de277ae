//! Links between pages, and the table of contents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::page::{Page, root};

/// The table of contents of the site.
const SUMMARY: &str = "docs/SUMMARY.md";

/// What is wrong with the link `target` of a page; none if it leads somewhere. `anchors` are those of
/// all pages.
fn problem(
    page: &Page,
    target: &str,
    anchors: &BTreeMap<PathBuf, BTreeSet<String>>,
) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => PathBuf::from(&page.name),
        path => page.resolve(path),
    };
    if !root().join(&file).exists() {
        return Some(format!("{} does not exist", file.display()));
    }
    let known = anchors.get(&file);
    let has_anchor = anchor.is_empty() || known.is_some_and(|known| known.contains(anchor));
    (!has_anchor).then(|| format!("{} has no heading #{anchor}", file.display()))
}

#[test]
fn every_link_and_anchor_leads_somewhere() -> Result<()> {
    let pages = Page::all()?;
    let anchors = pages
        .iter()
        .map(|page| {
            (
                PathBuf::from(&page.name),
                page.anchors().into_iter().collect(),
            )
        })
        .collect();
    let mut problems = vec![];
    let mut count = 0;
    for page in &pages {
        for (line, target) in page.links() {
            count += 1;
            if let Some(problem) = problem(page, &target, &anchors) {
                problems.push(format!("{}:{line}: ({target}): {problem}", page.name));
            }
        }
    }
    ensure!(
        problems.is_empty(),
        "broken links:\n{}",
        problems.join("\n")
    );
    ensure!(count > 500, "only {count} links are seen");
    Ok(())
}

#[test]
fn link_to_nowhere_is_a_problem() -> Result<()> {
    let page = Page::read("docs/install.md")?;
    let own = page.anchors().into_iter().collect();
    let anchors = BTreeMap::from([(PathBuf::from(&page.name), own)]);
    for (target, is_right) in [
        ("#build", true),
        ("#biuld", false),
        ("../README.md", true),
        ("../REDAME.md", false),
        ("install.md#requirements", true),
        ("install.md#requirement", false),
        ("https://mesos.apache.org/nothing", true),
    ] {
        let problem = problem(&page, target, &anchors);
        ensure!(problem.is_none() == is_right, "{target}: {problem:?}");
    }
    Ok(())
}

#[test]
fn table_of_contents_lists_every_page() -> Result<()> {
    let summary = Page::read(SUMMARY)?;
    let listed: BTreeSet<PathBuf> = summary
        .links()
        .iter()
        .map(|(_, target)| summary.resolve(target))
        .collect();
    let missing: Vec<String> = Page::all()?
        .into_iter()
        .map(|page| page.name)
        .filter(|name| name != SUMMARY && !listed.contains(&PathBuf::from(name)))
        .collect();
    ensure!(
        missing.is_empty(),
        "not in {SUMMARY}: {}",
        missing.join(", ")
    );
    Ok(())
}
