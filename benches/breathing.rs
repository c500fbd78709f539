//! What breathing costs, and how well a heap breathes.
//!
//! `cargo bench --bench breathing` prints the figures of memory that goes back by itself; with
//! `-- --check` it fails when one is missed. Speed is compared by CPU time, a heap that breathes and
//! one that does not taking turns every few milliseconds, so that what slows a shared machine down
//! slows both; what it does to every program is measured beside the pauses.
//!
//! The first fall of a sawtooth is judged apart from those after it. A heap that has not seen demand
//! come back must return what a fall leaves free: the program may have dropped it for good, and
//! then it would hold more than it may beside LuaJIT's own allocator. From the second fall on the
//! heap knows that demand comes back.
//!
//! `cargo bench --bench breathing -- --background` compares the option `background` at its default
//! with `off` instead, in the same way. The CPU time of the background thread is counted.

mod common;

use std::ffi::c_void;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Heap, Random, cpu_time, process_cpu_time, resident};
use ebbtide::capi::EBB_ZERO;

const MB: usize = 1 << 20;

/// A program on a heap: blocks of mixed sizes, as many as it is told, a few large ones among them.
struct Load<'heap> {
    heap: &'heap Heap,
    random: Random,
    blocks: Vec<(*mut c_void, usize)>,
    live: usize,
}

