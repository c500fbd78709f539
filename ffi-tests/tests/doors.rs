//! The doors into a program that knows nothing of ebbtide: `require "ebbtide"` in a VM on LuaJIT's
//! own allocator, memory given back in place, `attach()`, and the C functions that do the same.
//!
//! Each with Debian's `luajit`, a static program, as installed and as upstream has it; with a plain
//! host on Debian's shared library; and with such a host on the LuaJIT that mlua vendors. The library
//! is the one that was built with these tests, with its assertions, but where the installed one is
//! meant.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{
    Language, base_name, clean, compiler, finish, installed, linked_with_lua, made_at_once,
    scratch, source, text_of, under_valgrind,
};
use ebbtide_runtimes::others::{lua51, lua52, lua53, lua54, luajit_checked};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, SONAME, repository};

ebbtide_ffi_tests::long! {
    attach_in_a_coroutine_and_in_a_loop
    attach_in_a_finalizer_and_in_a_sort
    attach_at_a_random_moment_of_random_programs
    other_allocators_are_refused_with_a_reason
    reports_of_what_may_go_back_come_true
    large_strings_that_were_joined_leave_nothing_behind
    large_tables_leave_nothing_behind
    a_million_small_blocks_leave_nothing_behind
    c_modules_work_on
    closed_vms_leave_nothing_behind
    attach_reclaim_and_close_under_valgrind
    a_later_lua_is_told_by_its_name
    threads_share_a_heap_and_the_end_of_a_vm_is_told
}

/// The LuaJIT library that Debian's packages have.
const SHARED_LUAJIT: &str = "-l:libluajit-5.1.so.2";

const JIT: [Option<&str>; 2] = [None, Some("-joff")];

/// A Lua and how it is linked.
#[derive(Clone, Copy)]
enum Lua {
    Vendored,
    /// With LuaJIT's own assertions.
    Checked,
    Shared,
    Plain,
}

impl Lua {
    fn name(self) -> &'static str {
        match self {
            Lua::Vendored => "vendored",
            Lua::Checked => "checked",
            Lua::Shared => "shared",
            Lua::Plain => "plain",
        }
    }

    /// Has a C compiler link it.
    fn link(self, command: &mut Command) {
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
fn library_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its own path");
    let folder = program.parent().expect("PROFILE/deps/TEST").to_owned();
    assert!(folder.join("libebbtide.so").is_file(), "no libebbtide.so in {}", folder.display());
    folder
}

/// A folder in which that library has its soname.
fn loader_folder() -> &'static Path {
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
fn build(name: &str, lua: Lua, with_ebbtide: bool) -> PathBuf {
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
fn host(lua: Lua) -> &'static Path {
    static HOSTS: [OnceLock<PathBuf>; 4] = [const { OnceLock::new() }; 4];
    HOSTS[lua as usize].get_or_init(|| build("lua/lua_module_host.c", lua, false))
}

/// The programs that run scripts as a user would, on an unmodified LuaJIT.
fn luajits() -> Vec<&'static Path> {
    let mut all = vec![Path::new("luajit"), host(Lua::Vendored), host(Lua::Shared)];
    all.extend(upstream());
    all
}

/// Debian's package of upstream's LuaJIT, unpacked beside whatever is installed: that may be
/// OpenResty's branch.
fn upstream() -> Option<&'static Path> {
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
fn debian_modules() -> &'static str {
    static PATHS: OnceLock<String> = OnceLock::new();
    PATHS.get_or_init(|| text_of(clean("luajit").args(["-e", "io.write(package.cpath)"])))
}

fn script(name: &str) -> PathBuf {
    repository().join("ffi-tests/lua").join(name)
}

/// Sets where a program finds modules: this library in a folder, and the scripts' own; nothing that
/// happens to be installed.
fn find_modules<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    let modules = format!("{}/lib?.so;{}", folder.display(), debian_modules());
    command.env("LUA_CPATH", modules).env("LUA_PATH", script("?.lua"))
}

