//! A list in memory of its own.
//!
//! Whoever looks at a heap of unknown size must keep notes, and a memory allocator has nowhere to
//! put them but in memory straight from the kernel. Only what is written of it becomes resident.

use core::slice;

use crate::error::Error;
use crate::os::Os;
use crate::units::round_up;

/// As many as a process has mappings, unless it was told to have more.
pub(super) const CAPACITY: usize = 1 << 16;

/// Values, up to a number that is given once.
pub(super) struct MappedVec<'a, S: Os, T: Copy> {
    os: &'a S,
    start: *mut T,
    capacity: usize,
    length: usize,
}

impl<'a, S: Os, T: Copy> MappedVec<'a, S, T> {
    /// A list with room for what there may be one of for each mapping.
    pub(super) fn new(os: &'a S) -> Result<MappedVec<'a, S, T>, Error> {
        MappedVec::with_capacity(os, CAPACITY)
    }

    pub(super) fn with_capacity(os: &'a S, capacity: usize) -> Result<MappedVec<'a, S, T>, Error> {
        let bytes = round_up(capacity * size_of::<T>(), os.page_size());
        let no_memory = || Error::Memory.because(format_args!("no {bytes} bytes for notes"));
        let start = os.reserve(bytes, false).ok_or_else(no_memory)?;
        let list = MappedVec { os, start: start.cast(), capacity, length: 0 };
        // SAFETY: reserved just now. When it is refused the list is dropped.
        if unsafe { os.commit(start, bytes) } { Ok(list) } else { Err(no_memory()) }
    }

    /// Adds a value; false when there is no room.
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.length == self.capacity {
            return false;
        }
        // SAFETY: the length is below the capacity, so it is in the reservation, which is writable
        // and aligned to pages.
        unsafe { self.start.add(self.length).write(value) };
        self.length += 1;
        true
    }

    /// Takes the last value off.
    pub(super) fn pop(&mut self) -> Option<T> {
        let last = *self.values().last()?;
        self.length -= 1;
        Some(last)
    }

    pub(super) fn values(&self) -> &[T] {
        // SAFETY: that many values were written, and `self` is borrowed for as long as the slice.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }

    pub(super) fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl<'a, S: Os> MappedVec<'a, S, u8> {
    /// So many zeroes.
    pub(super) fn zeroes(os: &'a S, count: usize) -> Result<MappedVec<'a, S, u8>, Error> {
        let mut list = MappedVec::with_capacity(os, count)?;
        // What was never written reads as zero.
        list.length = count;
        Ok(list)
    }
}

impl<S: Os, T: Copy> Drop for MappedVec<'_, S, T> {
    fn drop(&mut self) {
        let bytes = round_up(self.capacity * size_of::<T>(), self.os.page_size());
        // SAFETY: a whole reservation; slices of it have ended with their borrows.
        unsafe { self.os.release(self.start.cast(), bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::FakeOs;

    #[test]
    fn a_list_takes_what_it_has_room_for() {
        let os = FakeOs::new(4096);
        let mut list = MappedVec::<FakeOs, u64>::new(&os).expect("memory");
        let capacity = CAPACITY as u64;
        assert!((0..capacity).all(|value| list.push(value)));
        assert!(!list.push(7));
        list.values_mut()[3] = 1;
        assert_eq!(list.values().len() as u64, capacity);
        assert_eq!(list.values()[..5], [0, 1, 2, 1, 4]);
        assert_eq!(list.pop(), Some(capacity - 1));
        assert!(list.push(7) && !list.push(7));
        assert_eq!(MappedVec::zeroes(&os, 5000).expect("memory").values(), [0; 5000]);
    }

    #[test]
    fn a_list_without_memory_leaves_nothing_behind() {
        for failures in [vec![true], vec![false, true]] {
            let os = FakeOs::new(4096);
            os.state().failures.extend(failures);
            assert_eq!(MappedVec::<FakeOs, u64>::new(&os).err(), Some(Error::Memory));
            assert!(!os.state().has_reservations());
        }
    }
}
