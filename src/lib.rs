//! ebbtide: the memory allocator for LuaJIT that gives memory back.
//!
//! One heap per Lua VM, plugged in through `lua_newstate(ebb_alloc, heap)`. Small blocks live in
//! spans whose free slots are bits in a descriptor out of band; large blocks are runs of pages.
//! Nothing is ever written into free memory, so every free page can go back to the kernel at any
//! time, between live neighbours too.
//!
//! # Layers
//!
//! Each module uses only those above its own row; `tests/house.rs` holds them to it.
//!
//! | module       | knows                                                                   |
//! |--------------|-------------------------------------------------------------------------|
//! | `fixed_str`  | a line of text without allocating                                       |
//! | `sigpipe`    | a write to a pipe without a reader, without the signal                  |
//! | `fd`         | which file a file descriptor leads to, and a write that waits for room  |
//! | `log`        | where lines for people go                                               |
//! | `bug`        | how to stop with one line when an invariant is broken                   |
//! | `error`      | what can go wrong, as codes and as words                                |
//! | `units`      | pages, page indices, all rounding                                       |
//! | `os`         | the system calls of a heap, behind one contract                         |
//! | `cgroup`     | the memory limits of the cgroup that the process is in                  |
//! | `options`    | every option: name, range, default, environment                         |
//! | `heap`       | size classes, descriptors, page runs, spans, large blocks; the hot path |
//! | `figures`    | what heaps were last seen to hold, for signal handlers                  |
//! | `reclaim`    | what may stay, what goes back and when, in bounded steps; memory limits |
//! | `builtin`    | LuaJIT's own heap: recognised, walked, its free pages given back        |
//! | `lua_api`    | the functions of Lua, looked up in the process                          |
//! | `vm`         | a VM on a heap: made on it, changed over to it, closed                  |
//! | `capi`       | the C functions `ebb_*`                                                 |
//! | `lua_module` | what Lua sees: `require "ebbtide"`, `luaopen_*`                         |
//!
//! # A first allocation, from the call down to the kernel and back
//!
//! 1. LuaJIT calls `ebb_alloc(heap, NULL, 0, 40)`: [`capi::ebb_alloc`].
//! 2. `heap::fast` looks up the bin of 40 bytes and reads the bitmap word that it points to: the
//!    heap's `always_zero`, because the class has no span yet.
//! 3. `Heap::refill` (in `heap::blocks`) finds no active span, no partial one, no spare.
//! 4. `Heap::new_span` asks `Heap::take_pages` (in `heap::growth`) for one page.
//! 5. `PageRuns::find` (in `heap::pages`) finds no free page below `top`, so `top` must rise.
//! 6. `Heap::commit` finds it inside what the heap's creation made writable; otherwise it would
//!    call `Os::commit` (mprotect) for the next step of pages and of their descriptors.
//! 7. `new_span` fills in the page's descriptor: start, reciprocal, bin, 102 free bits.
//! 8. `refill` makes it the active span of the bin: the bin now points at its first bitmap word.
//! 9. The lowest set bit is slot 0. It is cleared, the size is counted, and the address is that of
//!    the span's first slot plus 0 × 40.
//!
//! The next 101 allocations of 33 to 40 bytes take steps 2 and 9 only, but for the one that turns
//! to the second bitmap word. `ebb_alloc(heap, p, 40, 0)` frees the block: it finds the descriptor
//! from the page of `p`, and the slot by the reciprocal, and sets the slot's bit.
//!
//! `docs/architecture.md` has the way back, from a free page to the kernel.

#![deny(missing_docs)]

pub(crate) mod bug;
pub(crate) mod builtin;
pub mod capi;
pub(crate) mod cgroup;
pub(crate) mod error;
pub(crate) mod fd;
pub(crate) mod figures;
pub(crate) mod fixed_str;
pub(crate) mod heap;
pub(crate) mod log;
pub(crate) mod lua_api;
pub mod lua_module;
pub(crate) mod options;
pub(crate) mod os;
pub(crate) mod reclaim;
pub(crate) mod sigpipe;
pub(crate) mod units;
pub(crate) mod vm;
