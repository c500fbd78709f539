//! Emergency collections: at a hard limit the VM's garbage goes before an allocation is refused.
//!
//! ```text
//! 0 ................ 3/4 ......... 7/8 ............... 31/32 ............ limit_hard
//!                     ended below   │ the collector is   │ refused, and    │ the collector's
//!                                   │ made due           │ made due        │ own, refused
//! ```
//!
//! LuaJIT's collector allocates at one place: a cycle ends with the table of strings halved, into a
//! new block. Where that is refused the cycle does not end, nor does the next begin, and in
//! compiled code LuaJIT crashes. So the last 32nd is for blocks that may be that table.
//!
//! What is above seven eighths is for the time until the collector has run: it runs at the VM's
//! next safe point only, and what the VM allocates up to there must fit.
//!
//! One cycle may not be enough. Where one is under way, what became garbage since it began stays
//! for the next. So the collector is made due up to [`CYCLES`] times: when it is first asked, and
//! at the next allocations, which come to the slow path, for all bins lose their spans. It ends
//! when less than three quarters of the limit are held, or when the cycles are over. If these were
//! in vain, the eighth is open for a while without another emergency: a VM that needs it must not
//! collect all the time. A refusal is followed by an emergency in any case.
//!
//! Several allocations may take the slow path between two safe points. As long as hardly any
//! block was freed the collector has not swept, and has not had its turn. Meanwhile a few small
//! blocks are let pass into the last 32nd.

#![forbid(unsafe_code)]

use crate::heap::{Heap, NO_GATE};
use crate::os::Os;

/// How often the collector is made due in one emergency. The first may only end a cycle, and the
/// second be lost inside of the collector, which allocates too.
const CYCLES: u8 = 3;
/// The same for a collector that makes a step each time.
const STEPS: u8 = 255;
/// The collector has had its turn when more blocks were freed, or after this many slow allocations.
const TURN_BLOCKS: u64 = 32;
const TURN_ALLOCATIONS: u8 = 16;
/// How many small blocks may pass into the last 32nd in one emergency.
const GRACE: u8 = 16;
/// After an emergency in vain there is none for so many times as long as it took, but for refusals:
/// they may take a ninth of the time.
const REST: u64 = 8;
/// The least and the most that it passes for, in microseconds: it goes on while the program waits.
const TOOK_US: (u64, u64) = (1000, 1_000_000);

/// The state of emergencies.
#[derive(Default)]
pub(super) struct Emergency {
    /// How often the collector will be made due again. 0 and not [`Heap::collecting`]: there is
    /// none.
    left: u8,
    /// Slow allocations since the collector was made due, and [`Heap::freed_blocks`] at that time.
    waited: u8,
    freed_blocks: u64,
    begun_us: u64,
    /// The eighth is open until then.
    rest_until_us: u64,
}

impl<S: Os> Heap<S> {
    /// Up to where the heap grows without asking for anything.
    pub(super) fn closed_gate(&self, now_us: u64) -> usize {
        self.limits().soft.min(self.collector_gate(now_us))
    }

    /// The hard limit, less what is kept for the collector.
    pub(super) fn hard_limit(&self) -> usize {
        let hard = self.limits().hard;
        if hard == NO_GATE || self.collector.is_none() { hard } else { hard - hard / 32 }
    }

    /// Up to where it grows without an emergency.
    fn collector_gate(&self, now_us: u64) -> usize {
        let hard = self.limits().hard;
        let is_open = self.collecting || now_us < self.above.emergency.rest_until_us;
        let has_eighth = hard != NO_GATE && self.collector.is_some() && !is_open;
        if has_eighth { hard - hard / 8 } else { self.hard_limit() }
    }

    /// Whether growth to so many bytes should have the collector run.
    pub(super) fn wants_collector(&self, resident: usize, now_us: u64) -> bool {
        let gate = self.collector_gate(now_us);
        gate < self.hard_limit() && resident > gate
    }

    /// Begins an emergency, or begins anew one that is under way.
    pub(super) fn begin_emergency(&mut self, now_us: u64) {
        // A collector that stands still is asked again with each slow allocation.
        let is_due = self.make_collector_due();
        if !self.collecting {
            self.above.emergency.begun_us = now_us;
        }
        self.collecting = true;
        self.grace = GRACE;
        self.note_turn();
        let turns = if self.collector_in_steps() { STEPS } else { CYCLES };
        self.above.emergency.left = turns - u8::from(is_due);
        if is_due {
            self.retire_spans();
        } else {
            self.above.emergency.waited = TURN_ALLOCATIONS;
        }
    }

    /// Goes on with an emergency, or ends it, when an allocation takes the slow path.
    pub(super) fn go_on_collecting(&mut self) {
        let now_us = self.above.clock.advance(self.os.now_us());
        let (hard, held) = (self.limits().hard, self.resident() - self.free_resident());
        let is_low = hard == NO_GATE || held < hard / 4 * 3;
        if is_low {
            self.end_emergency(now_us, is_low);
        } else if self.is_still_due() {
            self.above.emergency.waited += 1;
        } else if self.above.emergency.left == 0 {
            self.end_emergency(now_us, is_low);
        } else if self.make_collector_due() {
            self.above.emergency.left -= 1;
            self.note_turn();
            self.retire_spans();
        }
    }

    /// The collector is due: what it does from now on shows.
    fn note_turn(&mut self) {
        self.above.emergency.waited = 0;
        self.above.emergency.freed_blocks = self.freed_blocks();
    }

    fn collector_in_steps(&self) -> bool {
        self.collector.is_some_and(|collector| collector.in_steps)
    }

    fn is_still_due(&self) -> bool {
        if self.collector_in_steps() {
            return false;
        }
        let emergency = &self.above.emergency;
        let freed = self.freed_blocks().wrapping_sub(emergency.freed_blocks);
        emergency.waited < TURN_ALLOCATIONS && freed <= TURN_BLOCKS
    }

    fn end_emergency(&mut self, now_us: u64, is_low: bool) {
        self.let_collector_be();
        self.collecting = false;
        let emergency = &mut self.above.emergency;
        let took_us = now_us.saturating_sub(emergency.begun_us).clamp(TOOK_US.0, TOOK_US.1);
        emergency.rest_until_us = if is_low { 0 } else { now_us + REST * took_us };
        self.gate = self.closed_gate(now_us);
    }
}
