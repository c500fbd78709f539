//! What was returned too early, and for how long that is a reason to keep more.

#![forbid(unsafe_code)]

use super::{MEMORY_US, affordable_us};
use crate::units::Pages;

/// Pages whose return was a mistake, and until when that is believed. Saves little where levels of
/// demand tell what is needed; it is for where they do not: free memory that does not fit.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::reclaim) struct PrematurePurge {
    pages: Pages,
    until_us: u64,
}

impl PrematurePurge {
    pub(in crate::reclaim) fn at(&self, now_us: u64) -> Pages {
        if now_us < self.until_us { self.pages } else { Pages::ZERO }
    }

    /// More pages, each of which prolongs the belief by the time in which it is affordable.
    pub(in crate::reclaim) fn add(&mut self, now_us: u64, pages: Pages) {
        let until_us = self.until_us.max(now_us) + affordable_us(pages);
        let pages = self.at(now_us).saturating_add(pages);
        *self = PrematurePurge { pages, until_us: until_us.min(now_us + MEMORY_US) };
    }
}
