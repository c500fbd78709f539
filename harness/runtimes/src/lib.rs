//! The Lua runtimes that ebbtide is tested and measured with, and the host program for each.
//!
//! The build script compiles LuaJIT from the source that mlua vendors; [`others`] are built when
//! they are first used. Here is where they lie, how `harness/host/host.c` is compiled against one
//! of them and an ebbtide library, and where the workloads are that it runs.
#![forbid(unsafe_code)]

pub mod others;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// One Lua runtime, built as a static library.
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    /// Name, fit for a file name.
    pub name: &'static str,
    /// The folder with `lua.h`.
    pub include_dir: &'static str,
    /// The static library.
    pub library: &'static str,
    /// What a program that links the library needs besides.
    pub link_flags: &'static [&'static str],
}

/// LuaJIT 2.1 (OpenResty branch) as one would ship it.
pub const LUAJIT: Runtime = Runtime {
    name: "luajit",
    include_dir: concat!(env!("OUT_DIR"), "/luajit/include"),
    library: concat!(env!("OUT_DIR"), "/luajit/lib/libluajit.a"),
    link_flags: &["-lm", "-ldl", "-Wl,-E"],
};

/// The compiler flags that C sources of this project must pass without a warning.
pub const C_FLAGS: &[&str] =
    &["-std=c99", "-O2", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// What a program needs besides when it links `libebbtide.a`.
pub const EBBTIDE_LINK_FLAGS: &[&str] = &["-lgcc_s", "-lpthread", "-lm", "-ldl"];

/// The host program, in `harness/host`.
const HOST_SOURCES: &[&str] = &["host.c", "arguments.c", "blocks.c", "peer.c"];

/// The name by which the loader looks for `libebbtide.so`.
pub const SONAME: &str = "libebbtide.so.0";

/// The root of the repository.
pub fn repository() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root.pop();
    root
}

/// The script of this name in `harness/workloads`.
pub fn workload(name: &str) -> PathBuf {
    repository().join("harness/workloads").join(name)
}

/// Compiles the host program against `runtime` and `ebbtide` (`libebbtide.a` or `.so`, by its path)
/// into the program `output`. With a `.so`, a link named [`SONAME`] is put beside `output`. The
/// compiler is `$CC`, or else `cc`.
///
/// The error is one line that says what failed, and below it what the compiler said.
pub fn build_host(runtime: &Runtime, ebbtide: &Path, output: &Path) -> Result<(), String> {
    let root = repository();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    let new = New::of(output);
    command
        .args(C_FLAGS)
        .arg("-I")
        .arg(root.join("include"))
        .arg("-isystem")
        .arg(runtime.include_dir)
        .arg("-o")
        .arg(&new.path)
        .args(HOST_SOURCES.iter().map(|name| root.join("harness/host").join(name)))
        .arg(ebbtide)
        .arg(runtime.library)
        .args(runtime.link_flags)
        .args(EBBTIDE_LINK_FLAGS);
    if ebbtide.extension().is_some_and(|extension| extension == "so") {
        command.arg("-Wl,-rpath,$ORIGIN");
        link_by_soname(ebbtide, output)?;
    }
    let result = command.output().map_err(|error| format!("cannot run {compiler:?}: {error}"))?;
    match result.status.success() {
        true => new.take_place().map_err(|e| format!("{}: {e}", output.display())),
        false => Err(format!(
            "cannot compile host.c for {}:\n{}",
            runtime.name,
            String::from_utf8_lossy(&result.stderr).trim_end()
        )),
    }
}

/// A file that is made beside the one whose place it takes when it is whole. Two tests may make the
/// same program at a time: whoever runs it meanwhile finds a whole one.
pub struct New {
    /// Where it is made.
    pub path: PathBuf,
    place: PathBuf,
}

impl New {
    /// A file for this place.
    pub fn of(place: &Path) -> New {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut path = place.as_os_str().to_owned();
        path.push(format!(".{}.{number}", std::process::id()));
        New { path: path.into(), place: place.to_owned() }
    }

    /// It is whole.
    pub fn take_place(&self) -> std::io::Result<()> {
        std::fs::rename(&self.path, &self.place)
    }
}

/// The loader asks for the soname, which only an installed library has for a file name.
fn link_by_soname(library: &Path, program: &Path) -> Result<(), String> {
    let link = program.with_file_name(SONAME);
    let target = library.canonicalize().map_err(|e| format!("{}: {e}", library.display()))?;
    match std::os::unix::fs::symlink(&target, &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("{}: {error}", link.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_was_built() {
        assert!(Path::new(LUAJIT.library).is_file(), "{}", LUAJIT.library);
        assert!(Path::new(LUAJIT.include_dir).join("lua.h").is_file(), "{}", LUAJIT.include_dir);
    }
}