/// A program that runs a script with the library that was built with these tests.
fn command(
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
fn everywhere(name: &str, arguments: &[&str]) {
    for program in luajits() {
        for jit in JIT {
            finish(&mut command(program, jit.as_slice(), name, arguments));
        }
    }
}

/// Runs a C program on both LuaJITs, with the library.
fn program(name: &str) {
    for lua in [Lua::Vendored, Lua::Shared] {
        finish(&mut clean(build(name, lua, true)));
    }
}

#[test]
fn an_untouched_vm_gives_memory_back_in_place() {
    everywhere("lua_module_untouched.lua", &[]);
}

#[test]
fn misuse_names_the_argument() {
    everywhere("lua_module_misuse.lua", &[]);
}

#[test]
fn memory_may_run_out_inside_of_the_module() {
    everywhere("lua_module_memory.lua", &[]);
}

fn other_allocators_are_refused_with_a_reason() {
    let own = "does not run on LuaJIT's own";
    for lua in [Lua::Vendored, Lua::Shared] {
        finish(&mut command(host(lua), &["--alloc", "own"], "lua_module_unknown.lua", &[own]));
    }
    finish(&mut command(host(Lua::Plain), &[], "lua_module_unknown.lua", &["GC64"]));
    finish(&mut command(
        host(Lua::Plain),
        &["--alloc", "own"],
        "lua_module_unknown.lua",
        &["GC64"],
    ));
}

/// The module speaks for the library that the program is linked with, whichever it was loaded from.
#[test]
fn a_vm_on_a_heap_has_a_module_that_knows_it() {
    for lua in [Lua::Vendored, Lua::Shared] {
        let program = build("lua/lua_module_host.c", lua, true);
        for kind in ["heap", "newstate"] {
            for folder in [library_folder(), installed().lib()] {
                let mut command = command(&program, &["--alloc", kind], "lua_module_heap.lua", &[]);
                finish(find_modules(&mut command, &folder));
            }
        }
    }
}

#[test]
fn attach_at_the_start_and_in_the_middle() {
    everywhere("lua_module_attach.lua", &["start"]);
    everywhere("lua_module_attach.lua", &["middle"]);
}

fn attach_in_a_coroutine_and_in_a_loop() {
    everywhere("lua_module_attach.lua", &["coroutine"]);
    everywhere("lua_module_attach.lua", &["loop"]);
}

fn attach_in_a_finalizer_and_in_a_sort() {
    everywhere("lua_module_attach.lua", &["finalizer"]);
    everywhere("lua_module_attach.lua", &["sort"]);
}

#[test]
fn pages_of_the_previous_allocator_go_back_by_themselves() {
    let modes = ["work", "tick", "off"];
    for (program, mode) in luajits().into_iter().cycle().zip(modes) {
        for jit in JIT {
            finish(&mut command(program, jit.as_slice(), "lua_module_previous.lua", &[mode]));
        }
    }
}

fn attach_at_a_random_moment_of_random_programs() {
    let mut programs = luajits();
    programs.push(host(Lua::Checked));
    for seed in 1..=30 {
        let program = programs[seed % programs.len()];
        let jit = JIT[seed / programs.len() % 2];
        let arguments = [&*seed.to_string(), "3000"];
        finish(&mut command(program, jit.as_slice(), "lua_module_random.lua", &arguments));
    }
}

#[test]
fn options_are_taken_refused_and_changed() {
    everywhere("lua_module_options.lua", &[]);
}

/// What `report()` promises comes true, as the kernel counts it.
#[test]
fn reports_of_large_blocks_come_true() {
    everywhere("lua_module_report.lua", &["large"]);
    everywhere("lua_module_report.lua", &["large", "attach"]);
}

fn reports_of_what_may_go_back_come_true() {
    for mode in ["reclaim", "attach", "rest"] {
        everywhere("lua_module_report.lua", &[mode]);
    }
}

/// Settings that do nothing, or nothing yet, are in the report, and on standard error once.
#[test]
fn settings_without_effect_are_told() {
    let unknown = "unknown option EBBTIDE_DECAY; did you mean EBBTIDE_DECAY_MS?";
    let unused =
        "ebbtide: EBBTIDE_CHECKED=1 had no effect: no VM had a heap; attach() gives it one\n";
    let waits = "In the environment, without effect before attach(): EBBTIDE_CHECKED=1";
    for program in luajits() {
        let said = |arguments: &[&str]| {
            let mut command = command(program, &[], "lua_module_report.lua", arguments);
            let output = finish(command.env("EBBTIDE_CHECKED", "1").env("EBBTIDE_DECAY", "500"));
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
            (text(output.stdout), text(output.stderr))
        };
        let (report, errors) = said(&["environment"]);
        assert!(report.contains(unknown) && report.contains(waits), "{report}");
        assert_eq!(errors, format!("ebbtide: {unknown}\n{unused}"));
        let (report, errors) = said(&["environment", "attach"]);
        assert!(report.contains(unknown) && !report.contains("without effect"), "{report}");
        assert_eq!(errors, format!("ebbtide: {unknown}\n"));
        // Also where the end of the process is all that comes, but for a child of a fork.
        for way in ["exit", "fork"] {
            let errors = said(&["environment", way]).1;
            assert_eq!(errors, format!("ebbtide: {unknown}\n{unused}"), "{way}");
        }
        // Not in another file that has become descriptor 2.
        let errors = said(&["environment", "other"]).1;
        assert_eq!(errors, format!("ebbtide: {unknown}\n"));
    }
}

/// Where attach() was tried in vain, nobody is told to call it.
#[test]
fn a_refused_attach_is_the_reason_at_the_end() {
    let expected = "ebbtide: EBBTIDE_RETAIN=9t had no effect: a heap was refused: \
                    EBBTIDE_RETAIN=9t: takes a number from 0 to 8t";
    for program in luajits() {
        let mut command =
            command(program, &[], "lua_module_report.lua", &["environment", "refused"]);
        let output = finish(command.env("EBBTIDE_RETAIN", "9t"));
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(errors.starts_with(expected) && errors.lines().count() == 1, "{errors}");
    }
}

#[test]
fn variables_of_the_preload_library_are_told_without_it() {
    for program in luajits() {
        let arguments = ["environment", "attach"];
        let mut command = command(program, &[], "lua_module_report.lua", &arguments);
        let output = finish(command.env("EBBTIDE_REPORT", "on").env("EBBTIDE_VERBOSE", "off"));
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(errors, "ebbtide: EBBTIDE_REPORT has an effect under ebbtide run only\n");
    }
}

/// A file that is opened after descriptor 2 was closed, and before the library is loaded.
#[test]
fn a_database_that_became_descriptor_2_stays_as_it_is() {
    let database = scratch("doors-database").join("database");
    for program in luajits() {
        let arguments = [database.to_str().expect("UTF-8")];
        let mut command = command(program, &[], "lua_module_database.lua", &arguments);
        finish(command.env("EBBTIDE_CHEKED", "1").env("EBBTIDE_CHECKED", "1"));
        assert_eq!(fs::read_to_string(&database).expect("a database"), "HEADER\nEND\n");
    }
}

/// The peak is hardly higher than on LuaJIT's own allocator, and what is dropped goes back: large
/// blocks at once, small ones however light the work is that goes on.
fn leaves_nothing_behind(kind: &str) {
    for program in luajits() {
        let peak_and_left = |door| {
            let text = text_of(&mut command(program, &[], "lua_module_large.lua", &[kind, door]));
            let numbers = text.split_whitespace().map(|number| number.parse::<f64>());
            let numbers: Vec<f64> = numbers.map(|number| number.expect("KB")).collect();
            (numbers[0], numbers[1])
        };
        let (stock, attached) = (peak_and_left("stock"), peak_and_left("attach"));
        println!("{kind} on {program:?}: {stock:?}, attached {attached:?}");
        let most = stock.0 + (0.15 * stock.0).max(8192.0);
        assert!(attached.0 <= most, "{kind} on {program:?}: {attached:?} of {stock:?} KB");
        assert!(attached.1 <= stock.1 + 16384.0, "{kind}: {attached:?}, stock {stock:?}");
    }
}

#[test]
fn a_large_string_leaves_nothing_behind() {
    leaves_nothing_behind("rep");
}

fn large_strings_that_were_joined_leave_nothing_behind() {
    leaves_nothing_behind("concat");
}

fn large_tables_leave_nothing_behind() {
    leaves_nothing_behind("grow");
}

fn a_million_small_blocks_leave_nothing_behind() {
    leaves_nothing_behind("small");
}

fn c_modules_work_on() {
    for when in ["never", "start", "middle"] {
        everywhere("lua_module_modules.lua", &[when]);
    }
}

fn closed_vms_leave_nothing_behind() {
    for lua in [Lua::Vendored, Lua::Shared] {
        finish(&mut command(host(lua), &["--vms", "200"], "lua_module_close.lua", &[]));
    }
    finish(&mut command(
        host(Lua::Checked),
        &["-joff", "--vms", "20"],
        "lua_module_close.lua",
        &[],
    ));
}

/// Debian's own program, which closes its VM and unloads the library while it does.
#[test]
fn a_closed_program_ends_well() {
    for jit in JIT {
        finish(&mut command("luajit", jit.as_slice(), "lua_module_close.lua", &[]));
    }
}

fn attach_reclaim_and_close_under_valgrind() {
    for lua in [Lua::Vendored, Lua::Shared] {
        let mut command = under_valgrind();
        find_modules(&mut command, &library_folder());
        command.arg(host(lua)).args(["-joff", "--vms", "3"]);
        finish(command.arg(script("lua_module_close.lua")));
        let program = build("lua/lua_module_calls.c", lua, true);
        finish(under_valgrind().arg(program).env("CHECK_LIGHT", "1"));
    }
}

#[test]
fn c_functions_that_know_lua() {
    program("lua/lua_module_calls.c");
}

/// With fewer steps than below.
#[test]
fn a_few_threads_share_a_heap() {
    let shared = build("lua/vm_shared.c", Lua::Shared, true);
    finish(clean(shared).env("CHECK_LIGHT", "1"));
}

fn threads_share_a_heap_and_the_end_of_a_vm_is_told() {
    program("lua/vm_shared.c");
    for checked in ["on", "sample"] {
        let shared = build("lua/vm_shared.c", Lua::Shared, true);
        finish(clean(shared).env("EBBTIDE_CHECKED", checked).env("CHECK_LIGHT", "1"));
    }
}

/// That no allocator is LuaJIT's own is found out by one VM, and remembered.
#[test]
fn a_luajit_on_another_allocator_is_asked_once() {
    finish(&mut clean(build("lua/lua_module_other.c", Lua::Shared, true)));
}

/// The functions of a Lua inside such a program are not to be found, not even to throw an error.
#[test]
fn a_program_that_hides_lua_is_told() {
    let program = loader_folder().join("lua_module_host.c-hidden");
    let mut command = compiler(Language::C);
    command.arg("-isystem").arg(LUAJIT.include_dir).arg("-o").arg(&program);
    command.arg(source("lua/lua_module_host.c")).args([
        "-x",
        "none",
        LUAJIT.library,
        "-lm",
        "-ldl",
    ]);
    finish(&mut command);
    let file = loader_folder().join("hidden.lua");
    for (text, path) in [
        ("assert(require 'ebbtide' == true)", script("?.lua")),
        (
            "local done, why = pcall(require, 'ebbtide') \
             assert(not done and why:find('^ebbtide: .*rdynamic'), why)",
            repository().join("lua/?.lua"),
        ),
    ] {
        fs::write(&file, text).expect("the target directory can be written");
        let mut command = clean(&program);
        find_modules(&mut command, &library_folder()).env("LUA_PATH", path).arg(&file);
        let said = String::from_utf8_lossy(&finish(&mut command).stderr).into_owned();
        assert!(said.starts_with("ebbtide: no module: there is no LuaJIT"), "{said}");
        assert!(said.contains("-rdynamic") && said.lines().count() == 1, "{said}");
    }
}

fn a_later_lua_is_told_by_its_name() {
    let file = loader_folder().join("later.lua");
    let files = repository().join("lua/?.lua");
    let (nowhere, throws) = (script("?.lua"), "^ebbtide: this is Lua 5.%d %(PUC%); .*LuaJIT$");
    for runtime in [lua52(), lua53(), lua54()] {
        let program = loader_folder().join(format!("lua_module_host.c-{}", runtime.name));
        let mut command = compiler(Language::C);
        command.arg("-isystem").arg(runtime.include_dir).arg("-o").arg(&program);
        command.arg(source("lua/lua_module_host.c")).args(["-x", "none", runtime.library]);
        finish(command.args(runtime.link_flags));
        let run = |text: &str, path: &Path| {
            fs::write(&file, text).expect("the target directory can be written");
            let mut command = clean(&program);
            find_modules(&mut command, &library_folder()).env("LUA_PATH", path).arg(&file);
            String::from_utf8_lossy(&finish(&mut command).stderr).into_owned()
        };
        let code = format!(
            "local done, why = pcall(require, 'ebbtide') assert(not done and why:find'{throws}', why)"
        );
        assert_eq!(run(&code, &files), "");
        let said = run("assert(require 'ebbtide' == true)", &nowhere);
        let expected = "ebbtide: no module: this is Lua 5.2 or later (PUC); ebbtide's Lua module";
        assert!(said.starts_with(expected), "{}: {said}", runtime.name);
        assert_eq!(said.lines().count(), 1, "{said}");
        finish(&mut clean(linked_with_lua("lua/later.c", &runtime, &["-rdynamic"])));
    }
}

#[test]
fn a_damaged_heap_is_refused() {
    program("lua/lua_module_damage.c");
}

#[test]
fn a_random_heap_adds_up() {
    program("lua/lua_module_walk.c");
}

/// By each name, from a checkout and from the library alone; the library as it is installed.
#[test]
fn the_module_is_found() {
    let sources =
        format!("{};{}", script("?.lua").display(), repository().join("lua/?.lua").display());
    let file = repository().join("lua/ebbtide.lua");
    let file = file.to_str().expect("UTF-8");
    for program in luajits() {
        for folder in [library_folder(), installed().lib()] {
            for (name, from, paths) in [
                ("ebbtide", "=ebbtide.lua", None),
                ("ebbtide", file, Some(&sources)),
                ("resty.ebbtide", file, Some(&sources)),
            ] {
                let mut command = command(program, &[], "lua_module_require.lua", &[name, from]);
                find_modules(&mut command, &folder);
                if let Some(paths) = paths {
                    command.env("LUA_PATH", paths);
                }
                finish(&mut command);
            }
        }
    }
}

/// What users run is built without assertions, and differently compiled.
#[test]
fn the_installed_library_does_the_same() {
    for (name, arguments) in [
        ("lua_module_untouched.lua", &[][..]),
        ("lua_module_attach.lua", &["middle"]),
        ("lua_module_random.lua", &["77", "6000"]),
    ] {
        for program in luajits() {
            let mut command = command(program, &[], name, arguments);
            finish(find_modules(&mut command, &installed().lib()));
        }
    }
}

#[test]
fn the_synopsis_of_the_manual_runs() {
    let manual = fs::read_to_string(repository().join("lua/README.md")).expect("the manual");
    let synopsis = manual.split("```lua\n").nth(1).and_then(|rest| rest.split("```").next());
    let file = scratch("doors").join("synopsis.lua");
    fs::write(&file, synopsis.expect("a block of Lua")).expect("the target directory");
    for program in luajits() {
        let mut command = clean(program);
        find_modules(&mut command, &library_folder());
        let said = text_of(command.arg(&file));
        assert!(said.contains("LuaJIT's own allocator"), "{said}");
        assert!(said.contains("An ebbtide heap"), "{said}");
    }
}
