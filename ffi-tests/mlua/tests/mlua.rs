//! A VM that the host makes on ebbtide's heap and then drives through mlua.

use std::ptr;

use ebbtide::capi::{EBB_OK, ebb_reclaim, ebb_stats, ebb_stats_read};
use ebbtide::capi::{ebb_alloc, ebb_heap, ebb_heap_delete, ebb_heap_new};
use mlua::{Lua, ffi};

/// Builds strings, tables, closures and coroutines, and checks what became of them.
const SCRIPT: &str = r#"
    local rows = {}
    for i = 1, 20000 do
        rows[i] = { id = i, name = "row " .. i, next = function() return i + 1 end }
    end
    for i = 1, 20000, 2 do
        rows[i] = nil
    end
    collectgarbage()
    reclaim()
    local sum = 0
    for i = 2, 20000, 2 do
        assert(rows[i].name == "row " .. i)
        sum = sum + coroutine.wrap(rows[i].next)()
    end
    return sum
"#;

fn blocks(heap: *mut ebb_heap) -> u64 {
    // SAFETY: ebb_stats is plain data, for which zeroes are valid.
    let mut stats: ebb_stats = unsafe { std::mem::zeroed() };
    stats.size = size_of::<ebb_stats>();
    // SAFETY: the heap is live and ours; stats says its own size and wants no table.
    assert_eq!(unsafe { ebb_stats_read(heap, &mut stats) }, EBB_OK);
    stats.blocks
}

/// Runs [`SCRIPT`] in the VM `state`, to which `reclaim()` gives its heap's memory back.
fn run_script(lua: &Lua, heap: *mut ebb_heap) -> mlua::Result<u64> {
    let heap = heap as usize;
    let reclaim = lua.create_function(move |_, ()| {
        // SAFETY: the heap outlives its VM, and this is the thread that uses both.
        let result = unsafe { ebb_reclaim(heap as *mut ebb_heap, ptr::null(), ptr::null_mut()) };
        assert_eq!(result, EBB_OK);
        Ok(())
    })?;
    lua.globals().set("reclaim", reclaim)?;
    lua.load(SCRIPT).eval()
}

#[test]
fn a_vm_made_on_the_heap_runs_and_leaves_nothing() {
    // SAFETY: NULL asks for the defaults.
    let heap = unsafe { ebb_heap_new(ptr::null()) };
    assert!(!heap.is_null(), "no heap");
    // SAFETY: ebb_alloc is a lua_Alloc for this heap, which outlives the VM.
    let state = unsafe { ffi::lua_newstate(ebb_alloc, heap.cast()) };
    assert!(!state.is_null(), "no VM");
    // SAFETY: the VM is live, and its stack is empty; the reference is gone before lua_close.
    let sum = unsafe {
        ffi::luaL_openlibs(state);
        run_script(Lua::get_or_init_from_ptr(state), heap)
    };
    assert_eq!(sum.expect("the script runs"), (2..=20000).step_by(2).map(|i| i + 1).sum::<u64>());
    assert!(blocks(heap) > 10000, "the VM does not live on the heap");
    // SAFETY: no reference into the VM is left, and nothing uses it again.
    unsafe { ffi::lua_close(state) };
    assert_eq!(blocks(heap), 0);
    // SAFETY: the heap is not used again.
    unsafe { ebb_heap_delete(heap) };
}
