//! The house: layers, rooms, unsafe code and line lengths are as `src/lib.rs`, `src/heap.rs`,
//! `preload/src/lib.rs`, `nginx/config` and the style say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "house/folders.rs"]
mod folders;
#[path = "house/names.rs"]
mod names;
#[path = "house/nginx.rs"]
mod nginx;
#[path = "house/preload.rs"]
mod preload;
#[path = "house/sizes.rs"]
mod sizes;

/// A source file of the library.
struct Source {
    path: PathBuf,
    /// The module at the root of the crate that it belongs to.
    layer: String,
    /// In a layer of several files: the name below the layer's folder; empty for the layer's root.
    room: String,
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
        let inside =
            path.strip_prefix(root().join("src")).expect("a path in src").with_extension("");
        let mut names = inside.iter().map(|name| name.to_string_lossy().into_owned());
        let (layer, room) = (names.next().expect("a name"), names.next().unwrap_or_default());
        let text = fs::read_to_string(&path).expect("a source file");
        sources.push(Source { path, layer, room, text });
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root().join("src"), &mut sources);
    assert!(sources.len() > 15, "the house has rooms");
    sources
}

/// Folders with code of the project.
const CODE: [&str; 11] = [
    "src",
    "preload/src",
    "fuzz/src",
    "benches",
    "harness",
    "nginx/src",
    "lua",
    "ffi-tests/src",
    "ffi-tests/c",
    "ffi-tests/lua",
    "ffi-tests/tests",
];

/// The source files below a folder, in Rust, C and Lua; without the programs that are measured,
/// which have words of their own.
fn code_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let ends = ["rs", "c", "h", "lua"];
        let is_code = ends.iter().any(|end| path.extension() == Some(end.as_ref()));
        let is_other = path.ends_with("target") || path.ends_with("workloads");
        match path.is_dir() {
            true if !is_other => code_files(&path, files),
            false if is_code => files.push(path),
            _ => {}
        }
    }
}

/// All source files of the project.
fn all_code() -> Vec<PathBuf> {
    let mut files = Vec::new();
    CODE.iter().for_each(|folder| code_files(&root().join(folder), &mut files));
    assert!(files.len() > 400, "{} files", files.len());
    files
}

/// The names in the table at the top of a file, in its order.
fn table(path: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(path)).expect("a file with a table");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect()
}

/// The layers in the order of the table in `src/lib.rs`, lowest first.
fn layers() -> Vec<String> {
    table("src/lib.rs")
}

/// The rooms of the heap in the order of the table in `src/heap.rs`, lowest first. Below them all
/// is that file itself, which has no name.
fn rooms() -> Vec<String> {
    [String::new()].into_iter().chain(table("src/heap.rs")).collect()
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

    /// The lines of the shipped text outside comments.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.shipped().lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    /// The root modules that the shipped text names by `crate::`.
    fn uses(&self) -> Vec<String> {
        let paths = self.code().flat_map(|line| line.split("crate::").skip(1));
        paths.map(|rest| first_name(rest).to_owned()).filter(|name| !name.is_empty()).collect()
    }

    /// What the shipped text of a file of the heap names by `crate::heap::`, or by `super::` if
    /// that is the heap.
    fn uses_of_heap(&self) -> Vec<String> {
        let mut code = compact(self.code());
        assert!(!code.contains("super::super::"), "{}: say crate::heap", self.path.display());
        if self.path.parent().is_some_and(|folder| folder.ends_with("src/heap")) {
            code = code.replace("super::", "crate::heap::");
        }
        let paths = code.split("crate::heap::").skip(1);
        paths.flat_map(|path| names_of(path, first_name)).collect()
    }

    /// The code with and without the blocks of methods of the heap.
    fn code_by_self(&self) -> (String, String) {
        let mut is_heap = false;
        let (methods, others): (Vec<&str>, Vec<&str>) = self.code().partition(|line| {
            is_heap |= line.starts_with("impl<") && line.contains("> Heap<");
            let was_heap = is_heap;
            is_heap &= *line != "}";
            was_heap
        });
        (methods.join("\n"), compact(others.into_iter()))
    }

    /// The methods of the heap that are defined here.
    fn methods(&self) -> Vec<String> {
        let (methods, _) = self.code_by_self();
        let items = methods.lines().filter_map(|line| line.strip_prefix("    "));
        let items = items.filter(|line| !line.starts_with([' ', '#', '}']));
        let names = items.filter_map(|line| line.split_once("fn ")).map(|(_, name)| name);
        names.map(|name| first_name(name).to_owned()).collect()
    }

    /// The methods that are called on a heap here.
    fn calls(&self) -> Vec<String> {
        let (methods, others) = self.code_by_self();
        let own = calls_on(&["heap", "heap)", "heap()", "self"], &compact(methods.lines()));
        [own, calls_on(&["heap", "heap)", "heap()"], &others)].concat()
    }
}

