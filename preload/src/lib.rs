//! The preload library: gives every VM that a program makes through a shared LuaJIT a heap of its
//! own, and lets those heaps exhale while the program waits.
//!
//! A program with `LD_PRELOAD=…/libebbtide_preload.so` in its environment finds functions here
//! before it finds them where they are:
//!
//! | function                              | taken over                                       |
//! |---------------------------------------|--------------------------------------------------|
//! | `lua_newstate`                        | when LuaJIT's own allocator is asked for         |
//! | `epoll_wait`, `epoll_pwait`, `poll`,  | once there is a VM on a heap, and the wait may   |
//! | `__poll_chk`, `select`                | take time                                        |
//! | `sigaction`, `signal`, `sysv_signal`, | where a report is asked for: the program reads   |
//! | `__sysv_signal`, `sigset`             | its own handler back, not ours                   |
//! | `dlclose`                             | to note that a LuaJIT is closed again            |
//! | `_exit`, `_Exit`                      | where a report is asked for                      |
//!
//! By the symbol `ebb_preload_is_here` the allocator knows that this library is in the process.
//!
//! Other calls go straight to the real function. The allocator itself, `libebbtide.so`, is
//! loaded from the folder of this library when the first VM is made: a program without LuaJIT never
//! sees it, and pays for a constructor that looks up a few functions.
//!
//! Each module uses only those above its row, which `tests/house.rs` checks:
//!
//! | module          | holds                                                             |
//! |-----------------|-------------------------------------------------------------------|
//! | `text`          | a line of text without allocating                                 |
//! | `system`        | the number of this process, and the clock                         |
//! | `elf_objects`   | what is loaded, and which symbols that offers                     |
//! | `sigpipe`       | a write to a pipe without a reader, without the signal            |
//! | `fd`            | which file a descriptor leads to, and a write that waits for room |
//! | `report_signal` | the signals on which a report can be asked for                    |
//! | `switch`        | what a switch in the environment takes                            |
//! | `settings`      | what the environment asks for                                     |
//! | `log`           | where standard error was when the program began                   |
//! | `real`          | the functions that are taken over, as the program would find them |
//! | `library`       | `libebbtide.so`                                                   |
//! | `why`           | why no VM was taken over                                          |
//! | `newstate`      | which VMs are taken over                                          |
//! | `signals`       | reports on signals, of which the program notices nothing          |
//! | `sliced_wait`   | a wait in slices, between which heaps exhale                      |
//! | `interpose`     | the functions that wait                                           |
//! | `init`          | the beginning and the end of the process                          |
//!
//! It is in every program, so it is small: nothing here allocates, nothing can panic, and as built
//! for use, where a panic ends the process, it needs the C library only and not Rust's own.

#![cfg_attr(panic = "abort", no_std)]
#![deny(missing_docs)]
// The tests export nothing, or they would take over their own process.
#![cfg_attr(test, allow(dead_code, unused_imports))]

mod elf_objects;
#[path = "../../src/fd.rs"]
mod fd;
mod init;
mod interpose;
mod library;
mod log;
mod newstate;
mod real;
mod report_signal;
mod settings;
mod signals;
#[path = "../../src/sigpipe.rs"]
mod sigpipe;
mod sliced_wait;
mod switch;
mod system;
mod text;
mod why;

// Rust's own library would have asked the linker for these.
#[link(name = "c")]
#[link(name = "dl")]
unsafe extern "C" {}

#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: always sound.
    unsafe { libc::abort() }
}
