//! The C functions that know Lua, in programs that are linked with the library.

use ebbtide_ffi_tests::{clean, finish};

use crate::luajits::{Lua, build, program};

ebbtide_ffi_tests::long! {
    threads_share_a_heap_and_the_end_of_a_vm_is_reported
}

#[test]
fn c_functions_that_know_lua() {
    program("lua/lua_module_calls.c");
}

#[test]
fn the_previous_allocator_returns_memory() {
    program("lua/lua_module_previous.c");
}

/// With fewer steps than below.
#[test]
fn a_few_threads_share_a_heap() {
    let shared = build("lua/vm_shared.c", Lua::Shared, true);
    finish(clean(shared).env("CHECK_LIGHT", "1"));
}

fn threads_share_a_heap_and_the_end_of_a_vm_is_reported() {
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

#[test]
fn a_damaged_heap_is_refused() {
    program("lua/lua_module_damage.c");
}

#[test]
fn passes_leave_a_damaged_heap_alone() {
    program("lua/lua_module_passes.c");
}

#[test]
fn a_random_heap_adds_up() {
    program("lua/lua_module_walk.c");
}