/// The methods that compact code calls on one of these, or by `Heap::`.
fn calls_on(these: &[&str], code: &str) -> Vec<String> {
    let calls = code.match_indices('.').filter_map(|(at, _)| {
        let (before, name) = (&code[..at], first_name(&code[at + 1..]));
        let is_call = code[at + 1 + name.len()..].starts_with('(');
        (is_call && these.iter().any(|it| before.ends_with(it))).then_some(name)
    });
    let paths = code.split("Heap::").skip(1).map(first_name);
    calls.chain(paths).map(str::to_owned).collect()
}

fn first_name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The names that a path leads to: one, or those of its list.
fn names_of(path: &str, name: impl Fn(&str) -> &str) -> Vec<String> {
    let Some(list) = path.strip_prefix('{') else { return vec![name(path).to_owned()] };
    let mut depth = 0;
    let is_end = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth < 0
    };
    let list = list.split(is_end).next().unwrap_or_default();
    let mut depth = 0;
    let is_comma = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0 && c == ','
    };
    list.split(is_comma).map(|path| name(path).to_owned()).collect()
}

/// Code without white space, but between words.
fn compact<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut code = String::new();
    for word in words {
        if is_word(code.chars().next_back()) && is_word(word.chars().next()) {
            code.push(' ');
        }
        code.push_str(word);
    }
    code
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

/// The rooms of what `src/heap.rs` takes from its rooms, by name: other files may use it from
/// there.
fn passed_on(heap: &Source) -> BTreeMap<String, String> {
    let code = compact(heap.code());
    let mut rooms = BTreeMap::new();
    for path in code.split(';').filter_map(|item| item.split_once("use ")).map(|(_, path)| path) {
        let room = first_name(path);
        let list =
            path.rfind("::{").or_else(|| path.rfind("::")).map_or(path, |at| &path[at + 2..]);
        for name in names_of(list, |path| path.rsplit("::").next().unwrap_or(path)) {
            rooms.insert(name, room.to_owned());
        }
    }
    rooms
}

/// Which paths from a file of the heap lead to a room above its own, as messages.
fn upward_in_heap(source: &Source, passed_on: &BTreeMap<String, String>) -> Vec<String> {
    let rooms = rooms();
    let height = |name: &str| rooms.iter().position(|room| room == name);
    let Some(own) = height(&source.room) else {
        return vec![format!("{}: no row in the table of src/heap.rs", source.path.display())];
    };
    let room_of = |name: &String| passed_on.get(name).unwrap_or(name).clone();
    let used = source.uses_of_heap().into_iter().map(|name| (room_of(&name), name));
    used.filter(|(room, _)| height(room).is_some_and(|used| used > own))
        .map(|(room, name)| format!("{} uses {name} of {room}", source.path.display()))
        .collect()
}

/// Which methods of the heap are called from below the layer, or the room, that defines them.
fn upward_calls(sources: &[Source]) -> Vec<String> {
    let (layers, rooms) = (layers(), rooms());
    let height = |source: &Source| {
        let layer = layers.iter().position(|layer| *layer == source.layer);
        let room = rooms.iter().position(|room| *room == source.room);
        (layer, room.filter(|_| source.layer == "heap"))
    };
    let homes: BTreeMap<String, &Source> = sources
        .iter()
        .flat_map(|source| source.methods().into_iter().map(move |name| (name, source)))
        .collect();
    let mut wrong = Vec::new();
    for source in sources {
        for call in source.calls() {
            if let Some(home) = homes.get(&call).filter(|home| height(home) > height(source)) {
                let (from, to) = (source.path.display(), home.path.display());
                wrong.push(format!("{from} calls {call} of {to}, which is above it"));
            }
        }
    }
    wrong
}

