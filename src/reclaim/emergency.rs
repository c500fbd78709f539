//! Emergency collections: near a hard limit the VM's collector runs, so that little is refused.
//!
//! ```text
//! 0 ............................. 7/8 ............... 31/32 ............ limit_hard
//!                                  │ the collector is   │ refused, and    │ the collector's
//!                                  │ made due           │ made due        │ own, refused
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
//! at the next allocations, which come to the slow path, for all bins lose their spans. The
//! emergency ends when the collector has freed [`MUCH`] of the limit, when a cycle or a step adds
//! nothing to what the ones before it have freed, or when the cycles are over.
//!
//! It has helped if [`LITTLE`] of the limit was freed in all. A VM whose live blocks alone are near
//! seven eighths gets its next emergency halfway from what it holds then to where allocations are
//! refused: so each frees as much as it left room for, and none is followed by another at once.
//! When such a VM needs less again, that point falls with what it holds.
//!
//! After an emergency in vain what is above seven eighths is open for a while: a VM that needs it
//! must not collect all the time. A refusal is followed by an emergency in any case.
//!
//! Several allocations may take the slow path between two safe points. As long as hardly any
//! block was freed the collector has not swept, and has not had its turn. Meanwhile a few small
//! blocks are let pass into the last 32nd.
//!
//! A host that ticks between two uses of the VM suspends an emergency: the collector is at its own
//! pace while the VM is idle, and while the host runs it in slices. The next growth goes on with
//! the emergency, or begins a new one if that much was freed meanwhile.

#![forbid(unsafe_code)]

use crate::heap::{Heap, NO_LIMIT};
use crate::os::Os;
use crate::reclaim::Reclaim;

/// How often the collector is made due in one emergency. The first may only end a cycle, and the
/// second be lost inside of the collector, which allocates too.
const CYCLES: u32 = 3;
/// The same for a collector that makes a step each time, beside two steps for each MB that is held:
/// one marks 1 MB.
const STEPS: u32 = 64;
/// The collector has had its turn when more blocks were freed, or after this many slow allocations.
const TURN_BLOCKS: u64 = 32;
const TURN_ALLOCATIONS: u8 = 16;
/// How many small blocks may pass into the last 32nd in one emergency.
const GRACE: u8 = 16;
/// An emergency ends when this part of the limit is freed at once: a sixteenth.
const MUCH: usize = 16;
/// An emergency that freed less than this part, a 64th, was in vain.
const LITTLE: usize = 64;
/// A cycle, or a step, that frees less than this part, a 256th, adds nothing.
const NOTHING: usize = 256;
/// After an emergency in vain the next comes this many times as long after as it took, so that
/// emergencies take a ninth of the time at most. After a refusal it comes at once.
const BACKOFF: u64 = 8;
/// The least and the most that it passes for, in microseconds: it goes on while the program waits.
const TOOK_US: (u64, u64) = (1000, 1_000_000);

/// The state of emergencies.
#[derive(Default)]
pub(super) struct Emergency {
    /// How often the collector will be made due again. 0 and not [`Heap::collecting`]: there is
    /// none. Not 0 and not collecting: it is suspended.
    left: u32,
    /// Slow allocations since the collector was made due, and [`Heap::freed_blocks`] at that time.
    waited: u8,
    freed_blocks: u64,
    begun_us: u64,
    /// Bytes that were held when it began, and when the collector was last made due.
    held_begun: usize,
    held_turn: usize,
    /// Bytes up to where there is none, if that is above seven eighths of the limit: halfway from
    /// the least that was held since the last one to where allocations are refused.
    growth_limit: usize,
    /// The upper eighth of the limit is open until then.
    backoff_until_us: u64,
}

impl<O: Os> Heap<O, Reclaim> {
    /// Up to where the heap grows without asking for anything.
    pub(super) fn resting_limit(&self, now_us: u64) -> usize {
        self.limits().soft.min(self.collector_limit(now_us))
    }

    /// The hard limit, less what is kept for the collector.
    pub(super) fn hard_limit(&self) -> usize {
        let hard = self.limits().hard;
        if hard == NO_LIMIT || self.collector.is_none() { hard } else { hard - hard / 32 }
    }

    /// Up to where it grows without an emergency.
    fn collector_limit(&self, now_us: u64) -> usize {
        let hard = self.limits().hard;
        let is_open = self.collecting || now_us < self.hooks.emergency.backoff_until_us;
        if hard == NO_LIMIT || self.collector.is_none() || is_open {
            return self.hard_limit();
        }
        (hard - hard / 8).max(self.hooks.emergency.growth_limit)
    }

    /// The hard limit is another one.
    pub(super) fn forget_emergency(&mut self) {
        self.hooks.emergency.growth_limit = 0;
    }

    /// Lowers the growth limit as the heap holds less.
    pub(super) fn lower_limit(&mut self) {
        if self.hooks.emergency.growth_limit > 0 {
            let halfway = self.halfway(self.held());
            let growth_limit = &mut self.hooks.emergency.growth_limit;
            *growth_limit = halfway.min(*growth_limit);
            self.growth_limit = self.resting_limit(self.hooks.clock.now_us);
        }
    }

    /// Where the next emergency begins if `held` bytes are held after one.
    fn halfway(&self, held: usize) -> usize {
        held / 2 + self.hard_limit() / 2
    }

    /// Learns how the collector goes, where there is a hard limit for which that matters.
    pub(super) fn look_at_collector(&mut self) {
        if self.limits().hard != NO_LIMIT {
            self.learn_collector();
        }
    }

