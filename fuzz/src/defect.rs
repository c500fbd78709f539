//! Defects to order: what a test must notice, or it proves nothing.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::kernel;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// Nothing.
    None,
    /// A purge takes the page behind with it.
    PurgeNext,
    /// A purge does nothing.
    PurgeNot,
    /// Pages that are to move stay.
    MoveNothing,
    /// What the background thread has purged is purged once more when that thread goes on.
    PurgeAgain,
    /// A resized block has lost its last byte.
    LoseByte,
    /// Some blocks are not freed.
    Leak,
    /// Two blocks share bytes.
    Overlap,
    /// What is live is counted wrong by one byte.
    Miscount,
    /// A shrink fails.
    RefuseShrink,
    /// Where every block is verified, an old size is one too large.
    WrongSize,
    /// Where every block is verified, one is written after it was freed.
    WriteFreed,
}

/// All, by name.
pub const DEFECTS: [(&str, Defect); 12] = [
    ("none", Defect::None),
    ("purge-next", Defect::PurgeNext),
    ("purge-not", Defect::PurgeNot),
    ("move-nothing", Defect::MoveNothing),
    ("purge-again", Defect::PurgeAgain),
    ("lose-byte", Defect::LoseByte),
    ("leak", Defect::Leak),
    ("overlap", Defect::Overlap),
    ("miscount", Defect::Miscount),
    ("refuse-shrink", Defect::RefuseShrink),
    ("wrong-size", Defect::WrongSize),
    ("write-freed", Defect::WriteFreed),
];

static ORDERED: AtomicU8 = AtomicU8::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Orders a defect for the rest of this process.
pub fn order(defect: Defect) {
    ORDERED.store(defect as u8, Relaxed);
    let at_kernel = [Defect::PurgeNext, Defect::PurgeNot, Defect::MoveNothing, Defect::PurgeAgain];
    let index = at_kernel.iter().position(|at_kernel| *at_kernel == defect);
    kernel::break_it(index.map_or(0, |index| index as i32 + 1));
}

/// Whether this call, one in about a thousand, is to go wrong so.
#[inline]
pub(crate) fn strikes(defect: Defect) -> bool {
    ORDERED.load(Relaxed) == defect as u8 && CALLS.fetch_add(1, Relaxed) % 1000 == 999
}
