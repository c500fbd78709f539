//! What a heap and the background thread share.
//!
//! The heap itself is its thread's alone. Beside it lies a [`Watch`]: where the bits of its dirty
//! pages are, how much of what they say may stay for how long, and what the background thread has
//! returned. See `dirty` for how both threads work on the same bits.
//!
//! - W1: `base` and `chunks` are those of a live heap, and do not change.
//! - W2: the chunks of all pages below `top` are committed.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

use super::dirty::DirtyWord;
use super::recall::{Cause, Stamp};
use super::runs::{CHUNK_PAGES, Chunk};
use crate::os::background::{self, Patience};
use crate::os::{MemoryRange, Purged};
use crate::units::{PAGE, PageIndex, Pages};

/// How many steps a [`Forecast`] has.
pub(crate) const STEPS: usize = 14;
/// Most pages that go back in one call: about 150 µs of the kernel's time.
const CALL: Pages = Pages((1 << 20) / PAGE as u32);
/// Most ranges that do. A word has 32 at most.
const RANGES: usize = 64;

/// How many free pages may stay, if nothing happens, from now on and when each of the next epochs
/// has ended. Times are those of [`crate::os::Os::now_us`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forecast {
    pub(crate) made_us: u64,
    /// When the epoch began that goes on, and how long each is.
    pub(crate) epoch_start_us: u64,
    pub(crate) epoch_us: u64,
    pub(crate) keep: [Pages; STEPS],
    /// The heap's own thread, or its host, will see to it until then.
    pub(crate) not_before_us: u64,
}

/// What the background thread did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aside {
    pub(crate) pages: Pages,
    pub(crate) calls: u64,
    pub(crate) refused: u64,
}

impl Aside {
    pub(super) fn add(&mut self, next: &Aside) {
        self.pages = self.pages.and_more(next.pages);
        self.calls += next.calls;
        self.refused += next.refused;
    }
}

/// See above.
pub(crate) struct Watch {
    /// The background thread may look: the heap's thread alone reads and sets it.
    is_on: Cell<bool>,
    base: *mut u8,
    chunks: *const Chunk,
    kernel_page: usize,
    top: AtomicU32,
    pages: AtomicU32,
    calls: AtomicU32,
    refused: AtomicU32,
    forecast: Letter,
}

impl Default for Watch {
    /// One that nobody can look by.
    fn default() -> Watch {
        Watch::new(ptr::null_mut(), ptr::null(), PAGE, PageIndex(0))
    }
}

impl Forecast {
    /// All may stay.
    pub(crate) const NEVER: Forecast = Forecast {
        made_us: 0,
        epoch_start_us: 0,
        epoch_us: 1,
        keep: [Pages(u32::MAX); STEPS],
        not_before_us: 0,
    };

    /// When the last step begins.
    pub(crate) fn ends_us(&self) -> u64 {
        self.epoch_start_us + (STEPS as u64 - 1) * self.epoch_us
    }

    /// How many free pages may stay at a time.
    pub(crate) fn keep_at(&self, now_us: u64) -> Pages {
        let epochs = now_us.saturating_sub(self.epoch_start_us) / self.epoch_us.max(1);
        self.keep[(epochs as usize).min(STEPS - 1)]
    }

    /// When fewer than so many may stay. `None`: never.
    pub(crate) fn falls_below_us(&self, pages: Pages) -> Option<u64> {
        let step = self.keep.iter().position(|keep| *keep < pages)?;
        Some(self.epoch_start_us + step as u64 * self.epoch_us)
    }

    /// How many may stay in the end.
    pub(crate) fn in_the_end(&self) -> Pages {
        self.keep[STEPS - 1]
    }
}

impl Watch {
    /// The watch of a heap at `base` that has its chunks there, and no page below `top` but for its
    /// tables.
    pub(super) fn new(
        base: *mut u8,
        chunks: *const Chunk,
        kernel_page: usize,
        top: PageIndex,
    ) -> Watch {
        Watch {
            is_on: Cell::new(false),
            base,
            chunks,
            kernel_page,
            top: AtomicU32::new(top.0),
            pages: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            forecast: Letter::default(),
        }
    }

