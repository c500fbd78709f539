//! Blocks that are not of the heap though its VM holds them, and who takes care of them.
//!
//! A VM that changes over to a heap while it runs keeps the blocks that it had. They lie outside
//! what the heap has mapped, which the hot path finds out anyway before it asks for a descriptor.
//! Where they were freed, free pages lie outside too. Those go back together with the heap's own.

use crate::heap::{Heap, ReclaimHooks};
use crate::os::Os;

/// Takes care of blocks from outside.
#[derive(Clone, Copy)]
pub(crate) struct ForeignBlocks {
    /// Handed to all functions.
    pub(crate) context: *mut u8,
    /// The only block that can come from outside; `None`: it is not known which can.
    pub(crate) only: Option<*mut u8>,
    /// Resizes a block, or frees it when the new size is 0, by the rules of lua_Alloc. With the
    /// last block it may delete the heap.
    ///
    /// # Safety
    ///
    /// The context is the one beside it; the block is live, and nobody else uses the heap.
    pub(crate) resize: unsafe fn(context: *mut u8, block: *mut u8, new_size: usize) -> *mut u8,
    /// What gives free pages back; `None`: there are none.
    pub(crate) pages: Option<ForeignPages>,
}

/// Gives free pages from outside back. Neither function touches the heap.
#[derive(Clone, Copy)]
pub(crate) struct ForeignPages {
    /// In how many microseconds some should go back by themselves. `None`: not before more blocks
    /// from outside are freed.
    ///
    /// # Safety
    ///
    /// The context is that of the blocks, and nobody else uses the heap or its VM.
    pub(crate) next_us: unsafe fn(context: *mut u8) -> Option<u64>,
    /// Gives them back, until the deadline if there is one, but at least one step.
    ///
    /// # Safety
    ///
    /// As for `next_us`.
    pub(crate) give_back: unsafe fn(
        context: *mut u8,
        reason: ForeignReason,
        deadline_us: Option<u64>,
    ) -> ForeignReturned,
}

/// Why free pages from outside go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignReason {
    /// By themselves: `next_us` said that it is time.
    Due,
    /// All of them, by themselves: the VM is idle, and its garbage was collected.
    Idle,
    /// The host has asked for all of them.
    Asked,
}

/// What was given back of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForeignReturned {
    pub(crate) bytes: u64,
    /// Calls to the kernel.
    pub(crate) calls: u64,
    /// Calls that the kernel refused.
    pub(crate) refused: u64,
    /// The deadline came before the end.
    pub(crate) more: bool,
}

impl<O: Os, R: ReclaimHooks> Heap<O, R> {
    /// Who takes care of a block; `None`: the heap itself, if it is a block at all.
    pub(in crate::heap) fn foreign_of(&self, block: *mut u8) -> Option<ForeignBlocks> {
        let is_inside = self.is_inside(block);
        self.foreign.filter(|foreign| !is_inside && foreign.only.is_none_or(|only| only == block))
    }

    /// In how many microseconds free pages from outside should go back; `None`: no time is known.
    pub(crate) fn foreign_next_us(&self) -> Option<u64> {
        let foreign = self.foreign?;
        // SAFETY: the context is that of the blocks, and this heap's caller has it to itself.
        unsafe { (foreign.pages?.next_us)(foreign.context) }
    }

    /// Gives free pages from outside back: see [`ForeignPages::give_back`].
    pub(crate) fn give_back_foreign(
        &mut self,
        reason: ForeignReason,
        deadline_us: Option<u64>,
    ) -> ForeignReturned {
        let found = self.foreign.and_then(|foreign| Some((foreign.context, foreign.pages?)));
        let Some((context, pages)) = found else { return ForeignReturned::default() };
        // SAFETY: as above; the function does not touch the heap.
        unsafe { (pages.give_back)(context, reason, deadline_us) }
    }
}
