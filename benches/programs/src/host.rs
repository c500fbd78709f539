//! Which allocators there are, and the host program that runs scripts on them.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_runtimes as runtimes;

use crate::Result;

/// An allocator to run programs on.
#[derive(Debug, PartialEq, Eq)]
pub struct Allocator {
    /// Its name in tables and on command lines.
    pub name: &'static str,
    /// What the host calls it.
    host_name: &'static str,
    /// A library to preload, for one that takes malloc's place.
    preload: Option<&'static str>,
}

/// LuaJIT's own: what everything is compared with.
pub const BUILTIN: Allocator = Allocator { name: "built-in", host_name: "builtin", preload: None };
/// Ours.
pub const EBBTIDE: Allocator = Allocator { name: "ebbtide", host_name: "ebbtide", preload: None };
/// The C library's.
pub const LIBC: Allocator = Allocator { name: "libc", host_name: "malloc", preload: None };
/// Ours, in a VM that was made on LuaJIT's own and attached before anything else.
pub const ATTACHED: Allocator =
    Allocator { name: "attached", host_name: "attached", preload: None };
/// LuaJIT's own, with what is free given back in place.
pub const IN_PLACE: Allocator = Allocator { name: "in-place", host_name: "inplace", preload: None };

/// Every allocator. A further one that replaces malloc is one line more: its library to preload.
pub const ALLOCATORS: &[&Allocator] = &[&BUILTIN, &EBBTIDE, &ATTACHED, &IN_PLACE, &LIBC];

/// Finds an allocator by name.
pub fn allocator(name: &str) -> Result<&'static Allocator> {
    let known = || ALLOCATORS.iter().map(|allocator| allocator.name).collect::<Vec<_>>().join(", ");
    let found = ALLOCATORS.iter().find(|allocator| allocator.name == name);
    found.copied().ok_or_else(|| format!("no allocator is called {name}; there are {}", known()))
}

/// The host program, compiled and ready.
#[derive(Debug)]
pub struct Host {
    program: PathBuf,
    output_dir: PathBuf,
}

impl Host {
    /// Compiles the host against LuaJIT and `library`, or else against the `libebbtide.a` that
    /// cargo builds for release.
    pub fn build(library: Option<&Path>) -> Result<Host> {
        let output_dir = output_dir()?;
        let built;
        let library = match library {
            Some(library) => library,
            None => {
                built = build_library(&output_dir)?;
                &built
            }
        };
        if !library.is_file() {
            return Err(format!("there is no library {}", library.display()));
        }
        let folder = output_dir.join("programs");
        let program = folder.join("host");
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        runtimes::build_host(&runtimes::LUAJIT, library, &program)?;
        Ok(Host { program, output_dir })
    }

    /// Cargo's target folder, where everything that is made goes.
    pub fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    /// The command that runs a script of `lua/` on `allocator` and reports events.
    pub fn command(&self, allocator: &Allocator, script: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--allocator", allocator.host_name, "--events"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("lua").join(script)).args(args);
        if let Some(library) = allocator.preload {
            command.env("LD_PRELOAD", library);
        }
        command
    }

    /// The versions of LuaJIT and of ebbtide.
    pub fn versions(&self) -> Result<String> {
        let failed = |error| format!("{}: {error}", self.program.display());
        let output = Command::new(&self.program).arg("--version").output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.trim().replace('\n', ", "))
    }
}

/// This program lies in `target/PROFILE`.
fn output_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
    let target = program.ancestors().nth(2);
    target.map(Path::to_owned).ok_or_else(|| format!("{} has no folder", program.display()))
}

/// Has cargo bring `libebbtide.a` up to date: figures of a stale library would be worse than none.
fn build_library(output_dir: &Path) -> Result<PathBuf> {
    cargo_build("ebbtide", "release", output_dir)?;
    Ok(output_dir.join("release/libebbtide.a"))
}

/// Has cargo bring the preload library up to date.
pub fn build_preload() -> Result<PathBuf> {
    let output_dir = output_dir()?;
    cargo_build("ebbtide-preload", "preload", &output_dir)?;
    Ok(output_dir.join("preload/libebbtide_preload.so"))
}

fn cargo_build(package: &str, profile: &str, output_dir: &Path) -> Result<()> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--profile", profile, "--quiet", "--package", package, "--manifest-path"])
        .arg(runtimes::repository().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(output_dir)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("cargo cannot build {package}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocators_are_found_by_name() {
        assert_eq!(allocator("ebbtide"), Ok(&EBBTIDE));
        let error = allocator("none").expect_err("there is no such one");
        assert!(error.contains("built-in, ebbtide"), "{error}");
    }
}
