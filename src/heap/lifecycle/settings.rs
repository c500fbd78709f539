//! Options of a heap in use.

#![forbid(unsafe_code)]

use crate::error::Error;
use crate::heap::{Heap, ReclaimHooks};
use crate::options::Key;
use crate::os::Os;
use crate::units::Pages;

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Changes an option of a heap in use.
    pub(crate) fn set_option(&mut self, key: Key, value: i64) -> Result<(), Error> {
        self.options.check_change(key, value)?;
        if key == Key::Thp {
            self.huge_pages |= value == 1;
            if !self.set_huge_pages(value == 1) {
                return Err(Error::System
                    .because(format_args!("thp: the kernel refused to change huge pages")));
            }
        }
        if key == Key::History && value == 1 && !self.has_room_for_history() {
            return Err(Error::Memory.because(format_args!(
                "history: takes {} bytes, which limit_hard or the kernel leaves no room for",
                R::HISTORY_WORDS * size_of::<u64>()
            )));
        }
        self.remap_refused &= key != Key::RemapMin;
        self.options.put(key, value);
        R::options_changed(self);
        Ok(())
    }

    /// Makes room for the history buffer, if it is not counted yet. False: there is
    /// none.
    fn has_room_for_history(&mut self) -> bool {
        let bytes = R::HISTORY_WORDS * size_of::<u64>() - self.history_bytes;
        let wanted = Pages::holding(bytes).unwrap_or(Pages::ZERO);
        let fits =
            |heap: &mut Heap<O, R>| (heap.may_grow(wanted) && heap.commit_history()).then_some(());
        self.retry_after_reclaim(fits, |_| None).is_some()
    }
}
