//! What a heap holds, in the structures of the header.

use super::types::*;
use crate::heap::stats;
use crate::heap::{NO_LIMIT, class};
use crate::reclaim::KernelHeap as Heap;
use crate::reclaim::Sample;
use crate::units::PAGE;

/// The fields that a caller of ebb_stats_read() sets.
///
/// # Safety
///
/// `stats` is readable up to `reserved`.
pub(super) unsafe fn read_head(stats: *const ebb_stats) -> ebb_stats {
    // SAFETY: the caller's promise; all-zero bytes are a valid ebb_stats.
    unsafe {
        let mut head = core::mem::zeroed::<ebb_stats>();
        (head.flags, head.class_count) = ((*stats).flags, (*stats).class_count);
        head.classes = (*stats).classes;
        head
    }
}

/// Fills the table by size class; returns how many entries.
///
/// # Safety
///
/// `classes` is NULL or has room for `room` entries.
pub(super) unsafe fn fill_classes(heap: &Heap, classes: *mut ebb_class_stats, room: u32) -> u32 {
    if classes.is_null() {
        return 0;
    }
    let count = class::CLASS_COUNT.min(room as usize);
    for (index, shape) in class::CLASSES[..count].iter().enumerate() {
        let entry = ebb_class_stats {
            slot_size: shape.slot_size,
            span_size: shape.pages.bytes() as u32,
            blocks: heap.live(index),
            spans: heap.spans(index).into(),
        };
        // SAFETY: the caller's promise: `index` is below the number of entries that there is room
        // for.
        unsafe { classes.add(index).write(entry) };
    }
    count as u32
}

/// A sample of the history, as C has it.
pub(super) fn sample_to_c(sample: &Sample) -> ebb_sample {
    ebb_sample {
        time_ms: sample.now_us / 1000,
        live: sample.live,
        resident: sample.resident,
        free_resident: sample.free_resident,
        returned_total: sample.returned_total,
        refaulted_total: sample.refaulted_total,
        pressure: sample.pressure,
        trend: sample.trend,
    }
}

/// What a heap holds, as C has it. The fields that the caller sets are those of `head`.
pub(super) fn to_c(heap: &Heap, kernel_resident: u64, head: ebb_stats) -> ebb_stats {
    let snapshot = heap.snapshot();
    let (counts, refaults) = (&heap.counts, &heap.runs.refaults);
    let (decision, latency, limits) =
        (&heap.hooks.decision, &heap.hooks.step_latency, heap.limits());
    let previous = crate::vm::previous_usage(heap);
    let limit = |limit: usize| if limit == NO_LIMIT { 0 } else { limit as u64 };
    let [returned_asked, returned_idle, returned_limit] = refaults.returned.map(page_bytes);
    let [refaulted_asked, refaulted_idle, refaulted_limit] = refaults.refaulted.map(page_bytes);
    let [premature_refaults_asked, premature_refaults_idle, premature_refaults_limit] =
        refaults.premature.map(page_bytes);
    ebb_stats {
        reserved: (heap.reserved() + heap.guarded_reserved()) as u64,
        committed: snapshot.committed as u64,
        live: snapshot.live as u64,
        waste: snapshot.waste as u64,
        free_resident: snapshot.free_resident as u64,
        returned: snapshot.returned as u64,
        never_touched: snapshot.never_touched as u64,
        metadata: snapshot.metadata as u64,
        resident: snapshot.resident() as u64,
        resident_peak: snapshot.resident_peak as u64,
        kernel_resident,
        blocks: snapshot.blocks,
        large_blocks: counts.large_blocks - heap.debug_stats().held_large,
        spans: snapshot.spans,
        commit_calls: counts.commit_calls,
        purge_calls: counts.purge_calls,
        remap_calls: counts.remap_calls,
        failed_calls: counts.failed_calls,
        reclaim_passes: counts.reclaim_passes,
        returned_total: returned_asked + returned_idle + returned_limit,
        trend: decision.trend as u64,
        keep: stats::bytes(decision.keep),
        floor: stats::bytes(decision.floor),
        floor_reason: decision.reason as u64,
        due: stats::bytes(heap.due()),
        idle_age_ms: heap.idle_age_us() / 1000,
        limit_soft: limit(limits.soft),
        limit_hard: limit(limits.hard),
        pressure: heap.pressure().into(),
        steps: latency.count,
        step_p50_us: latency.percentile_us(50),
        step_p99_us: latency.percentile_us(99),
        step_max_us: latency.longest_us,
        returned_asked,
        returned_idle,
        returned_limit,
        refaulted_asked,
        refaulted_idle,
        refaulted_limit,
        premature_refaults_asked,
        premature_refaults_idle,
        premature_refaults_limit,
        previous_live: previous.live,
        previous_reserved: previous.reserved,
        previous_resident: previous.resident,
        purge_refused: counts.purge_refused,
        purge_errno: counts.purge_errno as u64,
        refused_allocations: counts.refused_allocations,
        thrashing: heap.is_thrashing().into(),
        refused_address_space: counts.refused_address_space,
        previous_damaged: previous.is_damaged.into(),
        ..head
    }
}

/// A count of pages as bytes.
fn page_bytes(pages: u64) -> u64 {
    pages * PAGE as u64
}
