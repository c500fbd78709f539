//! The constants and structures of the C interface.
//!
//! Structures begin with their own size and only grow at the end, so that a program built with an
//! older header keeps working.

#![allow(non_camel_case_types)]
#![forbid(unsafe_code)]

use core::ffi::c_int;

/// Done.
pub const EBB_OK: c_int = 0;
/// ebb_reclaim(), ebb_tick(): the budget ran out and more remains; call again.
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
/// What the VM runs on is not known beyond doubt; nothing was touched.
pub const EBB_ERR_UNKNOWN: c_int = -7;

/// ebb_next_tick(): never. As a timeout it is 24 days, which does no harm.
pub const EBB_NEVER: c_int = 2147483647;

/// The collector's step multiplier (LUA_GCSETSTEPMUL) that a heap sets from seven
/// eighths of limit_hard on, and when an allocation was refused, until memory is
/// there again: the next step is a whole collection. A host that changes the
/// multiplier at run time leaves this one, or calls ebb_tick(), which sets the
/// program's own until the VM allocates again, unless the VM is shared.
pub const EBB_STEPMUL_WHOLE: c_int = 400000003;
/// The same for a LuaJIT from before August 2023: the next step is a long one.
pub const EBB_STEPMUL_LONG: c_int = 100003;

/// In a field of ebb_options: 0, where a field that is 0 takes another value.
pub const EBB_ZERO: i64 = -1;
/// The value of limit_soft that takes the limit from the cgroup.
pub const EBB_CGROUP: i64 = -2;

/// ebb_stats.trend: demand is higher than it was before. Nothing goes back
/// but what exceeds retain_max.
pub const EBB_TREND_GROWING: u64 = 1;
/// ebb_stats.trend: demand comes and goes as before, or climbs back fast.
pub const EBB_TREND_STEADY: u64 = 2;
/// ebb_stats.trend: memory goes back, and new blocks go into the fullest spans.
pub const EBB_TREND_SHRINKING: u64 = 3;

/// ebb_stats.floor_reason: there is no floor.
pub const EBB_FLOOR_NONE: u64 = 0;
/// ebb_stats.floor_reason: the option retain.
pub const EBB_FLOOR_RETAIN: u64 = 1;
/// ebb_stats.floor_reason: demand swings, and has come back before.
pub const EBB_FLOOR_SWING: u64 = 2;
/// ebb_stats.floor_reason: memory was needed again soon after it went back.
pub const EBB_FLOOR_PREMATURE: u64 = 3;
/// ebb_stats.floor_reason: none, because the heap holds more than the lower of its limits.
pub const EBB_FLOOR_LIMIT: u64 = 4;
/// ebb_stats.floor_reason: demand climbs back so fast that it will be needed.
pub const EBB_FLOOR_CLIMB: u64 = 5;

/// ebb_stats.flags: measure kernel_resident too. Takes time in proportion to the heap.
pub const EBB_STATS_KERNEL: u32 = 1;

/// The heap of one Lua VM. Opaque.
pub struct ebb_heap {
    _opaque: [u8; 0],
}