impl<'heap> Load<'heap> {
    fn new(heap: &'heap Heap) -> Load<'heap> {
        Load { heap, random: Random(5), blocks: Vec::new(), live: 0 }
    }

    fn grow(&mut self) {
        let large = self.random.below(1024) == 0;
        let size = if large { 20_000 } else { 16 + self.random.below(300) };
        let block = self.heap.allocate(size);
        // SAFETY: the block has `size` bytes.
        unsafe { block.cast::<u8>().write_bytes(1, size) };
        self.blocks.push((block, size));
        self.live += size;
    }

    fn shrink(&mut self) {
        let index = self.random.below(self.blocks.len());
        let (block, size) = self.blocks.swap_remove(index);
        self.heap.free(block, size);
        self.live -= size;
    }

    /// Moves live memory to `target` bytes, then replaces `churn` blocks.
    fn step(&mut self, target: usize, churn: usize) {
        while self.live < target {
            self.grow();
        }
        while self.live > target && self.blocks.len() > 1 {
            self.shrink();
        }
        for _ in 0..churn {
            self.shrink();
            self.grow();
        }
    }

    /// Frees all blocks but one in fifty, anywhere.
    fn drop_most(&mut self) {
        for (index, (block, size)) in std::mem::take(&mut self.blocks).into_iter().enumerate() {
            if index % 50 == 0 {
                self.blocks.push((block, size));
            } else {
                self.heap.free(block, size);
                self.live -= size;
            }
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.blocks.iter().for_each(|(block, size)| self.heap.free(*block, *size));
    }
}

/// Demand over time, again and again.
struct Shape {
    name: &'static str,
    /// Bytes that live at the crest.
    crest: usize,
    period: Duration,
    /// Of a hundred steps of a period, those in which live memory rises; in the others it falls.
    /// 0: it stays at the crest.
    rising: usize,
    periods: usize,
    rounds: usize,
    /// What the speed must be, against a heap that does not breathe.
    bound: f64,
    /// Whether memory that is needed again within a second must not have been returned.
    returns_in_time: bool,
}

#[rustfmt::skip]
const SHAPES: [Shape; 4] = [
    Shape { name: "steady churn", crest: 100 * MB, period: Duration::from_secs(1), rising: 0,
            periods: 2, rounds: 11, bound: 0.99, returns_in_time: true },
    Shape { name: "sawtooth of 100 ms", crest: 20 * MB, period: Duration::from_millis(100),
            rising: 80, periods: 10, rounds: 15, bound: 0.97, returns_in_time: true },
    Shape { name: "sawtooth of 1 s", crest: 100 * MB, period: Duration::from_secs(1), rising: 80,
            periods: 8, rounds: 7, bound: 0.97, returns_in_time: true },
    Shape { name: "sawtooth of 10 s", crest: 200 * MB, period: Duration::from_secs(10), rising: 80,
            periods: 4, rounds: 4, bound: 0.97, returns_in_time: false },
];

/// Steps in a period.
const STEPS: usize = 100;

impl Shape {
    /// What lives at a step of a period.
    fn target(&self, step: usize) -> usize {
        let share = |part: usize, whole: usize| self.crest / whole * part;
        match step {
            _ if self.rising == 0 => self.crest,
            step if step < self.rising => share(step, self.rising).max(MB),
            step => share(STEPS - step, STEPS - self.rising).max(MB),
        }
    }

    /// The part of a run that a step belongs to: until the first crest, from there to the second,
    /// and after that. Without a fall there is the last one alone.
    fn part(&self, step: usize) -> usize {
        match step {
            _ if self.rising == 0 => LATER,
            step if step < self.rising => 0,
            step if step < STEPS + self.rising => FIRST_FALL,
            _ => LATER,
        }
    }

    /// How many times demand falls in the last part, and bytes that each of these leaves free.
    fn falls(&self) -> (usize, usize) {
        if self.rising == 0 { (0, 0) } else { (self.periods - 1, self.crest) }
    }

    /// How many blocks to replace in each step so that two heaps that take turns need as long for a
    /// period as it should last.
    fn churn(&self) -> usize {
        let heaps = [Heap::still(), Heap::still()];
        let mut churn = 100;
        self.run(&heaps, 1, churn);
        loop {
            let took: Duration = self.run(&heaps, 1, churn).iter().flatten().map(|p| p.took).sum();
            if took >= self.period / 2 {
                return (churn as f64 * self.period.div_duration_f64(took)) as usize;
            }
            churn *= 2;
        }
    }

    /// Plays the same load on two heaps, which take turns; what each did in each part.
    fn run(&self, heaps: &[Heap; 2], periods: usize, churn: usize) -> [[Part; PARTS]; 2] {
        let mut loads = [Load::new(&heaps[0]), Load::new(&heaps[1])];
        let mut parts = [[Part::default(); PARTS]; 2];
        let mut before = 0;
        for step in 0..periods * STEPS {
            let part = self.part(step);
            if part != before {
                heaps.iter().zip(&mut parts).for_each(|(heap, parts)| parts[before].note(heap));
                before = part;
            }
            for turn in [step % 2, 1 - step % 2] {
                let start = cpu_time();
                loads[turn].step(self.target(step % STEPS), churn);
                parts[turn][part].took += cpu_time() - start;
            }
        }
        heaps.iter().zip(&mut parts).for_each(|(heap, parts)| parts[before].note(heap));
        parts.map(|[first, fall, later]| [first, fall.since(&first), later.since(&fall)])
    }
}

/// Parts of a run.
const PARTS: usize = 3;
const FIRST_FALL: usize = 1;
const LATER: usize = 2;

/// What a heap did in a part of a run.
#[derive(Clone, Copy, Default)]
struct Part {
    took: Duration,
    /// Bytes that it returned, and of these the bytes that were needed again within a second.
    returned: u64,
    premature: u64,
}

impl Part {
    /// Takes note of what the heap has returned since it was made.
    fn note(&mut self, heap: &Heap) {
        let stats = heap.stats();
        self.returned = stats.returned_total;
        self.premature = stats.premature_refaults_idle;
    }

    /// The same since the end of the part before.
    fn since(&self, before: &Part) -> Part {
        Part {
            took: self.took,
            returned: self.returned.saturating_sub(before.returned),
            premature: self.premature.saturating_sub(before.premature),
        }
    }
}

/// How many figures are not what they must be.
struct Report {
    missed: usize,
}

impl Report {
    fn judge(&mut self, reached: bool, text: String) {
        println!("{text}: {}", if reached { "reached" } else { "MISSED" });
        self.missed += usize::from(!reached);
    }
}

/// The median of some ratios, the lowest, and the highest.
fn median(mut ratios: Vec<f64>) -> (f64, f64, f64) {
    ratios.sort_by(f64::total_cmp);
    (ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1])
}

/// How many times as fast the second was as the first, in some of the parts.
fn ratio(off: &[Part], on: &[Part]) -> f64 {
    let took = |parts: &[Part]| parts.iter().map(|part| part.took).sum::<Duration>();
    took(off).div_duration_f64(took(on))
}

/// What one round gave: parts of the heap that breathes, and of the one that does not.
type Round = ([Part; PARTS], [Part; PARTS]);

/// Plays a shape on a heap that is made so, and on another, in each round.
fn rounds(shape: &Shape, on: fn() -> Heap, off: fn() -> Heap) -> Vec<Round> {
    let churn = shape.churn();
    let round = |round: usize| {
        // Where a heap lies costs or gains it a percent, so they change places.
        let place = round % 2;
        let heaps = [0, 1].map(|at| if at == place { on() } else { off() });
        let other_cpu = other_cpu_time();
        let mut parts = shape.run(&heaps, shape.periods, churn);
        // Of the two heaps only this one has a thread.
        parts[place][LATER].took += other_cpu_time().saturating_sub(other_cpu);
        (parts[place], parts[1 - place])
    };
    (0..shape.rounds).map(round).collect()
}

/// CPU time of all other threads of the process.
fn other_cpu_time() -> Duration {
    process_cpu_time().saturating_sub(cpu_time())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MB as f64
}

/// Speed with breathing against without, and what of the returned memory was returned in error.
fn speed(shape: &Shape, report: &mut Report) {
    let played = rounds(shape, Heap::new, Heap::still);
    let speeds = |parts: std::ops::Range<usize>| {
        let of = |(on, off): &Round| ratio(&off[parts.clone()], &on[parts.clone()]);
        median(played.iter().map(of).collect())
    };
    let sum = |part: usize, value: fn(&Part) -> u64| -> u64 {
        played.iter().map(|(on, _)| value(&on[part])).sum()
    };
    let lasted: Duration =
        played.iter().flat_map(|(on, off)| on.iter().chain(off)).map(|part| part.took).sum();
    let period = lasted.as_secs_f64() / (shape.rounds * shape.periods) as f64;
    let (count, falls) = (shape.rounds as f64, shape.falls());
    if falls.0 > 0 {
        let returned = megabytes(sum(FIRST_FALL, |part| part.returned)) / count;
        println!(
            "{}: first fall returned {returned:.1} of {} MB, speed of breathing {:.3} in it, and \
             {:.3} in all {} periods",
            shape.name,
            shape.crest / MB,
            speeds(FIRST_FALL..LATER).0,
            speeds(0..PARTS).0,
            shape.periods
        );
    }
    let (median, least, most) = speeds(LATER..PARTS);
    let after = if falls.0 > 0 { ", after it" } else { "" };
    let text = format!(
        "{}{after}: speed of breathing {median:.3} (rounds {least:.3} to {most:.3}, period \
         {period:.2} s), at least {:.2}",
        shape.name, shape.bound
    );
    report.judge(median >= shape.bound, text);
    let returned = sum(LATER, |part| part.returned);
    let premature = sum(LATER, |part| part.premature);
    let text = format!(
        "{}{after}: a round returned {:.1} MB under load, {:.1} of them were needed within a second",
        shape.name,
        megabytes(returned) / count,
        megabytes(premature) / count
    );
    // A heap that returns hardly anything cannot be judged by a share of that.
    let little = (shape.rounds * falls.0 * falls.1 / 100) as u64;
    if shape.returns_in_time {
        let reached = premature <= little.max(returned / 20);
        report.judge(reached, text + ", at most 5 %, or 1 % of what the falls left free");
    } else {
        println!("{text}");
    }
}

/// Speed with the background thread against without it.
fn background(shape: &Shape, report: &mut Report) {
    let off = || Heap::with(|options| options.background = EBB_ZERO);
    let ratios = rounds(shape, Heap::new, off).iter().map(|(on, off)| ratio(off, on)).collect();
    let (median, least, most) = median(ratios);
    let text = format!(
        "{}: speed with the background thread {median:.3} times that without (rounds {least:.3} to \
         {most:.3}), 1 within the rounds",
        shape.name
    );
    report.judge(most >= 1.0, text);
}

/// Two seconds after load ended nothing is left to reclaim, and then nobody wakes up any more.
fn settle(report: &mut Report) {
    for (name, crest) in [("20 MB", 20 * MB), ("200 MB", 200 * MB), ("2 GB", 2048 * MB)] {
        let heap = Heap::new();
        let mut load = Load::new(&heap);
        load.step(crest, 1000);
        load.drop_most();
        let before = resident();
        let wakeups = heap.idle(Duration::from_secs(2));
        let after = resident();
        heap.reclaim(0);
        let reclaimed = resident();
        let over = after.saturating_sub(reclaimed);
        let text = format!(
            "{name} dropped: RSS {} MB, 2 s later {} MB ({wakeups} ticks), {} MB after a full \
             reclaim, within 10 % or 1 MB",
            before / MB as u64,
            after / MB as u64,
            reclaimed / MB as u64
        );
        report.judge(over <= (reclaimed / 10).max(MB as u64), text);
        let wakeups = heap.idle(Duration::from_secs(1));
        let wakeups = if wakeups <= 1 { heap.idle(Duration::from_secs(3)) } else { wakeups };
        report.judge(
            wakeups == 0 && heap.next_tick().is_none(),
            format!("{name} settled: {wakeups} wake-ups in 3 s, none"),
        );
    }
}

/// The times at which 50, 99 and 99.9 of 100 were done, and the longest.
fn spread(mut times: Vec<Duration>) -> [Duration; 4] {
    times.sort();
    let at = |share: f64| {
        times.get(((times.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or_default()
    };
    [at(0.5), at(0.99), at(0.999), at(1.0)]
}

fn pauses(report: &mut Report) {
    let (mut ticks, mut steps, mut loops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let heap = Heap::with(|options| options.decay_ms = 300);
        let mut load = Load::new(&heap);
        load.step(2048 * MB, 1000);
        load.drop_most();
        slow_path(&mut load, &mut steps, &mut loops);
        load.step(2048 * MB, 1000);
        load.drop_most();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let Some(pause) = heap.next_tick() else { break };
            std::thread::sleep(pause);
            let start = Instant::now();
            heap.tick(500);
            ticks.push(start.elapsed());
            loops.push(empty_loop(Duration::from_micros(500)));
        }
    }
    let count = (ticks.len(), steps.len());
    let (ticks, steps, loops) = (spread(ticks), spread(steps), spread(loops));
    println!("empty loops of 500 us, p50 p99 p99.9 max: {loops:?}");
    // Where a loop that does nothing takes that long, the machine is judged and not the heap.
    let bound = Duration::from_millis(1);
    for (name, count, times) in
        [("ticks of 500 us", count.0, ticks), ("slow paths", count.1, steps)]
    {
        let text = format!("{count} {name} on 2 GB: {times:?}, p99.9 under 1 ms");
        if times[2] >= bound && loops[2] >= bound {
            println!("{text}: NOT JUDGED, the machine is too busy");
        } else {
            report.judge(times[2] < bound, text);
        }
    }
}

fn empty_loop(lasting: Duration) -> Duration {
    let start = Instant::now();
    while start.elapsed() < lasting {}
    start.elapsed()
}

/// Replaces blocks while what is due goes back on the slow path; times the calls in which some did.
fn slow_path(load: &mut Load<'_>, steps: &mut Vec<Duration>, loops: &mut Vec<Duration>) {
    let begin = Instant::now();
    let mut seen = load.heap.stats().steps;
    while begin.elapsed() < Duration::from_secs(4) {
        for call in [Load::shrink, Load::grow] {
            let start = Instant::now();
            call(load);
            let took = start.elapsed();
            if took < Duration::from_micros(5) {
                continue;
            }
            let now = load.heap.stats().steps;
            if now > seen {
                steps.push(took);
                loops.push(empty_loop(Duration::from_micros(500)));
            }
            seen = now;
        }
    }
}

fn main() -> ExitCode {
    let is_given = |name: &str| std::env::args().any(|argument| argument == name);
    let check = is_given("--check");
    let mut report = Report { missed: 0 };
    if is_given("--background") {
        SHAPES[..3].iter().for_each(|shape| background(shape, &mut report));
    } else {
        settle(&mut report);
        pauses(&mut report);
        SHAPES.iter().for_each(|shape| speed(shape, &mut report));
    }
    println!("{} missed", report.missed);
    if check && report.missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
