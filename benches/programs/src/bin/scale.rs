//! Measures ebbtide at scale: one heap of more and more live memory, then more and more heaps.
//!
//! Blocks of 16 to 496 bytes are allocated, replaced at random, freed but for one in twenty, and
//! reclaimed. Prints what each step cost, and the power by which the whole cost grows: 1 is in
//! proportion. Nothing may grow faster than that, but for a tenth, which caches and page tables
//! take. A replacement in a large heap waits for memory, so that its cost is shown and not judged.
//!
//! The largest heap is half of what memory is available, and 8 GB at most.
#![deny(unsafe_op_in_unsafe_fn)]

use std::ffi::c_void;
use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr;
use std::time::Duration;

use ebbtide::capi::{
    ebb_alloc, ebb_heap, ebb_heap_delete, ebb_heap_new, ebb_reclaim, ebb_stats, ebb_stats_read,
};
use ebbtide_programs::Result;
use ebbtide_programs::figures::{Bound, Figure};
use ebbtide_programs::machine::{available_bytes, command, machine};
use ebbtide_programs::numbers::exponent;
use ebbtide_programs::picture::publish;
use ebbtide_programs::report::{figure_table, json_figure, quote};
use ebbtide_programs::table;

const USAGE: &str = "usage: scale [--quick] [--json FILE] [--check]";

/// Live bytes of one heap.
const SIZES: &[u64] =
    &[1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 2 << 30, 4 << 30, 8 << 30];
const QUICK_SIZE_MAX: u64 = 1 << 30;
/// Numbers of heaps, each with [`BYTES_OF_EACH`] live bytes.
const COUNTS: &[usize] = &[1, 10, 100, 1000, 3000, 10_000];
const QUICK_COUNT_MAX: usize = 1000;
const BYTES_OF_EACH: u64 = 64 << 10;
/// Smaller ones fit into the processor's caches, and grow another way.
const JUDGED_SIZE_MIN: f64 = (64 << 20) as f64;
const JUDGED_COUNT_MIN: f64 = 100.0;
const REPLACEMENTS: usize = 1_000_000;
/// Small heaps come and go so often that what is timed takes a while.
const TIMED_BYTES_MIN: u64 = 64 << 20;
const EXPONENT_MAX: f64 = 1.1;
/// A heap that has just begun has a few pages of books and little else.
const METADATA_MAX_PERCENT: f64 = 1.7;

struct Options {
    quick: bool,
    json: Option<PathBuf>,
    check: bool,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { quick: false, json: None, check: false };
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} wants a value; {USAGE}"));
        match option.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = Some(value()?.into()),
            "--check" => options.check = true,
            _ => return Err(format!("no such option: {option}; {USAGE}")),
        }
    }
    Ok(options)
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes to so much fresh memory and lets it go again. In a virtual machine memory that was never
/// touched must first be found by the host, which takes longer than everything that is measured.
fn warm_up(bytes: u64) -> Result<()> {
    let (length, access) = (bytes as usize, libc::PROT_READ | libc::PROT_WRITE);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, wherever the kernel likes.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(format!("no {bytes} bytes to begin with"));
    }
    for offset in (0..length).step_by(4096) {
        // SAFETY: the offset lies in the mapping, which can be written.
        unsafe { start.cast::<u8>().add(offset).write_volatile(1) };
    }
    // SAFETY: the mapping is this function's, and nothing refers to it any more.
    unsafe { libc::munmap(start, length) };
    Ok(())
}

/// Seconds of CPU time that something takes.
fn timed(work: impl FnOnce()) -> f64 {
    let start = cpu_time();
    work();
    (cpu_time() - start).as_secs_f64()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    /// The size of a block: 16 to 496 bytes, in steps of 8.
    fn size(&mut self) -> u16 {
        (16 + 8 * self.below(61)) as u16
    }
}

/// A heap and its live blocks.
struct Filled {
    heap: *mut ebb_heap,
    blocks: Vec<(*mut c_void, u16)>,
}

impl Filled {
    fn new(bytes: u64) -> Result<Filled> {
        // SAFETY: NULL stands for the default options.
        let heap = unsafe { ebb_heap_new(ptr::null()) };
        if heap.is_null() {
            return Err("no further heap".to_owned());
        }
        // The mean block has 256 bytes.
        Ok(Filled { heap, blocks: Vec::with_capacity(bytes as usize / 250) })
    }

    fn call(&self, block: *mut c_void, old: u16, new: u16) -> *mut c_void {
        // SAFETY: the heap is live, and `block` NULL or one of its live blocks.
        unsafe { ebb_alloc(self.heap.cast(), block, old.into(), new.into()) }
    }

