//! How long one bounded step of a reclaim takes, and how fast the worst shape goes back.
//!
//! `cargo bench --bench pauses` prints both. A machine that is shared stops every program now and
//! then, so empty loops with the same budget are timed in turn with the calls. With `-- --check` it
//! fails when 1 in 1000 calls overruns its budget of 500 µs by 500 µs more than the loops do.

mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Heap, Random};

const BUDGET_US: u32 = 500;
const BUDGET: Duration = Duration::from_micros(BUDGET_US as u64);
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

/// How long calls took, and how long as many empty loops did that looked at the clock until the
/// same budget was spent.
#[derive(Default)]
struct Times {
    calls: Vec<Duration>,
    loops: Vec<Duration>,
}

/// Times calls with a budget until all is returned, each followed by an empty loop.
fn steps(heap: &Heap, times: &mut Times) {
    loop {
        let start = Instant::now();
        let more = heap.reclaim(BUDGET_US).1;
        times.calls.push(start.elapsed());
        let start = Instant::now();
        while start.elapsed() < BUDGET {}
        times.loops.push(start.elapsed());
        if !more {
            return;
        }
    }
}

/// By how much the budget was overrun in 999 of 1000 cases; prints a line with more.
fn overrun(name: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let over =
        |share: f64| times[((times.len() - 1) as f64 * share) as usize].saturating_sub(BUDGET);
    println!(
        "budget of {BUDGET:?}, {} {name}: overrun p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        times.len(),
        over(0.5),
        over(0.99),
        over(0.999),
        over(1.0)
    );
    over(0.999)
}

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let (mut random, mut speeds, mut times) = (Random(11), Vec::new(), Times::default());
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
    let speed = speeds[speeds.len() / 2];
    println!("scattered holes of 1 to 3 pages: {speed:.1} GB/s (median of {})", speeds.len());
    let calls = overrun("calls", times.calls);
    let loops = overrun("empty loops", times.loops);
    let reached = calls.saturating_sub(loops) < Duration::from_micros(500);
    println!("{}", if reached { "reached" } else { "MISSED: under 500 us at p99.9" });
    if check && !reached { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
