//! Whether the commands on the pages exist, take their options, and find the files that they name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::pages::{Code, blocks, spans};
use ebbtide_ffi_tests::{clean, installed};
use ebbtide_runtimes::repository;

use crate::shell::commands;

/// Programs that are not of this repository: they and their arguments are taken as they are.
const OTHERS: &[&str] =
    &["cat", "cc", "export", "git", "kill", "ldconfig", "luarocks", "sleep", "systemctl"];

/// Code of a program: the language, and the text.
type Inner = (&'static str, String);

/// What is wrong with commands, and the code that is in them.
#[derive(Debug, Default)]
struct Found {
    wrong: Vec<String>,
    inner: Vec<Inner>,
}

/// A shell that reads a block, as far as that matters.
struct Shell<'a> {
    /// Whether the commands are given in the repository, and not in a folder of others.
    is_here: bool,
    found: &'a mut Found,
}

impl Shell<'_> {
    fn read(&mut self, text: &str) {
        for words in commands(text) {
            self.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    fn wrong(&mut self, words: &[&str], why: &str) {
        self.found.wrong.push(format!("{}: {why}", words.join(" ")));
    }

    fn command(&mut self, words: &[&str]) {
        let Some((name, arguments)) = words.split_first() else { return };
        if let Some((_, value)) = assignment(name) {
            self.paths(words, value);
            return self.command(arguments);
        }
        self.paths(words, name);
        if self.is_here {
            for word in arguments {
                self.paths(words, assignment(word).map_or(*word, |(_, value)| value));
            }
        }
        match *name {
            "sudo" | "env" => self.command(arguments),
            // A folder that is not of the repository's: where others are built.
            "cd" => self.is_here &= arguments.first().is_some_and(|to| is_path(to)),
            "make" if self.is_here => self.make(words),
            "ebbtide" | "target/release/ebbtide" => self.ebbtide(words),
            "cargo" if self.is_here => self.cargo(words),
            "luajit" => self.code("lua", "-e", arguments),
            "python3" => self.code("python", "-c", arguments),
            "make" | "./configure" if !self.is_here => {}
            name if OTHERS.contains(&name) => {}
            _ => self.wrong(words, "no command that this test knows"),
        }
    }

    /// Each file of the repository in a word, or in a list of search paths.
    fn paths(&mut self, words: &[&str], word: &str) {
        for part in word.split([';', ':']).map(|part| part.trim_start_matches("$PWD/")) {
            if is_path(part) && !exists(part) {
                self.wrong(words, &format!("there is no {part}"));
            }
        }
    }

    fn make(&mut self, words: &[&str]) {
        for word in &words[1..] {
            match assignment(word) {
                Some((name, _)) if !makefile().mentions(name) => {
                    self.wrong(words, &format!("the Makefile has no variable {name}"));
                }
                None if !makefile().targets.contains(*word) => {
                    self.wrong(words, &format!("the Makefile has no target {word}"));
                }
                _ => {}
            }
        }
    }

    /// Runs the command, with another program in place of the one that a page names.
    fn ebbtide(&mut self, words: &[&str]) {
        const NAMED: [&str; 4] = ["./service", "daemon", "nginx", "COMMAND…"];
        let mut run = clean(installed().lib().join("../bin/ebbtide"));
        run.args(words[1..].iter().map(|word| if NAMED.contains(word) { "true" } else { *word }));
        if !words.iter().any(|word| NAMED.contains(word) || word.starts_with("--help")) {
            run.arg("true");
        }
        let output = run.output().expect("the command is installed");
        if !output.status.success() {
            self.wrong(words, String::from_utf8_lossy(&output.stderr).trim_end());
        }
    }

    /// Packages, targets, and options of programs of the repository.
    fn cargo(&mut self, words: &[&str]) {
        let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let (own, passed) = words.split_at(end);
        let value = |names: [&str; 2]| {
            let at = own.iter().position(|word| names.contains(word));
            at.and_then(|at| own.get(at + 1)).copied()
        };
        let folder = match value(["-p", "--package"]) {
            None | Some("ebbtide") => "",
            Some("ebbtide-ffi-tests") => "ffi-tests/",
            Some("ebbtide-programs") => "benches/programs/",
            Some(other) => return self.wrong(words, &format!("no package {other}")),
        };
        let mut source = None;
        for (option, place) in [("--bin", "src/bin"), ("--test", "tests"), ("--bench", "benches")] {
            if let Some(name) = value([option, option]) {
                let files = [".rs", "/main.rs"].map(|end| format!("{folder}{place}/{name}{end}"));
                source = files.into_iter().find(|file| exists(file));
                if source.is_none() {
                    self.wrong(words, &format!("{option} {name}: no such target"));
                }
            }
        }
        if let Some(source) = source.filter(|_| own.contains(&"run")) {
            let text = fs::read_to_string(repository().join(source)).expect("a source");
            for option in passed.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                if !text.contains(&format!("\"{option}\"")) {
                    self.wrong(words, &format!("the program has no option {option}"));
                }
            }
        }
    }

    /// An interpreter: code after this option is compiled by another test; a command may follow.
    fn code(&mut self, language: &'static str, option: &str, arguments: &[&str]) {
        if let [first, code, rest @ ..] = arguments
            && *first == option
        {
            self.found.inner.push((language, (*code).to_owned()));
            if language == "python" {
                self.command(rest);
            }
        }
    }
}

