//! The exported C functions `ebb_*`. (`lua_module` exports `luaopen_*`.)
//!
//! cbindgen reads this file and those beside it: their comments are the header's. Each function
//! checks its arguments, turns them into Rust, and hands over to the layer that does the work.

mod builtin;
mod call;
mod checked;
mod convert;
mod environment;
mod preload;
mod types;
mod vm;

pub use builtin::*;
pub use checked::*;
pub use environment::*;
pub use preload::*;
pub use types::*;
pub use vm::*;

use call::{budget_of, fill, given_options, heap_in, null, result_of, too_small};
use convert::{fill_classes, read_head, sample_to_c, to_c};

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use crate::cgroup;
use crate::error::{self, Error};
use crate::heap::checked::ApiCall;
use crate::heap::{self, stats};
use crate::options::Options;
use crate::os::{Kernel, Os};
use crate::reclaim::KernelHeap as Heap;
use crate::reclaim::{Budget, HEAPS};
use crate::vm::{check_collect, warn_without_effect};

/// Makes a heap.
///
/// options   NULL for the defaults and the environment.
///
/// Returns the heap; NULL when an option or environment variable makes no
/// sense or there is no address space or memory: ebb_strerror(0) then says why.
/// Delete it with ebb_heap_delete(). A heap belongs to one thread at a time,
/// not to one thread for ever.
///
/// # Safety
///
/// `options` is NULL or points to `options->size` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_heap_new(options: *const ebb_options) -> *mut ebb_heap {
    // SAFETY: the caller's promise.
    let options = unsafe { given_options(options) }.and_then(Options::resolve);
    let options = options.inspect(warn_without_effect);
    match options.and_then(|options| HEAPS.create(Kernel, options)) {
        Ok(heap) => heap.cast(),
        Err(_) => ptr::null_mut(),
    }
}

/// Deletes a heap and every block in it. NULL is allowed.
///
/// The process keeps the heap that was deleted last, if it was small, and 512
/// KiB of its memory, so that the next heap is made faster.
///
/// heap      from ebb_heap_new(). After lua_close(), if a VM ran on it.
///
/// A call on a heap that was deleted aborts the process with one line, where the
/// library can tell: for the heap that was kept last every call, for other heaps
/// every call but ebb_alloc(), unless many more heaps were deleted since.
///
/// # Safety
///
/// `heap` is NULL or a heap that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_heap_delete(heap: *mut ebb_heap) {
    if !heap.is_null() {
        // SAFETY: the caller's promise: no block of the heap, and not the heap itself, is used
        // again. `ebb_heap` stands for the heap's own type.
        unsafe { HEAPS.delete(heap.cast()) }
    }
}

/// Allocates, resizes or frees one block. The signature is lua_Alloc's:
/// lua_newstate(ebb_alloc, heap).
///
/// heap      from ebb_heap_new(). One thread at a time.
/// ptr       NULL, or a live block of this heap.
/// osize     the size last asked for ptr. A hint for the statistics: a wrong
///           value does no harm.
/// nsize     bytes wanted; 0 frees.
///
/// Returns the block with its first min(osize, nsize) bytes kept; NULL when
/// nsize is 0, and when memory ran out: then ptr is unchanged and still live.
/// Blocks are aligned to 8 bytes, and to 16 if their size is a multiple of 16;
/// their addresses are below 2^47. Shrinking never fails: where there is no
/// memory for a smaller block, ptr stays where it is, with the alignment of its
/// previous size. Leaves errno alone.
///
/// LuaJIT does not collect garbage when memory runs out. The host of a VM on
/// plain lua_newstate(ebb_alloc, heap) collects after an error that it caught:
/// lua_gc(L, LUA_GCCOLLECT, 0). For other VMs the heap makes the collector due.
///
/// A ptr that is no live block aborts the process with one line that says what
/// is wrong. Every heap notices a pointer from elsewhere (in a VM that was attached
/// such a pointer goes to LuaJIT's allocator), a pointer into a block, and a block
/// freed twice while its slot is still free. Only a checked heap
/// (ebb_options.checked) notices a wrong osize, a block freed twice after its memory
/// was handed out anew, and a write past the end of a block.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `ptr` is as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_alloc(
    heap: *mut c_void,
    ptr: *mut c_void,
    osize: usize,
    nsize: usize,
) -> *mut c_void {
    // SAFETY: the caller's promises are those of `alloc`. No panic leaves an `extern "C"` function:
    // it aborts the process here.
    unsafe { heap::alloc(heap.cast::<Heap>(), ptr.cast(), osize, nsize).cast() }
}

