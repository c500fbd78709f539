//! An operating system for tests: the real one behind a hand that can hold it back.
//!
//! It fails calls on schedule or by a limit, pretends a page size and a clock, and checks that
//! every call keeps the contract: on kernel pages, inside a reservation, purged only if committed.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString};
use std::ops::Range;
use std::rc::Rc;

use super::{Kernel, MemoryRange, Os, Purged};

/// What the calls of a test's heaps see and did.
#[derive(Default)]
pub(crate) struct FakeState {
    /// The pretended kernel page.
    pub(crate) page_size: usize,
    /// Whether each coming call that can fail does; calls beyond the end succeed.
    pub(crate) failures: VecDeque<bool>,
    /// Whether each coming move is refused; moves beyond the end are not.
    pub(crate) refused_moves: VecDeque<bool>,
    /// Addresses whose memory is not taken back, as of locked pages.
    pub(crate) locked: Range<usize>,
    /// With which every question for residency is refused; 0: it is answered.
    pub(crate) residency_errno: i32,
    /// Addresses that somebody has unmapped behind the heap's back.
    pub(crate) lost: Range<usize>,
    /// Most bytes that may be committed at once: strict overcommit.
    pub(crate) commit_limit: Option<usize>,
    /// Most bytes that one reservation may have.
    pub(crate) reserve_limit: Option<usize>,
    /// Bytes of address space that the process may map in all; `None`: as the real one.
    pub(crate) address_space: Option<usize>,
    /// Addresses that somebody else has mapped.
    pub(crate) occupied: Range<usize>,
    /// Calls of [`Os::map`] that were refused since the addresses were occupied.
    pub(crate) collisions: u64,
    /// How many ranges were planned.
    pub(crate) plans: u64,
    /// Of these, plans that were ended.
    pub(crate) ended_plans: u64,
    /// Microseconds that pass from one look at the clock to the next.
    pub(crate) tick_us: u64,
    /// The files that there are.
    pub(crate) files: BTreeMap<CString, Vec<u8>>,
    /// Calls of each kind that did their work.
    pub(crate) moves: u64,
    pub(crate) renewals: u64,
    pub(crate) decommits: u64,
    /// The most bytes that one purge covered.
    pub(crate) longest_purge: usize,
    /// What the clock shows.
    pub(crate) now_us: u64,
    /// Bytes in the parts that a file is read in; 0 is all of it at once.
    pub(crate) part_bytes: usize,
    /// Whether heaps may call the background thread, which visits none of them.
    pub(crate) has_background: bool,
    /// Ranges that were unmapped.
    pub(crate) unmapped: Vec<Range<usize>>,
    reservations: Vec<Range<usize>>,
    /// What is mapped of planned ranges; those that touch are one.
    mapped: Vec<Range<usize>>,
    committed: Vec<Range<usize>>,
    committed_bytes: usize,
}

/// A handle on a [`FakeState`] that a heap can own.
#[derive(Clone)]
pub(crate) struct FakeOs(Rc<RefCell<FakeState>>);

impl FakeOs {
    pub(crate) fn new(page_size: usize) -> FakeOs {
        FakeOs(Rc::new(RefCell::new(FakeState { page_size, ..FakeState::default() })))
    }

    /// The state, to set it up and to look at what happened.
    pub(crate) fn state(&self) -> std::cell::RefMut<'_, FakeState> {
        self.0.borrow_mut()
    }

    /// Checks a call's range; true when the call is to fail.
    fn enter(&self, start: *mut u8, bytes: usize) -> bool {
        let mut state = self.state();
        let range = state.check_range(start, bytes);
        assert!(state.is_reserved(&range), "{start:p} + {bytes} is not reserved");
        state.failures.pop_front().unwrap_or(false)
    }

    /// No other address is mapped.
    fn is_mapped(&self, start: *mut u8, bytes: usize) -> bool {
        let state = self.state();
        let range = state.check_range(start, bytes);
        let meets_lost = state.lost.start < range.end && range.start < state.lost.end;
        state.is_reserved(&range) && !meets_lost
    }
}

