//! The documents of the repository, and the code that they show.

use std::fs;
use std::path::Path;

use ebbtide_runtimes::repository;

/// A piece of code on a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// From the root of the repository.
    pub page: String,
    /// The line on which it starts.
    pub line: usize,
    /// The language that its fence names; empty where it names none.
    pub language: String,
    /// Without fence or quotes.
    pub text: String,
}

impl Code {
    /// Page and line, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

/// The pages, from the root of the repository.
pub fn pages() -> Vec<String> {
    let folders = ["", "docs", "lua", "nginx", "benches", "fuzz", "harness", "ffi-tests/c"];
    let mut pages: Vec<String> = folders.iter().flat_map(|folder| pages_in(folder)).collect();
    pages.sort();
    pages
}

fn pages_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(repository().join(folder)).expect("a folder of the repository");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pages = names.filter(|name| name.ends_with(".md"));
    pages.map(|name| Path::new(folder).join(name).display().to_string()).collect()
}

/// The blocks of code on all pages.
pub fn blocks() -> Vec<Code> {
    pages().iter().flat_map(|page| parts(page, &text_of(page)).0).collect()
}

/// The pieces of code within sentences and tables, on all pages. They have no language.
pub fn spans() -> Vec<Code> {
    pages().iter().flat_map(|page| parts(page, &text_of(page)).1).collect()
}

fn text_of(page: &str) -> String {
    fs::read_to_string(repository().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The blocks of a page, and the pieces of code in its prose.
pub fn parts(page: &str, text: &str) -> (Vec<Code>, Vec<Code>) {
    let (mut blocks, mut spans) = (Vec::new(), Vec::new());
    let mut block: Option<Code> = None;
    // Code in prose may go on in the next line, but not in the next paragraph.
    let mut span: Option<Code> = None;
    for (index, line) in text.lines().enumerate() {
        let new = |language: &str| Code {
            page: page.to_owned(),
            line: index + 1,
            language: language.to_owned(),
            text: String::new(),
        };
        match (line.trim_start().strip_prefix("```"), &mut block) {
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(language), None) => block = Some(new(language.trim())),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {
                if line.is_empty() || line.starts_with(['|', '#']) {
                    span = None;
                }
                for (part, piece) in line.split('`').enumerate() {
                    if part > 0 {
                        match span.take() {
                            Some(whole) => spans.push(whole),
                            None => span = Some(new("")),
                        }
                    }
                    match &mut span {
                        Some(span) if part == 0 => span.text += &format!(" {}", piece.trim_start()),
                        Some(span) => span.text += piece,
                        None => {}
                    }
                }
            }
        }
    }
    assert!(block.is_none(), "{page}: a block of code has no end");
    (blocks, spans)
}