    /// A new block, written to as a program would.
    fn allocate(&self, size: u16) -> *mut c_void {
        let block = self.call(ptr::null_mut(), 0, size);
        assert!(!block.is_null(), "out of memory");
        // SAFETY: the block has 16 bytes or more.
        unsafe { block.cast::<u64>().write(1) };
        block
    }

    fn fill(&mut self, bytes: u64, random: &mut Random) {
        let mut live = 0;
        while live < bytes {
            let size = random.size();
            self.blocks.push((self.allocate(size), size));
            live += u64::from(size);
        }
    }

    fn replace(&mut self, random: &mut Random) {
        let at = random.below(self.blocks.len());
        let (block, size) = self.blocks[at];
        self.call(block, size, 0);
        let size = random.size();
        self.blocks[at] = (self.allocate(size), size);
    }

    /// Frees all but one block in twenty.
    fn thin(&mut self, random: &mut Random) {
        let blocks = std::mem::take(&mut self.blocks);
        for (block, size) in blocks {
            if random.below(20) > 0 {
                self.call(block, size, 0);
            } else {
                self.blocks.push((block, size));
            }
        }
    }

    fn reclaim(&self) {
        // SAFETY: the heap is live; NULL asks for everything and no report.
        let result = unsafe { ebb_reclaim(self.heap, ptr::null(), ptr::null_mut()) };
        assert_eq!(result, 0, "reclaim");
    }

    fn stats(&self) -> ebb_stats {
        // SAFETY: all-zero bytes are valid statistics, and the structure is whole.
        unsafe {
            let mut stats: ebb_stats = std::mem::zeroed();
            stats.size = size_of::<ebb_stats>();
            assert_eq!(ebb_stats_read(self.heap, &mut stats), 0, "stats");
            stats
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        // SAFETY: nothing uses the heap after this.
        unsafe { ebb_heap_delete(self.heap) }
    }
}

/// What one heap of `x` live bytes, or `x` heaps, cost in all.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// Live bytes, or heaps.
    x: f64,
    blocks: f64,
    create_s: f64,
    fill_s: f64,
    replace_ns: f64,
    thin_s: f64,
    reclaim_s: f64,
    delete_s: f64,
    metadata: f64,
    resident: f64,
}

impl Row {
    fn metadata_percent(&self) -> f64 {
        100.0 * self.metadata / self.resident
    }

    /// Nanoseconds for each block that was allocated.
    fn fill_ns(&self) -> f64 {
        self.fill_s / self.blocks * 1e9
    }

    fn thin_ns(&self) -> f64 {
        self.thin_s / self.blocks * 1e9
    }
}

/// Makes `count` heaps of `bytes`, and takes them through everything.
fn run(count: usize, bytes: u64) -> Result<Row> {
    let mut random = Random(11);
    let mut row = Row::default();
    let mut heaps = Vec::with_capacity(count);
    let mut failed = None;
    row.create_s = timed(|| {
        for _ in 0..count {
            match Filled::new(bytes) {
                Ok(heap) => heaps.push(heap),
                Err(error) => failed = Some(error),
            }
        }
    });
    if let Some(error) = failed {
        return Err(format!("{error}: {} of {count}", heaps.len()));
    }
    row.fill_s = timed(|| heaps.iter_mut().for_each(|heap| heap.fill(bytes, &mut random)));
    row.blocks = heaps.iter().map(|heap| heap.blocks.len() as f64).sum();
    let stats: Vec<_> = heaps.iter().map(Filled::stats).collect();
    row.metadata = stats.iter().map(|stats| stats.metadata as f64).sum();
    row.resident = stats.iter().map(|stats| stats.resident as f64).sum();
    let replace_s = timed(|| {
        for turn in 0..REPLACEMENTS {
            heaps[turn % count].replace(&mut random);
        }
    });
    row.replace_ns = replace_s / REPLACEMENTS as f64 * 1e9;
    row.thin_s = timed(|| heaps.iter_mut().for_each(|heap| heap.thin(&mut random)));
    row.reclaim_s = timed(|| heaps.iter().for_each(Filled::reclaim));
    row.delete_s = timed(|| drop(heaps));
    Ok(row)
}