    /// Whether growth to `held` bytes in use should have the collector run.
    pub(super) fn wants_collector(&self, held: usize, now_us: u64) -> bool {
        let growth_limit = self.collector_limit(now_us);
        growth_limit < self.hard_limit() && held > growth_limit
    }

    /// Begins an emergency, or goes on with one that is suspended. That one is over if much was
    /// freed meanwhile.
    pub(super) fn want_emergency(&mut self, now_us: u64) {
        let held = self.held();
        if self.hooks.emergency.left == 0 || self.has_freed_much(held) {
            self.begin_emergency(now_us);
            return;
        }
        self.collecting = true;
        // It has not had its turn since, where it stands still.
        self.hooks.emergency.waited = TURN_ALLOCATIONS;
        self.take_turn(held);
    }

    /// Begins an emergency, or begins anew one that is under way.
    pub(super) fn begin_emergency(&mut self, now_us: u64) {
        // A collector that stands still is asked again with each slow allocation.
        let is_due = self.make_collector_due();
        let held = self.held();
        if !self.collecting {
            self.hooks.emergency.begun_us = now_us;
        }
        self.collecting = true;
        self.grace = GRACE;
        self.hooks.emergency.held_begun = held;
        self.note_turn(held);
        let steps = STEPS + u32::try_from(held >> 19).unwrap_or(u32::MAX / 2);
        let turns = if self.collector_in_steps() { steps } else { CYCLES };
        self.hooks.emergency.left = turns - u32::from(is_due);
        if is_due {
            self.retire_spans();
        } else {
            self.hooks.emergency.waited = TURN_ALLOCATIONS;
        }
    }

    /// Goes on with an emergency, or ends it, when an allocation takes the slow path.
    pub(super) fn go_on_collecting(&mut self) {
        let held = self.held();
        if self.has_freed_much(held) {
            self.end_emergency(held);
        } else if self.is_still_due() {
            self.hooks.emergency.waited += 1;
        } else if self.hooks.emergency.left == 0 || self.has_freed_all(held) {
            self.end_emergency(held);
        } else {
            self.take_turn(held);
        }
    }

    /// Makes the collector due once more.
    fn take_turn(&mut self, held: usize) {
        if self.make_collector_due() {
            self.hooks.emergency.left -= 1;
            self.note_turn(held);
            self.retire_spans();
        }
    }

    /// Whether [`Heap::suspend_emergency`] would do anything.
    pub(super) fn may_suspend_emergency(&self) -> bool {
        self.collecting && self.may_cancel_collector_due()
    }

    /// Ends an emergency that is over, and suspends any other. For callers that are in no
    /// allocation: the VM is not asked while another thread may run it.
    pub(super) fn suspend_emergency(&mut self) {
        if !self.may_suspend_emergency() {
            return;
        }
        let held = self.held();
        if self.hooks.emergency.left == 0 || self.has_freed_much(held) {
            self.end_emergency(held);
        } else {
            self.cancel_collector_due();
            self.collecting = false;
            self.growth_limit = self.resting_limit(self.hooks.clock.now_us);
        }
    }

    /// Bytes that are not free.
    pub(super) fn held(&self) -> usize {
        self.resident() - self.free_resident()
    }

    /// Freed in an emergency, less what was allocated meanwhile.
    fn freed(&self, held: usize) -> usize {
        self.hooks.emergency.held_begun.saturating_sub(held)
    }

    fn has_freed_much(&self, held: usize) -> bool {
        let hard = self.limits().hard;
        hard == NO_LIMIT || held < hard / 4 * 3 || self.freed(held) >= hard / MUCH
    }

    /// Whether the last turn has freed nothing, and the ones before it something. New blocks are
    /// swept first: where a step frees nothing any more, old ones are left.
    fn has_freed_all(&self, held: usize) -> bool {
        let hard = self.limits().hard;
        self.freed(held) >= hard / LITTLE
            && self.hooks.emergency.held_turn.saturating_sub(held) < hard / NOTHING
    }

    /// The collector is due: what it does from now on shows.
    fn note_turn(&mut self, held: usize) {
        self.hooks.emergency.waited = 0;
        self.hooks.emergency.held_turn = held;
        self.hooks.emergency.freed_blocks = self.freed_blocks();
    }

    fn collector_in_steps(&self) -> bool {
        self.collector.and_then(|collector| collector.in_steps) == Some(true)
    }

    fn is_still_due(&self) -> bool {
        if self.collector_in_steps() {
            return false;
        }
        let emergency = &self.hooks.emergency;
        let freed = self.freed_blocks().wrapping_sub(emergency.freed_blocks);
        emergency.waited < TURN_ALLOCATIONS && freed <= TURN_BLOCKS
    }

    fn end_emergency(&mut self, held: usize) {
        let now_us = self.hooks.clock.advance(self.os.now_us());
        let hard = self.limits().hard;
        let has_helped = self.has_freed_much(held) || self.freed(held) >= hard / LITTLE;
        self.cancel_collector_due();
        self.collecting = false;
        let halfway = self.halfway(held);
        let emergency = &mut self.hooks.emergency;
        emergency.left = 0;
        let took_us = now_us.saturating_sub(emergency.begun_us).clamp(TOOK_US.0, TOOK_US.1);
        emergency.backoff_until_us = if has_helped { 0 } else { now_us + BACKOFF * took_us };
        emergency.growth_limit = if hard == NO_LIMIT { 0 } else { halfway };
        self.growth_limit = self.resting_limit(now_us);
    }
}