impl FakeState {
    fn check_range(&self, start: *mut u8, bytes: usize) -> Range<usize> {
        assert!(bytes > 0, "an empty range");
        assert_eq!(start.addr() % self.page_size, 0, "{start:p} is not on a kernel page");
        assert_eq!(bytes % self.page_size, 0, "{bytes} bytes are not whole kernel pages");
        start.addr()..start.addr() + bytes
    }

    fn is_reserved(&self, range: &Range<usize>) -> bool {
        let holds = |held: &Range<usize>| held.start <= range.start && range.end <= held.end;
        self.taken().any(holds)
    }

    /// All that is reserved or mapped.
    fn taken(&self) -> impl Iterator<Item = &Range<usize>> {
        self.reservations.iter().chain(&self.mapped)
    }

    pub(crate) fn has_reservations(&self) -> bool {
        self.taken().next().is_some()
    }

    /// Bytes that are reserved or mapped.
    pub(crate) fn address_bytes(&self) -> usize {
        self.taken().map(ExactSizeIterator::len).sum()
    }

    /// Adds a range to what is mapped, as one with those that it touches.
    fn add_mapped(&mut self, range: Range<usize>) {
        let touches = |other: &Range<usize>| other.start <= range.end && range.start <= other.end;
        let (touching, mut apart): (Vec<_>, Vec<_>) = self.mapped.drain(..).partition(touches);
        let all = || touching.iter().chain([&range]);
        let start = all().map(|range| range.start).min().unwrap_or_default();
        let end = all().map(|range| range.end).max().unwrap_or_default();
        apart.push(start..end);
        self.mapped = apart;
    }

    /// Takes a range out of what is mapped. False: it is no part of that.
    fn remove_mapped(&mut self, range: &Range<usize>) -> bool {
        let holds = |held: &Range<usize>| held.start <= range.start && range.end <= held.end;
        let Some(index) = self.mapped.iter().position(holds) else { return false };
        let held = self.mapped.swap_remove(index);
        let rests = [held.start..range.start, range.end..held.end];
        self.mapped.extend(rests.into_iter().filter(|rest| !rest.is_empty()));
        true
    }

    /// Takes a range out of what is committed; what lies beside it stays.
    fn decommit(&mut self, range: &Range<usize>) {
        let parts = std::mem::take(&mut self.committed);
        let beside = parts.into_iter().flat_map(|part| {
            [part.start..part.end.min(range.start), part.start.max(range.end)..part.end]
        });
        self.committed = beside.filter(|part| !part.is_empty()).collect();
        self.committed_bytes = self.committed.iter().map(ExactSizeIterator::len).sum();
    }

    fn is_committed(&self, range: Range<usize>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.committed.iter().find(|part| part.contains(&at)) {
                Some(part) => at = part.end,
                None => return false,
            }
        }
        true
    }
}

impl Os for FakeOs {
    fn page_size(&self) -> usize {
        self.state().page_size
    }

    fn address_space(&self) -> usize {
        self.state().address_space.unwrap_or_else(|| Kernel.address_space())
    }

    fn reserve(&self, bytes: usize, at_random: bool) -> Option<*mut u8> {
        let mut state = self.state();
        let fails = state.failures.pop_front().unwrap_or(false);
        let is_short = state.address_space.is_some_and(|most| state.address_bytes() + bytes > most);
        if fails || is_short || state.reserve_limit.is_some_and(|limit| bytes > limit) {
            return None;
        }
        // The real pages may be smaller than the pretended ones: leave room to align.
        let start = Kernel.reserve(bytes + state.page_size, at_random)?;
        let start = start.wrapping_add(start.align_offset(state.page_size));
        let range = state.check_range(start, bytes);
        state.reservations.push(range);
        Some(start)
    }

    fn plan(&self, bytes: usize, at_random: bool) -> Option<*mut u8> {
        let mut state = self.state();
        state.plans += 1;
        // Nobody else can be there, for the real system has it reserved.
        let start = Kernel.reserve(bytes + state.page_size, at_random)?;
        Some(start.wrapping_add(start.align_offset(state.page_size)))
    }

    fn unplan(&self, _: *mut u8) {
        self.state().ended_plans += 1;
    }

