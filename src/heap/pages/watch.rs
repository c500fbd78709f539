//! What a heap and the background thread share.
//!
//! The heap itself is its thread's alone. Beside it lies a [`Watch`]: where the bits of its pages
//! are, how much free memory may stay for how long, and what the background thread has returned.
//! See `claim` for how both threads work on the same bits.
//!
//! | file              | concern                                                | unsafe |
//! |-------------------|--------------------------------------------------------|--------|
//! | this one          | what the heap's thread says and asks                   | yes    |
//! | `shared_forecast` | a forecast on its way from one thread to the other     | no     |
//! | `returning`       | what the background thread does                        | yes    |
//! | `sheets`          | descriptors of free pages, returned by either thread   | yes    |
//! | `closing`         | free pages that are made inaccessible by either thread | no     |
//!
//! - W1: `base` and `chunks` are those of a live heap, and do not change.
//! - W2: the chunks of all pages below `top` are committed, and stay so.

mod closing;
mod returning;
mod shared_forecast;
mod sheets;

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, fence};

use super::claim::Claimable;
use super::runs::PageChunk;
use crate::os::background::{self, Patience};
use crate::units::{PageIndex, Pages};
use shared_forecast::SharedForecast;

/// How many steps a [`Forecast`] has.
pub(crate) const STEPS: usize = 14;

/// How many free pages may stay, if nothing happens, from now on and when each of the next epochs
/// has ended. Times are those of [`crate::os::Os::now_us`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forecast {
    pub(crate) made_us: u64,
    /// When the epoch began that goes on, and how long each is.
    pub(crate) epoch_start_us: u64,
    pub(crate) epoch_us: u64,
    pub(crate) keep: [Pages; STEPS],
    /// How many may stay from a time on, as far as the steps let more stay.
    pub(crate) idle_us: u64,
    pub(crate) idle_keep: Pages,
    /// When spans should be searched for holes; `u64::MAX`: never.
    pub(crate) search_us: u64,
    /// The heap's own thread, or its host, will see to it until then.
    pub(crate) not_before_us: u64,
}

/// What the background thread did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackgroundReturns {
    /// Free pages that it returned, and pages of resting spans.
    pub(crate) pages: Pages,
    pub(crate) holes: Pages,
    /// Bytes at the starts of spans that no slot covers, on those pages.
    pub(crate) slack: usize,
    /// Sheets whose descriptors it returned.
    pub(crate) sheets: u32,
    /// Sheets that it closed.
    pub(crate) closed: u32,
    pub(crate) calls: u64,
    /// Ranges that the kernel refused.
    pub(crate) refused: u64,
    /// Searches of all spans that have ended.
    pub(crate) searches: u64,
}

impl BackgroundReturns {
    pub(super) fn add(&mut self, next: &BackgroundReturns) {
        self.pages = self.pages.saturating_add(next.pages);
        self.holes = self.holes.saturating_add(next.holes);
        self.slack += next.slack;
        self.sheets = self.sheets.saturating_add(next.sheets);
        self.closed = self.closed.saturating_add(next.closed);
        self.calls += next.calls;
        self.refused += next.refused;
        self.searches += next.searches;
    }
}

/// See above.
pub(crate) struct Watch {
    /// The background thread may look: the heap's thread alone reads and sets it.
    is_on: Cell<bool>,
    /// The process in which it began, or was looked through for stale claims. (The heap's thread)
    process: Cell<u64>,
    /// When the background thread comes again at the earliest.
    again_us: AtomicU64,
    /// When it came last while the heap's thread was at work; 0: never.
    at_work_us: AtomicU64,
    /// When the background thread comes early; 0: it does not.
    early_us: AtomicU64,
    /// Until when early visits that did not pay are remembered.
    unpaid_until_us: AtomicU64,
    #[cfg(test)]
    is_pretended: Cell<bool>,
    base: *mut u8,
    chunks: *const PageChunk,
    kernel_page: usize,
    top: AtomicU32,
    may_close: AtomicBool,
    done: Done,
    /// Where to count the bytes that it returns; null: nowhere.
    counter: AtomicPtr<AtomicU64>,
    /// When the forecast was made that spans were searched for last. (The background thread)
    searched_us: AtomicU64,
    forecast: SharedForecast,
}

impl Forecast {
    /// All may stay.
    pub(crate) const NEVER: Forecast = Forecast {
        made_us: 0,
        epoch_start_us: 0,
        epoch_us: 1,
        keep: [Pages(u32::MAX); STEPS],
        idle_us: u64::MAX,
        idle_keep: Pages(u32::MAX),
        search_us: u64::MAX,
        not_before_us: 0,
    };

    /// When the last step begins.
    pub(crate) fn ends_us(&self) -> u64 {
        self.epoch_start_us + (STEPS as u64 - 1) * self.epoch_us
    }