/// The same several times when it is over soon; the times are those of one.
fn run_long_enough(count: usize, bytes: u64) -> Result<Row> {
    let times = (TIMED_BYTES_MIN / (count as u64 * bytes)).clamp(1, 16);
    let mut sum = Row::default();
    for _ in 0..times {
        let row = run(count, bytes)?;
        let share = |value: f64| value / times as f64;
        sum = Row {
            create_s: sum.create_s + share(row.create_s),
            fill_s: sum.fill_s + share(row.fill_s),
            replace_ns: sum.replace_ns + share(row.replace_ns),
            thin_s: sum.thin_s + share(row.thin_s),
            reclaim_s: sum.reclaim_s + share(row.reclaim_s),
            delete_s: sum.delete_s + share(row.delete_s),
            ..row
        };
    }
    Ok(sum)
}

fn measure(options: &Options) -> Result<()> {
    println!("machine   {}\n", machine());
    let room = available_bytes().unwrap_or(1 << 30) / 2;
    let size_max = if options.quick { QUICK_SIZE_MAX } else { u64::MAX };
    let count_max = if options.quick { QUICK_COUNT_MAX } else { usize::MAX };
    let fits = |bytes: &&u64| **bytes <= room.min(size_max);
    warm_up(SIZES.iter().filter(fits).max().copied().unwrap_or(0).max(TIMED_BYTES_MIN))?;
    let mut sizes = Vec::new();
    for &bytes in SIZES.iter().filter(fits) {
        sizes.push(Row { x: bytes as f64, ..run_long_enough(1, bytes)? });
    }
    println!("{}", table::render(&rows("live in one heap", &sizes, size_label)));
    let mut counts = Vec::new();
    let fits = |count: &&usize| **count <= count_max && **count as u64 * BYTES_OF_EACH <= room;
    for &count in COUNTS.iter().filter(fits) {
        counts.push(Row { x: count as f64, ..run_long_enough(count, BYTES_OF_EACH)? });
    }
    println!("{}", table::render(&rows("heaps of 64 KB", &counts, count_label)));
    let mut figures = size_figures(&sizes);
    figures.extend(count_figures(&counts));
    println!("{}", figure_table(&figures));
    if let Some(path) = &options.json {
        publish(path, &json(&sizes, &counts, &figures))?;
    }
    match options.check && !figures.iter().all(Figure::reached) {
        true => Err("a figure was missed".to_owned()),
        false => Ok(()),
    }
}

fn size_label(bytes: f64) -> String {
    match bytes < f64::from(1 << 30) {
        true => format!("{} MB", bytes / f64::from(1 << 20)),
        false => format!("{} GB", bytes / f64::from(1 << 30)),
    }
}

fn count_label(count: f64) -> String {
    count.to_string()
}

fn rows(what: &str, rows: &[Row], label: fn(f64) -> String) -> Vec<Vec<String>> {
    let heading =
        [what, "allocate", "replace", "free", "reclaim", "make", "delete", "metadata", "resident"];
    let line = |row: &Row| {
        vec![
            label(row.x),
            format!("{:.1} ns", row.fill_ns()),
            format!("{:.1} ns", row.replace_ns),
            format!("{:.1} ns", row.thin_ns()),
            format!("{:.2} ms", row.reclaim_s * 1e3),
            format!("{:.3} ms", row.create_s * 1e3),
            format!("{:.2} ms", row.delete_s * 1e3),
            format!("{:.2} %", row.metadata_percent()),
            format!("{:.1} MB", row.resident / f64::from(1 << 20)),
        ]
    };
    std::iter::once(heading.map(str::to_owned).to_vec()).chain(rows.iter().map(line)).collect()
}

/// By which power something grows from a least x on.
fn growth(what: &str, rows: &[Row], x_min: f64, read: fn(&Row) -> f64) -> Option<Figure> {
    let judged = rows.iter().filter(|row| row.x >= x_min);
    let points: Vec<_> = judged.map(|row| (row.x, read(row))).collect();
    let what = format!("{what}, grows with the power");
    let bound = Bound::AtMost(EXPONENT_MAX);
    Some(Figure { what, base: None, seen: exponent(&points)?, bound, unit: "" })
}

fn size_figures(rows: &[Row]) -> Vec<Figure> {
    let large = rows.iter().filter(|row| row.x >= JUDGED_SIZE_MIN);
    let share = large.map(Row::metadata_percent).reduce(f64::max);
    let metadata = share.map(|seen| Figure {
        what: "metadata in a hundred bytes of a heap of 64 MB or more, at most".to_owned(),
        base: None,
        seen,
        bound: Bound::AtMost(METADATA_MAX_PERCENT),
        unit: "%",
    });
    let growth = |what, read| growth(what, rows, JUDGED_SIZE_MIN, read);
    let figures = [
        growth("filling a heap", |row| row.fill_s),
        growth("emptying a heap", |row| row.thin_s),
        growth("reclaiming a heap", |row| row.reclaim_s),
        growth("deleting a heap", |row| row.delete_s),
        metadata,
    ];
    figures.into_iter().flatten().collect()
}

