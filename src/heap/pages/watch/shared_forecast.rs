//! A forecast on its way from one thread to the other.

#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

use super::{Forecast, STEPS};
use crate::units::Pages;

/// A forecast that one thread writes and another reads. The reader sees all of one or nothing: the
/// version is odd while it changes (a seqlock).
#[derive(Default)]
pub(super) struct SharedForecast {
    version: AtomicU32,
    times: [AtomicU64; 6],
    keep: [AtomicU32; STEPS],
    idle_keep: AtomicU32,
}

impl SharedForecast {
    pub(super) fn write(&self, forecast: &Forecast) {
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        // In the order of `read`, which names every field.
        let times = [
            forecast.made_us,
            forecast.epoch_start_us,
            forecast.epoch_us,
            forecast.idle_us,
            forecast.search_us,
            forecast.not_before_us,
        ];
        self.times.iter().zip(times).for_each(|(at, time)| at.store(time, Relaxed));
        self.keep.iter().zip(forecast.keep).for_each(|(at, pages)| at.store(pages.0, Relaxed));
        self.idle_keep.store(forecast.idle_keep.0, Relaxed);
        self.version.store(version.wrapping_add(2), Release);
    }

    pub(super) fn read(&self) -> Option<Forecast> {
        let version = self.version.load(Acquire);
        let [made_us, epoch_start_us, epoch_us, idle_us, search_us, not_before_us] =
            core::array::from_fn(|index| self.times[index].load(Relaxed));
        let keep = core::array::from_fn(|index| Pages(self.keep[index].load(Relaxed)));
        let idle_keep = Pages(self.idle_keep.load(Relaxed));
        fence(Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Relaxed) == version;
        is_whole.then_some(Forecast {
            made_us,
            epoch_start_us,
            epoch_us,
            keep,
            idle_us,
            idle_keep,
            search_us,
            not_before_us,
        })
    }
}
