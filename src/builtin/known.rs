//! A heap that was recognised: which memory is its own, from one call to the next.
//!
//! The kernel's list of mappings is a file: to read it takes a millisecond, and a sandbox may stop
//! a process that opens one. So the segments are noted when a heap is recognised. LuaJIT's
//! allocator may have unmapped whole segments and the ends of segments since; then its records
//! leave these out. A record is believed only when it and the segment that it describes lie in one
//! noted segment, and there are no more of them than were noted. So the records end, and a damaged
//! one leads to no address but those that were the heap's. The kernel is asked whether the last
//! page is mapped there; it does not tell whose memory that is, if LuaJIT has unmapped the end and
//! another owner has mapped it since. Where the kernel refuses to answer, the notes are believed.
//!
//! Where records lead elsewhere only the list of mappings can decide: the heap has grown, for a C
//! module still allocates there, or it is damaged. That list is read when the host asks, and not by
//! itself.

use core::ptr;

use super::mappings::{Memory, MemoryMap, find_in};
use super::segments::HeapView;
use super::sweep::{Progress, Reclaimed, reclaim_view};
use super::{Survey, survey_view};
use crate::error::Error;
use crate::os::Os;
use crate::units::round_down;

/// A heap of LuaJIT's allocator that was recognised.
pub(crate) struct KnownHeap {
    /// Where the allocator's state is.
    state: usize,
    /// The segments as last read, by address.
    segments: Vec<Memory>,
}

/// What is left of the segments of a [`KnownHeap`].
struct Remaining<'a, S: Os> {
    os: &'a S,
    segments: &'a [Memory],
}

impl<S: Os> MemoryMap for Remaining<'_, S> {
    fn find(&self, at: usize, bytes: usize) -> Option<Memory> {
        let memory = find_in(self.segments, at, bytes).filter(|_| bytes > 0)?;
        // Where the end is, all is: only ends are unmapped. A sandbox may refuse the question.
        let last = round_down(memory.end() - 1, self.os.page_size());
        let answer = self.os.residency(ptr::without_provenance_mut(last), &mut [0]);
        (answer != Err(libc::ENOMEM)).then_some(memory)
    }

    fn segments_max(&self) -> usize {
        self.segments.len()
    }
}

impl KnownHeap {
    /// Walks the heap of the allocator with this state, and takes note of what it is.
    pub(crate) fn recognise<S: Os>(os: &S, state: *const u8) -> Result<(KnownHeap, Survey), Error> {
        let state = state.expose_provenance();
        let view = HeapView::read(os, state)?;
        let survey = survey_view(&view)?;
        let mut known = KnownHeap { state, segments: Vec::new() };
        known.note(&view)?;
        Ok((known, survey))
    }

    /// As [`super::reclaim`] does. The kernel's list of mappings is read only when the records lead
    /// out of the segments that were noted, and `may_read_list`; otherwise they are
    /// [`Error::Unknown`], and the heap has grown or is damaged.
    ///
    /// # Safety
    ///
    /// Since the heap was recognised, LuaJIT's allocator alone has unmapped or protected part of
    /// its segments, and is not called meanwhile.
    pub(crate) unsafe fn reclaim<S: Os>(
        &mut self,
        os: &S,
        progress: &mut Progress,
        deadline_us: Option<u64>,
        may_read_list: bool,
    ) -> Result<Reclaimed, Error> {
        // SAFETY: the caller's promise.
        let view = match unsafe { self.view(os) } {
            Err(Error::Unknown) if may_read_list => HeapView::read(os, self.state),
            view => view,
        };
        let noted = view.and_then(|view| self.note(&view).map(|()| view));
        reclaim_view(noted, progress, deadline_us)
    }

    /// Bytes of all segments, without a walk; when the records lead elsewhere, as last noted.
    ///
    /// # Safety
    ///
    /// As for [`KnownHeap::reclaim`].
    pub(crate) unsafe fn reserved<S: Os>(&self, os: &S) -> u64 {
        let noted = || self.segments.iter().map(Memory::bytes).sum();
        // SAFETY: the caller's promise.
        unsafe { self.view(os) }.map_or_else(|_| noted(), |view| view.bytes()) as u64
    }

    /// Bytes of them that the kernel holds resident. `None`: it does not say, or the records lead
    /// elsewhere.
    ///
    /// # Safety
    ///
    /// As for [`KnownHeap::reclaim`].
    pub(crate) unsafe fn resident<S: Os>(&self, os: &S) -> Option<u64> {
        // SAFETY: the caller's promise.
        let view = unsafe { self.view(os) }.ok()?;
        let of = |memory: Memory| {
            os.resident(ptr::without_provenance_mut(memory.start()), memory.bytes())
        };
        view.segments().iter().map(|segment| of(segment.memory)).sum()
    }

    /// Reads the state and the records, as far as they lie in what is left of the segments.
    ///
    /// # Safety
    ///
    /// As for [`KnownHeap::reclaim`].
    unsafe fn view<'a, S: Os>(&self, os: &'a S) -> Result<HeapView<'a, S>, Error> {
        HeapView::read_in(os, &Remaining { os, segments: &self.segments }, self.state)
    }

    /// Forgets one of the segments, as if the heap had grown by it since.
    #[cfg(test)]
    pub(super) fn forget(&mut self, index: usize) {
        self.segments.remove(index);
    }

    /// Takes note of the segments.
    fn note<S: Os>(&mut self, view: &HeapView<'_, S>) -> Result<(), Error> {
        let segments = view.segments();
        self.segments.clear();
        if self.segments.try_reserve(segments.len()).is_err() {
            return Err(Error::Memory.because(format_args!("no memory for notes")));
        }
        self.segments.extend(segments.iter().map(|segment| segment.memory));
        Ok(())
    }
}
