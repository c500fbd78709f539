//! The house: layers, unsafe code and line lengths are as `src/lib.rs` and the style say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file of the library.
struct Source {
    path: PathBuf,
    /// The module at the root of the crate that it belongs to.
    layer: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources);
            continue;
        }
        let inside = path.strip_prefix(root().join("src")).expect("a path in src");
        let first = inside.components().next().expect("a name").as_os_str();
        let layer = Path::new(first).file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a source file");
        sources.push(Source { path, layer, text });
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root().join("src"), &mut sources);
    assert!(sources.len() > 15, "the house has rooms");
    sources
}

/// The layers in the order of the table in `src/lib.rs`, lowest first.
fn layers() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect()
}

impl Source {
    /// Whether the whole file is for tests.
    fn is_test(&self) -> bool {
        let names = ["tests.rs", "invariants.rs", "fake.rs"];
        names.iter().any(|name| self.path.ends_with(name))
            || self.path.parent().is_some_and(|folder| folder.ends_with("tests"))
    }

    /// The text up to the tests at its end.
    fn shipped(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }

    /// The root modules that the shipped text names by `crate::`, outside comments.
    fn uses(&self) -> Vec<String> {
        let code = self.shipped().lines().filter(|line| !line.trim_start().starts_with("//"));
        code.flat_map(|line| line.split("crate::").skip(1))
            .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
            .map(|name| name.unwrap_or_default().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }
}

/// Which of a source's uses go up, as messages.
fn upward(source: &Source, layers: &[String]) -> Vec<String> {
    let height = |name: &str| layers.iter().position(|layer| layer == name);
    let Some(own) = height(&source.layer) else {
        return vec![format!("{}: no row in the table of src/lib.rs", source.path.display())];
    };
    let wrong = |name: &String| height(name).is_none_or(|used| used > own);
    let message = |name| format!("{} uses {name}, which is above it", source.path.display());
    source.uses().into_iter().filter(wrong).map(message).collect()
}

#[test]
fn every_layer_uses_only_those_below() {
    let layers = layers();
    let shipped = sources().into_iter().filter(|s| !s.is_test() && s.layer != "lib");
    let wrong: Vec<String> = shipped.flat_map(|source| upward(&source, &layers)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_use_upwards_would_be_seen() {
    let source = |layer: &str, text: &str| Source {
        path: PathBuf::from(format!("src/{layer}.rs")),
        layer: layer.into(),
        text: text.into(),
    };
    let wrong = |layer: &str, text: &str| !upward(&source(layer, text), &layers()).is_empty();
    assert!(wrong("units", "use crate::heap::Heap;\n"));
    assert!(wrong("heap", "let budget = crate::reclaim::Budget::Unlimited;\n"));
    assert!(wrong("cellar", ""));
    assert!(!wrong("heap", "use crate::units::Pages;\n// crate::reclaim comes later\n"));
    assert!(!wrong("heap", "#[cfg(test)]\nmod tests {\n    use crate::reclaim::Budget;\n}\n"));
}

#[test]
fn modules_without_unsafe_code_say_so() {
    for source in sources() {
        let uses = source.shipped().contains("unsafe ");
        let forbids = source.text.contains("#![forbid(unsafe_code)]");
        // What a room forbids is forbidden in its files, too.
        let is_room = source.path.ends_with("mod.rs") || source.path.with_extension("").is_dir();
        let exempt = source.is_test() || source.layer == "lib" || is_room;
        assert!(
            uses || forbids || exempt,
            "{} has no unsafe code and does not forbid it",
            source.path.display()
        );
    }
}

#[test]
fn files_and_lines_stay_short() {
    for source in sources() {
        let name = source.path.display();
        let code = source.shipped().lines().count();
        assert!(code <= 600, "{name} has {code} lines: split it by concern");
        for (number, line) in source.text.lines().enumerate() {
            assert!(line.chars().count() <= 100, "{name}:{}: over 100 columns", number + 1);
        }
    }
}

/// A line of code that was changed takes its entry along: an entry that breaks nothing proves
/// nothing.
#[test]
fn every_mutant_changes_the_code() {
    let mut command = Command::new("sh");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["tests/mutants.sh", "--check"]);
    let output = command.output().expect("a shell");
    let unchanged = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{unchanged}");
}
