//! The documents: links lead somewhere, and the README stays short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a newcomer reads in five minutes.
const README_LINES: usize = 200;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// Every page of the project.
fn pages() -> Vec<PathBuf> {
    let in_docs = fs::read_dir(root().join("docs")).expect("the folder of documents");
    let in_docs = in_docs.map(|entry| entry.expect("an entry").path());
    let others = ["README.md", "CHANGELOG.md", "lua/README.md", "nginx/README.md"];
    let others = others.iter().chain(&["benches/README.md", "fuzz/README.md"]);
    let pages: Vec<PathBuf> = others.map(|page| root().join(page)).chain(in_docs).collect();
    assert!(pages.iter().all(|page| page.extension().is_some_and(|extension| extension == "md")));
    pages
}

/// The lines of a page that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    })
}

/// The anchor that GitHub gives a heading.
fn anchor_of(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of a page: its headings, of both kinds, and those that it names itself.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut before = "";
    for line in prose(text) {
        if line.starts_with('#') {
            anchors.insert(anchor_of(line.trim_start_matches('#')));
        }
        let is_underline = !line.is_empty() && line.chars().all(|c| c == '=' || c == '-');
        if is_underline && !before.is_empty() {
            anchors.insert(anchor_of(before));
        }
        for name in line.split("<a name=\"").skip(1) {
            anchors.extend(name.split('"').next().map(str::to_owned));
        }
        before = line;
    }
    anchors
}

/// Where the links of a page lead: a path and an anchor, either of which may be empty.
fn links(text: &str) -> Vec<(String, String)> {
    let text = prose(text).collect::<Vec<_>>().join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.filter(|target| !target.contains("://"));
    let parts = targets.map(|target| target.split_once('#').unwrap_or((target, "")));
    parts.map(|(path, anchor)| (path.to_owned(), anchor.to_owned())).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        for (path, anchor) in links(&text_of(&page)) {
            let target = match path.as_str() {
                "" => page.clone(),
                path => page.parent().expect("a folder").join(path),
            };
            let has_anchor = || anchor.is_empty() || anchors(&text_of(&target)).contains(&anchor);
            if !target.exists() || !has_anchor() {
                broken.push(format!("{}: {path}#{anchor}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Each page of docs/ can be found from the README.
#[test]
fn the_readme_names_every_page() {
    let readme = links(&text_of(&root().join("README.md")));
    for page in pages() {
        let name = page.strip_prefix(root()).expect("a page of the project");
        let name = name.to_str().expect("UTF-8");
        let is_linked = readme.iter().any(|(path, _)| path == name);
        assert!(is_linked || !name.starts_with("docs/"), "the README has no link to {name}");
    }
}

#[test]
fn the_readme_is_short() {
    let lines = text_of(&root().join("README.md")).lines().count();
    assert!(lines <= README_LINES, "the README has {lines} lines, at most {README_LINES} are read");
}

/// A test of links that finds nothing is none.
#[test]
fn broken_links_would_be_seen() {
    let page =
        "# One `word`, two\n\nUnder\n=====\n\n[a](#one-word-two) [b](c/d.md#e)\n```\n[x](y)\n```\n";
    assert_eq!(anchors(page), ["one-word-two", "under"].map(str::to_owned).into());
    let expected = [("", "one-word-two"), ("c/d.md", "e")];
    assert_eq!(links(page), expected.map(|(path, anchor)| (path.to_owned(), anchor.to_owned())));
}
