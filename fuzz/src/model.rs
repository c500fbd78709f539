//! One heap, and what it must be like: what each live block holds, how many there are, how large
//! they are in all, what each option is.

mod account;
mod returns;

use std::collections::VecDeque;
use std::ffi::CStr;
use std::ops::Range;
use std::ptr;

use ebbtide::capi::*;

use crate::block::Block;
use crate::defect::{Defect, strikes};
use crate::kernel::{self, Company, calling};

/// Options in the order of the fields of ebb_options.
pub(crate) const OPTIONS: [&CStr; 12] = [
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
    c"checked",
];
const RESERVE: usize = 0;
pub(crate) const THP: usize = 1;
const RETAIN: usize = 4;
const LIMIT_SOFT: usize = 6;
const LIMIT_HARD: usize = 7;
pub(crate) const CHECKED: usize = 11;
const PAGE: usize = 4096;

/// The option `checked`: every block is verified.
pub(crate) const ON: i64 = 1;
/// A few small blocks are.
pub(crate) const SAMPLE: i64 = 2;
/// What a verified block is full of when it is handed out, at both ends at least.
const FRESH: u8 = 0xAB;

/// A heap and its model.
pub(crate) struct Model {
    heap: *mut ebb_heap,
    pub(crate) live: Vec<Block>,
    /// Bytes of all live blocks.
    pub(crate) bytes: usize,
    /// Whether every old size given was right.
    exact: bool,
    /// A block shrank in place, since there was no memory for a smaller one. The heap keeps `live`
    /// within what the size classes allow, so from then on the statistics may have it too high.
    stayed: bool,
    /// What each option was set to; none: the heap worked it out.
    options: [Option<i64>; 12],
    /// Every block is verified.
    on: bool,
    /// Whether the background thread may return memory, so that there can be less than a moment
    /// ago.
    company: Company,
    /// Where the blocks were that such a heap may hold back.
    held: VecDeque<Range<usize>>,
    /// Bytes of address space.
    pub(crate) reserve: usize,
    made: u64,
    /// Whether the kernel may hold what it was not asked for, or not hold what it was.
    trusted: bool,
    look: u32,
}

impl Model {
    /// Makes a heap; none when that fails, which it may only if the kernel refused something.
    pub(crate) fn new(
        given: [i64; OPTIONS.len()],
        background: i64,
        wrong_sizes: bool,
        company: Company,
    ) -> Option<Model> {
        let [reserve, thp, remap_min, decay_ms, retain, retain_max, ..] = given;
        let [.., limit_soft, limit_hard, step_us, auto, history, checked] = given;
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
            checked,
            background,
            collect: 0,
        };
        let refused = kernel::refused();
        // SAFETY: the options are whole.
        let heap = calling(|| unsafe { ebb_heap_new(&options) });
        let cross = limits_cross(retain, limit_soft, limit_hard);
        if heap.is_null() {
            assert!(cross || kernel::refused() > refused, "no heap: {:?}", last_error());
            return None;
        }
        assert!(!cross, "retain {retain}, limit_soft {limit_soft}, limit_hard {limit_hard}");
        let as_set = |value: i64| match value {
            0 => None,
            EBB_ZERO => Some(0),
            value => Some(value),
        };
        let mut model = Model {
            heap,
            live: Vec::new(),
            bytes: 0,
            // Where every block is verified a wrong one stops the process.
            exact: !wrong_sizes || checked == ON,
            stayed: false,
            options: given.map(as_set),
            on: checked == ON,
            company,
            held: VecDeque::new(),
            reserve: 0,
            made: 0,
            trusted: true,
            look: 0,
        };
        model.reserve = model.get(RESERVE) as usize;
        model.options[RESERVE] = Some(model.reserve as i64);
        if model.reserve == 0 {
            model.reserve = address_space();
        }
        model.trusted = model.get(THP) == 0;
        assert_eq!(model.get(CHECKED), checked.max(0), "checked");
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

    /// Whether an allocation of `size` bytes may fail. One span of each size class takes 3 MB in
    /// all; but where no block is live, all spans are given up.
    fn may_lack(&self, size: usize, refused: u64) -> bool {
        if kernel::refused() > refused || self.options[LIMIT_HARD].is_some_and(|limit| limit > 0) {
            return true;
        }
        if self.live.is_empty() && kernel::refused() == 0 {
            return size > self.reserve / 2;
        }
        self.reserve < 16 << 20 || self.bytes.saturating_add(size) > self.reserve / 16
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
        self.check_fresh(at, size, 0);
        if strikes(Defect::Overlap)
            && let Some(other) = self.live.last().filter(|other| other.size >= size)
        {
            at = other.at;
        }
        let block = self.filled(at, size);
        self.bytes += size;
        self.live.push(block);
        true
    }

    /// A block with a pattern of its own.
    fn filled(&mut self, at: *mut u8, size: usize) -> Block {
        self.made += 1;
        let block = Block { at, size, seed: self.made.wrapping_mul(0xA076_1D64_78BD_642F) };
        block.fill();
        block
    }