/// How a heap is made. Set size to sizeof(ebb_options) and the rest to 0, then
/// what you want. A field that is 0 takes the value of the environment variable
/// of the same name (EBBTIDE_RESERVE=4g; k, m, g and t are powers of 1024, and
/// switches take on and off; an empty variable counts as unset), or else the default.
/// EBB_ZERO stands for 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_options {
    /// sizeof(ebb_options).
    pub size: usize,
    /// Bytes of address space, from 1 MiB to 8 TiB: more than the heap can ever
    /// hold at once. Costs no memory. When the kernel refuses, half is tried, and
    /// so on down to 1 MiB. Default: 64 GiB, or less when other heaps leave less.
    /// Where RLIMIT_AS (ulimit -v) limits the address space of the process, nothing
    /// is reserved by default, and ebb_get() says 0: the heap maps what it uses, and
    /// grows until the limit is reached. Fixed once the heap is made.
    pub reserve: i64,
    /// 1 asks the kernel for transparent huge pages, 0 keeps them off the heap,
    /// since they refill the holes that reclaim made. Default: 0.
    pub thp: i64,
    /// Blocks of this many bytes and more are moved by remapping their pages
    /// instead of copying them, from 4 KiB to 8 TiB. Default: 128 KiB.
    pub remap_min: i64,
    /// Milliseconds that free memory stays, in case it is needed again; then it
    /// goes over half as long again. Where much is free that nobody needs, all but
    /// 4 MiB or a sixteenth of what is in use goes sooner: at 1000 more than 9 MiB
    /// after 250, and more than 72 MiB after 31. From 0, for at once, to
    /// 3600000. Shorter saves memory and costs page faults. Default: 1000.
    pub decay_ms: i64,
    /// Bytes of free memory that may always stay, but above limit_soft. For a
    /// service whose next request must find memory ready. Default: 0.
    pub retain: i64,
    /// Bytes of free memory that may stay at most, however soon they will be
    /// needed. Default: 1 GiB.
    pub retain_max: i64,
    /// Bytes held resident above which no idle memory stays. Before the heap grows
    /// beyond, idle memory goes back until the growth fits. If that is not enough, the
    /// heap grows nonetheless, and searches spans again after one second. EBB_CGROUP
    /// (EBBTIDE_LIMIT_SOFT=cgroup): nine tenths of what the limits of the process's
    /// cgroup leave, read again at most once a second: in ebb_tick(), and with auto
    /// also inside of ebb_alloc(), while pages change hands. A number above limit_hard is
    /// refused, and one below 512 KiB. 0: no limit. Default: 0.
    pub limit_soft: i64,
    /// Bytes held resident, the heap's tables included, up to which the heap grows.
    /// An allocation that does not fit, even after all free memory went back, is
    /// refused. Small blocks may still fit on pages that are there. When the limit is
    /// set below what is held, free memory goes back at once, as far as needed. Where
    /// the heap knows its VM, the heap makes LuaJIT's garbage collector due at seven
    /// eighths of the limit and after a refusal; the last 32nd is for the collector.
    /// At least 512 KiB, which a VM needs. 0: no limit. Default: 0.
    pub limit_hard: i64,
    /// Microseconds that memory may go back for at a time inside of ebb_alloc(),
    /// from 1 to 1000000; up to 32 times as long when it was not called off the
    /// hot path for a while, but never more than a sixteenth of that while. One
    /// call to the kernel is made in any case: at most 1 MiB, about 150 us. At a
    /// limit, with decay_ms 0, and when a block of 128 KiB or more is freed, it
    /// may take longer. Default: 250.
    pub step_us: i64,
    /// 1: memory goes back inside of ebb_alloc() too, off the hot path; 0: only
    /// in ebb_tick() and ebb_reclaim(), and at the limits. In C the field is
    /// auto_, for auto is a keyword; everywhere else the name is auto. Default: 1.
    pub auto: i64,
    /// 1 takes a sample of the heap for ebb_history_read(), at most once a second:
    /// in ebb_tick(), and with auto also inside of ebb_alloc(), while pages change
    /// hands. The last 256 are kept, in 16 KiB that count as resident from then on:
    /// ebb_set() says EBB_ERR_MEMORY where limit_hard leaves no room. Default: 0.
    pub history: i64,
    /// Finds memory bugs of C modules and of FFI code. 1 (on): every block is verified
    /// when it comes back. These bugs end the process with a report on standard error
    /// and abort(): a wrong osize, a pointer that is no live block, a write past the end
    /// of a block, before a block, or into a freed block (of up to 1 MiB, and beyond 32
    /// KiB near its ends), and two threads in the heap at once. Large blocks (not all,
    /// where they come very often) and by chance a few small blocks lie between
    /// inaccessible pages: a read there is reported too, when it is made. The heap
    /// holds up to 4 MiB of freed blocks back. 2 (sample): only those few small blocks
    /// are checked, which is cheap enough for production. 0 (off): nothing is. The state
    /// of a checked heap, up to 200 KiB, comes from the process's own allocator.
    /// Accesses are reported by handlers for SIGSEGV and SIGBUS, which pass others on.
    /// Fixed once the heap is made. Default: 0.
    pub checked: i64,
    /// Whether a thread of the library's returns what is due while the heap's own thread
    /// does something else: 1 (on); EBB_ZERO (off); default 2 (auto): unless the host
    /// calls ebb_tick() or ebb_next_tick() at least once a second. The process has
    /// one such thread, named "ebbtide", for all heaps. The thread starts when more
    /// than 1 MiB will be due, ends when all is back, and wakes once a second at
    /// most while the heap is at work. All signals are held back in it. It returns pages
    /// without live blocks, and takes no lock: a call waits for it only where it needs
    /// pages that are just going back, for some 0.2 ms. fork(), exit() and
    /// ebb_heap_delete() need no preparation. off is for programs that must not have a
    /// second thread: seccomp filters that kill at clone(), unshare(CLONE_NEWUSER),
    /// privileges that are dropped in one thread, Python's warning at os.fork().
    pub background: i64,
    /// Whether the preload library collects the garbage of a VM whose thread waits in
    /// epoll_wait(), poll() or select() outside of Lua: 1 (on); EBB_ZERO (off); default
    /// 2 (auto): in nginx alone, see docs/preload.md. The VM was quiet for a second, and was
    /// never used by a second thread. Finalizers run inside the wait then. 1 has no
    /// effect on other heaps, and the library says so: ebb_set() with
    /// EBB_ERR_ARGUMENT, calls that make a heap by a line on standard error.
    pub collect: i64,
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
    /// Given back to the kernel by this call. Descriptors of free pages go back
    /// beside this.
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
    /// Bytes per span. Under RLIMIT_AS one span of a class may be shorter.
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

    /// Address space of the heap: its reservation, or what it has mapped where
    /// RLIMIT_AS limits the address space of the process.
    pub reserved: u64,
    /// Of that, readable and writable: what limits and strict overcommit count.
    /// Long runs of free pages that were returned are not in it.
    pub committed: u64,
    /// In live blocks, as asked for. Relies on the osize given to ebb_alloc()
    /// and is kept within what the size classes allow.
    pub live: u64,
    /// Lost in live blocks to rounding, and at the ends of spans.
    pub waste: u64,
    /// Free, and held resident.
    pub free_resident: u64,
    /// Free, given back to the kernel, and still committed; with descriptors
    /// that were given back.
    pub returned: u64,
    /// Committed and not used yet.
    pub never_touched: u64,
    /// The heap's own tables, with a descriptor of 64 bytes for each page, those
    /// inside large blocks included, though they are never written. Descriptors
    /// of free pages that were given back are not in it.
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
    /// Calls to give memory back: madvise and process_madvise, or where a sandbox
    /// refuses these, mremap and mmap (a count).
    pub purge_calls: u64,
    /// mremap calls, to move large blocks (a count).
    pub remap_calls: u64,
    /// System calls that failed (a count).
    pub failed_calls: u64,
    /// ebb_reclaim() calls (a count).
    pub reclaim_passes: u64,
    /// Given back over the life of the heap.
    pub returned_total: u64,

    /// What the heap was doing when it was last looked at: EBB_TREND_GROWING,
    /// EBB_TREND_STEADY or EBB_TREND_SHRINKING.
    pub trend: u64,
    /// Free memory that may stay for now.
    pub keep: u64,
    /// Of that, what stays for longer than decay_ms while the heap is busy.
    pub floor: u64,
    /// What the floor rests on: EBB_FLOOR_NONE and so on.
    pub floor_reason: u64,
    /// Free memory that should go back now.
    pub due: u64,
    /// How long free memory outside of spans has been free, in milliseconds, on
    /// average, to an eighth of decay_ms.
    pub idle_age_ms: u64,
    /// The limits in force; 0: none. With EBB_CGROUP the soft one moves.
    pub limit_soft: u64,
    /// See limit_soft.
    pub limit_hard: u64,
    /// What ebb_pressure() says.
    pub pressure: u64,

    /// Steps in which memory went back in ebb_alloc() or ebb_tick(), those at a
    /// limit included (a count).
    pub steps: u64,
    /// Microseconds that half of the steps did not exceed, to a fifth.
    pub step_p50_us: u64,
    /// Microseconds that 99 of 100 steps did not exceed, to a fifth.
    pub step_p99_us: u64,
    /// Microseconds that the longest step took.
    pub step_max_us: u64,

    /// Given back because the host asked, over the life of the heap.
    pub returned_asked: u64,
    /// Given back because it was idle.
    pub returned_idle: u64,
    /// Given back because of a limit, or because a large block took as much new
    /// memory.
    pub returned_limit: u64,
    /// Of returned_asked, used again. To 256 KiB: see premature_refaults_asked.
    pub refaulted_asked: u64,
    /// Of returned_idle, used again.
    pub refaulted_idle: u64,
    /// Of returned_limit, used again.
    pub refaulted_limit: u64,
    /// Of refaulted_asked, used again within a second. The time of return is kept
    /// per 256 KiB, so this is an upper bound.
    pub premature_refaults_asked: u64,
    /// Of refaulted_idle, used again within a second: a mistake.
    pub premature_refaults_idle: u64,
    /// Of refaulted_limit, used again within a second.
    pub premature_refaults_limit: u64,

    /// In blocks that the VM has had since before ebb_attach(), on LuaJIT's own
    /// allocator. In no other figure.
    pub previous_live: u64,
    /// That allocator's, mapped: live, free or returned. ebb_builtin_read() tells
    /// them apart.
    pub previous_reserved: u64,
    /// Of that, resident at most: as counted at ebb_attach() and by each
    /// ebb_reclaim() without a budget, less what went back since.
    pub previous_resident: u64,

    /// Ranges that the kernel refused to take back, over the life of the heap (a
    /// count).
    pub purge_refused: u64,
    /// The errno with which it refused the last one; 0 when it refused none, or has
    /// taken one since. Where it stays, free memory cannot go back: it is locked
    /// (mlock), or a sandbox allows none of madvise(), process_madvise(), mremap()
    /// and mmap().
    pub purge_errno: u64,
    /// Allocations that were refused over the life of the heap: ebb_alloc() returned
    /// NULL though bytes were wanted (a count).
    pub refused_allocations: u64,
    /// 1 while the heap is thrashing: 13 MiB or more a second go back because of a
    /// limit and are used again within a second, which takes a hundredth of the time,
    /// for three seconds in a row. What the program needs does not fit below the
    /// limit. 0 again after three seconds in which it is less.
    pub thrashing: u64,
    /// Of the refused allocations, those for which RLIMIT_AS (ulimit -v) left no
    /// address space (a count).
    pub refused_address_space: u64,

    /// 1 when what LuaJIT's own allocator has from before ebb_attach() was found
    /// damaged: the program has overwritten its records, and a line in the log says
    /// where. Its free pages stay. 0 again once an ebb_reclaim() without a budget
    /// finds it in order.
    pub previous_damaged: u64,
}

