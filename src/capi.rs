//! Every exported C symbol, and nothing else.
//!
//! This file is what cbindgen reads: its comments are the header's. Each function checks its
//! arguments, turns them into Rust, and hands over to the layer that does the work.

#![allow(non_camel_case_types)]

use core::ffi::{CStr, c_char, c_int, c_void};
use core::{ptr, slice};

use crate::error::{self, Error};
use crate::heap::park::KernelHeap as Heap;
use crate::heap::{self, class};
use crate::options::Options;
use crate::os::Os;
use crate::reclaim::Budget;
use crate::stats;

/// Done.
pub const EBB_OK: c_int = 0;
/// ebb_reclaim(): the budget ran out and more remains; call again.
pub const EBB_MORE: c_int = 1;
/// An argument is NULL or malformed.
pub const EBB_ERR_ARGUMENT: c_int = -1;
/// There is no option of that name.
pub const EBB_ERR_OPTION: c_int = -2;
/// The option does not take that value.
pub const EBB_ERR_RANGE: c_int = -3;
/// The option is fixed once the heap is made.
pub const EBB_ERR_FIXED: c_int = -4;
/// There is no room: address space or memory.
pub const EBB_ERR_MEMORY: c_int = -5;
/// The kernel refused; what could be done is done, and the heap goes on.
pub const EBB_ERR_SYSTEM: c_int = -6;

/// ebb_stats.flags: measure kernel_resident too. Takes time in proportion to the heap.
pub const EBB_STATS_KERNEL: u32 = 1;

/// The heap of one Lua VM. Opaque.
pub struct ebb_heap {
    _opaque: [u8; 0],
}

/// How a heap is made. Set size to sizeof(ebb_options) and the rest to 0, then
/// what you want. A field that is 0 takes the value of the environment variable
/// of the same name (EBBTIDE_RESERVE=4g; k, m, g and t are powers of 1024), or
/// else the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_options {
    /// sizeof(ebb_options).
    pub size: usize,
    /// Bytes of address space, from 1 MiB to 8 TiB: more than the heap can ever
    /// hold at once. Costs no memory. When the kernel refuses, half is tried, and
    /// so on down to 1 MiB. Default: 64 GiB, or less when other heaps or a limit
    /// on address space leave less. Fixed once the heap is made.
    pub reserve: i64,
    /// 1 asks the kernel for transparent huge pages, 0 keeps them off the heap,
    /// since they refill the holes that reclaim made. Default: 0.
    pub thp: i64,
    /// Blocks of this many bytes and more are moved by remapping their pages
    /// instead of copying them, from 4 KiB to 8 TiB. Default: 128 KiB.
    pub remap_min: i64,
}

/// How much ebb_reclaim() may do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_reclaim_options {
    /// sizeof(ebb_reclaim_options).
    pub size: usize,
    /// Microseconds after which to stop; 0: no limit.
    pub budget_us: u32,
}

/// What ebb_reclaim() did. Bytes, unless a name says otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_reclaim_report {
    /// sizeof(ebb_reclaim_report); set it before the call.
    pub size: usize,
    /// Given back to the kernel by this call.
    pub returned: u64,
    /// In live blocks.
    pub live: u64,
    /// Held resident after the call, by the heap's own account.
    pub resident: u64,
    /// Microseconds that the call took.
    pub elapsed_us: u64,
    /// Calls to the kernel that it took (a count). One call takes many ranges
    /// where the kernel can: Linux 6.14 and later.
    pub purge_calls: u64,
    /// Ranges that the kernel refused since the pass began (a count).
    pub refused: u64,
}

/// One size class, as ebb_stats_read() reports it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_class_stats {
    /// Bytes per slot.
    pub slot_size: u32,
    /// Bytes per span.
    pub span_size: u32,
    /// Live blocks.
    pub blocks: u64,
    /// Spans.
    pub spans: u64,
}