    /// Whether the background thread may look.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    pub(super) fn set_top(&self, top: PageIndex) {
        self.top.store(top.0, Relaxed);
    }

    /// Tells the background thread what may stay.
    pub(crate) fn publish(&self, forecast: &Forecast) {
        self.forecast.write(forecast);
    }

    /// Has the background thread look from now on. False: there can be none.
    pub(crate) fn begin(&self) -> bool {
        // What the heap's thread wrote without atomic operations is released by the list.
        if !self.is_on() {
            self.is_on.set(background::add(self.item()));
        }
        self.is_on()
    }

    /// Has it look no more, and waits until it does not.
    pub(super) fn end(&self) {
        if self.is_on() {
            background::remove(self.item());
            self.is_on.set(false);
        }
    }

    fn item(&self) -> *mut core::ffi::c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// What the background thread did since this was asked last.
    pub(super) fn take_returned(&self) -> Option<Aside> {
        let has_news = self.is_on() && (self.calls.load(Relaxed) > 0);
        has_news.then(|| Aside {
            calls: self.calls.swap(0, Relaxed).into(),
            pages: Pages(self.pages.swap(0, Relaxed)),
            refused: self.refused.swap(0, Relaxed).into(),
        })
    }

    /// Waits until the background thread has none of some pages of a word.
    #[cold]
    pub(super) fn wait_for(&self, word: &DirtyWord, pages: u64) {
        let mut patience = Patience::default();
        while word.claimed() & pages != 0 {
            // It claims nothing but while it visits. In the child of a fork it is not there.
            if !background::is_visited(self.item()) && word.claimed() & pages != 0 {
                word.release(pages);
            }
            patience.wait();
        }
    }
}

/// What the background thread does.
impl Watch {
    /// What the heap's thread said last. `None`: it is saying something new.
    pub(crate) fn forecast(&self) -> Option<Forecast> {
        self.forecast.read()
    }

    /// Free pages that hold memory.
    pub(crate) fn dirty(&self) -> Pages {
        Pages(self.words().map(|(_, word)| word.get().count_ones()).sum())
    }

    /// Returns as many dirty pages, the highest first, in calls of `purge`; as long as `goes_on`.
    /// How many were returned; `None`: the kernel refused some.
    ///
    /// # Safety
    ///
    /// `purge` is as [`crate::os::Os::purge`]; the heap lives, and this is the only thread that
    /// does so.
    pub(crate) unsafe fn return_pages(
        &self,
        mut excess: Pages,
        purge: impl Fn(&[MemoryRange]) -> Purged,
        goes_on: &dyn Fn() -> bool,
        now_us: u64,
    ) -> Option<Pages> {
        let stamp = Stamp::new(now_us, Cause::Idle);
        let (mut returned, mut words) = (Pages::ZERO, self.words());
        loop {
            let mut claims = Claims::new();
            let mut is_last = true;
            for (at, word) in &mut words {
                let wanted = excess.0.min(CALL.0 - claims.pages.0);
                let mine = self.worth_claiming(word.get(), wanted);
                if mine != 0 {
                    excess = excess.beyond(claims.add(at, word.claim(mine)));
                }
                if claims.is_full() || excess == Pages::ZERO {
                    is_last = excess == Pages::ZERO;
                    break;
                }
            }
            returned += self.give_back(&claims, &purge, stamp)?;
            if is_last || !goes_on() {
                return Some(returned);
            }
        }
    }

    /// The highest pages of a word, whole kernel pages of them, and not many more than wanted.
    fn worth_claiming(&self, dirty: u64, wanted: u32) -> u64 {
        let pages = (self.kernel_page / PAGE) as u32;
        // A bit for each kernel page, where its first page has it.
        let mut firsts = dirty;
        let mut length = 1;
        while length < pages.min(64) {
            firsts &= firsts >> length;
            length *= 2;
        }
        firsts &= u64::MAX / (u64::MAX >> (64 - pages.min(64)));
        while firsts.count_ones() > wanted.div_ceil(pages) {
            firsts &= firsts - 1;
        }
        firsts.wrapping_mul(u64::MAX >> (64 - pages.min(64)))
    }

