//! The bins: that every free chunk is in its own, once, and nothing else is.
//!
//! Chunks of one size below 256 bytes are in a list that goes around through the state. These are
//! too many to follow from one to the next. The walk adds up the links forward, and the links back
//! the other way around; where both are the same, what is linked is exactly the chunks that are
//! free, and each is linked once. (They could be in several circles, but no page is in them.)
//!
//! Larger ones are in trees: at each level the next bit of the size says on which side it lies.
//! Chunks of the same size are in a ring, and one of them is in the tree. All links are followed.
//! What a link leads to must say where the link came from, so nothing is met twice, and that ends.
//! Several are followed at a time, for each leads to memory that the processor has to fetch.

#![forbid(unsafe_code)]

use super::layout::*;
use super::mapped_vec::MappedVec;
use super::mappings::fetch_early;
use super::refuse;
use super::segments::{Chunk, HeapView, Segment};
use super::walk::{LinkChecksum, Totals};
use crate::error::Error;
use crate::os::Os;

/// How many links are followed at a time.
const AT_ONCE: usize = 16;

/// The levels of a tree: each takes one bit of the size.
const DEPTH_MAX: u32 = usize::BITS;

/// A chunk in a tree.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) chunk: Chunk,
    pub(super) children: [usize; 2],
    /// The oldest of the others in its ring; itself, when it is alone.
    pub(super) oldest: usize,
}

/// A link that is yet to be followed.
#[derive(Clone, Copy)]
struct Link {
    at: usize,
    /// Where it comes from.
    from: usize,
    tree: usize,
    kind: LinkKind,
}

#[derive(Clone, Copy)]
enum LinkKind {
    /// From a chunk of a tree to a child. So many bits of its path are given, on top.
    Child { depth: u32, path: usize },
    /// From one chunk of a ring to the next newer one. This one is in the tree.
    Ring(Chunk),
}

/// Follows all links of trees and adds up what they lead to.
struct Follower<'a, 'b, S: Os> {
    view: &'b HeapView<'a, S>,
    totals: &'b Totals,
    /// Those that are being fetched, in a round, and the others.
    fetched: [Option<Link>; AT_ONCE],
    waiting: MappedVec<'a, S, Link>,
    checksums: [LinkChecksum; TREE_COUNT],
}

/// Checks all bins against what a walk found.
pub(super) fn check_bins<S: Os>(view: &HeapView<'_, S>, totals: &Totals) -> Result<(), Error> {
    for list in 0..LIST_COUNT {
        check_list(view, totals, list)?;
    }
    let mut follower = Follower {
        view,
        totals,
        fetched: [None; AT_ONCE],
        waiting: MappedVec::new(view.os)?,
        checksums: [LinkChecksum::default(); TREE_COUNT],
    };
    for tree in 0..TREE_COUNT {
        let (at, from) = (view.state.tree_root(tree)?, view.state.tree(tree));
        if at != 0 {
            follower.wait(Link { at, from, tree, kind: LinkKind::Child { depth: 0, path: 0 } })?;
        }
    }
    follower.follow_all()?;
    follower.compare()
}

/// Checks that the links of a list lead to the chunks that have them.
fn check_list<S: Os>(view: &HeapView<'_, S>, totals: &Totals, list: usize) -> Result<(), Error> {
    let (mut forward, mut back) = (totals.forward[list], totals.back[list]);
    let agrees = view.state.has_chunks(list) == (forward.count > 0);
    if forward.count > 0 {
        let head = view.state.list(list);
        forward.add_link(head, view.state.list_link(list, FORWARD)?);
        back.add_link(view.state.list_link(list, BACK)?, head);
    }
    if agrees && forward == back {
        return Ok(());
    }
    Err(refuse(format_args!("list {list}: its links are not those of its chunks")))
}

impl<S: Os> Follower<'_, '_, S> {
    fn wait(&mut self, link: Link) -> Result<(), Error> {
        let fits = self.waiting.push(link);
        if fits { Ok(()) } else { Err(refuse(format_args!("too many links"))) }
    }

    /// Around and around, until there was nothing to do on a whole round.
    fn follow_all(&mut self) -> Result<(), Error> {
        let mut idle = 0;
        for turn in (0..AT_ONCE).cycle() {
            if let Some(link) = self.fetched[turn].take() {
                self.follow(link)?;
            }
            self.fetched[turn] = self.waiting.pop().inspect(|next| {
                // It may lie across two lines of the cache.
                fetch_early(next.at);
                fetch_early(next.at.wrapping_add(INDEX));
            });
            idle = if self.fetched[turn].is_some() { 0 } else { idle + 1 };
            if idle == AT_ONCE {
                break;
            }
        }
        Ok(())
    }