/// What a heap holds. Bytes, unless a name says otherwise. At every moment
/// committed is the sum of live, waste, free_resident, returned, never_touched
/// and metadata.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_stats {
    /// sizeof(ebb_stats); set it before the call.
    pub size: usize,
    /// In: 0, or EBB_STATS_KERNEL.
    pub flags: u32,
    /// In: how many entries classes has room for. Out: how many there are, at
    /// most that many.
    pub class_count: u32,
    /// In: NULL, or room for the table by size class, smallest first.
    pub classes: *mut ebb_class_stats,

    /// Address space of the heap.
    pub reserved: u64,
    /// Of that, readable and writable.
    pub committed: u64,
    /// In live blocks, as asked for. Relies on the osize given to ebb_alloc()
    /// and is kept within what the size classes allow.
    pub live: u64,
    /// Lost in live blocks to rounding, and at the ends of spans.
    pub waste: u64,
    /// Free, and held resident.
    pub free_resident: u64,
    /// Free, and given back to the kernel.
    pub returned: u64,
    /// Committed and not used yet.
    pub never_touched: u64,
    /// The heap's own tables, with a descriptor of 64 bytes for each page, those
    /// inside large blocks included, though they are never written.
    pub metadata: u64,

    /// live + waste + free_resident + metadata. A page counts from the moment a
    /// block or span is placed on it, so the kernel may count fewer.
    pub resident: u64,
    /// The most that resident has been.
    pub resident_peak: u64,
    /// What the kernel says is resident of the heap's range. 0 unless asked for.
    pub kernel_resident: u64,

    /// Live blocks (a count).
    pub blocks: u64,
    /// Of these, large ones: whole pages (a count).
    pub large_blocks: u64,
    /// Spans of small blocks (a count).
    pub spans: u64,

    /// mprotect calls, to grow (a count).
    pub commit_calls: u64,
    /// madvise and process_madvise calls, to give back (a count).
    pub purge_calls: u64,
    /// mremap calls, to move large blocks (a count).
    pub remap_calls: u64,
    /// System calls that failed (a count).
    pub failed_calls: u64,
    /// ebb_reclaim() calls (a count).
    pub reclaim_passes: u64,
    /// Given back over the life of the heap.
    pub returned_total: u64,
}

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
    match options.and_then(heap::park::create) {
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
/// # Safety
///
/// `heap` is NULL or a heap that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_heap_delete(heap: *mut ebb_heap) {
    if !heap.is_null() {
        // SAFETY: the caller's promise.
        unsafe { heap::park::delete(heap.cast()) }
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
/// nsize is 0 and when memory ran out, and then ptr is untouched and still
/// yours. Blocks are aligned to 8 bytes, those whose size is a multiple of 16
/// to 16; their addresses are below 2^47. Shrinking never fails. Leaves errno
/// alone.
///
/// A ptr that is no live block aborts the process with one line that says what
/// is wrong. Told at once: a pointer from elsewhere, one into the middle of a
/// block, a block freed twice while its slot is still free. Not told: a block
/// freed twice after its memory was handed out anew, and writes past the end.
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
    // SAFETY: the caller's promises.
    unsafe { heap::alloc(heap.cast::<Heap>(), ptr.cast(), osize, nsize).cast() }
}

/// Gives free memory back to the kernel: every free page, those inside partly
/// used spans included. Live blocks stay where they are.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// options   NULL: everything, at once.
/// report    NULL, or room for what was done.
///
/// Returns EBB_MORE when the budget ran out: the next call with a budget goes
/// on from there, and what is freed meanwhile may have to wait for the pass
/// after. At the end of a pass EBB_OK, or EBB_ERR_SYSTEM when the kernel
/// refused some of it; the report is valid in each case. EBB_ERR_ARGUMENT.
/// A call with a budget takes one step of at most 1 MiB at least, and stops
/// when another would not fit.
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
    let (heap, budget_us) = unsafe {
        let Some(heap) = heap.cast::<Heap>().as_mut() else { return null("heap") };
        if !report.is_null() && (*report).size < size_of::<usize>() {
            return too_small("ebb_reclaim_report");
        }
        if options.is_null() {
            (heap, 0)
        } else if (*options).size < size_of::<ebb_reclaim_options>() {
            return too_small("ebb_reclaim_options");
        } else {
            (heap, (*options).budget_us)
        }
    };
    let start = heap.os.now_us();
    let budget = match budget_us {
        0 => Budget::Unlimited,
        us => Budget::Until(start + u64::from(us)),
    };
    let outcome = heap.reclaim(budget);
    if !report.is_null() {
        let snapshot = heap.snapshot();
        let done = ebb_reclaim_report {
            size: 0,
            returned: stats::bytes(outcome.returned),
            live: snapshot.live as u64,
            resident: snapshot.resident() as u64,
            elapsed_us: heap.os.now_us() - start,
            purge_calls: outcome.calls,
            refused: outcome.refused,
        };
        // SAFETY: the caller's promise.
        unsafe { fill(report, done) };
    }
    match outcome {
        _ if outcome.more => EBB_MORE,
        _ if outcome.refused > 0 => Error::System
            .because(format_args!("reclaim: the kernel refused {} ranges", outcome.refused))
            as c_int,
        _ => EBB_OK,
    }
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
    // SAFETY: the caller's promises.
    unsafe {
        let Some(heap) = heap.cast::<Heap>().as_mut() else { return null("heap") };
        if stats.is_null() {
            return null("stats");
        }
        if (*stats).size < core::mem::offset_of!(ebb_stats, reserved) {
            return too_small("ebb_stats");
        }
        let asked = read_head(stats);
        if asked.flags & !EBB_STATS_KERNEL != 0 {
            return Error::Argument.because(format_args!("ebb_stats: unknown flags {}", asked.flags))
                as c_int;
        }
        let kernel =
            if asked.flags & EBB_STATS_KERNEL != 0 { heap.kernel_resident() } else { Some(0) };
        let class_count = fill_classes(heap, asked.classes, asked.class_count);
        let told = tell(heap, kernel.unwrap_or(0), ebb_stats { class_count, ..asked });
        fill(stats, told);
        match kernel {
            Some(_) => EBB_OK,
            None => {
                Error::System.because(format_args!("stats: the kernel refused mincore")) as c_int
            }
        }
    }
}

