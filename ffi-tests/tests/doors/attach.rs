//! `attach()`: at any moment, what it leaves behind, and the end of an attached VM.

use ebbtide_ffi_tests::{finish, text_of, under_valgrind};

use crate::luajits::{
    JIT, Lua, build, command, everywhere, find_modules, host, library_folder, luajits, script,
};

ebbtide_ffi_tests::long! {
    attach_in_a_coroutine_and_in_a_loop
    attach_in_a_finalizer_and_in_a_sort
    attach_at_a_random_moment_of_random_programs
    large_strings_that_were_joined_leave_nothing_behind
    large_tables_leave_nothing_behind
    a_million_small_blocks_leave_nothing_behind
    c_modules_work_on
    closed_vms_leave_nothing_behind
    attach_reclaim_and_close_under_valgrind
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
        for name in ["lua/lua_module_calls.c", "lua/lua_module_previous.c"] {
            let program = build(name, lua, true);
            finish(under_valgrind().arg(program).env("CHECK_LIGHT", "1"));
        }
    }
}
