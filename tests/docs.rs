//! The documents: links lead somewhere, tables are true, and the README stays short.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines that a newcomer reads in five minutes.
const README_LINES: usize = 200;

const C_PROGRAMS: &str = "ffi-tests/c/README.md";

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
    let others = others.iter().chain(&[
        "benches/README.md",
        "fuzz/README.md",
        "harness/README.md",
        C_PROGRAMS,
    ]);
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

/// The files below a folder, as paths from there.
fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        match path.is_dir() {
            true => files.extend(files_below(&path).iter().map(|file| format!("{name}/{file}"))),
            false => files.push(name),
        }
    }
    files
}

/// The test programs that name each C source: those of one file, and those of a folder.
fn users_of(source: &str) -> BTreeSet<String> {
    let folder = root().join("ffi-tests/tests");
    let quoted = format!("\"{source}\"");
    let tests = files_below(&folder).into_iter();
    let users = tests.filter(|file| text_of(&folder.join(file)).contains(&quoted));
    users.filter_map(|file| Some(file.split(['/', '.']).next()?.to_owned())).collect()
}

/// The rows of a table that begin with a link: where it leads, and the names of code in the last
/// column.
fn rows(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| [")?.strip_suffix(" |"));
    rows.map(|row| {
        let target = row.split("](").nth(1).and_then(|rest| rest.split(')').next());
        let last = row.rsplit(" | ").next().unwrap_or_default();
        let names = last.split('`').skip(1).step_by(2).map(str::to_owned);
        (target.expect("a link").to_owned(), names.collect())
    })
    .collect()
}

/// Each C program has a row, with the tests that run it and no others, and a name of its own.
#[test]
fn the_table_of_c_programs_is_true() {
    let readme = root().join(C_PROGRAMS);
    let rows = rows(&text_of(&readme));
    let mut files = files_below(readme.parent().expect("a folder"));
    files.retain(|file| file != "README.md");
    let mut listed: Vec<&String> = rows.iter().map(|(file, _)| file).collect();
    files.sort();
    listed.sort();
    assert_eq!(listed, files.iter().collect::<Vec<_>>(), "the rows, and the files");
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.rsplit('/').next()).collect();
    assert_eq!(names.len(), files.len(), "two files have one name");
    for (file, tests) in rows.iter().filter(|(file, _)| !file.starts_with("include/")) {
        assert_eq!(tests, &users_of(file), "{file}: the tests in its row, and those that name it");
        assert!(!tests.is_empty(), "{file}: no test runs it");
    }
}

/// Each file of the harness has a link in its table.
#[test]
fn the_table_of_the_harness_is_complete() {
    let harness = root().join("harness");
    let linked = links(&text_of(&harness.join("README.md")));
    for folder in ["host", "include"] {
        for file in files_below(&harness.join(folder)) {
            let path = format!("{folder}/{file}");
            assert!(linked.iter().any(|(target, _)| *target == path), "{path} has no link");
        }
    }
}

/// The suites of tests below a folder, with their sources.
fn suites_below(folder: &str) -> BTreeMap<String, String> {
    let folder = root().join(folder);
    let mut suites = BTreeMap::<String, String>::new();
    for file in files_below(&folder).iter().filter(|file| file.ends_with(".rs")) {
        let suite = file.split(['/', '.']).next().expect("a name");
        *suites.entry(suite.to_owned()).or_default() += &text_of(&folder.join(file));
    }
    suites
}

/// Whether sources have tests of `make test-long` and of `make test-full`.
fn later_tiers(sources: &str) -> [bool; 2] {
    ["long", "full"].map(|tier| {
        ["mod {};", "mod {} {", "{}! {"]
            .iter()
            .any(|code| sources.contains(&code.replacen("{}", tier, 1)))
    })
}

/// Each suite has a row, and the row an entry for each tier in which the suite has tests.
#[test]
fn the_table_of_suites_is_true() {
    let page = text_of(&root().join("docs/contributing.md"));
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<&str>>());
    let rows: BTreeMap<&str, Vec<&str>> = rows.map(|row| (row[0], row[1..].to_vec())).collect();
    let mut suites = suites_below("tests");
    suites.extend(suites_below("ffi-tests/tests"));
    assert!(suites.len() > 15, "{:?}", suites.keys());
    for (suite, sources) in suites {
        let row = rows.get(&*suite).unwrap_or_else(|| panic!("{suite} has no row"));
        let [_, _, long, full] = row[..] else { panic!("{suite}: {row:?}") };
        let listed = [long, full].map(|tests| !tests.is_empty());
        assert_eq!(listed, later_tiers(&sources), "{suite}: long and full tests in its row");
    }
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

/// Figures in the documents are those that the benches have left, and the script that writes them
/// does that.
#[test]
fn figures_are_written_by_the_benches_alone() {
    let benches = root().join("benches");
    for arguments in [["figures.py", "--check"].as_slice(), &["-m", "unittest", "test_figures"]] {
        let run = Command::new("python3").arg("-B").args(arguments).current_dir(&benches).output();
        let run = run.expect("python3 is there");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}