fn count_figures(rows: &[Row]) -> Vec<Figure> {
    let growth = |what, read| growth(what, rows, JUDGED_COUNT_MIN, read);
    let figures = [
        growth("making heaps", |row| row.create_s),
        growth("filling heaps", |row| row.fill_s),
        growth("reclaiming heaps", |row| row.reclaim_s),
        growth("deleting heaps", |row| row.delete_s),
        growth("metadata of heaps", |row| row.metadata),
    ];
    figures.into_iter().flatten().collect()
}

fn json_rows(rows: &[Row]) -> String {
    let line = |row: &Row| {
        format!(
            "    {{\"x\": {}, \"allocate_ns\": {}, \"replace_ns\": {}, \"free_ns\": {}, \
             \"reclaim_s\": {}, \"make_s\": {}, \"delete_s\": {}, \"metadata_bytes\": {}, \
             \"resident_bytes\": {}}}",
            row.x,
            row.fill_ns(),
            row.replace_ns,
            row.thin_ns(),
            row.reclaim_s,
            row.create_s,
            row.delete_s,
            row.metadata,
            row.resident
        )
    };
    rows.iter().map(line).collect::<Vec<_>>().join(",\n")
}

fn json(sizes: &[Row], counts: &[Row], figures: &[Figure]) -> String {
    let figures: Vec<_> = figures.iter().map(json_figure).collect();
    format!(
        "{{\n  \"machine\": {},\n  \"command\": {},\n  \"sizes\": [\n{}\n  ],\n  \"heaps\": [\n{}\n  ],\n  \
         \"figures\": [\n{}\n  ]\n}}\n",
        quote(&machine()),
        quote(&command("scale")),
        json_rows(sizes),
        json_rows(counts),
        figures.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_programs::picture::{draw, write};

    #[test]
    fn a_small_heap_goes_through_everything() {
        let row = run(3, 100_000).expect("there is room");
        assert!(row.blocks > 900.0 && row.metadata > 0.0 && row.resident > 300_000.0, "{row:?}");
    }

    #[test]
    fn growth_is_judged_from_the_least_size_on() {
        let row = |x: f64, s: f64| Row { x, fill_s: s, ..Row::default() };
        let rows = [row(1.0, 9.0), row(10.0, 1.0), row(100.0, 100.0)];
        let figure = growth("filling", &rows, 10.0, |row| row.fill_s).expect("two points");
        assert!((figure.seen - 2.0).abs() < 1e-9 && !figure.reached());
        assert_eq!(growth("filling", &rows[..1], 0.0, |row| row.fill_s), None);
    }

    #[test]
    fn sizes_are_named_in_their_units() {
        assert_eq!(size_label(f64::from(4 << 20)), "4 MB");
        assert_eq!(size_label(8.0 * f64::from(1 << 30)), "8 GB");
    }

    #[test]
    fn there_is_a_picture_of_sizes_and_one_of_heaps() {
        let row = |x: f64| Row { x, blocks: 1.0, fill_s: 3e-7, resident: 1.0, ..Row::default() };
        for rows in [&[row(1e6)][..], &[row(1e6), row(2e6), row(4e6)]] {
            let path = std::env::temp_dir().join(format!("ebbtide-scale-{}", std::process::id()));
            let path = path.join("scale.json");
            write(&path, &json(rows, rows, &[])).expect("the folder is writable");
            let pictures = draw(&path).expect("the results are whole");
            let svgs: Vec<_> = pictures.iter().flat_map(std::fs::read_to_string).collect();
            std::fs::remove_dir_all(path.parent().expect("a folder")).expect("it is there");
            // Five curves and seven, with a dot for each point and for each name in a legend.
            let dots: Vec<_> = svgs.iter().map(|svg| svg.matches("<circle").count()).collect();
            assert_eq!(dots, [5 * rows.len() + 3, 7 * rows.len() + 6]);
            assert!(svgs.iter().all(|svg| svg.contains(">350<") && !svg.contains("nan")));
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        let parsed = |line: &str| parse(line.split_whitespace().map(str::to_owned));
        assert!(parsed("--quick --check").is_ok_and(|options| options.quick && options.check));
        assert!(parsed("--json").is_err_and(|error| error.contains("--json wants a value")));
        assert!(parsed("--fast").is_err_and(|error| error.contains("no such option: --fast")));
    }
}