    unsafe fn map(&self, start: *mut u8, bytes: usize) -> bool {
        let mut state = self.state();
        let range = state.check_range(start, bytes);
        let meets = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        assert!(!state.taken().any(meets), "{start:p} is mapped already");
        if meets(&state.occupied) {
            state.collisions += 1;
            return false;
        }
        let fails = state.failures.pop_front().unwrap_or(false);
        let (mapped, total) = (state.address_bytes() + bytes, state.committed_bytes + bytes);
        if fails
            || state.address_space.is_some_and(|most| mapped > most)
            || state.commit_limit.is_some_and(|most| total > most)
        {
            return false;
        }
        state.committed_bytes = total;
        state.committed.push(range.clone());
        state.add_mapped(range);
        // SAFETY: the caller's promise; the real system has the range reserved.
        unsafe { Kernel.commit(start, bytes) }
    }

    unsafe fn release(&self, start: *mut u8, bytes: usize) {
        let mut state = self.state();
        let range = state.check_range(start, bytes);
        if !state.remove_mapped(&range) {
            assert!(state.reservations.contains(&range), "released in part");
            state.reservations.retain(|other| *other != range);
        }
        state.decommit(&range);
        // SAFETY: the caller's promise; what was reserved for alignment stays, inaccessible.
        unsafe { Kernel.release(start, bytes) }
    }

    unsafe fn unmap(&self, start: *mut u8, bytes: usize) -> bool {
        let fails = self.enter(start, bytes);
        if fails {
            return false;
        }
        let range = start.addr()..start.addr() + bytes;
        if self.state().remove_mapped(&range) {
            self.state().decommit(&range);
            // SAFETY: the caller's promise; the real system keeps the range reserved.
            unsafe {
                assert!(Kernel.remap_fresh(start, bytes, false) && Kernel.protect(start, bytes))
            };
        } else {
            self.state().unmapped.push(range);
        }
        true
    }

    unsafe fn commit(&self, start: *mut u8, bytes: usize) -> bool {
        let fails = self.enter(start, bytes);
        let mut state = self.state();
        let total = state.committed_bytes + bytes;
        if fails || state.commit_limit.is_some_and(|limit| total > limit) {
            return false;
        }
        state.committed_bytes = total;
        let range = start.addr()..start.addr() + bytes;
        state.committed.push(range);
        // SAFETY: the caller's promise.
        unsafe { Kernel.commit(start, bytes) }
    }

    unsafe fn decommit(&self, start: *mut u8, bytes: usize) -> bool {
        if self.enter(start, bytes) {
            return false;
        }
        let range = start.addr()..start.addr() + bytes;
        let mut state = self.state();
        assert!(state.is_committed(range.clone()), "decommitted twice");
        state.decommit(&range);
        state.decommits += 1;
        // SAFETY: the caller's promise.
        unsafe { Kernel.decommit(start, bytes) }
    }

    unsafe fn protect(&self, start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the caller's promise.
        !self.enter(start, bytes) && unsafe { Kernel.protect(start, bytes) }
    }

    unsafe fn purge(&self, ranges: &[MemoryRange]) -> Purged {
        let mut bytes = 0;
        let refused = |range: &MemoryRange| {
            let fails = self.enter(range.start, range.bytes);
            let addresses = range.start.addr()..range.start.addr() + range.bytes;
            assert!(self.state().is_committed(addresses), "purged beyond the heap");
            bytes += range.bytes;
            let locked = &self.state().locked;
            let is_locked =
                range.start.addr() < locked.end && range.start.addr() + range.bytes > locked.start;
            fails || is_locked
        };
        let done = ranges.iter().position(refused).unwrap_or(ranges.len());
        let mut state = self.state();
        state.longest_purge = state.longest_purge.max(bytes);
        // SAFETY: the caller's promise.
        let purged = unsafe { Kernel.purge(&ranges[..done]) };
        assert_eq!(purged.ranges, done, "the real kernel refuses nothing");
        let errno = if done < ranges.len() { libc::EPERM } else { 0 };
        Purged { ranges: done, calls: 1, errno }
    }

