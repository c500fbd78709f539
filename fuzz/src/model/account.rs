//! What a heap says of itself, against the model and the kernel; where its memory can be.

use std::collections::HashSet;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;

use ebbtide::capi::*;

use super::{LIMIT_HARD, LIMIT_SOFT, Model, PAGE};
use crate::block::Block;
use crate::defect::{Defect, strikes};
use crate::kernel::{self, calling};

/// Bytes before a verified small block, and at least behind it.
const AROUND: [usize; 2] = [16, 8];
/// Freed blocks that are held back at most, and how long one can be.
const HELD_MAX: usize = 8192;
const HELD_BYTES_MAX: usize = 1 << 20;

impl Model {
    /// Whether all that is resident belongs to blocks, live or held back, as they should lie. Pages
    /// that stay inaccessible since the kernel refused are lost.
    pub(super) fn is_tidy(&self) -> bool {
        !self.stayed && (!self.on || kernel::refused() == 0)
    }

    /// Whether a block lies outside of the heap's own range: guarded, on a page of its own. Of the
    /// reservation's pages each has 64 bytes below the heap, and the first is nobody's.
    pub(super) fn is_outside(&self, block: &Block) -> bool {
        let pages = (self.reserve - PAGE) / (PAGE + 64);
        block.at.addr().wrapping_sub(self.heap.addr()) >= pages * PAGE
    }

    /// Where all lies that the heap keeps for a block: its slot or its pages.
    pub(super) fn extent(&self, block: &Block) -> Range<usize> {
        let (at, [before, behind]) = (block.at.addr(), AROUND);
        let whole = before + block.size + behind;
        match block.size {
            _ if self.is_outside(block) => at..at + 1,
            size if !self.on => at..at + slot(size),
            _ if whole.next_multiple_of(16) <= largest_slot() => {
                at - before..at - before + slot(whole.next_multiple_of(16))
            }
            size => (at / PAGE - 1) * PAGE..(at + size).next_multiple_of(PAGE) + PAGE,
        }
    }

    /// Notes that a block is freed, and may be held back.
    pub(super) fn hold(&mut self, block: &Block) {
        if !self.on || self.is_outside(block) || block.size > HELD_BYTES_MAX {
            return;
        }
        if self.held.len() == HELD_MAX {
            self.held.pop_front();
        }
        self.held.push_back(self.extent(block));
    }

    /// Distinct pages that live blocks lie on, and those that are held back, each where `extent`
    /// says.
    pub(super) fn pages(&self, extent: impl Fn(&Block) -> Range<usize>) -> usize {
        let extents = self.live.iter().map(extent).chain(self.held.iter().cloned());
        let pages = extents.flat_map(|extent| extent.start / PAGE..extent.end.div_ceil(PAGE));
        pages.collect::<HashSet<_>>().len()
    }

    /// Distinct pages of the heap's own range that were written: those of live blocks.
    fn written(&self) -> usize {
        let own = self.live.iter().filter(|block| !self.is_outside(block));
        let pages = own.flat_map(|block| {
            let at = block.at.addr();
            at / PAGE..(at + block.size).div_ceil(PAGE)
        });
        pages.collect::<HashSet<_>>().len()
    }

    pub(super) fn read_stats(&mut self, flags: u32) -> ebb_stats {
        // SAFETY: all-zero bytes are valid statistics.
        let mut stats: ebb_stats = unsafe { std::mem::zeroed() };
        stats.size = size_of::<ebb_stats>();
        stats.flags = flags;
        let refused = kernel::refused();
        // SAFETY: the statistics are whole.
        let code = calling(|| unsafe { ebb_stats_read(self.heap, &mut stats) });
        assert!(code == EBB_OK || (code == EBB_ERR_SYSTEM && kernel::refused() > refused));
        if strikes(Defect::Miscount) {
            stats.live += 1;
        }
        stats
    }

    /// Checks the statistics against the model, and now and then against the kernel.
    pub(crate) fn check_stats(&mut self, with_kernel: bool) {
        let stats = self.read_stats(0);
        let count = self.live.len() as u64;
        assert_eq!(stats.blocks, count, "stats: blocks");
        let bytes = self.bytes as u64;
        if self.exact {
            let may_exceed = self.stayed && !self.on;
            let right = stats.live == bytes || (may_exceed && stats.live > bytes);
            assert!(right, "stats: {} are live, counted {}", bytes, stats.live);
        }
        let resident = stats.live + stats.waste + stats.free_resident + stats.metadata;
        assert_eq!(stats.resident, resident, "stats: resident");
        let committed = resident + stats.returned + stats.never_touched;
        assert_eq!(stats.committed, committed, "stats: committed");
        assert!(stats.committed <= stats.reserved, "stats: reserved");
        assert!(stats.resident_peak >= resident, "stats: peak");
        assert!(stats.large_blocks <= count && stats.spans <= stats.committed / 4096);
        let causes = [
            (stats.returned_asked, stats.refaulted_asked, stats.premature_refaults_asked),
            (stats.returned_idle, stats.refaulted_idle, stats.premature_refaults_idle),
            (stats.returned_limit, stats.refaulted_limit, stats.premature_refaults_limit),
        ];
        let total: u64 = causes.iter().map(|(returned, ..)| returned).sum();
        assert_eq!(stats.returned_total, total, "stats: returned");
        let refaulted: u64 = causes.iter().map(|(_, refaulted, _)| refaulted).sum();
        // Pages that mremap emptied pass for returned, and so do the descriptors of returned pages.
        let sums = refaulted <= total && stats.returned <= total + total / 64;
        assert!(sums || stats.remap_calls > 0, "stats: {causes:?}");
        assert!(causes.iter().all(|(_, refaulted, premature)| premature <= refaulted));
        assert_eq!(stats.limit_hard, self.options[LIMIT_HARD].unwrap_or(0) as u64);
        if let Some(soft) = self.options[LIMIT_SOFT].filter(|soft| *soft >= 0) {
            assert_eq!(stats.limit_soft, soft as u64);
        }
        if with_kernel && self.trusted {
            let refused = kernel::refused();
            let seen = self.read_stats(EBB_STATS_KERNEL).kernel_resident;
            let least = (self.written() * PAGE) as u64;
            if kernel::refused() == refused {
                let right = (least..=resident).contains(&seen);
                let mappings = || mappings_near(self.heap.addr());
                assert!(right, "truth: {seen} of {resident}, written {least}:\n{}", mappings());
            }
        }
    }

