//! How long bounded steps take: a histogram of fixed size.
//!
//! Four buckets to each doubling, so that what is read back is at most a fifth too high.

#![forbid(unsafe_code)]

/// Buckets up to 2^20 µs, a second; the last one takes all that is longer.
const BUCKETS: usize = 4 * 20;

/// Durations of steps, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct LatencyHistogram {
    buckets: [u32; BUCKETS],
    pub(crate) count: u64,
    pub(crate) longest_us: u64,
}

impl Default for LatencyHistogram {
    fn default() -> LatencyHistogram {
        LatencyHistogram { buckets: [0; BUCKETS], count: 0, longest_us: 0 }
    }
}

impl LatencyHistogram {
    /// Notes how long a step took.
    pub(crate) fn note(&mut self, us: u64) {
        let bucket = &mut self.buckets[bucket_of(us)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
        self.longest_us = self.longest_us.max(us);
    }

    /// The time that `percent` of the steps did not exceed; 0 when there were none.
    pub(crate) fn percentile_us(&self, percent: u64) -> u64 {
        let all: u64 = self.buckets.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all * percent).div_ceil(100);
        let mut seen = 0;
        let reached = self.buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted && seen > 0
        });
        reached.map_or(0, |bucket| greatest_of(bucket).min(self.longest_us))
    }
}

/// 0 to 3 have buckets of their own; then the two bits behind the leading one choose among four.
fn bucket_of(us: u64) -> usize {
    if us < 4 {
        return us as usize;
    }
    let doubling = us.ilog2() as usize;
    let quarter = (us >> (doubling - 2) & 3) as usize;
    (4 * (doubling - 1) + quarter).min(BUCKETS - 1)
}

/// The greatest time that falls into a bucket.
fn greatest_of(bucket: usize) -> u64 {
    match bucket {
        0..4 => bucket as u64,
        _ if bucket == BUCKETS - 1 => u64::MAX,
        _ => ((5 + bucket as u64 % 4) << (bucket / 4 - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_the_bucket_that_ends_at_or_above_it() {
        for us in (0..10_000).chain([1 << 19, (1 << 21) - 1, 1 << 40, u64::MAX]) {
            let bucket = bucket_of(us);
            assert!(us <= greatest_of(bucket), "{us}");
            assert!(bucket == 0 || us > greatest_of(bucket - 1), "{us}");
            let last = bucket == BUCKETS - 1;
            assert!(last || greatest_of(bucket) <= us + us / 4, "{us} reads as too much");
        }
    }

    #[test]
    fn percentiles_are_read_back() {
        let mut latency = LatencyHistogram::default();
        assert_eq!(latency.percentile_us(50), 0);
        (1..=1000).for_each(|us| latency.note(us));
        assert_eq!((latency.count, latency.longest_us), (1000, 1000));
        assert!((500..=625).contains(&latency.percentile_us(50)), "{}", latency.percentile_us(50));
        assert!((990..=1000).contains(&latency.percentile_us(99)), "{}", latency.percentile_us(99));
        assert_eq!(latency.percentile_us(100), 1000);
    }
}
