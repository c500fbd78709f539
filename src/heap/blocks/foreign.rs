//! Blocks that are not of the heap though its VM holds them, and who takes care of them.
//!
//! A VM that changes over to a heap while it runs keeps the blocks that it had. They lie outside
//! what the heap has mapped, which the hot path finds out anyway before it asks for a descriptor.

#![forbid(unsafe_code)]

use crate::heap::{Heap, ReclaimHooks};

/// Takes care of blocks from outside.
#[derive(Clone, Copy)]
pub(crate) struct ForeignBlocks {
    /// Handed to `resize`.
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
}

impl<S: ReclaimHooks> Heap<S> {
    /// Who takes care of a block; `None`: the heap itself, if it is a block at all.
    pub(in crate::heap) fn foreign_of(&self, block: *mut u8) -> Option<ForeignBlocks> {
        let is_inside = self.is_inside(block);
        self.outside.filter(|outside| !is_inside && outside.only.is_none_or(|only| only == block))
    }
}