/// Free chunks of about one size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_free_chunks {
    /// Bytes of the largest of them, at most.
    pub up_to: u64,
    /// How many there are (a count).
    pub count: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Of these, bytes on whole pages that hold memory and can go back.
    pub returnable: u64,
}

/// Size classes of free chunks: powers of two from 32 bytes on.
pub const EBB_FREE_SIZES: usize = 24;

/// What the heap of LuaJIT's own allocator holds. Blocks of 128 KiB and more are
/// mapped apart and are in no figure. Bytes, unless a name says otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_builtin_stats {
    /// sizeof(ebb_builtin_stats); set it before the call.
    pub size: usize,
    /// Mapped, in all segments.
    pub reserved: u64,
    /// Segments (a count). One goes back only when it is wholly free.
    pub segments: u64,
    /// In blocks in use, 8 bytes for each included.
    pub live: u64,
    /// Blocks in use (a count).
    pub blocks: u64,
    /// The allocator's own. reserved is the sum of live, metadata and free.
    pub metadata: u64,
    /// In free chunks.
    pub free: u64,
    /// Free chunks (a count).
    pub free_chunks: u64,
    /// The largest free chunk.
    pub largest_free: u64,
    /// Whole pages inside free chunks that hold memory and can go back.
    pub returnable: u64,
    /// Whole pages inside free chunks that hold none.
    pub returned: u64,
    /// Held resident, as the kernel says.
    pub resident: u64,
    /// Free chunks by size; the last entry has all that are larger.
    pub free_by_size: [ebb_free_chunks; EBB_FREE_SIZES],
}

/// A heap at a moment, from its history. Bytes, unless a name says otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_sample {
    /// Milliseconds on the system's monotonic clock.
    pub time_ms: u64,
    /// In live blocks.
    pub live: u64,
    /// Held resident, by the heap's own account.
    pub resident: u64,
    /// Of that, free.
    pub free_resident: u64,
    /// Given back over the life of the heap.
    pub returned_total: u64,
    /// Of that, used again.
    pub refaulted_total: u64,
    /// As from ebb_pressure().
    pub pressure: u64,
    /// As in ebb_stats.
    pub trend: u64,
}

/// Where ebb_history_read() writes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ebb_history {
    /// sizeof(ebb_history); set it before the call.
    pub size: usize,
    /// In: sizeof(ebb_sample).
    pub sample_size: usize,
    /// Room for samples. The oldest comes first.
    pub samples: *mut ebb_sample,
    /// In: how many samples there is room for. Out: how many there are.
    pub count: usize,
}