    /// Checks that a block that is verified holds what it is handed out with, where nothing was
    /// kept of another.
    fn check_fresh(&self, at: *mut u8, size: usize, kept: usize) {
        for offset in [kept, size - 1] {
            if self.on && offset >= kept && (offset == 0 || offset + 1 == size) {
                // SAFETY: it is a byte of the block.
                let found = unsafe { at.add(offset).read() };
                assert_eq!(found, FRESH, "fresh: byte {offset} of {size}");
            }
        }
    }

    /// Frees a block, with `given_size` as its old size.
    pub(crate) fn free(&mut self, index: usize, given_size: Option<usize>) {
        let block = self.live.swap_remove(index);
        block.check(block.at, block.size);
        self.bytes -= block.size;
        self.hold(&block);
        let extra = usize::from(self.on && strikes(Defect::WrongSize));
        let got = self.call(block.at, self.given_size(given_size, block.size) + extra, 0);
        assert!(got.is_null(), "a freed block has an address");
        if self.on && block.size < 1000 && strikes(Defect::WriteFreed) {
            // SAFETY: small blocks stay accessible, and are held back: it breaks none that lives.
            unsafe { *block.at ^= 1 };
        }
    }

    fn given_size(&self, given_size: Option<usize>, size: usize) -> usize {
        given_size.filter(|_| !self.exact).unwrap_or(size)
    }

    /// Resizes a block; by 0 it is freed.
    pub(crate) fn resize(&mut self, index: usize, size: usize, given_size: Option<usize>) {
        if size == 0 {
            return self.free(index, given_size);
        }
        let block = self.live.swap_remove(index);
        let refused = kernel::refused();
        let resident = self.resident_under_limit();
        let mut at = self.call(block.at, self.given_size(given_size, block.size), size);
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
        if self.on {
            let may_stay = size <= block.size && self.may_lack(size, refused);
            assert!(at != block.at || may_stay, "place: {} to {size} bytes stay", block.size);
        }
        let kept = size.min(block.size);
        self.stayed |=
            at == block.at && size < block.size && account::slot(size) != account::slot(block.size);
        if strikes(Defect::LoseByte) {
            // SAFETY: it is the last byte that must be kept.
            unsafe { *at.add(kept - 1) ^= 1 };
        }
        block.check(at, kept);
        self.bytes = self.bytes - block.size + size;
        if at != block.at {
            self.check_fresh(at, size, kept);
            self.hold(&block);
        }
        let block = self.filled(at, size);
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
        let wanted = |other| if other == option { value } else { self.get(other) };
        let limits = [RETAIN, LIMIT_SOFT, LIMIT_HARD].map(wanted);
        let cross = limits_cross(limits[0], limits[1], limits[2]);
        match code {
            EBB_OK => {
                assert!(!cross, "{limits:?}");
                assert_eq!(now, value, "set {:?}", OPTIONS[option]);
                self.options[option] = Some(value);
                self.trusted &= option != THP || value == 0;
                return;
            }
            EBB_ERR_RANGE => {
                assert!(cross || !in_range(option, value), "{:?} {value}", OPTIONS[option]);
            }
            EBB_ERR_FIXED => assert!([RESERVE, CHECKED].contains(&option)),
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
        // SAFETY: the buffer has room for `count` samples of that size.
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

    /// Checks what every block holds.
    pub(crate) fn check_contents(&self) {
        self.live.iter().for_each(|block| block.check(block.at, block.size));
    }
}

/// The options that take any number from 0 to some power of two, with the smallest bounds first.
fn in_range(option: usize, value: i64) -> bool {
    let most = 1 << 43;
    match OPTIONS[option].to_bytes() {
        b"thp" | b"auto" | b"history" => (0..=1).contains(&value),
        b"remap_min" => (4096..=most).contains(&value),
        b"decay_ms" => (0..=3_600_000).contains(&value),
        b"step_us" => (1..=1_000_000).contains(&value),
        b"limit_soft" if value == EBB_CGROUP => true,
        b"limit_soft" | b"limit_hard" => value == 0 || (512 << 10..=most).contains(&value),
        _ => (0..=most).contains(&value),
    }
}

/// Whether one of these lies above another that limits it, which is refused.
fn limits_cross(retain: i64, soft: i64, hard: i64) -> bool {
    let is_above = |value: i64, limit: i64| limit > 0 && value > limit;
    is_above(soft, hard) || is_above(retain, hard) || is_above(retain, soft)
}

/// What the last failure was.
pub(crate) fn last_error() -> String {
    // SAFETY: it is never NULL, and holds until the next failure.
    unsafe { CStr::from_ptr(ebb_strerror(0)) }.to_string_lossy().into_owned()
}

/// The bytes of address space that this process may have: as many has a heap's range that is not
/// reserved.
fn address_space() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is whole.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) }, 0);
    limit.rlim_cur as usize / PAGE * PAGE
}