/// Gives free memory back to the kernel: every free page, and every page without a
/// live block inside spans that are partly used. Live blocks stay where they are.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// options   NULL: everything, at once.
/// report    NULL, or room for what was done.
///
/// Returns EBB_MORE when the budget ran out: the next call with a budget goes on
/// from there, and memory that is freed meanwhile may wait for the next pass.
/// Returns EBB_OK at the end of a pass, or EBB_ERR_SYSTEM when the kernel refused
/// a part; the report is valid in each case. EBB_ERR_ARGUMENT. A call with a
/// budget takes at least one step, of at most 1 MiB, and stops when another step
/// would not fit.
///
/// For a VM that was attached, the call reclaims both heaps, and the report counts
/// both.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `options` and `report` are NULL
/// or point to as many bytes as their `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_reclaim(
    heap: *mut ebb_heap,
    options: *const ebb_reclaim_options,
    report: *mut ebb_reclaim_report,
) -> c_int {
    // SAFETY: the caller's promises, here and for the report.
    let (mut heap, budget_us) = unsafe {
        let Some(heap) = heap_in(heap, ApiCall::Reclaim) else { return null("heap") };
        match budget_of(options, report) {
            Ok(budget_us) => (heap, budget_us),
            Err(code) => return code,
        }
    };
    let start = heap.os.now_us();
    let outcome = heap.reclaim(Budget::from_us(start, budget_us));
    if !report.is_null() {
        let (snapshot, previous) = (heap.snapshot(), crate::vm::previous_usage(&heap));
        let done = ebb_reclaim_report {
            size: 0,
            returned: stats::bytes(outcome.returned),
            live: snapshot.live as u64 + previous.live,
            resident: snapshot.resident() as u64 + previous.resident,
            elapsed_us: heap.os.now_us().saturating_sub(start),
            purge_calls: outcome.calls,
            refused: outcome.refused,
        };
        // SAFETY: `budget_of` has read the report's `size` above; as many bytes are writable by the
        // caller's promise.
        unsafe { fill(report, done) };
    }
    result_of("reclaim", &outcome, heap.counts.purge_errno)
}

/// Gives back what is due: memory that was free for long enough. For event loops
/// and idle callbacks.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// budget_us  microseconds after which to stop; 0: no limit.
///
/// Returns EBB_MORE when the budget ran out and more is due; EBB_OK when all is
/// done that is due now; EBB_ERR_SYSTEM when the kernel refused some of it,
/// which is tried again later; EBB_ERR_ARGUMENT. Takes at least one step, of at
/// most 1 MiB, if anything is due, and stops when another step would not fit.
///
/// # Safety
///
/// `heap` is NULL, or live and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_tick(heap: *mut ebb_heap, budget_us: u32) -> c_int {
    // SAFETY: the caller's promise.
    let Some(mut heap) = (unsafe { heap_in(heap, ApiCall::Tick) }) else { return null("heap") };
    let outcome = heap.tick(budget_us);
    result_of("tick", &outcome, heap.counts.purge_errno)
}