    /// How many free pages may stay at a time.
    pub(crate) fn keep_at(&self, now_us: u64) -> Pages {
        let epochs = now_us.saturating_sub(self.epoch_start_us) / self.epoch_us.max(1);
        let keep = self.keep[(epochs as usize).min(STEPS - 1)];
        if now_us < self.idle_us { keep } else { keep.min(self.idle_keep) }
    }

    /// When fewer than `pages` may stay. `None`: never.
    pub(crate) fn falls_below_us(&self, pages: Pages) -> Option<u64> {
        let step = self.keep.iter().position(|keep| *keep < pages);
        let step_us = step.map(|step| self.epoch_start_us + step as u64 * self.epoch_us);
        let idle_us = (self.idle_keep < pages).then_some(self.idle_us);
        [step_us, idle_us].into_iter().flatten().min()
    }

    /// How many may stay in the end.
    pub(crate) fn in_the_end(&self) -> Pages {
        self.keep[STEPS - 1]
    }
}

impl Watch {
    /// The watch of a heap at `base` that has its chunks there, and no page below `top` but for its
    /// tables.
    pub(in crate::heap) fn new(
        base: *mut u8,
        chunks: *const PageChunk,
        kernel_page: usize,
        top: PageIndex,
    ) -> Watch {
        Watch {
            is_on: Cell::new(false),
            process: Cell::new(0),
            again_us: AtomicU64::new(0),
            at_work_us: AtomicU64::new(0),
            early_us: AtomicU64::new(0),
            unpaid_until_us: AtomicU64::new(0),
            #[cfg(test)]
            is_pretended: Cell::new(false),
            base,
            chunks,
            kernel_page,
            top: AtomicU32::new(top.0),
            may_close: AtomicBool::new(false),
            done: Done::default(),
            counter: AtomicPtr::new(ptr::null_mut()),
            searched_us: AtomicU64::new(0),
            forecast: SharedForecast::default(),
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
            self.is_on.set(self.add());
            self.process.set(background::process());
        }
        self.is_on()
    }

    /// Puts it on the background thread's list. False: there can be none.
    fn add(&self) -> bool {
        #[cfg(test)]
        if self.is_pretended.get() {
            return true;
        }
        background::add(self.item())
    }

    /// As if the background thread looked, in a test that does what it does.
    #[cfg(test)]
    pub(crate) fn pretend(&self) {
        self.is_on.set(true);
        self.is_pretended.set(true);
    }

    /// As if the background thread could be called and was not, in the same kind of test.
    #[cfg(test)]
    pub(crate) fn pretend_uncalled(&self) {
        self.is_on.set(false);
        self.is_pretended.set(true);
    }

    /// As if the background thread had found everything to do, just before the heap's thread took
    /// all of it, and had only claimed it yet.
    #[cfg(test)]
    pub(crate) fn pretend_late_claims(&self) {
        for first in self.words() {
            let word = self.word(first);
            word.dirty.pretend_claimed(u64::MAX);
            word.resting.pretend_claimed(u64::MAX);
            self.sheet(first).pretend_claimed();
        }
    }

    /// The word of dirty bits that a page lies in.
    #[cfg(test)]
    pub(crate) fn dirty_word(&self, page: PageIndex) -> &Claimable {
        self.word(page).dirty
    }

    /// As in the child of a fork whose parent has the background thread.
    #[cfg(test)]
    pub(crate) fn pretend_fork(&self) {
        self.is_on.set(true);
        self.is_pretended.set(false);
        self.process.set(u64::MAX);
    }

    /// Has it look no more, and waits until it does not.
    pub(crate) fn end(&self) {
        if self.is_on() {
            background::remove(self.item());
            self.is_on.set(false);
        }
        self.counter.store(ptr::null_mut(), Relaxed);
    }

    fn item(&self) -> *mut core::ffi::c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    fn is_visited(&self) -> bool {
        #[cfg(test)]
        if self.is_pretended.get() {
            return true;
        }
        background::is_visited(self.item())
    }

    /// Has the background thread count the bytes that it returns there, too.
    pub(crate) fn set_counter(&self, counter: &'static AtomicU64) {
        self.counter.store(ptr::from_ref(counter).cast_mut(), Release);
    }

    /// When the background thread comes again at the earliest.
    pub(crate) fn again_us(&self) -> u64 {
        self.again_us.load(Relaxed)
    }

    /// Has it come no earlier.
    pub(crate) fn set_again(&self, at_us: u64) {
        self.again_us.store(at_us, Relaxed);
    }

    /// When the background thread came last while the heap's thread was at work; 0: never.
    pub(crate) fn at_work_us(&self) -> u64 {
        self.at_work_us.load(Relaxed)
    }

    /// It comes now, and the heap's thread is at work.
    pub(crate) fn set_at_work(&self, now_us: u64) {
        self.at_work_us.store(now_us, Relaxed);
    }

    /// When the background thread comes early; 0: it does not.
    pub(crate) fn early_us(&self) -> u64 {
        self.early_us.load(Relaxed)
    }