/// `NAME=value`.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, value))
}

/// Whether a word names something in the repository: it starts in one of the folders there.
fn is_path(word: &str) -> bool {
    const FOLDERS: &[&str] = &[
        ".ci",
        "benches",
        "docs",
        "ffi-tests",
        "fuzz",
        "harness",
        "include",
        "lua",
        "nginx",
        "preload",
        "src",
        "target",
        "tests",
    ];
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/?".contains(c);
    let folder = word.split_once('/').map(|(folder, _)| folder);
    folder.is_some_and(|folder| FOLDERS.contains(&folder)) && word.chars().all(is_plain)
}

/// Whether a path is there. In the target folder, for what `make` builds there: this test does not
/// build it all.
fn exists(path: &str) -> bool {
    let path = path.replace('?', "ebbtide");
    match path.strip_prefix("target/") {
        Some(path) => {
            let built = ["release", "sanitizers/release", "bench", "nginx", "fuzz"];
            let file =
                Path::new(path).file_name().map(|name| ebbtide_ffi_tests::release().join(name));
            built.contains(&path)
                || path.starts_with("nginx/ngx_http_ebbtide_module.so")
                || path.starts_with("release/") && file.is_some_and(|file| file.exists())
        }
        None => repository().join(path).exists(),
    }
}

/// What make says of the Makefile.
struct Makefile {
    targets: BTreeSet<String>,
    /// With the scripts that it runs.
    text: String,
}

impl Makefile {
    fn mentions(&self, name: &str) -> bool {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.text.split(|c| !is_name(c)).any(|word| word == name)
    }
}

fn makefile() -> &'static Makefile {
    static MAKEFILE: OnceLock<Makefile> = OnceLock::new();
    MAKEFILE.get_or_init(|| {
        let mut make = Command::new("make");
        make.env_remove("MAKEFLAGS").env("LC_ALL", "C").arg("-C").arg(repository());
        // The database alone; the target is not there, so nothing is looked at.
        let output = make.args(["-Rrpq", "no-such-target"]).output().expect("make");
        let database = String::from_utf8(output.stdout).expect("UTF-8");
        let (_, files) = database.split_once("\n# Files\n").expect("the targets");
        let rules =
            files.trim_start().split("\n\n").filter(|rule| !rule.starts_with("# Not a target"));
        let names = rules.filter_map(|rule| rule.lines().find(|line| !line.starts_with('#')));
        let targets = names.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
        let files = ["Makefile", "nginx/build.sh", "nginx/install.sh"];
        let texts = files.map(|file| fs::read_to_string(repository().join(file)).expect(file));
        Makefile { targets, text: texts.concat() }
    })
}

