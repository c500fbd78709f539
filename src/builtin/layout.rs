//! Where things lie in LuaJIT's heap: its state, its chunks, its bins. Pure arithmetic.
//!
//! The same in LuaJIT 2.0 and 2.1 on all 64-bit systems, but for the end of the state, where newer
//! versions keep a pointer to their random numbers.

#![forbid(unsafe_code)]

/// Bytes in a word. Everything is aligned to words.
pub(super) const WORD: usize = 8;

/// In a chunk's head: the chunk before it is in use.
pub(super) const PREVIOUS_IN_USE: usize = 1;
/// In a chunk's head: the chunk is in use.
pub(super) const IN_USE: usize = 2;
/// In a chunk's head: all that is not its size. The third bit is always clear.
pub(super) const FLAGS: usize = 7;

/// From a chunk's start: the size of the chunk before it if that is free, otherwise its contents.
pub(super) const FOOT: usize = 0;
/// In that size: there is no chunk before, for this one is mapped apart from all segments.
pub(super) const MMAPPED: usize = 1;
/// The chunk's own size and flags.
pub(super) const HEAD: usize = 8;
/// In a free chunk of a bin: the next one, or the bin.
pub(super) const FORWARD: usize = 16;
/// The one before.
pub(super) const BACK: usize = 24;
/// In a free chunk of a tree: its two children.
pub(super) const CHILDREN: usize = 32;
/// Its parent: another chunk, the tree's root in the state, or 0 in the ring of another.
pub(super) const PARENT: usize = 48;
/// The number of its tree, in 32 bits.
pub(super) const INDEX: usize = 56;
/// The most that the allocator uses at the start of a free chunk, and of every chunk the least.
pub(super) const HEADER: usize = 64;
pub(super) const CHUNK_MIN: usize = 32;

/// From the state's start: which bins have chunks, in 32 bits for lists and 32 for trees.
pub(super) const MAPS: usize = 0;
/// The chunk that small blocks are cut from, its size, and those of the one at the end.
pub(super) const VICTIM_SIZE: usize = 8;
pub(super) const TOP_SIZE: usize = 16;
pub(super) const VICTIM: usize = 24;
pub(super) const TOP: usize = 32;
/// Two words a list; the list's links are where a chunk at this place would have them.
pub(super) const LISTS: usize = 56;
/// The root of each tree.
pub(super) const TREES: usize = 584;
/// The record of the newest segment: base, size, the next older record.
pub(super) const NEWEST: usize = 840;
pub(super) const RECORD_BYTES: usize = 24;
/// Sizes of the chunk that the state lies in, without and with the random numbers.
pub(super) const STATE_CHUNKS: [usize; 2] = [872, 880];
/// From a chunk's start to what is kept in it.
pub(super) const CONTENTS: usize = 16;

/// Segments are multiples of this.
pub(super) const GRANULARITY: usize = 128 << 10;
/// No segment comes near this size.
pub(super) const SEGMENT_LIMIT: usize = 1 << 40;
/// What a segment keeps at its end: room for its record and fenceposts.
pub(super) const END_BYTES: usize = 64;
/// The chunk that a segment's record lies in, once the segment is no longer the newest.
pub(super) const RECORD_CHUNK: usize = 32;
/// The head of a fencepost, of which the end of such a segment is full.
pub(super) const FENCEPOST: usize = PREVIOUS_IN_USE | IN_USE | WORD;

/// Bins: lists for chunks of one size below [`LARGE_MIN`], then trees.
pub(super) const LIST_COUNT: usize = 32;
pub(super) const TREE_COUNT: usize = 32;
/// The smallest size that is in a tree.
pub(super) const LARGE_MIN: usize = 256;

/// The tree of chunks of a size: two trees for each power of two.
pub(super) fn tree_of(size: usize) -> usize {
    match size >> 8 {
        0 => 0,
        0x1_0000.. => TREE_COUNT - 1,
        high => {
            let power = high.ilog2() as usize;
            2 * power + (size >> (power + 7) & 1)
        }
    }
}

/// The smallest size in a tree.
pub(super) fn tree_min(tree: usize) -> usize {
    (2 + (tree & 1)) << (tree / 2 + 7)
}

/// The largest size in a tree.
pub(super) fn tree_max(tree: usize) -> usize {
    if tree == TREE_COUNT - 1 { usize::MAX } else { tree_min(tree + 1) - 1 }
}

/// The bits of a size that lead from a tree's root to its place, the first one on top.
pub(super) fn tree_path(tree: usize, size: usize) -> usize {
    let shift = if tree == TREE_COUNT - 1 { 0 } else { 57 - tree / 2 };
    size << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_between_the_bounds_of_its_tree() {
        for tree in 0..TREE_COUNT {
            assert_eq!(tree_of(tree_min(tree)), tree);
            assert_eq!(tree_of(tree_max(tree)), tree);
            assert!(tree == 0 || tree_max(tree - 1) + 1 == tree_min(tree));
        }
        assert_eq!(tree_min(0), LARGE_MIN);
        assert_eq!((tree_min(1), tree_min(2), tree_min(31)), (384, 512, 12 << 20));
    }

    #[test]
    fn a_path_has_the_bits_that_sizes_in_a_tree_differ_in() {
        for tree in 0..TREE_COUNT - 1 {
            let (first, last) = (tree_path(tree, tree_min(tree)), tree_path(tree, tree_max(tree)));
            assert_eq!(first, 0, "{tree}");
            assert_eq!(last.leading_ones() as usize, tree / 2 + 7, "{tree}");
        }
        assert_eq!(tree_path(31, 1 << 24), 1 << 24);
    }
}
