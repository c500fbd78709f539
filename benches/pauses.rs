//! How fast memory goes back, and how long one bounded step takes.
//!
//! `cargo bench --bench pauses` prints both; with `-- --check` it fails when a figure is missed:
//! 4 GB/s of returned memory, and a budget of 500 µs overrun by less than 500 µs in 999 of 1000
//! calls.

mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Heap, Random};

const BUDGET_US: u32 = 500;
const BLOCKS: usize = 4_000_000;
const ROUNDS: usize = 12;

/// Fills the heap with blocks of mixed sizes, about 1 GB, and drops all but one in twenty.
fn fragment(heap: &Heap, random: &mut Random, kept: &mut Vec<(usize, usize)>) {
    let mut blocks: Vec<(usize, usize)> = (0..BLOCKS)
        .map(|_| {
            let size = 16 + random.below(450);
            let block = heap.allocate(size);
            // SAFETY: the block has `size` bytes.
            unsafe { block.cast::<u8>().write_bytes(1, size) };
            (block.addr(), size)
        })
        .collect();
    blocks.retain(|(block, size)| {
        let keep = random.below(20) == 0;
        if !keep {
            heap.free(std::ptr::with_exposed_provenance_mut(*block), *size);
        }
        keep
    });
    kept.append(&mut blocks);
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// Times calls with a budget until all is returned.
fn steps(heap: &Heap, times: &mut Vec<Duration>) {
    loop {
        let start = Instant::now();
        let more = heap.reclaim(BUDGET_US).1;
        times.push(start.elapsed());
        if !more {
            return;
        }
    }
}

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let (mut random, mut speeds, mut times) = (Random(11), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (heap, mut kept) = (Heap::new(), Vec::new());
        fragment(&heap, &mut random, &mut kept);
        if round % 4 == 0 {
            let start = Instant::now();
            let (returned, _) = heap.reclaim(0);
            speeds.push(returned as f64 / 1e9 / start.elapsed().as_secs_f64());
        } else {
            steps(&heap, &mut times);
        }
    }
    speeds.sort_by(f64::total_cmp);
    times.sort();
    let speed = speeds[speeds.len() / 2];
    let budget = Duration::from_micros(BUDGET_US.into());
    let over = |share| percentile(&times, share).saturating_sub(budget);
    println!("reclaim speed: {speed:.1} GB/s of returned memory (median of {})", speeds.len());
    println!(
        "budget of {BUDGET_US} us, {} calls: overrun p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        times.len(),
        over(0.5),
        over(0.99),
        over(0.999),
        over(1.0)
    );
    let reached = speed >= 4.0 && over(0.999) < Duration::from_micros(500);
    println!("{}", if reached { "reached" } else { "MISSED: 4 GB/s, 500 us at p99.9" });
    if check && !reached { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
