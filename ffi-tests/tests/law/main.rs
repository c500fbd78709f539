//! The law of memory: a program never holds noticeably more with ebbtide than without, and soon
//! after its load has ended no more than a full reclaim leaves.
//!
//! Every program runs on stock LuaJIT and at each door, in phases that it names. Resident memory, as
//! the kernel counts it, is compared over any three seconds with what stock LuaJIT held over the
//! same part of the same phase.

mod course;
mod driven;
mod real;
mod watched;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use course::Course;
use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, scratch, source};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

/// How a program comes by ebbtide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// `ebbtide run`.
    Preload,
    /// `attach()` as the first thing that the script does.
    Attach,
    /// The library is linked in, and `lua_newstate` taken over.
    Linked,
}

const DOORS: [Door; 3] = [Door::Preload, Door::Attach, Door::Linked];

/// Two seconds after the load has ended.
const AFTER_S: f64 = 2.0;
/// What may then be held beyond what a full reclaim leaves: the larger of this share and these MB.
const LEFT_SHARE: f64 = 0.10;
const LEFT_MB: f64 = 2.0;
/// A machine that is busy with something else makes figures worse, never better, so the best of
/// some tries counts.
const TRIES: usize = 3;

/// What runs the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// The main thread.
    One,
    /// Several threads, one after the other.
    Pool,
}

impl Host {
    fn of(kind: &str) -> Host {
        if kind == "pool" { Host::Pool } else { Host::One }
    }

    fn source(self) -> &'static str {
        match self {
            Host::One => "preload/preload_run.c",
            Host::Pool => "lua/pool_run.c",
        }
    }

    fn programs(self) -> &'static Programs {
        static ONE: OnceLock<Programs> = OnceLock::new();
        static POOL: OnceLock<Programs> = OnceLock::new();
        let programs = match self {
            Host::One => &ONE,
            Host::Pool => &POOL,
        };
        programs.get_or_init(|| Programs::build(self))
    }
}

/// The programs on Debian's shared LuaJIT, and on one that is linked in without ebbtide and with.
struct Programs {
    shared: PathBuf,
    inside: PathBuf,
    linked: PathBuf,
}

impl Programs {
    fn build(host: Host) -> Programs {
        let folder = scratch(&format!("law/{host:?}"));
        let build = |name: &str, flags: &[&str]| {
            let program = folder.join(name);
            let mut command = compiler(Language::C);
            command.arg("-isystem").arg(LUAJIT.include_dir).arg("-o").arg(&program);
            command.arg(source(host.source())).args(["-x", "none"]).args(flags).arg("-lpthread");
            finish(&mut command);
            program
        };
        let archive = installed().archive();
        let archive = archive.to_str().expect("the target folder is UTF-8");
        let inside = [&[LUAJIT.library], LUAJIT.link_flags].concat();
        let wrap = ["-Wl,--wrap=lua_newstate", LUAJIT.library, archive];
        let linked = [&wrap[..], LUAJIT.link_flags, EBBTIDE_LINK_FLAGS].concat();
        Programs {
            shared: build("shared", &["-l:libluajit-5.1.so.2"]),
            inside: build("inside", &inside),
            linked: build("linked", &linked),
        }
    }
}

/// Runs a program of `law.lua`, without ebbtide or at a door.
fn run(kind: &str, wait: &str, door: Option<Door>, like: Door) -> Course {
    let programs = Host::of(kind).programs();
    let mut command = match (door, like) {
        (None, Door::Linked) => clean(&programs.inside),
        (None, _) | (Some(Door::Attach), _) => clean(&programs.shared),
        (Some(Door::Preload), _) => {
            let mut command = clean(installed().lib().join("../bin/ebbtide"));
            command.arg("run").arg(&programs.shared);
            command
        }
        (Some(Door::Linked), _) => clean(&programs.linked),
    };
    command.arg(repository().join("ffi-tests/lua/law.lua")).arg(kind_or_path(kind)).arg(wait);
    if let Some(door) = door {
        command
            .arg("module")
            .env("LUA_PATH", repository().join("lua/?.lua"))
            .env("LUA_CPATH", installed().lib().join("lua/5.1/?.so"));
        command.args((door == Door::Attach).then_some("attach"));
    }
    watched::watch(&mut command)
}