    /// It comes early, at a time; 0: it does not.
    pub(crate) fn set_early(&self, at_us: u64) {
        self.early_us.store(at_us, Relaxed);
    }

    /// Until when early visits that did not pay are remembered.
    pub(crate) fn unpaid_until_us(&self) -> u64 {
        self.unpaid_until_us.load(Relaxed)
    }

    /// Remembers such visits until then.
    pub(crate) fn set_unpaid_until(&self, at_us: u64) {
        self.unpaid_until_us.store(at_us, Relaxed);
    }

    /// What the background thread did since this was asked last.
    pub(super) fn take_background_returns(&self) -> Option<BackgroundReturns> {
        if self.is_on() { self.done.take() } else { None }
    }

    /// The same of a thread that is gone: it may have counted some of a call, and not the call.
    pub(super) fn take_left(&self) -> BackgroundReturns {
        self.done.take_all()
    }

    /// Waits until the background thread has none of some pages of a word.
    #[cold]
    pub(in crate::heap) fn wait_for(&self, word: &Claimable, pages: u64) {
        let mut patience = Patience::default();
        while word.claimed() & pages != 0 {
            // These pages are about to be used: their bits are cleared next.
            self.end_stale(word, pages, u64::MAX);
            patience.wait();
        }
    }

    /// Ends claims of a thread that is not there any more: this is the child of a fork. Claims that
    /// were seen while nobody visited the heap are stale, and nobody can claim those pages anew.
    /// Of those in `stays` the bits are set again.
    pub(super) fn end_stale(&self, word: &Claimable, pages: u64, stays: u64) {
        let visits = background::visits();
        let stale = if self.is_visited() { 0 } else { word.claimed() & pages };
        if stale != 0 && background::visits() == visits {
            word.put_back(stale & stays);
            word.release(stale);
        }
    }

    /// Whether this is the child of a fork, and the parent's thread may have left claims.
    pub(super) fn is_left_by_fork(&self) -> bool {
        #[cfg(test)]
        if self.is_pretended.get() {
            return false;
        }
        self.is_on() && self.process.get() != background::process()
    }

    /// What [`Watch::is_unvisited_since`] asks for. `None`: somebody visits the heap.
    pub(super) fn unvisited(&self) -> Option<u64> {
        let visits = background::visits();
        (!self.is_on() || !self.is_visited()).then_some(visits)
    }

    /// Whether nobody has visited the heap since [`Watch::unvisited`]. If so, nobody else changed
    /// what was looked at meanwhile.
    pub(super) fn is_unvisited_since(&self, visits: u64) -> bool {
        // Whoever saw what a visit did sees that it has begun.
        fence(Acquire);
        !self.is_on() || background::visits() == visits
    }

    /// The same in the child of a fork, where all claims were ended and counts made meanwhile. If
    /// so, these are right, and nothing is left of the parent's thread.
    pub(super) fn is_mended(&self, visits: u64) -> bool {
        let is_mended = self.is_unvisited_since(visits);
        if is_mended {
            self.process.set(background::process());
        }
        is_mended
    }

    /// The spans of a word that are claimed, by their first pages.
    pub(super) fn claimed_spans(&self, first: PageIndex) -> u64 {
        self.word(first).resting.claimed()
    }

    /// Ends such claims as in [`Watch::end_stale`].
    pub(super) fn end_stale_spans(&self, first: PageIndex, claimed: u64, stays: u64) {
        self.end_stale(self.word(first).resting, claimed, stays);
    }

    /// The first pages of all spans that rest.
    pub(super) fn resting(&self) -> impl Iterator<Item = PageIndex> + use<'_> {
        self.words().flat_map(|first| {
            let bits = self.word(first).resting.get();
            (0..64).filter(move |page| bits >> page & 1 == 1).map(move |page| first + Pages(page))
        })
    }
}

/// Counts what the background thread did, until the heap's thread takes note.
#[derive(Default)]
struct Done {
    pages: AtomicU32,
    holes: AtomicU32,
    slack: AtomicU32,
    sheets: AtomicU32,
    closed: AtomicU32,
    calls: AtomicU32,
    refused: AtomicU32,
    searches: AtomicU32,
}

impl Done {
    /// In the reverse of the order in which the background thread counts: pages before the runs of
    /// them that it closes, slack before the holes that they are in, and calls last.
    fn take(&self) -> Option<BackgroundReturns> {
        (self.calls.load(Relaxed) > 0).then(|| self.take_all())
    }

    fn take_all(&self) -> BackgroundReturns {
        BackgroundReturns {
            calls: self.calls.swap(0, Acquire).into(),
            closed: self.closed.swap(0, Acquire),
            sheets: self.sheets.swap(0, Relaxed),
            holes: Pages(self.holes.swap(0, Acquire)),
            slack: self.slack.swap(0, Relaxed) as usize,
            pages: Pages(self.pages.swap(0, Relaxed)),
            refused: self.refused.swap(0, Relaxed).into(),
            searches: self.searches.swap(0, Relaxed).into(),
        }
    }
}
