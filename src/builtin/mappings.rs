//! What the process may read and write: private anonymous memory, by the kernel's own list of it.
//!
//! Nothing of LuaJIT's heap is read before the kernel has said that it is such memory: now, or when
//! the heap was recognised.

use core::ptr;
use core::str;

use super::layout::WORD;
use super::mapped_vec::{CAPACITY, MappedVec};
use crate::error::Error;
use crate::os::Os;

/// Addresses of private anonymous memory that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    start: usize,
    end: usize,
}

impl Memory {
    /// Memory that the kernel has said to be mapped and readable, where a heap's records lead to.
    /// `None`: no bytes, or beyond the end of addresses.
    pub(super) fn told_of(start: usize, bytes: usize) -> Option<Memory> {
        let end = start.checked_add(bytes)?;
        (bytes > 0).then_some(Memory { start, end })
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn end(&self) -> usize {
        self.end
    }

    pub(super) fn bytes(&self) -> usize {
        self.end - self.start
    }

    /// Whether `bytes` bytes from an address on are part of it.
    pub(super) fn holds(&self, at: usize, bytes: usize) -> bool {
        self.start <= at && at <= self.end && bytes <= self.end - at
    }

    /// `bytes` bytes of it.
    pub(super) fn part(&self, at: usize, bytes: usize) -> Option<Memory> {
        self.holds(at, bytes).then_some(Memory { start: at, end: at.wrapping_add(bytes) })
    }

    /// The word at an address. `None`: there is none.
    pub(super) fn word(&self, at: usize) -> Option<usize> {
        if !self.holds(at, WORD) || !at.is_multiple_of(WORD) {
            return None;
        }
        // SAFETY: the word is aligned and lies in memory that the kernel lists as readable, or says
        // to be readable where records lead to (`segment_records`), or that it listed when the heap
        // was recognised and that LuaJIT alone could unmap since, which it did not, as its records
        // and the kernel say (`known`). It belongs to LuaJIT, whose pointers are exposed to all;
        // the VM does not run meanwhile.
        Some(unsafe { ptr::with_exposed_provenance::<usize>(at).read() })
    }
}

/// Has the processor fetch what is at an address, if anything is, for it will be read soon.
pub(super) fn fetch_early(at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing and never fails.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(ptr::without_provenance(at));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags));
    }
}

/// Tells which addresses may be read.
pub(super) trait MemoryMap {
    /// The memory of `bytes` bytes from an address on. `None`: not all of that may be read.
    fn find(&self, at: usize, bytes: usize) -> Option<Memory>;

    /// How many segments a heap in that memory can have.
    fn segments_max(&self) -> usize;

    /// Takes note that a heap's state or its list of segments lies elsewhere.
    fn note_way_out(&self) {}
}

/// The part of sorted memory that is `bytes` bytes from an address on.
pub(super) fn find_in(memory: &[Memory], at: usize, bytes: usize) -> Option<Memory> {
    let behind = memory.partition_point(|memory| memory.start <= at);
    memory[..behind].last()?.part(at, bytes)
}

/// The process's memory, by address.
pub(super) struct Mappings<'a, S: Os> {
    memory: MappedVec<'a, S, Memory>,
}

impl<'a, S: Os> Mappings<'a, S> {
    /// Asks the kernel.
    pub(super) fn read(os: &'a S) -> Result<Mappings<'a, S>, Error> {
        let mut reader = Reader { memory: MappedVec::new(os)?, line: Line::EMPTY, is_valid: true };
        let complete = os.read_in_parts(c"/proc/self/maps", &mut |part| reader.read(part));
        if let Err(errno) = complete {
            return Err(Error::System
                .because(format_args!("/proc/self/maps cannot be read: errno {errno}")));
        }
        if !reader.is_valid || reader.line.length > 0 || reader.memory.values().is_empty() {
            return Err(Error::System
                .because(format_args!("/proc/self/maps is not as Linux writes it, or too long")));
        }
        Ok(Mappings { memory: reader.memory })
    }
}

impl<S: Os> MemoryMap for Mappings<'_, S> {
    fn find(&self, at: usize, bytes: usize) -> Option<Memory> {
        find_in(self.memory.values(), at, bytes)
    }

    fn segments_max(&self) -> usize {
        CAPACITY
    }
}

/// A line under construction. What is cut off at its end is only part of a name.
struct Line {
    text: [u8; 160],
    length: usize,
}

impl Line {
    const EMPTY: Line = Line { text: [0; 160], length: 0 };

    fn add(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }
}

/// Collects what the kernel lists, part by part.
struct Reader<'a, S: Os> {
    memory: MappedVec<'a, S, Memory>,
    line: Line,
    is_valid: bool,
}

impl<S: Os> Reader<'_, S> {
    fn read(&mut self, part: &[u8]) {
        for byte in part {
            if *byte != b'\n' {
                self.line.add(*byte);
                continue;
            }
            let found = mapping(&self.line.text[..self.line.length]);
            self.line.length = 0;
            self.is_valid &= found.is_some_and(|found| self.note(found));
        }
    }

    /// Notes a mapping of the kind that is looked for; false when there is no room. Adjoining ones
    /// become one. Those that another thread made or changed while the list was read may overlap.
    fn note(&mut self, found: Option<Memory>) -> bool {
        let Some(found) = found else { return true };
        match self.memory.values_mut().last_mut() {
            Some(last) if found.start <= last.end => {
                last.end = last.end.max(found.end);
                found.end >= last.start
            }
            _ => self.memory.push(found),
        }
    }
}

/// What a line says: `Some(None)` for a mapping of another kind, `None` when it makes no sense.
fn mapping(line: &[u8]) -> Option<Option<Memory>> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let mut bounds = fields.next()?.split(|byte| *byte == b'-');
    let (start, end) = (number(bounds.next()?)?, number(bounds.next()?)?);
    let access = fields.next().filter(|access| access.len() == 4)?;
    let file = fields.nth(2)?;
    let name = fields.next().unwrap_or_default();
    if start >= end {
        return None;
    }
    // Adjoining memory may be in one mapping with the C library's heap, and may be given a name.
    let anonymous =
        file == b"0" && (name.is_empty() || name == b"[heap]" || name.starts_with(b"[anon:"));
    let wanted = anonymous && access.starts_with(b"rw") && access[3] == b'p';
    Some(wanted.then_some(Memory { start, end }))
}

fn number(digits: &[u8]) -> Option<usize> {
    usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}