/// Returns when to call ebb_tick() next. Cheap enough for a call before each wait
/// of an event loop: takes as long as reading the clock two or three times.
///
/// heap      from ebb_heap_new(). One thread at a time.
///
/// Returns milliseconds; 0 when something is due now; EBB_NEVER when nothing will
/// be due unless the heap is used again. EBB_ERR_ARGUMENT.
///
/// # Safety
///
/// `heap` is NULL, or live and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_next_tick(heap: *mut ebb_heap) -> c_int {
    // SAFETY: the caller's promise.
    let Some(mut heap) = (unsafe { heap_in(heap, ApiCall::NextTick) }) else {
        return null("heap");
    };
    let milliseconds = heap.next_tick_us().map(|us| us.div_ceil(1000));
    milliseconds.map_or(EBB_NEVER, |ms| c_int::try_from(ms).unwrap_or(EBB_NEVER))
}

/// Returns how near the heap is to its memory limit, so that a host can drive its
/// garbage collector: step it from 50 on, say, and collect in full from 90 on.
///
/// heap      from ebb_heap_new(). One thread at a time.
///
/// Returns 0 while live blocks, what is wasted in them, and the heap's tables
/// take up to half of limit_soft (or of limit_hard if that is lower), then more,
/// up to 100 when they take all of it; 0 without a limit. EBB_ERR_ARGUMENT.
///
/// # Safety
///
/// `heap` is NULL, or live and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_pressure(heap: *mut ebb_heap) -> c_int {
    // SAFETY: the caller's promise.
    let Some(heap) = (unsafe { heap_in(heap, ApiCall::Pressure) }) else {
        return null("heap");
    };
    heap.pressure() as c_int
}

/// Reads what the heap holds, in constant time unless a flag says otherwise.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// stats     size, flags, class_count and classes are read; the rest is filled.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_SYSTEM when the kernel would not
/// say what is resident (the rest is valid).
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `stats` points to `stats->size`
/// writable bytes, `stats->classes` to room for `stats->class_count` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_stats_read(heap: *mut ebb_heap, stats: *mut ebb_stats) -> c_int {
    // SAFETY: the caller's promises. `stats` is not NULL when its `size` is read, and its first
    // fields are read only when `size` covers them; `fill` keeps to `size`.
    unsafe {
        let Some(heap) = heap_in(heap, ApiCall::StatsRead) else { return null("heap") };
        if stats.is_null() {
            return null("stats");
        }
        if (*stats).size < core::mem::offset_of!(ebb_stats, reserved) {
            return too_small("ebb_stats");
        }
        let request = read_head(stats);
        if request.flags & !EBB_STATS_KERNEL != 0 {
            return Error::Argument
                .because(format_args!("ebb_stats: unknown flags {}", request.flags))
                as c_int;
        }
        let kernel =
            if request.flags & EBB_STATS_KERNEL != 0 { heap.kernel_resident() } else { Some(0) };
        let class_count = fill_classes(&heap, request.classes, request.class_count);
        let answer = to_c(&heap, kernel.unwrap_or(0), ebb_stats { class_count, ..request });
        fill(stats, answer);
        match kernel {
            Some(_) => EBB_OK,
            None => {
                Error::System.because(format_args!("stats: the kernel refused mincore")) as c_int
            }
        }
    }
}