fn shipped_sources() -> Vec<Source> {
    sources().into_iter().filter(|source| !source.is_test() && source.layer != "lib").collect()
}

#[test]
fn every_layer_uses_only_those_below() {
    let layers = layers();
    let wrong: Vec<String> =
        shipped_sources().iter().flat_map(|source| upward(source, &layers)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `src/heap.rs` has the types of all rooms in the heap's own state.
#[test]
fn every_room_of_the_heap_uses_only_those_below() {
    let (heap, others): (Vec<Source>, Vec<Source>) = shipped_sources()
        .into_iter()
        .filter(|source| source.layer == "heap")
        .partition(|source| source.room.is_empty());
    let [heap] = &heap[..] else { panic!("src/heap.rs is not the only root of the heap") };
    let passed_on = passed_on(heap);
    let wrong: Vec<String> =
        others.iter().flat_map(|source| upward_in_heap(source, &passed_on)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_method_of_the_heap_is_called_from_below() {
    let sources = shipped_sources();
    let methods: usize = sources.iter().map(|source| source.methods().len()).sum();
    let calls: usize = sources.iter().map(|source| source.calls().len()).sum();
    assert!(methods > 200 && calls > 400, "{methods} methods and {calls} calls are few");
    let wrong = upward_calls(&sources);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A source at a path in `src`.
fn source(path: &str, text: &str) -> Source {
    let mut names = path.split('/').map(str::to_owned);
    let (layer, room) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let path = root().join("src").join(path).with_extension("rs");
    Source { path, layer, room, text: text.into() }
}

#[test]
fn a_use_of_a_room_above_would_be_seen() {
    let heap =
        source("heap", "use checked::Checked;\npub(crate) use slots::{class, descriptor::D};\n");
    let passed_on = passed_on(&heap);
    let wrong =
        |path: &str, text: &str| !upward_in_heap(&source(path, text), &passed_on).is_empty();
    assert!(wrong("heap/blocks/plain", "use crate::heap::checked::Home;\n"));
    assert!(wrong("heap/blocks/plain", "use crate::heap::{\n    Heap,\n    checked,\n};\n"));
    assert!(wrong("heap/growth/grow", "let state: crate::heap::Checked;\n"));
    assert!(wrong("heap/checked", "use super::{Heap, fast};\n"));
    assert!(wrong("heap/hooks", "use super::class::SMALL_MAX;\n"));
    assert!(wrong("heap/attic/trunk", ""));
    assert!(!wrong("heap/fast", "use super::blocks::{plain, span};\nuse super::checked;\n"));
    assert!(!wrong("heap/blocks/span", "use super::plain;\nuse crate::heap::{Heap, D};\n"));
}

#[test]
fn a_call_from_below_would_be_seen() {
    let block = |text: &str| format!("impl<S: ReclaimHooks> Heap<S> {{\n    {text}\n}}\n");
    let home = || source("heap/blocks/span", &block("pub(crate) fn retire_all(&mut self) {"));
    let wrong = |path: &str, text: &str| !upward_calls(&[home(), source(path, text)]).is_empty();
    assert!(wrong("heap/growth/grow", &block("fn f(&self) { self.retire_all() }")));
    assert!(wrong("heap/growth/grow", "fn f() {\n    (*heap)\n        .retire_all();\n}\n"));
    assert!(wrong("os/kernel", "fn f() { heap.retire_all() }\n"));
    assert!(wrong("heap", &block("fn f(&self) { Heap::retire_all(self) }")));
    assert!(!wrong("heap/fast", "fn f() { heap.retire_all() }\n"));
    assert!(!wrong("reclaim/purge", &block("fn f(&self) { self.retire_all() }")));
    assert!(!wrong("os/kernel", "fn f() { list.retire_all() }\n// heap.retire_all()\n"));
}

#[test]
fn a_use_upwards_would_be_seen() {
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
        let is_room = source.path.with_extension("").is_dir();
        let exempt = source.is_test() || source.layer == "lib" || is_room;
        assert!(
            uses || forbids || exempt,
            "{} has no unsafe code and does not forbid it",
            source.path.display()
        );
    }
}

#[test]
fn every_module_is_a_file_of_its_own_name() {
    let named_mod: Vec<PathBuf> = sources().into_iter().map(|source| source.path).collect();
    assert!(!named_mod.iter().any(|path| path.ends_with("mod.rs")), "x.rs, not x/mod.rs");
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
