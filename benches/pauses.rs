//! How long one bounded step of a reclaim takes, and how fast the worst shape goes back.
//!
//! `cargo bench --bench pauses` prints both; with `-- --check` it fails when 1 in 1000 calls uses
//! more than 500 µs of CPU time beyond its budget of 500 µs. The wall clock is shown beside it: on
//! a machine that is shared it tells more of the machine.

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

/// CPU time of this thread. What the machine does besides is not in it.
fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// How long each call took, by the clock on the wall and by CPU time.
#[derive(Default)]
struct Times {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
}

/// Times calls with a budget until all is returned.
fn steps(heap: &Heap, times: &mut Times) {
    loop {
        let (start, cpu_start) = (Instant::now(), cpu_time());
        let more = heap.reclaim(BUDGET_US).1;
        times.cpu.push(cpu_time() - cpu_start);
        times.wall.push(start.elapsed());
        if !more {
            return;
        }
    }
}

/// By how much calls overran the budget, at a share of all of them; prints a line of such.
fn overrun(name: &str, mut times: Vec<Duration>) -> impl Fn(f64) -> Duration {
    times.sort();
    let budget = Duration::from_micros(BUDGET_US.into());
    let count = times.len();
    let over =
        move |share: f64| times[((count - 1) as f64 * share) as usize].saturating_sub(budget);
    println!(
        "budget of {BUDGET_US} us, {count} calls, overrun by {name}: \
         p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        over(0.5),
        over(0.99),
        over(0.999),
        over(1.0)
    );
    over
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
    let _ = overrun("the wall clock", times.wall);
    let reached = overrun("CPU time", times.cpu)(0.999) < Duration::from_micros(500);
    println!("{}", if reached { "reached" } else { "MISSED: under 500 us at p99.9" });
    if check && !reached { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
