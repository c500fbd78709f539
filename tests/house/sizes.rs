//! Files, functions and lines are short.

use std::fs;

use super::{all_code, root, sources};

/// Lines of a file; those that hold tests of the library only may have more.
const FILE_LINES: usize = 500;
const TEST_FILE_LINES: usize = 600;
/// Lines of a function in Rust.
const FUNCTION_LINES: usize = 72;
/// Columns of a line in `src`.
const COLUMNS: usize = 100;

/// Made of page.html: a line for each of its lines.
const MADE: &str = "nginx/src/ngx_http_ebbtide_page.h";

/// The functions of formatted Rust: the line with the name, and the number of lines.
fn functions(text: &str) -> Vec<(&str, usize)> {
    const BEFORE: [&str; 7] =
        ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "extern", "\"C\""];
    let lines: Vec<&str> = text.lines().collect();
    let is_start = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| BEFORE.contains(word));
        words.next() == Some("fn") && !line.ends_with(['}', ';'])
    };
    let starts = lines.iter().enumerate().filter(|(_, line)| is_start(line));
    starts
        .filter_map(|(at, line)| {
            let indent = &line[..line.len() - line.trim_start().len()];
            let ends = |line: &&str| {
                line.strip_prefix(indent).is_some_and(|rest| rest == "}" || rest.ends_with(");"))
                    && !line[indent.len()..].starts_with(' ')
            };
            let end = lines[at + 1..].iter().position(ends)?;
            Some((line.trim(), end + 2))
        })
        .collect()
}

#[test]
fn long_functions_would_be_seen() {
    let text = "impl X {\n    pub(crate) fn a(\n        b: u8,\n    ) -> u8 {\n        b\n    }\n}\n\n\
                fn c() {}\nunsafe extern \"C\" {\n    fn d(\n        e: u8,\n    );\n}\n";
    assert_eq!(functions(text), [("pub(crate) fn a(", 5), ("fn d(", 3)]);
}

#[test]
fn files_and_functions_stay_short() {
    let mut wrong = String::new();
    let mut count = 0;
    for file in all_code() {
        let name = file.strip_prefix(root()).expect("a file of the project").to_owned();
        let text = fs::read_to_string(&file).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let is_test = name.starts_with("src") && name.iter().any(|part| part == "tests");
        let most = if is_test { TEST_FILE_LINES } else { FILE_LINES };
        let lines = code.lines().count();
        if lines > most && !name.ends_with(MADE) {
            wrong += &format!("{}: {lines} lines: split it by concern\n", name.display());
        }
        let functions = functions(&text);
        count += functions.len();
        for (function, lines) in functions.iter().filter(|(_, lines)| *lines > FUNCTION_LINES) {
            wrong += &format!("{}: {lines} lines: {function}\n", name.display());
        }
    }
    assert!(count > 3000, "{count} functions");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn lines_stay_short() {
    for source in sources() {
        let name = source.path.display();
        for (number, line) in source.text.lines().enumerate() {
            assert!(line.chars().count() <= COLUMNS, "{name}:{}: over 100 columns", number + 1);
        }
    }
}
