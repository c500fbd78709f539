//! Where the preload library is, and how it gets into a program.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file name of the preload library.
const NAME: &str = "libebbtide_preload.so";
/// The names of the library that it loads from its own folder.
const LIBRARIES: [&str; 2] =
    [concat!("libebbtide.so.", env!("CARGO_PKG_VERSION_MAJOR")), "libebbtide.so"];
/// Where it is, seen from the folder of the command: as built, and as systems install libraries.
const FOLDERS: [&str; 5] =
    [".", "../lib", "../lib64", "../lib/x86_64-linux-gnu", "../lib/aarch64-linux-gnu"];

/// The two libraries, in one folder.
#[derive(Debug)]
pub struct Libraries {
    /// `libebbtide_preload.so`.
    pub preload: PathBuf,
    /// `libebbtide.so`, under the name by which the other loads it.
    pub heap: PathBuf,
}

/// Finds the libraries: where `named` (the variable EBBTIDE_PRELOAD) says if there is one, or else
/// near the command.
pub fn find(named: Option<OsString>, command: &Path) -> Result<Libraries, String> {
    let preload = match named.filter(|named| !named.is_empty()) {
        Some(named) => at(Path::new(&named)).map_err(|error| format!("EBBTIDE_PRELOAD={error}"))?,
        None => near(command)?,
    };
    let folder = preload.parent().unwrap_or(Path::new("/"));
    let heap = LIBRARIES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let heap = heap.ok_or_else(|| {
        let preload = preload.display();
        format!("{preload}: there is no libebbtide.so beside it; run make, or make install")
    })?;
    Ok(Libraries { preload, heap })
}

fn at(path: &Path) -> Result<PathBuf, String> {
    match path.is_file().then(|| std::path::absolute(path)) {
        Some(Ok(path)) => Ok(path),
        _ => Err(format!("{}: is no file; name {NAME} with its folder", path.display())),
    }
}

fn near(command: &Path) -> Result<PathBuf, String> {
    let own = command.parent().unwrap_or(Path::new("/"));
    let found = FOLDERS.iter().find_map(|folder| at(&own.join(folder).join(NAME)).ok());
    // Without `..`, as one would write it.
    found.map(|path| path.canonicalize().unwrap_or(path)).ok_or_else(|| {
        let own = own.display();
        format!(
            "{NAME} is neither in {own} nor in {own}/../lib; run make, or make install, \
             or name it in EBBTIDE_PRELOAD"
        )
    })
}

/// The value of LD_PRELOAD with `library` first, before what is there.
pub fn variable(library: &Path, before: Option<OsString>) -> Result<OsString, String> {
    let is_separator = |byte: &u8| matches!(byte, b' ' | b':');
    let bytes = library.as_os_str().as_bytes();
    if bytes.iter().any(is_separator) {
        let path = library.display();
        return Err(format!(
            "{path}: LD_PRELOAD takes no path with a space or a colon; \
             put a link to the folder elsewhere and name the library in EBBTIDE_PRELOAD"
        ));
    }
    let before = before.unwrap_or_default();
    if before.as_bytes().split(|byte| is_separator(byte)).any(|entry| entry == bytes) {
        return Ok(before);
    }
    let mut value = library.as_os_str().to_owned();
    if !before.is_empty() {
        value.push(OsStr::new(":"));
        value.push(before);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(before: &str) -> String {
        let value = variable(Path::new("/x/p.so"), Some(before.into()));
        value.unwrap_or_else(|error| panic!("{error}")).to_string_lossy().into_owned()
    }

    #[test]
    fn what_was_preloaded_stays() {
        assert_eq!(variable(Path::new("/x/p.so"), None), Ok("/x/p.so".into()));
        assert_eq!(with(""), "/x/p.so");
        assert_eq!(with("/y.so /z.so"), "/x/p.so:/y.so /z.so");
        assert_eq!(with("/y.so:/x/p.so"), "/y.so:/x/p.so");
    }

    #[test]
    fn a_path_that_the_loader_would_split_is_refused() {
        for path in ["/my lib/p.so", "/a:b/p.so"] {
            let error = variable(Path::new(path), None).expect_err("a refusal");
            assert!(error.starts_with(path), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = find(None, Path::new("/nowhere/bin/ebbtide")).expect_err("nothing there");
        assert!(error.starts_with("libebbtide_preload.so is neither in /nowhere/bin nor"));
        let error = find(Some("/nowhere/p.so".into()), Path::new("/bin/x")).expect_err("no file");
        assert!(error.starts_with("EBBTIDE_PRELOAD=/nowhere/p.so: is no file"), "{error}");
        let error = find(Some("/proc/version".into()), Path::new("/bin/x"));
        assert!(error.expect_err("alone").starts_with("/proc/version: there is no libebbtide.so"));
    }
}