/// Changes an option of a heap in use.
///
/// heap      from ebb_heap_new(). One thread at a time.
/// name      the option's name, as in ebb_options.
/// value     its new value.
///
/// Returns EBB_OK; EBB_ERR_ARGUMENT; EBB_ERR_OPTION; EBB_ERR_RANGE;
/// EBB_ERR_FIXED; EBB_ERR_SYSTEM. ebb_strerror(0) then names the option and
/// what it takes; nothing was changed.
///
/// # Safety
///
/// `heap` is live and no other thread uses it; `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ebb_set(heap: *mut ebb_heap, name: *const c_char, value: i64) -> c_int {
    // SAFETY: the caller's promises.
    let (heap, name) = unsafe {
        let Some(heap) = heap.cast::<Heap>().as_mut() else { return null("heap") };
        if name.is_null() {
            return null("name");
        }
        (heap, CStr::from_ptr(name))
    };
    let changed = Options::key(name).and_then(|key| heap.set_option(key, value));
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
    // SAFETY: the caller's promises.
    unsafe {
        let Some(heap) = heap.cast::<Heap>().as_mut() else { return null("heap") };
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
/// failure. Never NULL; empty for 0 when nothing failed yet. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ebb_strerror(code: c_int) -> *const c_char {
    match code {
        0 => error::last().cast(),
        code => error::meaning(code).as_ptr(),
    }
}

/// Tells the version of the library, as "major.minor.patch". Any thread.
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

fn null(argument: &str) -> c_int {
    Error::Argument.because(format_args!("{argument} is NULL")) as c_int
}