/// Copies out the newest samples of a heap's history: one for each second in which
/// the heap was looked at (see the option history), at most 256. Between two
/// samples the heap did not change.
///
/// heap      from ebb_heap_new(), with the option history on. One thread at a
///           time.
/// history   size, sample_size, samples and count are read; count is set.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT. No samples were taken while the option was
/// off.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `history` points to
/// `history->size` bytes, `history->samples` to room for `history->count` times
/// `history->sample_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_history_read(heap: *mut ebb_heap, history: *mut ebb_history) -> c_int {
    // SAFETY: the caller's promises. Sample `index` is below `count`, and no more than
    // `sample_size` bytes of each are written, so all lies in the caller's array.
    unsafe {
        let Some(mut heap) = heap_in(heap, ApiCall::HistoryRead) else { return null("heap") };
        let Some(history) = history.as_mut() else { return null("history") };
        if history.size < size_of::<ebb_history>() {
            return too_small("ebb_history");
        }
        if history.sample_size < size_of::<u64>() {
            return too_small("ebb_sample");
        }
        if history.samples.is_null() && history.count > 0 {
            return null("history->samples");
        }
        let samples = heap.history(history.count);
        history.count = samples.len();
        for (index, sample) in samples.enumerate() {
            let to = history.samples.byte_add(index * history.sample_size);
            let answer = sample_to_c(&sample);
            let bytes = history.sample_size.min(size_of::<ebb_sample>());
            ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), to.cast(), bytes);
        }
    }
    EBB_OK
}

/// Changes an option of a heap in use.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// name      the option's name, as in ebb_options.
/// value     its new value. A limit_hard below what is held makes the heap return
///           what is free, and grow no more; live blocks stay.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_OPTION; EBB_ERR_RANGE;
/// EBB_ERR_FIXED; EBB_ERR_MEMORY; EBB_ERR_SYSTEM. After an error ebb_strerror(0)
/// names the option and its range, and nothing was changed. A limit_soft above
/// limit_hard is refused, and so is a retain above either. To raise them, set
/// limit_hard first, then limit_soft, then retain. To lower them, use the opposite
/// order.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_set(heap: *mut ebb_heap, name: *const c_char, value: i64) -> c_int {
    // SAFETY: the caller's promises; the name is not NULL when it is read, and is not kept.
    let (mut heap, name) = unsafe {
        let Some(heap) = heap_in(heap, ApiCall::Set) else { return null("heap") };
        if name.is_null() {
            return null("name");
        }
        (heap, CStr::from_ptr(name))
    };
    let changed = Options::key(name).and_then(|key| {
        Options::check_limit(key, value, Options::name(key))?;
        check_collect(&heap, key, value)?;
        heap.set_option(key, value)
    });
    changed.map_or_else(|error| error as c_int, |()| EBB_OK)
}

/// Reads an option.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// name      the option's name, as in ebb_options.
/// value     receives its value.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_OPTION.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `name` is NULL or a C string;
/// `value` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_get(
    heap: *mut ebb_heap,
    name: *const c_char,
    value: *mut i64,
) -> c_int {
    // SAFETY: the caller's promises; neither pointer is NULL when it is used.
    unsafe {
        let Some(heap) = heap_in(heap, ApiCall::Get) else { return null("heap") };
        if name.is_null() {
            return null("name");
        }
        if value.is_null() {
            return null("value");
        }
        match Options::key(CStr::from_ptr(name)) {
            Ok(key) => {
                *value = heap.options.get(key);
                EBB_OK
            }
            Err(error) => error as c_int,
        }
    }
}

/// Says in words what a result means.
///
/// code      a result of this library; 0 for the reason of the last failure on
///           this thread, with names, values and ranges.
///
/// Returns a static text, or for 0 one that holds until this thread's next
/// failure. Never NULL; empty for 0 when nothing failed yet. An allocation that
/// is refused, where ebb_alloc() returns NULL, is a failure too. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ebb_strerror(code: c_int) -> *const c_char {
    match code {
        0 => error::last().cast(),
        code => error::meaning(code).as_ptr(),
    }
}

/// Returns how much memory the cgroup of the process, or a cgroup around it, allows:
/// the lowest of these limits. For hosts that divide memory among processes.
///
/// Returns bytes; 0 without a limit. Reads a few files. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ebb_cgroup_limit() -> u64 {
    cgroup::memory(&Kernel).map_or(0, |memory| memory.limit)
}

/// Returns the version of the library, as "major.minor.patch". Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ebb_version() -> *const c_char {
    const VERSION: &CStr = {
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => unreachable!(),
        }
    };
    VERSION.as_ptr()
}
