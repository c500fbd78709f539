//! The programs of `law.lua`: hosts in C that run it, on stock LuaJIT and at each door.

use std::path::PathBuf;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, scratch, source};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

use crate::course::Course;
use crate::watched::watch;

/// How a program comes by ebbtide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `ebbtide run`.
    Preload,
    /// `attach()` as the first thing that the script does.
    Attach,
    /// The library is linked in, and `lua_newstate` taken over.
    Linked,
    /// The host makes its VM by `lua_newstate(ebb_alloc, heap)`.
    Host,
}

pub const DOORS: [Door; 4] = [Door::Preload, Door::Attach, Door::Linked, Door::Host];

/// Where a program's LuaJIT is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LuaJit {
    /// Debian's, a library of its own.
    Shared,
    /// Linked in.
    Inside,
}

pub const LUAJITS: [LuaJit; 2] = [LuaJit::Shared, LuaJit::Inside];

impl Door {
    pub fn luajit(self) -> LuaJit {
        match self {
            Door::Preload | Door::Attach => LuaJit::Shared,
            Door::Linked | Door::Host => LuaJit::Inside,
        }
    }
}

/// What runs the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// The main thread.
    One,
    /// Several threads, one after the other.
    Pool,
}

impl Runner {
    fn of(kind: &str) -> Runner {
        if kind == "pool" { Runner::Pool } else { Runner::One }
    }

    fn source(self) -> &'static str {
        match self {
            Runner::One => "preload/preload_run.c",
            Runner::Pool => "lua/pool_run.c",
        }
    }

    fn programs(self) -> &'static Programs {
        static ONE: OnceLock<Programs> = OnceLock::new();
        static POOL: OnceLock<Programs> = OnceLock::new();
        let programs = match self {
            Runner::One => &ONE,
            Runner::Pool => &POOL,
        };
        programs.get_or_init(|| Programs::build(self))
    }
}

/// The programs on Debian's shared LuaJIT, and on one that is linked in without ebbtide, with, and
/// with a host that knows ebbtide.
struct Programs {
    shared: PathBuf,
    inside: PathBuf,
    linked: PathBuf,
    host: PathBuf,
}

impl Programs {
    fn build(runner: Runner) -> Programs {
        let folder = scratch(&format!("law/{runner:?}"));
        let build = |name: &str, flags: &[&str]| {
            let program = folder.join(name);
            let mut command = compiler(Language::C);
            command.arg("-I").arg(installed().include()).arg("-isystem").arg(LUAJIT.include_dir);
            command.arg("-o").arg(&program);
            command.arg(source(runner.source())).args(["-x", "none"]).args(flags);
            finish(command.arg("-lpthread"));
            program
        };
        let text = |path: PathBuf| path.into_os_string().into_string().expect("it is UTF-8");
        let (archive, library) = (text(installed().archive()), text(installed().shared()));
        let inside = [&[LUAJIT.library], LUAJIT.link_flags].concat();
        let wrap = ["-Wl,--wrap=lua_newstate", LUAJIT.library, &archive];
        let linked = [&wrap[..], LUAJIT.link_flags, EBBTIDE_LINK_FLAGS].concat();
        let found = format!("-Wl,-rpath,{}", text(installed().lib()));
        let host = [&["-DON_A_HEAP"], &inside[..], &[&library, &found]].concat();
        Programs {
            shared: build("shared", &["-l:libluajit-5.1.so.2"]),
            inside: build("inside", &inside),
            linked: build("linked", &linked),
            host: build("host", &host),
        }
    }
}

/// Runs a program of `law.lua` on this LuaJIT without ebbtide.
pub fn run_stock(kind: &str, wait: &str, luajit: LuaJit) -> Course {
    let programs = Runner::of(kind).programs();
    let program = match luajit {
        LuaJit::Shared => &programs.shared,
        LuaJit::Inside => &programs.inside,
    };
    watch(clean(program).arg(script()).arg(kind_or_path(kind)).arg(wait))
}

/// Runs a program of `law.lua` at a door.
pub fn run(kind: &str, wait: &str, door: Door) -> Course {
    let programs = Runner::of(kind).programs();
    let mut command = match door {
        Door::Preload => {
            let mut command = clean(installed().lib().join("../bin/ebbtide"));
            command.arg("run").arg(&programs.shared);
            command
        }
        Door::Attach => clean(&programs.shared),
        Door::Linked => clean(&programs.linked),
        Door::Host => clean(&programs.host),
    };
    command
        .arg(script())
        .arg(kind_or_path(kind))
        .args([wait, "module"])
        .args((door == Door::Attach).then_some("attach"))
        .env("LUA_PATH", repository().join("lua/?.lua"))
        .env("LUA_CPATH", installed().lib().join("lua/5.1/?.so"));
    watch(&mut command)
}

fn script() -> PathBuf {
    repository().join("ffi-tests/lua/law.lua")
}

/// A script of the benches by its name, or a kind that `law.lua` knows.
fn kind_or_path(kind: &str) -> PathBuf {
    let script = repository().join("benches/programs/lua").join(kind);
    if script.is_file() { script } else { kind.into() }
}
