//! What the benches of the heap share.
// Not every bench uses all of it.
#![allow(dead_code)]

pub mod peers;

use std::ffi::c_void;
use std::ptr;
use std::time::{Duration, Instant};

use ebbtide::capi::{
    EBB_MORE, EBB_NEVER, EBB_ZERO, ebb_alloc, ebb_heap, ebb_heap_delete, ebb_heap_new,
    ebb_next_tick, ebb_options, ebb_reclaim, ebb_reclaim_options, ebb_reclaim_report, ebb_stats,
    ebb_stats_read, ebb_tick,
};

/// A heap that is deleted at the end of its scope.
pub struct Heap(*mut ebb_heap);

impl Heap {
    /// A heap with the default options.
    pub fn new() -> Heap {
        Heap::with(|_| {})
    }

    /// A heap that does not breathe.
    pub fn still() -> Heap {
        Heap::with(|options| options.auto = EBB_ZERO)
    }

    /// A heap with other options.
    pub fn with(set: impl Fn(&mut ebb_options)) -> Heap {
        // SAFETY: all-zero bytes are valid options: none is set.
        let mut options: ebb_options = unsafe { std::mem::zeroed() };
        options.size = size_of::<ebb_options>();
        set(&mut options);
        // SAFETY: the structure is whole.
        let heap = unsafe { ebb_heap_new(&options) };
        assert!(!heap.is_null(), "a heap");
        Heap(heap)
    }

    /// What `ebb_alloc` takes first.
    pub fn ud(&self) -> *mut c_void {
        self.0.cast()
    }

    /// What the heap holds.
    pub fn stats(&self) -> ebb_stats {
        // SAFETY: all-zero bytes are valid statistics, and the structure is whole.
        unsafe {
            let mut stats: ebb_stats = std::mem::zeroed();
            stats.size = size_of::<ebb_stats>();
            assert_eq!(ebb_stats_read(self.0, &mut stats), 0);
            stats
        }
    }

    /// Does what is due within a budget; tells whether more is.
    pub fn tick(&self, budget_us: u32) -> bool {
        // SAFETY: the heap is live and this thread's.
        let result = unsafe { ebb_tick(self.0, budget_us) };
        assert!(result >= 0, "tick failed: {result}");
        result == EBB_MORE
    }

    /// How long until the next tick makes sense; `None`: it does not.
    pub fn next_tick(&self) -> Option<Duration> {
        // SAFETY: the heap is live and this thread's.
        let milliseconds = unsafe { ebb_next_tick(self.0) };
        (milliseconds != EBB_NEVER).then(|| Duration::from_millis(milliseconds as u64))
    }

    /// Ticks when the heap asks for it, as an event loop at rest does, until a time has passed.
    /// Returns how often it woke up.
    pub fn idle(&self, lasting: Duration) -> usize {
        let start = Instant::now();
        let mut wakeups = 0;
        loop {
            let left = lasting.saturating_sub(start.elapsed());
            match self.next_tick() {
                Some(pause) if pause <= left && left > Duration::ZERO => {
                    std::thread::sleep(pause);
                    self.tick(500);
                    wakeups += 1;
                }
                _ => {
                    std::thread::sleep(left);
                    return wakeups;
                }
            }
        }
    }

    /// Calls `ebb_alloc`.
    pub fn call(&self, block: *mut c_void, old: usize, new: usize) -> *mut c_void {
        // SAFETY: the benches pass live blocks of this heap.
        unsafe { ebb_alloc(self.0.cast(), block, old, new) }
    }

    /// A new block.
    pub fn allocate(&self, size: usize) -> *mut c_void {
        self.call(ptr::null_mut(), 0, size)
    }

    /// Frees a block.
    pub fn free(&self, block: *mut c_void, size: usize) {
        self.call(block, size, 0);
    }

    /// Reclaims within a budget, 0 for none; returns the bytes, and whether more remains.
    pub fn reclaim(&self, budget_us: u32) -> (u64, bool) {
        let options = ebb_reclaim_options { size: size_of::<ebb_reclaim_options>(), budget_us };
        // SAFETY: all-zero bytes are a valid report.
        let mut report: ebb_reclaim_report = unsafe { std::mem::zeroed() };
        report.size = size_of::<ebb_reclaim_report>();
        // SAFETY: both structures are whole.
        let result = unsafe { ebb_reclaim(self.0, &options, &mut report) };
        assert!(result >= 0, "reclaim failed: {result}");
        (report.returned, result == EBB_MORE)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: nothing uses the heap after this.
        unsafe { ebb_heap_delete(self.0) }
    }
}

/// CPU time of this thread.
pub fn cpu_time() -> Duration {
    time_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of all threads of this process.
pub fn process_cpu_time() -> Duration {
    time_of(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn time_of(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes that the kernel counts as resident in this process.
pub fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("Rss");
    let kilobytes = line.trim().trim_end_matches(" kB").trim();
    kilobytes.parse::<u64>().expect("a number") * 1024
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}