fn read(text: &str) -> Found {
    let mut found = Found::default();
    Shell { is_here: true, found: &mut found }.read(text);
    found
}

/// The commands of a block for a shell: all of it, or what stands behind prompts.
fn shell_text(block: &Code) -> Option<String> {
    match block.language.as_str() {
        "sh" => Some(block.text.clone()),
        "console" => {
            let lines = block.text.lines().filter_map(|line| line.strip_prefix("$ "));
            Some(lines.map(|line| format!("{line}\n")).collect())
        }
        _ => None,
    }
}

/// The code that is in commands, for interpreters.
pub fn inner() -> Vec<Code> {
    let texts = blocks().into_iter().filter_map(|block| Some((shell_text(&block)?, block)));
    let inner = texts.flat_map(|(text, block)| {
        let code =
            |(language, text): Inner| Code { language: language.into(), text, ..block.clone() };
        read(&text).inner.into_iter().map(code).collect::<Vec<_>>()
    });
    inner.collect()
}

/// A piece of code in prose that is a command of this repository.
fn is_command(span: &Code) -> bool {
    // LuaJIT's own Makefile; a directive of nginx.
    let others = ["make amalg", "ebbtide off", "ebbtide on"];
    let starts = ["make ", "sudo make ", "cargo ", "ebbtide "];
    starts.iter().any(|start| span.text.starts_with(start)) && !others.contains(&span.text.as_str())
}

#[test]
fn every_command_exists_and_takes_its_options() {
    let mut wrong = Vec::new();
    let mut count = 0;
    let in_blocks =
        blocks().into_iter().filter_map(|block| Some((block.place(), shell_text(&block)?)));
    let in_prose = spans().into_iter().filter(is_command).map(|span| (span.place(), span.text));
    for (place, text) in in_blocks.chain(in_prose) {
        count += 1;
        let syntax = Command::new("sh").args(["-n", "-c", &text]).output().expect("a shell");
        if !syntax.status.success() {
            wrong.push(format!("{place}: {}", String::from_utf8_lossy(&syntax.stderr).trim_end()));
        }
        wrong.extend(read(&text).wrong.iter().map(|why| format!("{place}: {why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "only {count} commands were found");
}

#[test]
fn every_path_of_the_repository_exists() {
    let is_missing = |span: &Code| {
        let beside = Path::new(&span.page).with_file_name(&span.text);
        is_path(&span.text) && !exists(&span.text) && !repository().join(beside).exists()
    };
    let missing = spans().into_iter().filter(is_missing);
    let missing: Vec<String> = missing.map(|s| format!("{}: {}", s.place(), s.text)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn wrong_commands_would_be_seen() {
    for (text, expected) in [
        ("make instal", "no target instal"),
        ("make && sudo make install PREFIX=/x PREFFIX=/x", "no variable PREFFIX"),
        ("make # here\ncd openresty-1 && ./configure && make whatever", ""),
        ("ebbtide run --reprot ./service", "--reprot: no such option"),
        ("ebbtide run --retain 8m ./service & sleep 60; kill -USR2 $!", ""),
        ("ebbtide walk ./service", "walk"),
        ("LUA_PATH='lua/?.lua;;' LUA_CPATH='target/release/lib?.so;;' luajit service.lua", ""),
        ("LUA_PATH=\"$PWD/lua/?.luac;;\" luajit service.lua", "there is no lua/?.luac"),
        ("cargo run -p ebbtide-programs --bin program", "--bin program: no such target"),
        ("cargo run -p ebbtide-programs --bin programs -- --rouns 4", "no option --rouns"),
        ("cargo bench --bench heap", ""),
        ("banana", "no command that this test knows"),
    ] {
        let wrong = read(text).wrong.join("\n");
        assert!(
            wrong.contains(expected) && wrong.is_empty() == expected.is_empty(),
            "{text}: {wrong}"
        );
    }
}
