//! One heap, and what it must be like: what each live block holds, how many there are, how large
//! they are in all, what each option is.

use std::collections::HashSet;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;

use ebbtide::capi::*;

use crate::defect::{Defect, strikes};
use crate::kernel::{self, calling};

/// Options in the order of the fields of ebb_options.
pub(crate) const OPTIONS: [&CStr; 11] = [
    c"reserve",
    c"thp",
    c"remap_min",
    c"decay_ms",
    c"retain",
    c"retain_max",
    c"limit_soft",
    c"limit_hard",
    c"step_us",
    c"auto",
    c"history",
];
const RESERVE: usize = 0;
const THP: usize = 1;
const LIMIT_SOFT: usize = 6;
const LIMIT_HARD: usize = 7;
const PAGE: usize = 4096;

/// The part of a large block that carries its pattern: two words in each step.
const STEP: usize = 1024;
/// Blocks up to here carry it in every byte.
const FILLED: usize = 512;

/// A live block.
pub(crate) struct Block {
    pub(crate) at: *mut u8,
    pub(crate) size: usize,
    seed: u64,
}

impl Block {
    /// Visits the words of the pattern that lie within `size` bytes: their offset and value.
    #[inline]
    fn words(seed: u64, size: usize, mut visit: impl FnMut(usize, u64)) {
        let step = if size <= FILLED { 8 } else { STEP };
        let mut at = 0;
        while at + 8 <= size {
            visit(at, seed ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            at += step;
        }
    }

    /// The bytes at the end that no whole word covers, and of a large block the last eight.
    fn tail(size: usize) -> std::ops::Range<usize> {
        if size <= FILLED { size & !7..size } else { size - 8..size }
    }

    fn tail_byte(seed: u64, at: usize) -> u8 {
        (seed >> 16) as u8 ^ (at as u8).wrapping_mul(31) ^ 0x5A
    }

    fn fill(&self) {
        // SAFETY: the block has `size` bytes, and the pattern stays within.
        Block::words(self.seed, self.size, |at, word| unsafe {
            self.at.add(at).cast::<u64>().write_unaligned(word);
        });
        for at in Block::tail(self.size) {
            // SAFETY: as above.
            unsafe { self.at.add(at).write(Block::tail_byte(self.seed, at)) }
        }
    }

    /// Checks that `at` still holds what the block did, in its first `kept` bytes.
    fn check(&self, at: *const u8, kept: usize) {
        let tail = Block::tail(self.size);
        let step = if self.size <= FILLED { 8 } else { STEP };
        let mut offset = 0;
        while offset + 8 <= kept.min(self.size) {
            let word = self.seed ^ (offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let overlaps_tail = offset + 8 > tail.start;
            // SAFETY: the caller's block has as many bytes.
            let found = unsafe { at.add(offset).cast::<u64>().read_unaligned() };
            if found != word && !overlaps_tail {
                panic!("contents: {offset} of {} bytes: {found:x}, not {word:x}", self.size);
            }
            offset += step;
        }
        for offset in tail.start..kept.min(tail.end) {
            // SAFETY: as above.
            let found = unsafe { at.add(offset).read() };
            let byte = Block::tail_byte(self.seed, offset);
            assert_eq!(found, byte, "contents: byte {offset} of {}", self.size);
        }
    }
}

/// A heap and its model.
pub(crate) struct Model {
    heap: *mut ebb_heap,
    pub(crate) live: Vec<Block>,
    /// Bytes of all live blocks.
    pub(crate) bytes: usize,
    /// Whether every old size given was right.
    exact: bool,
    /// A block shrank and stayed in its slot, since there was no memory for a smaller one. What is
    /// live is kept within what the size classes allow, so from then on it may be told too high.
    stayed: bool,
    /// What each option was set to; none: the heap worked it out.
    options: [Option<i64>; 11],
    /// Bytes of address space.
    pub(crate) reserve: usize,
    made: u64,
    /// Whether the kernel may hold what it was not asked for, or not hold what it was.
    trusted: bool,
    look: u32,
}

impl Model {
    /// Makes a heap; none when that fails, which it may only if the kernel refused something.
    pub(crate) fn new(given: [i64; 11], wrong_sizes: bool) -> Option<Model> {
        let [reserve, thp, remap_min, decay_ms, retain, retain_max, ..] = given;
        let [.., limit_soft, limit_hard, step_us, auto, history] = given;
        let options = ebb_options {
            size: size_of::<ebb_options>(),
            reserve,
            thp,
            remap_min,
            decay_ms,
            retain,
            retain_max,
            limit_soft,
            limit_hard,
            step_us,
            auto,
            history,
            checked: 0,
        };
        let refused = kernel::refused();
        // SAFETY: the options are whole.
        let heap = calling(|| unsafe { ebb_heap_new(&options) });
        if heap.is_null() {
            assert!(kernel::refused() > refused, "no heap: {:?}", last_error());
            return None;
        }
        let as_set = |value: i64| match value {
            0 => None,
            EBB_ZERO => Some(0),
            value => Some(value),
        };
        let mut model = Model {
            heap,
            live: Vec::new(),
            bytes: 0,
            exact: !wrong_sizes,
            stayed: false,
            options: given.map(as_set),
            reserve: 0,
            made: 0,
            trusted: thp != 1,
            look: 0,
        };
        model.reserve = model.get(RESERVE) as usize;
        model.options[RESERVE] = Some(model.reserve as i64);
        Some(model)
    }

    /// Deletes the heap, with all that is in it.
    pub(crate) fn delete(self) {
        self.live.iter().for_each(|block| block.check(block.at, block.size));
        // SAFETY: it is not used again.
        calling(|| unsafe { ebb_heap_delete(self.heap) });
    }

    /// One call of ebb_alloc.
    fn call(&mut self, at: *mut u8, old: usize, new: usize) -> *mut u8 {
        if strikes(Defect::Leak) && new == 0 {
            return ptr::null_mut();
        }
        // SAFETY: `at` is null or a live block; one thread.
        let got = calling(|| unsafe { ebb_alloc(self.heap.cast(), at.cast(), old, new) });
        got.cast()
    }

    /// Whether there may be no memory for so many bytes more. One span of each size class alone
    /// takes three megabytes.
    fn may_lack(&self, size: usize, refused: u64) -> bool {
        kernel::refused() > refused
            || self.options[LIMIT_HARD].is_some_and(|limit| limit > 0)
            || self.reserve < 16 << 20
            || self.bytes.saturating_add(size) > self.reserve / 16
    }

    fn check_place(&self, at: *mut u8, size: usize) {
        let alignment = if size.is_multiple_of(16) { 16 } else { 8 };
        assert_eq!(at.addr() % alignment, 0, "place: {size} bytes at {at:p}");
        assert!(at.addr() + size <= 1 << 47, "place: {size} bytes at {at:p}");
    }

    /// Allocates a block and fills it. False: there was no memory.
    pub(crate) fn allocate(&mut self, size: usize) -> bool {
        let refused = kernel::refused();
        let resident = self.resident_under_limit();
        let mut at = self.call(ptr::null_mut(), 0, size);
        if at.is_null() {
            assert!(size == 0 || self.may_lack(size, refused), "refused: {size} bytes");
            return false;
        }
        assert!(size > 0, "size nought has a block");
        self.check_limit(resident, refused);
        self.check_place(at, size);
        if strikes(Defect::Overlap)
            && let Some(other) = self.live.last().filter(|other| other.size >= size)
        {
            at = other.at;
        }
        self.made += 1;
        let block = Block { at, size, seed: self.made.wrapping_mul(0xA076_1D64_78BD_642F) };
        block.fill();
        self.bytes += size;
        self.live.push(block);
        true
    }

    /// Frees a block, telling `told` as its size.
    pub(crate) fn free(&mut self, index: usize, told: Option<usize>) {
        let block = self.live.swap_remove(index);
        block.check(block.at, block.size);
        self.bytes -= block.size;
        let got = self.call(block.at, self.told(told, block.size), 0);
        assert!(got.is_null(), "a freed block has an address");
    }

    fn told(&self, told: Option<usize>, size: usize) -> usize {
        told.filter(|_| !self.exact).unwrap_or(size)
    }

    /// Resizes a block; by 0 it is freed.
    pub(crate) fn resize(&mut self, index: usize, size: usize, told: Option<usize>) {
        if size == 0 {
            return self.free(index, told);
        }
        let mut block = self.live.swap_remove(index);
        let refused = kernel::refused();
        let resident = self.resident_under_limit();
        let mut at = self.call(block.at, self.told(told, block.size), size);
        if size < block.size && strikes(Defect::RefuseShrink) {
            at = ptr::null_mut();
        }
        if at.is_null() {
            assert!(size > block.size, "shrink from {} to {size} failed", block.size);
            assert!(self.may_lack(size, refused), "refused: {} to {size} bytes", block.size);
            block.check(block.at, block.size);
            self.live.push(block);
            return;
        }
        self.check_limit(resident, refused);
        if at != block.at || size > block.size {
            self.check_place(at, size);
        }
        let kept = size.min(block.size);
        self.stayed |= at == block.at && size < block.size && slot(size) != slot(block.size);
        if strikes(Defect::LoseByte) {
            // SAFETY: it is the last byte that must be kept.
            unsafe { *at.add(kept - 1) ^= 1 };
        }
        block.check(at, kept);
        self.bytes = self.bytes - block.size + size;
        self.made += 1;
        let seed = self.made.wrapping_mul(0xA076_1D64_78BD_642F);
        block = Block { at, size, seed };
        block.fill();
        self.live.push(block);
    }

    /// What is resident before a step that a hard limit may refuse; seldom, for it takes time.
    fn resident_under_limit(&mut self) -> Option<u64> {
        self.options[LIMIT_HARD].filter(|limit| *limit > 0)?;
        self.look += 1;
        self.look.is_multiple_of(8).then(|| self.read_stats(0).resident)
    }

    /// A move that the kernel refused leaves the old pages to go back later.
    fn check_limit(&mut self, before: Option<u64>, refused: u64) {
        let (Some(before), Some(limit)) = (before, self.options[LIMIT_HARD]) else { return };
        let resident = self.read_stats(0).resident;
        let most = before.max(limit as u64);
        let excused = kernel::refused() > refused;
        assert!(
            resident <= most || excused,
            "limit: {resident} are resident, {before} before, of {limit}"
        );
    }

    /// Reads an option.
    pub(crate) fn get(&self, option: usize) -> i64 {
        let mut value = i64::MIN;
        // SAFETY: a C string and a writable value.
        let code = calling(|| unsafe { ebb_get(self.heap, OPTIONS[option].as_ptr(), &mut value) });
        assert_eq!(code, EBB_OK, "get {:?}", OPTIONS[option]);
        value
    }

    /// Sets an option and checks that it took the value, or that nothing has changed.
    pub(crate) fn set(&mut self, option: usize, value: i64) {
        let before = self.get(option);
        let refused = kernel::refused();
        // SAFETY: a C string.
        let code = calling(|| unsafe { ebb_set(self.heap, OPTIONS[option].as_ptr(), value) });
        let now = self.get(option);
        match code {
            EBB_OK => {
                assert_eq!(now, value, "set {:?}", OPTIONS[option]);
                self.options[option] = Some(value);
                self.trusted &= option != THP;
                return;
            }
            EBB_ERR_RANGE => assert!(!in_range(option, value), "{:?} {value}", OPTIONS[option]),
            EBB_ERR_FIXED => assert_eq!(option, RESERVE),
            EBB_ERR_MEMORY => assert!(OPTIONS[option] == c"history" && value == 1),
            EBB_ERR_SYSTEM => assert!(option == THP && kernel::refused() > refused),
            code => panic!("set {:?} to {value} says {code}", OPTIONS[option]),
        }
        assert_eq!(now, before, "a refused set changed {:?}", OPTIONS[option]);
        assert!(!last_error().is_empty());
    }

    /// Options that there are not, and arguments that make no sense.
    pub(crate) fn misuse(&mut self) {
        let mut value = 0;
        // SAFETY: NULL and small sizes are refused before anything is read.
        calling(|| unsafe {
            assert_eq!(ebb_set(self.heap, c"reverse".as_ptr(), 1), EBB_ERR_OPTION);
            assert_eq!(ebb_set(self.heap, ptr::null(), 1), EBB_ERR_ARGUMENT);
            assert_eq!(ebb_set(ptr::null_mut(), c"auto".as_ptr(), 1), EBB_ERR_ARGUMENT);
            assert_eq!(ebb_get(self.heap, c"".as_ptr(), &mut value), EBB_ERR_OPTION);
            assert_eq!(ebb_get(self.heap, c"auto".as_ptr(), ptr::null_mut()), EBB_ERR_ARGUMENT);
            assert_eq!(ebb_tick(ptr::null_mut(), 1), EBB_ERR_ARGUMENT);
            assert_eq!(ebb_stats_read(self.heap, ptr::null_mut()), EBB_ERR_ARGUMENT);
            assert_eq!(ebb_history_read(self.heap, ptr::null_mut()), EBB_ERR_ARGUMENT);
            let small = ebb_reclaim_options { size: 4, budget_us: 0 };
            assert_eq!(ebb_reclaim(self.heap, &small, ptr::null_mut()), EBB_ERR_ARGUMENT);
            ebb_heap_delete(ptr::null_mut());
        });
        assert_eq!(value, 0);
    }

    fn check_code(&self, code: c_int, budget_us: u32, refused: u64) {
        match code {
            EBB_OK => {}
            EBB_MORE => assert!(budget_us > 0, "more to do without a budget"),
            EBB_ERR_SYSTEM => {
                // What was refused before is told at the end of the pass.
                assert!(kernel::refused() > 0 || refused > 0, "refused by nobody");
            }
            code => panic!("reclaim or tick says {code}"),
        }
    }

    /// Reclaims, in microseconds or at once, and checks that nothing more can go.
    pub(crate) fn reclaim(&mut self, budget_us: u32) {
        let options = ebb_reclaim_options { size: size_of::<ebb_reclaim_options>(), budget_us };
        // SAFETY: all-zero bytes are a valid report.
        let mut report: ebb_reclaim_report = unsafe { std::mem::zeroed() };
        report.size = size_of::<ebb_reclaim_report>();
        let refused = kernel::refused();
        let before = self.read_stats(0);
        // SAFETY: both are whole.
        let code = calling(|| unsafe { ebb_reclaim(self.heap, &options, &mut report) });
        self.check_code(code, budget_us, refused);
        let after = self.read_stats(0);
        assert_eq!(before.returned_total + report.returned, after.returned_total, "reclaim");
        assert_eq!((report.live, report.resident), (after.live, after.resident), "reclaim");
        if code == EBB_OK && budget_us == 0 && kernel::refused() == refused && !self.stayed {
            let most = (self.pages(slot) * PAGE) as u64 + after.metadata;
            let resident = after.resident;
            assert!(resident <= most, "reclaim: {resident} are resident, {most} can be");
        }
    }

    /// Ticks, in microseconds or without end.
    pub(crate) fn tick(&mut self, budget_us: u32) {
        let refused = kernel::refused();
        // SAFETY: one thread.
        let code = calling(|| unsafe { ebb_tick(self.heap, budget_us) });
        self.check_code(code, budget_us, refused);
    }

    /// Asks what can be asked.
    pub(crate) fn ask(&mut self) {
        // SAFETY: one thread.
        let (next, pressure) =
            calling(|| unsafe { (ebb_next_tick(self.heap), ebb_pressure(self.heap)) });
        assert!(next >= 0, "next tick in {next} ms");
        assert!((0..=100).contains(&pressure), "pressure {pressure}");
        let stats = self.read_stats(0);
        assert_eq!(pressure as u64, stats.pressure, "pressure");
        let has_limit = stats.limit_soft > 0 || stats.limit_hard > 0;
        assert!(pressure == 0 || has_limit, "pressure {pressure} without a limit");
    }

    /// Reads the history into room for `count` samples of `sample_size` bytes.
    pub(crate) fn history(&mut self, count: usize, sample_size: usize) {
        let mut samples = vec![0xA5u8; (count + 1) * sample_size];
        let room = count;
        let mut history = ebb_history {
            size: size_of::<ebb_history>(),
            sample_size,
            samples: samples.as_mut_ptr().cast(),
            count,
        };
        // SAFETY: there is room for so many samples of that size.
        let code = calling(|| unsafe { ebb_history_read(self.heap, &mut history) });
        if sample_size < 8 {
            assert_eq!(code, EBB_ERR_ARGUMENT);
            return;
        }
        assert_eq!(code, EBB_OK);
        assert!(history.count <= room.min(256), "{} samples", history.count);
        let written = history.count * sample_size;
        assert!(samples[written..].iter().all(|byte| *byte == 0xA5), "written past the samples");
        let times = samples[..written].chunks(sample_size);
        let times: Vec<u64> = times
            .map(|sample| u64::from_le_bytes(sample[..8].try_into().expect("eight bytes")))
            .collect();
        assert!(times.is_sorted(), "the oldest sample comes first");
    }

    /// Distinct pages that live blocks lie on, each as long as `length` says.
    fn pages(&self, length: impl Fn(usize) -> usize) -> usize {
        let pages = self.live.iter().flat_map(|block| {
            let end = block.at.addr() + length(block.size);
            block.at.addr() / PAGE..end.div_ceil(PAGE)
        });
        pages.collect::<HashSet<_>>().len()
    }

    fn read_stats(&mut self, flags: u32) -> ebb_stats {
        // SAFETY: all-zero bytes are valid statistics.
        let mut stats: ebb_stats = unsafe { std::mem::zeroed() };
        stats.size = size_of::<ebb_stats>();
        stats.flags = flags;
        let refused = kernel::refused();
        // SAFETY: the statistics are whole.
        let code = calling(|| unsafe { ebb_stats_read(self.heap, &mut stats) });
        assert!(code == EBB_OK || (code == EBB_ERR_SYSTEM && kernel::refused() > refused));
        if strikes(Defect::Miscount) {
            stats.live += 1;
        }
        stats
    }

    /// Checks the statistics against the model, and now and then against the kernel.
    pub(crate) fn check_stats(&mut self, with_kernel: bool) {
        let stats = self.read_stats(0);
        let count = self.live.len() as u64;
        assert_eq!(stats.blocks, count, "stats: blocks");
        let bytes = self.bytes as u64;
        if self.exact {
            let right = stats.live == bytes || (self.stayed && stats.live > bytes);
            assert!(right, "stats: {} are live, counted {}", bytes, stats.live);
        }
        let resident = stats.live + stats.waste + stats.free_resident + stats.metadata;
        assert_eq!(stats.resident, resident, "stats: resident");
        let committed = resident + stats.returned + stats.never_touched;
        assert_eq!(stats.committed, committed, "stats: committed");
        assert!(stats.committed <= stats.reserved, "stats: reserved");
        assert!(stats.resident_peak >= resident, "stats: peak");
        assert!(stats.large_blocks <= count && stats.spans <= stats.committed / 4096);
        let causes = [
            (stats.returned_asked, stats.refaulted_asked, stats.regretted_asked),
            (stats.returned_idle, stats.refaulted_idle, stats.regretted_idle),
            (stats.returned_limit, stats.refaulted_limit, stats.regretted_limit),
        ];
        let total: u64 = causes.iter().map(|(returned, ..)| returned).sum();
        assert_eq!(stats.returned_total, total, "stats: returned");
        let refaulted: u64 = causes.iter().map(|(_, refaulted, _)| refaulted).sum();
        // Pages that mremap emptied pass for returned.
        let sums = refaulted <= total && stats.returned <= total;
        assert!(sums || stats.remap_calls > 0, "stats: {causes:?}");
        assert!(causes.iter().all(|(_, refaulted, regretted)| regretted <= refaulted));
        assert_eq!(stats.limit_hard, self.options[LIMIT_HARD].unwrap_or(0) as u64);
        if let Some(soft) = self.options[LIMIT_SOFT].filter(|soft| *soft >= 0) {
            assert_eq!(stats.limit_soft, soft as u64);
        }
        if with_kernel && self.trusted {
            let refused = kernel::refused();
            let seen = self.read_stats(EBB_STATS_KERNEL).kernel_resident;
            let least = (self.pages(|size| size) * PAGE) as u64;
            if kernel::refused() == refused {
                let right = (least..=resident).contains(&seen);
                let mappings = || mappings_near(self.heap.addr());
                assert!(right, "truth: {seen} of {resident}, written {least}:\n{}", mappings());
            }
        }
    }

    /// Reads the statistics by class, and into a structure of an older size.
    pub(crate) fn check_classes(&mut self, room: usize, size: usize) {
        let none =
            ebb_class_stats { slot_size: 7, span_size: 7, blocks: u64::MAX, spans: u64::MAX };
        let mut classes = vec![none; room + 1];
        // SAFETY: all-zero bytes are valid statistics.
        let mut stats: ebb_stats = unsafe { std::mem::zeroed() };
        stats.size = size.min(size_of::<ebb_stats>());
        stats.class_count = room as u32;
        stats.classes = classes.as_mut_ptr();
        stats.former_resident = 0xA5A5;
        // SAFETY: the statistics are whole, the table has as much room.
        let code = calling(|| unsafe { ebb_stats_read(self.heap, &mut stats) });
        if size < std::mem::offset_of!(ebb_stats, reserved) {
            assert_eq!(code, EBB_ERR_ARGUMENT);
            return;
        }
        assert_eq!(code, EBB_OK);
        let shorter = size <= std::mem::offset_of!(ebb_stats, former_resident);
        assert!(!shorter || stats.former_resident == 0xA5A5, "written past the structure");
        let count = stats.class_count as usize;
        assert!(count <= room);
        assert_eq!(classes[count].slot_size, 7, "written past the table");
        let table = &classes[..count];
        assert!(table.is_sorted_by_key(|class| class.slot_size));
        let blocks: u64 = table.iter().map(|class| class.blocks).sum();
        let full = self.read_stats(0);
        if count < room {
            assert_eq!(blocks + full.large_blocks, full.blocks, "classes: blocks");
            let spans: u64 = table.iter().map(|class| class.spans).sum();
            assert_eq!(spans, full.spans, "classes: spans");
        }
        let fits = |class: &ebb_class_stats| {
            class.blocks <= class.spans * u64::from(class.span_size / class.slot_size)
        };
        assert!(table.iter().all(fits), "classes: more blocks than slots");
    }

    /// Checks what every block holds.
    pub(crate) fn check_contents(&self) {
        self.live.iter().for_each(|block| block.check(block.at, block.size));
    }
}

/// The slot that a small block of a size gets; of a large one the size.
fn slot(size: usize) -> usize {
    static SLOTS: OnceLock<Vec<usize>> = OnceLock::new();
    let slots = SLOTS.get_or_init(|| {
        // SAFETY: all-zero bytes are valid entries and statistics; there is room for 256.
        unsafe {
            let heap = ebb_heap_new(ptr::null());
            let mut classes: Vec<ebb_class_stats> = (0..256).map(|_| std::mem::zeroed()).collect();
            let mut stats: ebb_stats = std::mem::zeroed();
            stats.size = size_of::<ebb_stats>();
            (stats.class_count, stats.classes) = (256, classes.as_mut_ptr());
            assert_eq!(ebb_stats_read(heap, &mut stats), EBB_OK);
            ebb_heap_delete(heap);
            classes[..stats.class_count as usize].iter().map(|c| c.slot_size as usize).collect()
        }
    });
    slots.get(slots.partition_point(|slot| *slot < size)).copied().unwrap_or(size)
}

/// The options that take any number from 0 to some power of two, with the smallest bounds first.
fn in_range(option: usize, value: i64) -> bool {
    let most = 1 << 43;
    match OPTIONS[option].to_bytes() {
        b"thp" | b"auto" | b"history" => (0..=1).contains(&value),
        b"remap_min" => (4096..=most).contains(&value),
        b"decay_ms" => (0..=3_600_000).contains(&value),
        b"step_us" => (1..=1_000_000).contains(&value),
        b"limit_soft" => value == EBB_CGROUP || (0..=most).contains(&value),
        _ => (0..=most).contains(&value),
    }
}

/// What the kernel says of the mappings that a heap may have.
fn mappings_near(heap: usize) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut near = false;
    let told = text.lines().filter(|line| {
        if let Some((start, _)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-'))
        {
            let start = usize::from_str_radix(start, 16).unwrap_or(0);
            near = start.abs_diff(heap) < 1 << 30;
        }
        near && ["-", "Rss:", "AnonHuge", "VmFlags"].iter().any(|word| line.contains(word))
    });
    told.collect::<Vec<_>>().join("\n")
}

/// What the last failure was.
pub(crate) fn last_error() -> String {
    // SAFETY: it is never NULL, and holds until the next failure.
    unsafe { CStr::from_ptr(ebb_strerror(0)) }.to_string_lossy().into_owned()
}