    unsafe fn move_pages(
        &self,
        from: *mut u8,
        to: *mut u8,
        bytes: usize,
        huge_pages: bool,
    ) -> bool {
        self.state().check_range(from, bytes);
        let is_refused = self.state().refused_moves.pop_front().unwrap_or(false);
        if self.enter(to, bytes) || is_refused {
            // As kernels do that unmap the target before they refuse.
            // SAFETY: the caller's promise: nothing of value is in it.
            assert!(unsafe { Kernel.remap_fresh(to, bytes, huge_pages) });
            return false;
        }
        assert!(from.addr().abs_diff(to.addr()) >= bytes, "the ranges overlap");
        self.state().moves += 1;
        // SAFETY: the caller's promise.
        unsafe { Kernel.move_pages(from, to, bytes, huge_pages) }
    }

    unsafe fn remap_fresh(&self, start: *mut u8, bytes: usize, huge_pages: bool) -> bool {
        if self.enter(start, bytes) {
            return false;
        }
        self.state().renewals += 1;
        // SAFETY: the caller's promise.
        unsafe { Kernel.remap_fresh(start, bytes, huge_pages) }
    }

    fn random(&self) -> u64 {
        0
    }

    unsafe fn guard(&self, start: *mut u8, bytes: usize, may_split: bool) -> bool {
        // SAFETY: the caller's promise.
        !self.enter(start, bytes) && unsafe { Kernel.guard(start, bytes, may_split) }
    }

    unsafe fn set_huge_pages(&self, start: *mut u8, bytes: usize, wanted: bool) -> bool {
        // SAFETY: the caller's promise.
        !self.enter(start, bytes) && unsafe { Kernel.set_huge_pages(start, bytes, wanted) }
    }

    fn resident(&self, start: *mut u8, bytes: usize) -> Option<u64> {
        if !self.is_mapped(start, bytes) || self.enter(start, bytes) {
            return None;
        }
        Kernel.resident(start, bytes)
    }

    fn residency(&self, start: *mut u8, flags: &mut [u8]) -> Result<(), i32> {
        let page = self.page_size();
        if !self.is_mapped(start, flags.len() * page) {
            return Err(libc::ENOMEM);
        }
        match self.state().residency_errno {
            0 => {}
            errno => return Err(errno),
        }
        if self.enter(start, flags.len() * page) {
            flags.fill(1);
            return Err(libc::EPERM);
        }
        // The real pages may be smaller than the pretended ones.
        let per_page = page / Kernel.page_size();
        let mut real = vec![0; flags.len() * per_page];
        Kernel.residency(start, &mut real).expect("a reservation is mapped");
        for (flag, real) in flags.iter_mut().zip(real.chunks(per_page)) {
            *flag = u8::from(real.contains(&1));
        }
        Ok(())
    }

    fn probe_read(&self, word: *const u8) -> Result<(), i32> {
        assert_eq!(word.addr() % 8, 0, "{word:p} is not aligned");
        let page = self.page_size();
        let start = word.map_addr(|at| at / page * page).cast_mut();
        let is_readable = self.is_mapped(start, page)
            && self.state().is_committed(start.addr()..start.addr() + page);
        if is_readable { Ok(()) } else { Err(libc::EFAULT) }
    }

    fn read_in_parts(&self, path: &CStr, visit: &mut dyn FnMut(&[u8])) -> Result<(), i32> {
        let state = self.state();
        let text = state.files.get(path).ok_or(libc::ENOENT)?;
        let part = if state.part_bytes == 0 { text.len().max(1) } else { state.part_bytes };
        text.chunks(part).for_each(visit);
        Ok(())
    }

    fn read_file(&self, path: &CStr, buffer: &mut [u8]) -> Option<usize> {
        let state = self.state();
        let text = state.files.get(path)?;
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text[..length]);
        Some(length)
    }

    fn now_us(&self) -> u64 {
        let mut state = self.state();
        state.now_us += state.tick_us;
        state.now_us
    }

    fn order_threads(&self) -> bool {
        true
    }

    fn has_background(&self) -> bool {
        self.state().has_background
    }
}
