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
//! Where the list of segments leads elsewhere the heap has grown, for a C module still allocates
//! there, or it is damaged. A pass needs the list of mappings to decide that, which is read when
//! the host asks, and not by itself. The end of the VM opens no file: memory that the kernel says
//! to be mapped is unmapped if it ends as segments do ([`segment_records`]). Whatever else does not
//! add up is damage for certain.

use core::cell::Cell;
use core::ptr;

use super::mappings::{Memory, MemoryMap, find_in};
use super::segments::HeapView;
use super::sweep::{Progress, Reclaimed, reclaim_view};
use super::{Survey, segment_records, survey_view, unmap_segments};
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

/// What a pass over a [`KnownHeap`] did.
pub(crate) struct KnownPass {
    /// [`Error::Unknown`]: the heap is damaged, unless it may have grown.
    pub(crate) done: Result<Reclaimed, Error>,
    /// The list of segments leads out of what was noted, and the list of mappings was not read: the
    /// heap has grown, or is damaged.
    pub(crate) may_have_grown: bool,
}

/// What is left of the segments of a [`KnownHeap`].
struct Remaining<'a, S: Os> {
    os: &'a S,
    segments: &'a [Memory],
    /// Whether the heap's list of segments leads elsewhere.
    leads_out: Cell<bool>,
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

    fn note_way_out(&self) {
        self.leads_out.set(true);
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

    /// As [`super::reclaim`] does. The kernel's list of mappings is read only when the list of
    /// segments leads out of those that were noted, and `may_read_list`.
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
    ) -> KnownPass {
        // SAFETY: the caller's promise.
        let (view, leads_out) = unsafe { self.view_and_way(os) };
        let view = match view {
            Err(Error::Unknown) if leads_out && may_read_list => HeapView::read(os, self.state),
            view => view,
        };
        let noted = view.and_then(|view| self.note(&view).map(|()| view));
        KnownPass {
            done: reclaim_view(noted, progress, deadline_us),
            may_have_grown: leads_out && !may_read_list,
        }
    }

    /// Unmaps every segment, without opening a file; returns how many bytes that were. A process
    /// that has no memory for notes, or no leave to ask what is mapped, gets rid of those that were
    /// noted all the same. Blocks that are mapped apart are in no segment: LuaJIT unmaps each when
    /// it is freed.
    ///
    /// Errors: [`Error::Unknown`], the heap is damaged, and [`Error::System`], the heap has grown
    /// and the kernel does not say what is mapped, with nothing unmapped; [`Error::System`], too,
    /// if the kernel refused to unmap some.
    ///
    /// # Safety
    ///
    /// 1. Since the heap was recognised, LuaJIT's allocator alone has unmapped or protected part
    ///    of its segments.
    /// 2. No block of it is used again, and the allocator is not called again.
    pub(crate) unsafe fn release<S: Os>(&self, os: &S) -> Result<u64, Error> {
        // SAFETY: the caller's first promise.
        let (view, leads_out) = unsafe { self.view_and_way(os) };
        let (released, kept) = match view {
            // SAFETY: the caller's promises.
            Ok(view) => unsafe { unmap_segments(&view) },
            Err(Error::Unknown) if !leads_out => return Err(Error::Unknown),
            // SAFETY: the caller's promises; `recognise` has seen that the state is LuaJIT's.
            Err(_) => unsafe { segment_records::unmap_all(os, self.state, &self.segments)? },
        };
        match kept {
            0 => Ok(released),
            _ => {
                Err(Error::System.because(format_args!("the kernel refused to unmap {kept} bytes")))
            }
        }
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
        // SAFETY: the caller's promise.
        unsafe { self.view_and_way(os) }.0
    }

    /// The same, and whether the list of segments leads elsewhere.
    ///
    /// # Safety
    ///
    /// As for [`KnownHeap::reclaim`].
    unsafe fn view_and_way<'a, S: Os>(&self, os: &'a S) -> (Result<HeapView<'a, S>, Error>, bool) {
        let remaining = Remaining { os, segments: &self.segments, leads_out: Cell::new(false) };
        let view = HeapView::read_in(os, &remaining, self.state);
        (view, remaining.leads_out.get())
    }

    /// Forgets one of the segments, as if the heap had grown by it since.
    #[cfg(test)]
    pub(super) fn forget(&mut self, index: usize) {
        self.segments.remove(index);
    }

    /// Takes note of the segments. Without memory for that the notes stay as they were.
    fn note<S: Os>(&mut self, view: &HeapView<'_, S>) -> Result<(), Error> {
        let segments = view.segments();
        let more = segments.len().saturating_sub(self.segments.len());
        if self.segments.try_reserve(more).is_err() {
            return Err(Error::Memory.because(format_args!("no memory for notes")));
        }
        self.segments.clear();
        self.segments.extend(segments.iter().map(|segment| segment.memory));
        Ok(())
    }
}
