//! What the background thread has done, counted; and the child of a fork whose parent has it.
//!
//! In the child the thread is missing, but its claims are there. And it may have changed bits that
//! it had not counted yet, or counted pages whose claims end now. So before the heap's thread takes
//! pages, or a span, that the background thread may have had, all claims are ended (see
//! `runs/stale`), and what the bits say is counted anew. It is done once in each child.

#![forbid(unsafe_code)]

use super::watch::BackgroundReturns;
use crate::heap::slots::class::{CLASSES, SHORT};
use crate::heap::slots::descriptor::{PageKind, SpanState};
use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::os::background::Patience;
use crate::units::{PageIndex, Pages};

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Takes note of what the background thread has returned since last time.
    pub(crate) fn note_background_returns(&mut self) {
        if let Some(returns) = self.page_runs().note_background_returns() {
            self.note_holes(&returns);
        }
    }

    fn note_holes(&mut self, returns: &BackgroundReturns) {
        self.counts.purged += returns.holes;
        self.counts.slack -= returns.slack;
    }

    /// Ends what the background thread of the parent had begun, if this is the child of a fork.
    pub(crate) fn mend_after_fork(&mut self) {
        if self.watch().is_left_by_fork() {
            self.mend();
        }
    }

    #[cold]
    fn mend(&mut self) {
        let mut patience = Patience::default();
        while !self.try_to_mend() {
            // The child has a thread of its own already, which visits the heap.
            patience.wait();
        }
    }

    fn try_to_mend(&mut self) -> bool {
        let Some(visits) = self.watch().unvisited() else { return false };
        self.page_runs().end_stale_claims();
        self.end_stale_spans();
        let left = self.watch().take_left();
        self.page_runs().count_background_returns(&left);
        self.note_holes(&left);
        let (dirty, (purged, slack)) = (self.watch().dirty(), self.purged_and_slack());
        let sheets = self.page_runs().sheets_by_bits();
        let is_mended = self.watch().is_mended(visits);
        if is_mended {
            (self.runs.dirty, self.runs.sheets) = (dirty, sheets);
            (self.counts.purged, self.counts.slack) = (purged, slack);
        }
        is_mended
    }

    /// Ends all claims of spans. Those that are not active rest then.
    fn end_stale_spans(&mut self) {
        for first in (0..self.runs.top.0).step_by(64).map(PageIndex) {
            let claimed = self.watch().claimed_spans(first);
            let of = |bit: u32| first + Pages(bit);
            let is_claimed = |bit: &u32| claimed >> bit & 1 == 1;
            let rests = (0..64).filter(is_claimed).filter(|bit| self.may_rest(of(*bit)));
            let stays = rests.map(|bit| 1 << bit).sum();
            self.watch().end_stale_spans(first, claimed, stays);
        }
    }

    /// Whether a span of several pages starts at a page, and is not active. Only descriptors of
    /// pages in use are looked at: others may have been returned.
    fn may_rest(&mut self, page: PageIndex) -> bool {
        if page >= self.runs.top || self.page_runs().is_free(page) {
            return false;
        }
        let descriptor = self.descriptor(page);
        descriptor.kind() == PageKind::Span
            && descriptor.span_state() != SpanState::Active
            && descriptor.shape().pages > Pages(1)
    }

    /// Counts, from the spans' bits, what [`Counts`](crate::heap::Counts) has of `purged` and
    /// `slack`.
    fn purged_and_slack(&self) -> (Pages, usize) {
        let (mut purged, mut slack) = (Pages::ZERO, 0);
        for (class, bin) in self.bins.iter().enumerate() {
            slack += (bin.spans - bin.short) as usize * CLASSES[class].slack();
            slack += bin.short as usize * SHORT[class].slack();
        }
        // Of spans that do not rest only spares of one page can have been returned (S4).
        let is_single = |page: &PageIndex| {
            *page != PageIndex(0) && self.descriptor(*page).shape().pages == Pages(1)
        };
        let spares = self.bins.iter().map(|bin| bin.spare).filter(is_single);
        for span in self.watch().resting().chain(spares).map(|page| self.descriptor(page)) {
            purged += Pages(span.purged().count_ones());
            if span.purged() & 1 == 1 {
                slack -= span.shape().slack();
            }
        }
        (purged, slack)
    }
}
