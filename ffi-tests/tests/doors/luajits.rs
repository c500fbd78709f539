//! The LuaJITs that the tests run scripts and C programs on, and how they find the library.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{
    Language, base_name, clean, compiler, finish, installed, made_at_once, scratch, source, text_of,
};
use ebbtide_runtimes::others::{lua51, luajit_checked};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, SONAME, repository};

/// The LuaJIT library that Debian's packages have.
pub const SHARED_LUAJIT: &str = "-l:libluajit-5.1.so.2";

pub const JIT: [Option<&str>; 2] = [None, Some("-joff")];

/// A Lua and how it is linked.
#[derive(Clone, Copy)]
pub enum Lua {
    Vendored,
    /// With LuaJIT's own assertions.
    Checked,
    Shared,
    Plain,
}

impl Lua {
    pub fn name(self) -> &'static str {
        match self {
            Lua::Vendored => "vendored",
            Lua::Checked => "checked",
            Lua::Shared => "shared",
            Lua::Plain => "plain",
        }
    }

    /// Has a C compiler link it.
    pub fn link(self, command: &mut Command) {
        let runtime = match self {
            Lua::Vendored | Lua::Shared => LUAJIT,
            Lua::Checked => luajit_checked(),
            Lua::Plain => lua51(),
        };
        command.arg("-isystem").arg(runtime.include_dir);
        match self {
            // The interface is the same.
            Lua::Shared => command.args([SHARED_LUAJIT]),
            _ => command.arg(runtime.library).args(runtime.link_flags),
        };
    }
}

/// The folder with the `libebbtide.so` that was built with these tests.
pub fn library_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its own path");
    let folder = program.parent().expect("PROFILE/deps/TEST").to_owned();
    assert!(folder.join("libebbtide.so").is_file(), "no libebbtide.so in {}", folder.display());
    folder
}

/// A folder in which that library has its soname.
pub fn loader_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = scratch("doors");
        let link = folder.join(SONAME);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(library_folder().join("libebbtide.so"), &link)
            .expect("the target directory can be written");
        folder
    })
}

/// Compiles one of the sources for a Lua; linked with ebbtide's library, or not.
pub fn build(name: &str, lua: Lua, with_ebbtide: bool) -> PathBuf {
    let kind = if with_ebbtide { "with" } else { "without" };
    let program = loader_folder().join(format!("{}-{}-{kind}", base_name(name), lua.name()));
    made_at_once(&program, |new| {
        let mut command = compiler(Language::C);
        command.arg("-I").arg(installed().include()).arg("-o").arg(new).arg(source(name));
        command.args(["-x", "none"]);
        if with_ebbtide {
            let mut path = OsString::from("-Wl,-rpath,");
            path.push(loader_folder());
            command.arg("-DWITH_EBBTIDE").arg(loader_folder().join(SONAME)).arg(path);
            command.args(EBBTIDE_LINK_FLAGS);
        }
        lua.link(&mut command);
        command
    });
    program
}

/// The host on a Lua.
pub fn host(lua: Lua) -> &'static Path {
    static HOSTS: [OnceLock<PathBuf>; 4] = [const { OnceLock::new() }; 4];
    HOSTS[lua as usize].get_or_init(|| build("lua/lua_module_host.c", lua, false))
}

/// The programs that run scripts as a user would, on an unmodified LuaJIT.
pub fn luajits() -> Vec<&'static Path> {
    let mut all = vec![Path::new("luajit"), host(Lua::Vendored), host(Lua::Shared)];
    all.extend(upstream());
    all
}

/// Debian's package of upstream's LuaJIT, unpacked beside whatever is installed: that may be
/// OpenResty's branch.
pub fn upstream() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let unpacked = || {
        let folder = scratch("upstream");
        let mut get = clean("apt-get");
        get.args(["-q", "-o", "APT::Sandbox::User=root", "download", "luajit"]);
        let output = get.current_dir(&folder).output().ok()?;
        let mut packages = fs::read_dir(&folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let package = packages.find(|path| path.extension() == Some(OsStr::new("deb")));
        let Some(package) = package.filter(|_| output.status.success()) else {
            eprintln!("not tested on upstream's LuaJIT: its package cannot be had");
            return None;
        };
        finish(clean("dpkg").arg("-x").arg(package).arg(&folder));
        Some(folder.join("usr/bin/luajit")).filter(|program| program.is_file())
    };
    PROGRAM.get_or_init(unpacked).as_deref()
}

/// Where Debian's `luajit` finds C modules.
pub fn debian_modules() -> &'static str {
    static PATHS: OnceLock<String> = OnceLock::new();
    PATHS.get_or_init(|| text_of(clean("luajit").args(["-e", "io.write(package.cpath)"])))
}

pub fn script(name: &str) -> PathBuf {
    repository().join("ffi-tests/lua").join(name)
}

/// Sets where a program finds modules: this library in a folder, and the scripts' own; nothing that
/// happens to be installed.
pub fn find_modules<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    let modules = format!("{}/lib?.so;{}", folder.display(), debian_modules());
    command.env("LUA_CPATH", modules).env("LUA_PATH", script("?.lua"))
}

/// A program that runs a script with the library that was built with these tests.
pub fn command(
    program: impl AsRef<OsStr>,
    options: &[&str],
    name: &str,
    arguments: &[&str],
) -> Command {
    let mut command = clean(program);
    find_modules(&mut command, &library_folder());
    command.args(options).arg(script(name)).args(arguments);
    command
}

/// Runs a script on every LuaJIT, compiled and interpreted.
pub fn everywhere(name: &str, arguments: &[&str]) {
    for program in luajits() {
        for jit in JIT {
            finish(&mut command(program, jit.as_slice(), name, arguments));
        }
    }
}

/// Runs a C program on both LuaJITs, with the library.
pub fn program(name: &str) {
    for lua in [Lua::Vendored, Lua::Shared] {
        finish(&mut clean(build(name, lua, true)));
    }
}