/// A script of the benches by its name, or a kind that `law.lua` knows.
fn kind_or_path(kind: &str) -> PathBuf {
    let script = repository().join("benches/programs/lua").join(kind);
    if script.is_file() { script } else { kind.into() }
}

/// What a run held too much, in words. `None`: it kept the law.
fn breach(ours: &Course, stock: &Course) -> Option<String> {
    let worst = ours.worst_beside(stock);
    if worst.beyond_mb() > 0.0 {
        return Some(format!(
            "from {:.2} s on {:.1} MB on average, stock {:.1} MB",
            worst.from_s, worst.ours_mb, worst.stock_mb
        ));
    }
    let after = ours.mb_at(ours.start_of("rest") + AFTER_S);
    let least = ours.mb_at(ours.start_of("end"));
    (after > least + LEFT_MB.max(LEFT_SHARE * least)).then(|| {
        format!("{after:.1} MB two seconds after the load, {least:.1} MB after a full reclaim")
    })
}

/// Holds a program to the law. What it held at worst, or what each try held too much.
fn keeps(kind: &str, wait: &str, door: Door) -> Result<String, String> {
    let mut said = Vec::new();
    for _ in 0..TRIES {
        let stock = run(kind, wait, None, door);
        let ours = run(kind, wait, Some(door), door);
        let worst = ours.worst_beside(&stock);
        match breach(&ours, &stock) {
            None => return Ok(format!("{:.1} MB, stock {:.1} MB", worst.ours_mb, worst.stock_mb)),
            Some(breach) => {
                println!("stock {}ours  {}", stock.summary(), ours.summary());
                said.push(breach);
            }
        }
    }
    Err(said.join("; "))
}

/// The machine for one test: two at once would disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds programs to the law, one after the other.
fn all_keep<'a>(programs: impl IntoIterator<Item = (&'a str, &'a str, Door)>) {
    let _alone = alone();
    let mut breaches = Vec::new();
    for (kind, wait, door) in programs {
        let name = format!("{kind}, {wait}, {door:?}");
        match keeps(kind, wait, door) {
            Ok(worst) => println!("{name}: at worst {worst}"),
            Err(breach) => {
                println!("{name}: BREACH: {breach}");
                breaches.push(format!("{name}: {breach}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// What programs make and drop, and what they wait in afterwards.
const KINDS: [(&str, &str); 8] = [
    ("tables", "nanosleep"),
    ("strings", "nanosleep"),
    ("survivors", "nanosleep"),
    ("peaks", "nanosleep"),
    ("block", "nanosleep"),
    ("array", "nanosleep"),
    ("pool", "queue"),
    ("steady", "nanosleep"),
];
/// What they wait in besides.
const WAYS: [&str; 7] = ["poll", "epoll", "read", "condition", "busy", "rarely", "lightly"];

mod long {
    use super::*;

    /// Each kind at one of the doors.
    #[test]
    #[ignore = "takes minutes"]
    fn what_is_dropped_goes_back() {
        let doors = DOORS.into_iter().cycle();
        all_keep(KINDS.into_iter().zip(doors).map(|((kind, wait), door)| (kind, wait, door)));
    }

    #[test]
    #[ignore = "takes minutes"]
    fn whatever_the_program_waits_in() {
        let doors = [Door::Preload, Door::Attach].into_iter().cycle();
        all_keep(WAYS.into_iter().zip(doors).map(|(way, door)| ("tables", way, door)));
    }
}

mod full {
    use super::*;

    #[test]
    #[ignore = "takes longer"]
    fn what_is_dropped_goes_back_at_every_door() {
        let programs =
            KINDS.into_iter().flat_map(|(kind, wait)| DOORS.map(|door| (kind, wait, door)));
        all_keep(programs);
    }

    #[test]
    #[ignore = "takes longer"]
    fn programs_of_the_benches() {
        let scripts = [
            "tables.lua",
            "strings.lua",
            "closures.lua",
            "json.lua",
            "growth.lua",
            "service.lua",
            "scatter.lua",
            "binary_trees.lua",
            "lru_cache.lua",
            "havlak.lua",
        ];
        all_keep(scripts.map(|script| (script, "poll", Door::Attach)));
    }

    /// Nor do its pages count against what the machine has promised.
    #[test]
    #[ignore = "changes the machine's overcommit for seconds"]
    fn what_goes_back_is_not_charged() {
        ebbtide_ffi_tests::strict("limits/strict.c");
    }
}
