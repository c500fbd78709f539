//! A few minutes of a heap's life, one sample a second, in memory of fixed size.
//!
//! A heap at rest takes no samples, for nobody looks at it: from one sample to the next it was what
//! it was at the first. The samples lie in words beside the heap that are not touched, and so cost
//! no memory, while the history is off.

#![forbid(unsafe_code)]

/// How many samples there are: four minutes and sixteen seconds of a busy heap.
pub(crate) const SAMPLES: usize = 256;
/// Words that one sample takes.
const SAMPLE_WORDS: usize = 8;
/// Words that the history takes.
pub(crate) const WORDS: usize = SAMPLES * SAMPLE_WORDS;
/// Microseconds from one sample to the next.
const EVERY_US: u64 = 1_000_000;

/// A heap at a moment. Bytes, unless a name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// By the clock of [`crate::os::Os::now_us`].
    pub(crate) now_us: u64,
    pub(crate) live: u64,
    pub(crate) resident: u64,
    pub(crate) free_resident: u64,
    /// Over the life of the heap.
    pub(crate) returned_total: u64,
    /// Over the life of the heap.
    pub(crate) refaulted_total: u64,
    /// From 0 to 100.
    pub(crate) pressure: u64,
    pub(crate) trend: u64,
}

impl Sample {
    fn to_words(self) -> [u64; SAMPLE_WORDS] {
        let Sample { now_us, live, resident, free_resident, .. } = self;
        let Sample { returned_total, refaulted_total, pressure, trend, .. } = self;
        [now_us, live, resident, free_resident, returned_total, refaulted_total, pressure, trend]
    }

    fn from_words(words: &[u64]) -> Sample {
        let at = |index: usize| words.get(index).copied().unwrap_or_default();
        Sample {
            now_us: at(0),
            live: at(1),
            resident: at(2),
            free_resident: at(3),
            returned_total: at(4),
            refaulted_total: at(5),
            pressure: at(6),
            trend: at(7),
        }
    }
}

/// Where the ring of samples stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History {
    /// How many were ever taken.
    taken: usize,
    /// When the next one is due.
    next_us: u64,
}

impl History {
    /// Whether a sample is due.
    pub(crate) fn is_due(&self, now_us: u64) -> bool {
        now_us >= self.next_us
    }

    /// Adds a sample, in place of the oldest when there is no room.
    pub(crate) fn add(&mut self, words: &mut [u64], now_us: u64, sample: Sample) {
        let at = self.taken % SAMPLES * SAMPLE_WORDS;
        if let Some(entry) = words.get_mut(at..at + SAMPLE_WORDS) {
            entry.copy_from_slice(&sample.to_words());
        }
        self.taken += 1;
        self.next_us = now_us + EVERY_US;
    }

    /// The newest samples, at most `count`, the oldest of them first.
    pub(crate) fn newest<'a>(
        &self,
        words: &'a [u64],
        count: usize,
    ) -> impl ExactSizeIterator<Item = Sample> + use<'a> {
        let count = count.min(self.taken).min(SAMPLES);
        let taken = self.taken;
        (taken - count..taken).map(move |index| {
            let at = index % SAMPLES * SAMPLE_WORDS;
            Sample::from_words(words.get(at..at + SAMPLE_WORDS).unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> (History, Vec<u64>) {
        let (mut history, mut words) = (History::default(), vec![0; WORDS]);
        for second in 0..count {
            let now_us = second * EVERY_US;
            assert!(history.is_due(now_us) && (second == 0 || !history.is_due(now_us - 1)));
            let sample = Sample { now_us, live: second, trend: 3, ..Sample::default() };
            history.add(&mut words, now_us, sample);
        }
        (history, words)
    }

    #[test]
    fn the_newest_come_out_oldest_first() {
        for taken in [0, 1, 5, SAMPLES as u64, SAMPLES as u64 + 3, 3 * SAMPLES as u64] {
            let (history, words) = filled(taken);
            for count in [0, 1, 4, SAMPLES, SAMPLES + 10] {
                let lives: Vec<u64> = history.newest(&words, count).map(|s| s.live).collect();
                let kept = taken.min(SAMPLES as u64).min(count as u64);
                assert_eq!(lives, (taken - kept..taken).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_sample_comes_out_as_it_went_in() {
        let words = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Sample::from_words(&words).to_words(), words);
    }
}
