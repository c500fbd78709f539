//! The programs of `law.lua`: hosts in C and nginx that run it, on stock LuaJIT and at each door.

use std::path::PathBuf;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, scratch, source};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

use crate::course::Course;
use crate::nginx;
use crate::watched::{watch, watch_worker};

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
    /// nginx loads ebbtide as a module of its own.
    NginxModule,
    /// `ebbtide run nginx`.
    NginxPreload,
}

/// Those of a command that runs a script.
pub const DOORS: [Door; 4] = [Door::Preload, Door::Attach, Door::Linked, Door::Host];
/// Those of nginx.
pub const NGINX_DOORS: [Door; 2] = [Door::NginxModule, Door::NginxPreload];

/// Where a program's LuaJIT is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LuaJit {
    /// Debian's, a library of its own.
    Shared,
    /// Linked in.
    Inside,
    /// Debian's, in its nginx.
    Nginx,
}

pub const LUAJITS: [LuaJit; 3] = [LuaJit::Shared, LuaJit::Inside, LuaJit::Nginx];

impl Door {
    pub fn luajit(self) -> LuaJit {
        match self {
            Door::Preload | Door::Attach => LuaJit::Shared,
            Door::Linked | Door::Host => LuaJit::Inside,
            Door::NginxModule | Door::NginxPreload => LuaJit::Nginx,
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

/// What `law.lua` is to do: a kind that it knows or the name of a script, a script's arguments, and
/// what the program waits in afterwards.
struct Work<'a> {
    kind: &'a str,
    arguments: Vec<&'a str>,
    wait: &'a str,
}

impl Work<'_> {
    /// Of a kind that may have arguments after it.
    fn new<'a>(kind: &'a str, wait: &'a str) -> Work<'a> {
        let (kind, arguments) = kind.split_once(' ').unwrap_or((kind, ""));
        Work { kind, arguments: arguments.split_whitespace().collect(), wait }
    }

    /// The command line of `law.lua`, itself included.
    fn command_line(&self, door: &str) -> Vec<String> {
        let is_there = |folder: &&&str| repository().join(folder).join(self.kind).is_file();
        let folder = SCRIPT_FOLDERS.iter().find(is_there);
        let script = folder.map(|folder| repository().join(folder).join(self.kind));
        let script = script.map_or(self.kind.to_owned(), |path| path.display().to_string());
        let law = repository().join("ffi-tests/lua/law.lua").display().to_string();
        let words = [law, script, self.wait.to_owned(), door.to_owned()];
        words.into_iter().chain(self.arguments.iter().map(|word| (*word).to_owned())).collect()
    }

    fn run(&self, luajit: LuaJit, door: Option<Door>) -> Course {
        let line = self.command_line(match door {
            None => "stock",
            Some(Door::Attach) => "attach",
            Some(_) => "heap",
        });
        let programs = || Runner::of(self.kind).programs();
        let mut command = match (luajit, door) {
            (LuaJit::Nginx, _) => nginx::command(&line, door),
            (_, Some(Door::Preload)) => {
                let mut command = clean(ebbtide());
                command.arg("run").arg(&programs().shared);
                command
            }
            (_, Some(Door::Linked)) => clean(&programs().linked),
            (_, Some(Door::Host)) => clean(&programs().host),
            (LuaJit::Shared, _) => clean(&programs().shared),
            (LuaJit::Inside, _) => clean(&programs().inside),
        };
        command
            .env("LUA_PATH", format!("{};;", repository().join("lua/?.lua").display()))
            .env("LUA_CPATH", format!("{};;", installed().lib().join("lua/5.1/?.so").display()));
        if self.kind == "blocks.lua" {
            command.env("LAW_BLOCKS", blocks());
        }
        if luajit == LuaJit::Nginx { watch_worker(&mut command) } else { watch(command.args(line)) }
    }
}

/// Where scripts are.
pub const SCRIPT_FOLDERS: [&str; 2] = ["harness/workloads", "ffi-tests/lua"];

/// The command `ebbtide`.
pub fn ebbtide() -> PathBuf {
    installed().lib().join("../bin/ebbtide")
}

/// A library with the function that `blocks.lua` calls.
fn blocks() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let library = scratch("law").join("blocks.so");
        let mut command = compiler(Language::C);
        command.args(["-shared", "-fPIC", "-isystem", LUAJIT.include_dir, "-o"]).arg(&library);
        finish(command.arg(repository().join("harness/host/blocks.c")));
        library
    };
    LIBRARY.get_or_init(build).clone()
}

/// Runs a program of `law.lua` on this LuaJIT without ebbtide.
pub fn run_stock(kind: &str, wait: &str, luajit: LuaJit) -> Course {
    Work::new(kind, wait).run(luajit, None)
}

/// Runs a program of `law.lua` at a door.
pub fn run(kind: &str, wait: &str, door: Door) -> Course {
    Work::new(kind, wait).run(door.luajit(), Some(door))
}