    fn follow(&mut self, link: Link) -> Result<(), Error> {
        let Link { at, from, tree, kind } = link;
        let found = &mut self.checksums[tree];
        if found.count == self.totals.trees[tree].count {
            return Err(refuse(format_args!("{at:#x}: one chunk too many in tree {tree}")));
        }
        found.add(at);
        match kind {
            LinkKind::Child { depth, path } => self.follow_child(link, depth, path),
            LinkKind::Ring(first) => {
                let next = self.view.ring_next(tree, first, from)?;
                let back = self.view.chunk_in(next, HEADER)?.word(next + BACK).unwrap_or(0);
                self.go_around(tree, first, next, back)
            }
        }
    }

    fn follow_child(&mut self, link: Link, depth: u32, path: usize) -> Result<(), Error> {
        let Link { at, from, tree, .. } = link;
        let node = self.view.node(tree, at, from)?;
        let differs = tree_path(tree, node.chunk.size) ^ path;
        if differs.leading_zeros() < depth || depth == DEPTH_MAX {
            return Err(refuse(format_args!("{at:#x}: not in its place in tree {tree}")));
        }
        for (side, child) in node.children.into_iter().enumerate() {
            let path = path | side << (DEPTH_MAX - 1 - depth);
            let kind = LinkKind::Child { depth: depth + 1, path };
            if child != 0 {
                self.wait(Link { at: child, from: at, tree, kind })?;
            }
        }
        self.go_around(tree, node.chunk, at, node.oldest)
    }

    /// Goes on in a ring, unless it is closed.
    fn go_around(
        &mut self,
        tree: usize,
        first: Chunk,
        from: usize,
        at: usize,
    ) -> Result<(), Error> {
        if at == first.at {
            return self.view.ring_next(tree, first, from).map(|_| ());
        }
        self.wait(Link { at, from, tree, kind: LinkKind::Ring(first) })
    }

    fn compare(&self) -> Result<(), Error> {
        for (tree, (has, found)) in self.checksums.iter().zip(&self.totals.trees).enumerate() {
            if has != found {
                let (has, count) = (has.count, found.count);
                return Err(refuse(format_args!(
                    "tree {tree} has {has} chunks, and not those {count} that are free"
                )));
            }
        }
        Ok(())
    }
}

impl<S: Os> HeapView<'_, S> {
    /// The chunk at a place in a tree.
    pub(super) fn node(&self, tree: usize, at: usize, parent: usize) -> Result<Node, Error> {
        let segment = self.chunk_in(at, HEADER)?;
        let word = |offset| segment.word(at + offset).unwrap_or(0);
        let size = word(HEAD) & !FLAGS;
        let is_valid = word(HEAD) == size | PREVIOUS_IN_USE
            && size >= LARGE_MIN
            && tree_of(size) == tree
            && word(INDEX) as u32 as usize == tree
            && word(PARENT) == parent;
        if !is_valid {
            return Err(refuse(format_args!("{at:#x}: not a chunk of tree {tree}")));
        }
        let children = [word(CHILDREN), word(CHILDREN + WORD)];
        Ok(Node { chunk: Chunk { at, size }, children, oldest: word(BACK) })
    }

    /// The next newer one in a ring: behind `first`, the one in the tree, comes the oldest of the
    /// others, and behind the newest comes `first`.
    pub(super) fn ring_next(&self, tree: usize, first: Chunk, at: usize) -> Result<usize, Error> {
        let next = self.chunk_in(at, HEADER)?.word(at + BACK).unwrap_or(0);
        let segment = self.chunk_in(next, HEADER)?;
        let word = |offset| segment.word(next + offset).unwrap_or(0);
        let of_ring = || {
            word(HEAD) == first.size | PREVIOUS_IN_USE
                && word(INDEX) as u32 as usize == tree
                && [CHILDREN, CHILDREN + WORD, PARENT].iter().all(|offset| word(*offset) == 0)
        };
        if word(FORWARD) == at && (next == first.at || of_ring()) {
            return Ok(next);
        }
        let first = first.at;
        Err(refuse(format_args!("{next:#x}: not in the ring of {first:#x}")))
    }

    /// The segment of a chunk of `bytes` bytes.
    #[inline]
    fn chunk_in(&self, at: usize, bytes: usize) -> Result<&Segment, Error> {
        let aligned = at.is_multiple_of(WORD);
        let segment = self.find(at, bytes).filter(|_| aligned);
        segment.ok_or_else(|| refuse(format_args!("a link to {at:#x}, where no chunk can be")))
    }
}
