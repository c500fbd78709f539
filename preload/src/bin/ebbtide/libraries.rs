//! Where the loader would find a program's libraries, as ld.so(8) describes it.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::elf::{self, Elf, FileKind};

/// Where the loader looks at last.
const USUAL: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// More libraries than any program has.
const COUNT_MAX: usize = 1000;

/// Calls `visit` for each library that a program was linked with, and that those were linked with,
/// until it says so. What is not found is left out.
pub fn visit(program: &Elf, mut visit: impl FnMut(&Path, &Elf) -> bool) {
    let cache = Cache::read(&std::fs::read("/etc/ld.so.cache").unwrap_or_default());
    let variable = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut seen = HashSet::new();
    let mut waiting = found(program, &variable, &cache);
    while let Some(path) = waiting.pop() {
        if seen.len() >= COUNT_MAX || !seen.insert(path.clone()) {
            continue;
        }
        if let Some(FileKind::Elf(library)) = elf::read(&path) {
            if visit(&path, &library) {
                return;
            }
            waiting.extend(found(&library, &variable, &cache));
        }
    }
}

/// The libraries that one file was linked with.
fn found(file: &Elf, variable: &OsStr, cache: &Cache) -> Vec<PathBuf> {
    let rpath = if file.runpath.is_empty() { file.rpath.as_slice() } else { &[] };
    let variable = elf::folders(variable.as_bytes(), Path::new(""));
    let folders: Vec<&PathBuf> = rpath.iter().chain(&variable).chain(&file.runpath).collect();
    let find = |name: &PathBuf| {
        if name.as_os_str().as_bytes().contains(&b'/') {
            return Some(name.clone());
        }
        let near = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        let usual = || USUAL.iter().map(|folder| Path::new(folder).join(name));
        near.or_else(|| cache.0.get(name.as_os_str()).cloned())
            .or_else(|| usual().find(|path| path.is_file()))
    };
    file.needed.iter().filter_map(find).collect()
}

/// What ldconfig has found, by name.
struct Cache(HashMap<OsString, PathBuf>);

impl Cache {
    /// The cache of the loader: a header (the magic, the number of entries, the bytes of the
    /// strings, and what does not matter here), 24 bytes for each entry (flags, where its name and
    /// its path begin, and what does not matter here), and the strings. Offsets are those in the
    /// file. An older format may come before it, which newer ones have done without since 2020.
    fn read(bytes: &[u8]) -> Cache {
        const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
        const HEADER: usize = 48;
        const ENTRY: usize = 24;
        let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
        let cache = start.and_then(|start| bytes.get(start..)).unwrap_or_default();
        let number = |at: usize| -> Option<usize> {
            let bytes: [u8; 4] = cache.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes) as usize)
        };
        let text = |at: usize| -> Option<&OsStr> {
            let bytes = cache.get(at..)?.split(|byte| *byte == 0).next()?;
            Some(OsStr::from_bytes(bytes))
        };
        let entry = |at: usize| Some((text(number(at + 4)?)?, text(number(at + 8)?)?));
        let count = number(MAGIC.len()).unwrap_or(0);
        let mut found = HashMap::new();
        // The loader takes the first entry that suits; those of other processors do not.
        for at in (0..count).map(|index| HEADER + index * ENTRY) {
            let Some((name, path)) = entry(at) else { break };
            let is_ours = number(at).is_some_and(|flags| flags & 0xff00 == FLAGS);
            if is_ours && !found.contains_key(name) {
                found.insert(name.to_owned(), PathBuf::from(path));
            }
        }
        Cache(found)
    }
}

/// FLAG_X8664_LIB64 and FLAG_AARCH64_LIB64 of glibc.
const FLAGS: usize = if cfg!(target_arch = "x86_64") { 0x0300 } else { 0x0a00 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_without_sense_is_empty() {
        for bytes in [&b""[..], b"glibc-ld.so.cache1.1", b"glibc-ld.so.cache1.1\xff\xff\xff\xff"] {
            assert!(Cache::read(bytes).0.is_empty());
        }
    }

    #[test]
    fn the_c_library_is_found() {
        let path = std::env::current_exe().expect("a path");
        let Some(FileKind::Elf(elf)) = elf::read(&path) else { panic!("a program") };
        let mut names = Vec::new();
        visit(&elf, |path, _| {
            names.push(path.file_name().expect("a name").to_owned());
            false
        });
        assert!(names.contains(&OsString::from("libc.so.6")), "{names:?}");
    }
}
