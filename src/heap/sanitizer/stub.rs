//! What stands in for `sanitizer` in a library that is not built for one.

#![forbid(unsafe_code)]

/// A start, and bytes.
type Range = (*mut u8, usize);

pub(super) const fn is_there() -> bool {
    false
}

#[inline(always)]
pub(super) fn work_begins() {}

#[inline(always)]
pub(super) fn work_ends() {}

#[inline(always)]
pub(super) fn unpoison(_: *mut u8, _: usize) {}

#[inline(always)]
pub(super) fn placed(_: *mut u8, _: usize, _: Range) {}

#[inline(always)]
pub(super) fn shrunk(_: *mut u8, _: usize, _: usize) {}

#[inline(always)]
pub(super) fn freed(_: *mut u8, _: Range) {}

#[inline(always)]
pub(super) fn heap_made(_: *mut u8, _: usize) {}

#[inline(always)]
pub(super) fn heap_gone(_: *mut u8, _: usize, _: usize) {}