    fn give_back(
        &self,
        claims: &Claims,
        purge: &impl Fn(&[MemoryRange]) -> Purged,
        stamp: Stamp,
    ) -> Option<Pages> {
        if claims.count == 0 {
            return Some(Pages::ZERO);
        }
        let memory = claims.ranges.map(|(first, count)| MemoryRange {
            start: self.base.wrapping_add(first.offset()),
            bytes: count.bytes(),
        });
        let purged = purge(&memory[..claims.count]);
        let returned = claims.ranges[..purged.ranges]
            .iter()
            .fold(Pages::ZERO, |sum, (_, count)| sum + *count);
        let is_whole = purged.ranges == claims.count;
        for (first, count) in &claims.ranges[purged.ranges..claims.count] {
            let (word, mask) = self.word_of(*first, *count);
            word.refuse(mask);
        }
        self.pages.fetch_add(returned.0, Relaxed);
        self.refused.fetch_add(u32::from(!is_whole), Relaxed);
        self.calls.fetch_add(purged.calls as u32, Relaxed);
        for (first, count) in &claims.ranges[..claims.count] {
            let (word, mask) = self.word_of(*first, *count);
            self.chunk(*first).stamps[first.0 as usize % CHUNK_PAGES / 64].set(stamp);
            word.release(mask);
        }
        is_whole.then_some(returned)
    }

    /// The word of a range that lies in one, and its bits there.
    fn word_of(&self, first: PageIndex, count: Pages) -> (&DirtyWord, u64) {
        let mask = u64::MAX >> (64 - count.0) << (first.0 % 64);
        (&self.chunk(first).dirty[first.0 as usize % CHUNK_PAGES / 64], mask)
    }

    /// The words of all pages below the top with the first page of each, the highest first.
    fn words(&self) -> impl Iterator<Item = (PageIndex, &DirtyWord)> {
        let count = self.top.load(Relaxed).div_ceil(64);
        (0..count).rev().map(|word| {
            let first = PageIndex(word * 64);
            (first, self.word_of(first, Pages(64)).0)
        })
    }

    fn chunk(&self, page: PageIndex) -> ChunkView<'_> {
        // SAFETY: W1 and W2: the page is below the top, or was. Only the fields that are atomic are
        // looked at.
        unsafe {
            let chunk = self.chunks.add(page.0 as usize / CHUNK_PAGES);
            ChunkView { dirty: &(*chunk).dirty, stamps: &(*chunk).stamps }
        }
    }
}

/// What both threads may look at in a chunk.
struct ChunkView<'heap> {
    dirty: &'heap [DirtyWord],
    stamps: &'heap [super::recall::AtomicStamp],
}

/// Pages that were claimed for one call. Each range lies in one word.
struct Claims {
    ranges: [(PageIndex, Pages); RANGES],
    count: usize,
    pages: Pages,
}

impl Claims {
    fn new() -> Claims {
        Claims { ranges: [(PageIndex(0), Pages::ZERO); RANGES], count: 0, pages: Pages::ZERO }
    }

    /// Whether there may be no room for another word.
    fn is_full(&self) -> bool {
        self.count > RANGES - 32 || self.pages >= CALL
    }

    /// Adds pages of a word, which starts at a page; returns how many.
    fn add(&mut self, at: PageIndex, mut bits: u64) -> Pages {
        let count = Pages(bits.count_ones());
        while bits != 0 {
            let start = bits.trailing_zeros();
            let length = (bits >> start).trailing_ones();
            self.ranges[self.count] = (at + Pages(start), Pages(length));
            self.count += 1;
            bits &= !(u64::MAX >> (64 - length) << start);
        }
        self.pages += count;
        count
    }
}

/// A forecast that one thread writes and another reads. The reader sees all of one or nothing: the
/// version is odd while it changes (a seqlock).
#[derive(Default)]
struct Letter {
    version: AtomicU32,
    times: [AtomicU64; 4],
    keep: [AtomicU32; STEPS],
}

impl Letter {
    fn write(&self, forecast: &Forecast) {
        let Forecast { made_us, epoch_start_us, epoch_us, keep, not_before_us } = *forecast;
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        let times = [made_us, epoch_start_us, epoch_us, not_before_us];
        self.times.iter().zip(times).for_each(|(at, time)| at.store(time, Relaxed));
        self.keep.iter().zip(keep).for_each(|(at, pages)| at.store(pages.0, Relaxed));
        self.version.store(version.wrapping_add(2), Release);
    }

    fn read(&self) -> Option<Forecast> {
        let version = self.version.load(Acquire);
        let [made_us, epoch_start_us, epoch_us, not_before_us] =
            core::array::from_fn(|index| self.times[index].load(Relaxed));
        let keep = core::array::from_fn(|index| Pages(self.keep[index].load(Relaxed)));
        fence(Acquire);
        let is_whole = version % 2 == 0 && self.version.load(Relaxed) == version;
        is_whole.then_some(Forecast { made_us, epoch_start_us, epoch_us, keep, not_before_us })
    }
}