    /// Reads the statistics by class, and into a structure of an older size.
    pub(crate) fn check_classes(&mut self, room: usize, size: usize) {
        let none =
            ebb_class_stats { slot_size: 7, span_size: 7, blocks: u64::MAX, spans: u64::MAX };
        let mut classes = vec![none; room + 1];
        // SAFETY: all-zero bytes are valid statistics.
        let mut stats: ebb_stats = unsafe { std::mem::zeroed() };
        stats.size = size.min(size_of::<ebb_stats>());
        stats.class_count = room as u32;
        stats.classes = classes.as_mut_ptr();
        stats.previous_resident = 0xA5A5;
        // SAFETY: the statistics are whole, the table has as much room.
        let code = calling(|| unsafe { ebb_stats_read(self.heap, &mut stats) });
        if size < std::mem::offset_of!(ebb_stats, reserved) {
            assert_eq!(code, EBB_ERR_ARGUMENT);
            return;
        }
        assert_eq!(code, EBB_OK);
        let shorter = size <= std::mem::offset_of!(ebb_stats, previous_resident);
        assert!(!shorter || stats.previous_resident == 0xA5A5, "written past the structure");
        let count = stats.class_count as usize;
        assert!(count <= room);
        assert_eq!(classes[count].slot_size, 7, "written past the table");
        let table = &classes[..count];
        assert!(table.is_sorted_by_key(|class| class.slot_size));
        let blocks: u64 = table.iter().map(|class| class.blocks).sum();
        let full = self.read_stats(0);
        if count < room {
            let outside = self.live.iter().filter(|block| self.is_outside(block)).count() as u64;
            let counted = blocks + full.large_blocks + outside;
            // Small blocks that are held back are in use for the heap.
            let right = counted == full.blocks || (self.on && counted > full.blocks);
            assert!(right, "classes: {counted} blocks, not {}", full.blocks);
            let spans: u64 = table.iter().map(|class| class.spans).sum();
            assert_eq!(spans, full.spans, "classes: spans");
        }
        let fits = |class: &ebb_class_stats| {
            class.blocks <= class.spans * u64::from(class.span_size / class.slot_size)
        };
        assert!(table.iter().all(fits), "classes: more blocks than slots");
    }
}

/// The slots that there are, the smallest first.
fn slots() -> &'static [usize] {
    static SLOTS: OnceLock<Vec<usize>> = OnceLock::new();
    SLOTS.get_or_init(|| {
        // SAFETY: all-zero bytes are valid entries and statistics; there is room for 256.
        unsafe {
            let heap = ebb_heap_new(ptr::null());
            let mut classes: Vec<ebb_class_stats> = (0..256).map(|_| std::mem::zeroed()).collect();
            let mut stats: ebb_stats = std::mem::zeroed();
            stats.size = size_of::<ebb_stats>();
            (stats.class_count, stats.classes) = (256, classes.as_mut_ptr());
            assert_eq!(ebb_stats_read(heap, &mut stats), EBB_OK);
            ebb_heap_delete(heap);
            classes[..stats.class_count as usize].iter().map(|c| c.slot_size as usize).collect()
        }
    })
}

/// The slot that a small block of a size gets; of a large one the size.
pub(super) fn slot(size: usize) -> usize {
    let slots = slots();
    slots.get(slots.partition_point(|slot| *slot < size)).copied().unwrap_or(size)
}

fn largest_slot() -> usize {
    slots().last().copied().unwrap_or(0)
}

/// What the kernel says of the mappings that a heap may have.
fn mappings_near(heap: usize) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut near = false;
    let near_heap = text.lines().filter(|line| {
        if let Some((start, _)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-'))
        {
            let start = usize::from_str_radix(start, 16).unwrap_or(0);
            near = start.abs_diff(heap) < 1 << 30;
        }
        near && ["-", "Rss:", "AnonHuge", "VmFlags"].iter().any(|word| line.contains(word))
    });
    near_heap.collect::<Vec<_>>().join("\n")
}
