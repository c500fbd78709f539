//! What a heap holds, as one snapshot.
//!
//! Every layer keeps its own counts; this adds them up, in constant time. At every moment
//!
//! ```text
//! committed = live + waste + free_resident + returned + never_touched + metadata
//! ```
//!
//! Small blocks are counted in slots by their bins: those freed on the hot path, those handed out
//! when the active span changes. What was asked for in them is the sum of the sizes given less the
//! sum of the sizes taken back, so a host that frees with a wrong `osize` falsifies it; it is
//! therefore kept within what the size classes allow. (A block that was shrunk, and had to stay in
//! its slot since there was no memory, may be less than its class allows; how much less is counted
//! where that happens.)

#![forbid(unsafe_code)]

use super::class::{CLASSES, least_of};
use super::{Heap, ReclaimHooks};
use crate::os::Os;
use crate::units::Pages;

/// Bytes by what they are used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) committed: usize,
    pub(crate) live: usize,
    pub(crate) waste: usize,
    pub(crate) free_resident: usize,
    pub(crate) returned: usize,
    pub(crate) never_touched: usize,
    pub(crate) metadata: usize,
    pub(crate) resident_peak: usize,
    /// Live blocks.
    pub(crate) blocks: u64,
    /// Spans.
    pub(crate) spans: u64,
}

/// What live small blocks add up to.
#[derive(Default)]
struct Small {
    blocks: u64,
    spans: u64,
    slot_bytes: usize,
    /// The least that can have been asked for, but for blocks that were shrunk and had to stay.
    least: usize,
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Adds up what the heap holds.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let small = self.count_small();
        let counts = &self.counts;
        let least = small.least.saturating_sub(counts.shrunk_in_place).max(small.blocks as usize);
        let small_live = self.small_requested().clamp(least, small.slot_bytes);
        let own = (small.blocks + counts.large_blocks, small_live + counts.large_requested);
        let debug = self.debug_stats();
        let (blocks, bytes) = debug.others.unwrap_or(own);
        let live = bytes + debug.guarded_requested;
        let held = small.slot_bytes + counts.large_pages.bytes() + self.guarded_bytes();
        let free_in_spans = self.free_in_spans_of(&small);
        let clean = self.runs.free - self.runs.dirty;
        let (committed, closed) =
            (self.committed_bytes() - self.closed_bytes(), self.closed_bytes());
        let (metadata, tables_returned) = (self.metadata(), self.tables_returned());
        let used = self.runs.top.since(self.layout.first).bytes();
        Snapshot {
            committed: committed + self.guarded_bytes(),
            live,
            waste: held - live + counts.slack,
            free_resident: free_in_spans + self.runs.dirty.bytes(),
            returned: (clean + counts.purged).bytes() + tables_returned - closed,
            never_touched: committed + closed - used - metadata - tables_returned,
            metadata,
            resident_peak: counts.resident_peak.bytes().max(self.resident()),
            blocks: blocks + debug.guarded,
            spans: small.spans,
        }
    }

    /// Bytes of free slots on pages of spans that hold memory.
    pub(crate) fn free_in_spans(&self) -> usize {
        self.free_in_spans_of(&self.count_small())
    }

    /// A span consists of slack and slots. Purged pages hold neither live slots nor counted slack.
    fn free_in_spans_of(&self, small: &Small) -> usize {
        let spans_resident = (self.counts.span_pages - self.counts.purged).bytes();
        spans_resident - self.counts.slack - small.slot_bytes
    }

    fn count_small(&self) -> Small {
        let mut small = Small::default();
        for (class, shape) in CLASSES.iter().enumerate() {
            let (live, slot_size) = (self.live(class), shape.slot_size as usize);
            small.blocks += live;
            small.spans += u64::from(self.spans(class));
            small.slot_bytes += live as usize * slot_size;
            small.least += live as usize * least_of(class);
        }
        small
    }

    /// What the kernel holds resident of what is committed; `None` when it will not say.
    pub(crate) fn kernel_resident(&self) -> Option<u64> {
        let parts = self.committed_parts();
        let some = parts.iter().filter(|part| part.bytes > 0);
        some.map(|part| self.os.resident(part.start, part.bytes)).sum()
    }
}

impl Snapshot {
    /// Bytes that hold memory, by our own account.
    pub(crate) fn resident(&self) -> usize {
        self.live + self.waste + self.free_resident + self.metadata
    }

    /// Panics unless the parts add up to the whole.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let parts = self.resident() + self.returned + self.never_touched;
        assert_eq!(parts, self.committed, "{self:?}");
    }
}

/// Pages as bytes, for reports.
pub(crate) fn bytes(pages: Pages) -> u64 {
    pages.bytes() as u64
}
