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
    source: Source,
}

/// Where the host finds an allocator.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// In itself, by this name.
    Inside(&'static str),
    /// Ours, with this variable of the environment set to this value.
    With(&'static str, &'static str),
    /// In a library of `benches/peers`, named like the allocator.
    Peer,
    /// In malloc's place: a library of the system's, preloaded.
    Preloaded(&'static str),
}

const fn inside(name: &'static str, host_name: &'static str) -> Allocator {
    Allocator { name, source: Source::Inside(host_name) }
}

const fn with(name: &'static str, variable: &'static str, value: &'static str) -> Allocator {
    Allocator { name, source: Source::With(variable, value) }
}

const fn peer(name: &'static str) -> Allocator {
    Allocator { name, source: Source::Peer }
}

/// LuaJIT's own: what everything is compared with.
pub const BUILTIN: Allocator = inside("built-in", "builtin");
/// Ours.
pub const EBBTIDE: Allocator = inside("ebbtide", "ebbtide");
/// Ours, with every block checked.
pub const CHECKED: Allocator = with("checked", "EBBTIDE_CHECKED", "on");
/// Ours, with a few blocks checked.
pub const SAMPLED: Allocator = with("sampled", "EBBTIDE_CHECKED", "sample");
/// Ours, without the background thread.
pub const NO_THREAD: Allocator = with("no-thread", "EBBTIDE_BACKGROUND", "off");
/// Ours, in a VM that was made on LuaJIT's own and attached before anything else.
pub const ATTACHED: Allocator = inside("attached", "attached");
/// LuaJIT's own, with what is free given back in place.
pub const IN_PLACE: Allocator = inside("in-place", "inplace");
/// The floor: what programs take when allocation costs next to nothing (`benches/peers`).
pub const FREE_LISTS: Allocator = peer("free-lists");
/// The C library's.
pub const LIBC: Allocator = inside("libc", "malloc");
/// tcmalloc as Debian packs it. Left out where it is not installed.
pub const TCMALLOC: Allocator =
    Allocator { name: "tcmalloc", source: Source::Preloaded("libtcmalloc_minimal.so.4") };

/// The allocators that programs run on when theirs is not fast enough.
pub const PEERS: &[&Allocator] = &[
    &peer("mimalloc-v2"),
    &peer("mimalloc-v3"),
    &peer("jemalloc"),
    &peer("snmalloc"),
    &LIBC,
    &TCMALLOC,
];

/// Every allocator.
pub fn allocators() -> impl Iterator<Item = &'static Allocator> {
    let ours = [&EBBTIDE, &CHECKED, &SAMPLED, &NO_THREAD, &ATTACHED, &IN_PLACE];
    [&BUILTIN].into_iter().chain(ours).chain([&FREE_LISTS]).chain(PEERS.iter().copied())
}

/// Finds an allocator by name.
pub fn allocator(name: &str) -> Result<&'static Allocator> {
    let known = || allocators().map(|allocator| allocator.name).collect::<Vec<_>>().join(", ");
    let found = allocators().find(|allocator| allocator.name == name);
    found.ok_or_else(|| format!("no allocator is called {name}; there are {}", known()))
}

impl Allocator {
    /// Whether it is one that ebbtide is compared with, beside LuaJIT's own.
    pub fn is_peer(&self) -> bool {
        PEERS.contains(&self)
    }

    /// Whether this machine has it, or can build it.
    pub fn is_present(&self) -> bool {
        match self.source {
            Source::Preloaded(library) => find_library(library).is_some(),
            _ => true,
        }
    }

    fn is_built(&self) -> bool {
        self.source == Source::Peer
    }
}

/// A library of the system's, where Debian and others have them.
fn find_library(name: &str) -> Option<PathBuf> {
    let arch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [arch.as_str(), "/usr/lib64", "/usr/lib"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// jemalloc's thread-local data need more room than the loader keeps for libraries that come late.
/// All allocators run with the same setting.
const LOADER_SETTING: (&str, &str) = ("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=8192");

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

    /// Builds the libraries of `benches/peers`, if one of these allocators needs them.
    pub fn build_peers(&self, allocators: &[&Allocator]) -> Result<()> {
        if !allocators.iter().any(|allocator| allocator.is_built()) {
            return Ok(());
        }
        let script = runtimes::repository().join("benches/peers/build.sh");
        let status = Command::new("sh").arg(script).arg(self.output_dir.join("peers")).status();
        match status.map_err(|error| format!("cannot run sh: {error}"))?.success() {
            true => Ok(()),
            false => Err("cannot build the allocators to compare with".to_owned()),
        }
    }

    /// The command that runs a script of `harness/workloads` on `allocator` and reports events.
    pub fn command(&self, allocator: &Allocator, script: &str, args: &[&str]) -> Command {
        self.command_with(allocator, &["--events"], script, args)
    }

    /// The same with other options of the host's.
    pub fn command_with(
        &self,
        allocator: &Allocator,
        options: &[&str],
        script: &str,
        args: &[&str],
    ) -> Command {
        let mut command = Command::new(&self.program);
        command.env(LOADER_SETTING.0, LOADER_SETTING.1).arg("--allocator");
        match allocator.source {
            Source::Inside(name) => command.arg(name),
            Source::With(variable, value) => command.env(variable, value).arg("ebbtide"),
            Source::Peer => command.arg(self.peer_library(allocator)),
            Source::Preloaded(name) => {
                command.env("LD_PRELOAD", find_library(name).unwrap_or_else(|| name.into()));
                command.arg("malloc")
            }
        };
        command.args(options);
        command.arg(runtimes::workload(script)).args(args);
        command
    }

    fn peer_library(&self, allocator: &Allocator) -> PathBuf {
        self.output_dir.join("peers").join(format!("{}.so", allocator.name))
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

    #[test]
    fn peers_are_neither_ours_nor_luajits() {
        let names: Vec<_> = allocators().filter(|a| a.is_peer()).map(|a| a.name).collect();
        assert_eq!(names.len(), PEERS.len());
        assert!(
            ![&BUILTIN, &EBBTIDE, &ATTACHED, &IN_PLACE, &FREE_LISTS].iter().any(|a| a.is_peer())
        );
    }
}