fn too_small(structure: &str) -> c_int {
    Error::Argument.because(format_args!("{structure}: size is not set, or too small")) as c_int
}

/// The option values of a structure, in the table's order. NULL has none.
///
/// # Safety
///
/// `options` is NULL or points to `options->size` readable bytes.
unsafe fn given_options<'a>(options: *const ebb_options) -> Result<&'a [i64], Error> {
    if options.is_null() {
        return Ok(&[]);
    }
    // SAFETY: the caller's promise. Behind `size` there are only i64 fields.
    unsafe {
        let size = (*options).size;
        if size < size_of::<usize>() || !size.is_multiple_of(size_of::<i64>()) {
            return Err(Error::Argument
                .because(format_args!("ebb_options: size is {size}, not sizeof(ebb_options)")));
        }
        let fields = options.byte_add(size_of::<usize>()).cast::<i64>();
        Ok(slice::from_raw_parts(fields, size / size_of::<i64>() - 1))
    }
}

/// Writes as much of `value` as the caller's structure has room for; its `size` stays.
///
/// # Safety
///
/// `to` points to as many writable bytes as its first field, a `usize`, says.
unsafe fn fill<T>(to: *mut T, value: T) {
    const HEAD: usize = size_of::<usize>();
    // SAFETY: the caller's promise.
    unsafe {
        let size = to.cast::<usize>().read().min(size_of::<T>());
        let from = (&raw const value).cast::<u8>();
        ptr::copy_nonoverlapping(from.add(HEAD), to.cast::<u8>().add(HEAD), size - HEAD);
    }
}

/// The fields that a caller of ebb_stats_read() sets.
///
/// # Safety
///
/// `stats` is readable up to `reserved`.
unsafe fn read_head(stats: *const ebb_stats) -> ebb_stats {
    // SAFETY: the caller's promise; all-zero bytes are a valid ebb_stats.
    unsafe {
        let mut head = core::mem::zeroed::<ebb_stats>();
        (head.flags, head.class_count) = ((*stats).flags, (*stats).class_count);
        head.classes = (*stats).classes;
        head
    }
}

/// Fills the table by size class; returns how many entries.
///
/// # Safety
///
/// `classes` is NULL or has room for `room` entries.
unsafe fn fill_classes(heap: &Heap, classes: *mut ebb_class_stats, room: u32) -> u32 {
    if classes.is_null() {
        return 0;
    }
    let count = class::CLASS_COUNT.min(room as usize);
    for (index, shape) in class::CLASSES[..count].iter().enumerate() {
        let bin = &heap.bins[index];
        let entry = ebb_class_stats {
            slot_size: shape.slot_size,
            span_size: shape.pages.bytes() as u32,
            blocks: bin.live,
            spans: bin.spans.into(),
        };
        // SAFETY: the caller's promise.
        unsafe { classes.add(index).write(entry) };
    }
    count as u32
}

fn tell(heap: &Heap, kernel_resident: u64, head: ebb_stats) -> ebb_stats {
    let snapshot = heap.snapshot();
    let counts = &heap.counts;
    ebb_stats {
        reserved: heap.layout.reserved as u64,
        committed: snapshot.committed as u64,
        live: snapshot.live as u64,
        waste: snapshot.waste as u64,
        free_resident: snapshot.free_resident as u64,
        returned: snapshot.returned as u64,
        never_touched: snapshot.never_touched as u64,
        metadata: snapshot.metadata as u64,
        resident: snapshot.resident() as u64,
        resident_peak: snapshot.resident_peak as u64,
        kernel_resident,
        blocks: snapshot.blocks,
        large_blocks: counts.large_blocks,
        spans: snapshot.spans,
        commit_calls: counts.commit_calls,
        purge_calls: counts.purge_calls,
        remap_calls: counts.remap_calls,
        failed_calls: counts.failed_calls,
        reclaim_passes: counts.reclaim_passes,
        returned_total: counts.returned_total,
        ..head
    }
}
