//! What tests, benches and the fuzzer share is in `harness`: none of them reaches into another one's
//! folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::root;

/// Whoever has code, and whose code may not reach into [`PRIVATE`].
const FOLDERS: [&str; 9] =
    ["benches", "ffi-tests", "fuzz", "harness", "include", "lua", "nginx", "preload", "src"];

/// Folders for nobody else, by the words that name them in code.
const PRIVATE: [(&str, &str); 3] =
    [("benches", "benches/"), ("ffi-tests", "ffi-tests"), ("fuzz", "fuzz/")];

/// A test of that folder, where it runs what is there; and names of folders that documents use.
const EXEMPT: [(&str, &str); 2] =
    [("ffi-tests/tests/fuzz.rs", "fuzz"), ("ffi-tests/tests/readme/commands.rs", "benches")];

const CODE: [&str; 9] = ["rs", "c", "cpp", "h", "lua", "py", "sh", "toml", "conf"];

/// The files with code below a folder.
fn code_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        match path.is_dir() {
            true if !path.ends_with("target") => code_below(&path, files),
            false if ending.is_some_and(|ending| CODE.contains(&ending)) => files.push(path),
            _ => {}
        }
    }
}

/// The private folders that the code of `folder` names, other than itself.
fn reaches_into(folder: &str, text: &str) -> Vec<&'static str> {
    // The name of a package, not of a folder.
    let text = text.replace("ebbtide-ffi-tests", "");
    let others = PRIVATE.into_iter().filter(|(private, _)| *private != folder);
    others.filter(|(_, word)| text.contains(word)).map(|(private, _)| private).collect()
}

#[test]
fn folders_share_by_the_harness_alone() {
    assert_eq!(reaches_into("fuzz", "#include \"../ffi-tests/c/check.h\""), ["ffi-tests"]);
    assert_eq!(reaches_into("harness", "root.join(\"ffi-tests\")"), ["ffi-tests"]);
    assert!(reaches_into("ffi-tests", "--package ebbtide-ffi-tests ffi-tests/lua").is_empty());
    let (mut seen, mut wrong) = (0, Vec::new());
    for folder in FOLDERS {
        let mut files = Vec::new();
        code_below(&root().join(folder), &mut files);
        seen += files.len();
        for file in files {
            let text = fs::read_to_string(&file).expect("a file of code");
            let name = file.strip_prefix(root()).expect("below the root").display().to_string();
            for private in reaches_into(folder, &text) {
                if !EXEMPT.contains(&(&name, private)) {
                    wrong.push(format!("{name}: {private}"));
                }
            }
        }
    }
    assert!(seen > 300, "{seen} files");
    assert!(wrong.is_empty(), "what they share belongs in harness/:\n{}", wrong.join("\n"));
}
