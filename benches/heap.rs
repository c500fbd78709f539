//! Allocators by themselves, through functions like `lua_Alloc`, as criterion benches.
//!
//! `cargo bench --bench heap` measures ours and the C library's; `make bench` the peers as well.
//! `BENCH_QUICK` in the environment makes it short. Whole LuaJIT programs are in
//! `benches/programs`.

mod common;

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;
use std::time::Duration;

use common::peers::{Subject, candidates};
use common::{Heap, Random};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn quick() -> bool {
    std::env::var_os("BENCH_QUICK").is_some()
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("allocate+free");
    let sizes: &[usize] = if quick() { &[64, 1024] } else { &[16, 64, 256, 1024, 8192, 65536] };
    for &size in sizes {
        for candidate in candidates() {
            let subject = candidate.start();
            group.bench_function(BenchmarkId::new(&candidate.name, size), |b| {
                b.iter(|| subject.free(black_box(subject.allocate(size)), size));
            });
        }
    }
    group.finish();
}

fn sweep(c: &mut Criterion) {
    const COUNT: usize = 100_000;
    let mut group = c.benchmark_group("allocate 100k, free in order");
    group.throughput(Throughput::Elements(COUNT as u64));
    let sizes: &[usize] = if quick() { &[64] } else { &[24, 64, 200] };
    for &size in sizes {
        for candidate in candidates() {
            let subject = candidate.start();
            let mut blocks = vec![ptr::null_mut(); COUNT];
            group.bench_function(BenchmarkId::new(&candidate.name, size), |b| {
                b.iter(|| {
                    blocks.fill_with(|| subject.allocate(size));
                    blocks.iter().for_each(|block| subject.free(*block, size));
                });
            });
        }
    }
    group.finish();
}

fn ladder(c: &mut Criterion) {
    let mut group = c.benchmark_group("resize 16 bytes to 16 MiB by doubling");
    for candidate in candidates() {
        let subject = candidate.start();
        group.bench_function(BenchmarkId::from_parameter(&candidate.name), |b| {
            b.iter(|| {
                let (mut block, mut size) = (subject.allocate(16), 16);
                while size < 16 << 20 {
                    block = subject.call(block, size, size * 2);
                    size *= 2;
                }
                subject.free(block, size);
            });
        });
    }
    group.finish();
}

fn replace(c: &mut Criterion) {
    let mut group = c.benchmark_group("random replacement, 16 to 256 bytes, live blocks");
    let counts: &[usize] =
        if quick() { &[10_000] } else { &[10_000, 100_000, 1_000_000, 10_000_000] };
    for &count in counts {
        for candidate in candidates() {
            let (subject, mut random) = (candidate.start(), Random(7));
            let size_of = |random: &mut Random| 16 + random.below(241);
            let mut blocks: Vec<(*mut c_void, usize)> = Vec::with_capacity(count);
            for _ in 0..count {
                let size = size_of(&mut random);
                blocks.push((subject.allocate(size), size));
            }
            group.bench_function(BenchmarkId::new(&candidate.name, count), |b| {
                b.iter(|| {
                    let slot = &mut blocks[random.below(count)];
                    subject.free(slot.0, slot.1);
                    let size = size_of(&mut random);
                    *slot = (subject.allocate(size), size);
                });
            });
            blocks.into_iter().for_each(|(block, size)| subject.free(block, size));
            subject.purge();
        }
    }
    group.finish();
}

/// Frees what is left when a round is over.
struct Fragmented {
    subject: Subject,
    kept: Vec<*mut c_void>,
}

impl Drop for Fragmented {
    fn drop(&mut self) {
        self.kept.iter().for_each(|block| self.subject.free(*block, 100));
    }
}

/// Blocks of which all but one in a thousand is free, and resident.
fn fragmented(subject: Subject, count: usize) -> Fragmented {
    let blocks: Vec<_> = (0..count).map(|_| subject.allocate(100)).collect();
    let mut kept = Vec::new();
    for (index, block) in blocks.into_iter().enumerate() {
        // SAFETY: the block has 100 bytes.
        unsafe { block.cast::<u8>().write(1) };
        if index % 1000 == 0 {
            kept.push(block);
        } else {
            subject.free(block, 100);
        }
    }
    Fragmented { subject, kept }
}

fn reclaim(c: &mut Criterion) {
    const COUNT: usize = 640_000;
    let mut group = c.benchmark_group("reclaim 64 MB in a thousand holes");
    group.sample_size(10).throughput(Throughput::Bytes((COUNT * 104) as u64));
    for candidate in candidates() {
        group.bench_function(BenchmarkId::from_parameter(&candidate.name), |b| {
            b.iter_batched_ref(
                || fragmented(candidate.start(), COUNT),
                |fragmented| fragmented.subject.purge(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Ours alone: the others are used on the one heap that a thread has.
fn creation(c: &mut Criterion) {
    c.bench_function("make a heap, one block, delete it", |b| {
        b.iter(|| {
            let heap = Heap::new();
            black_box(heap.allocate(100));
        });
    });
}

fn many(c: &mut Criterion) {
    const COUNT: usize = 1000;
    let mut group = c.benchmark_group("make 1000 heaps, one block in each, delete them");
    group.sample_size(10).throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("all alive at once", |b| {
        b.iter(|| {
            let heaps: Vec<Heap> = (0..COUNT).map(|_| Heap::new()).collect();
            for heap in &heaps {
                black_box(heap.allocate(100));
            }
        });
    });
    group.finish();
}

fn config() -> Criterion {
    let (warm_up_ms, measurement_ms) = if quick() { (100, 200) } else { (300, 1000) };
    Criterion::default()
        .sample_size(if quick() { 10 } else { 30 })
        .warm_up_time(Duration::from_millis(warm_up_ms))
        .measurement_time(Duration::from_millis(measurement_ms))
}

criterion_group! {
    name = benches;
    config = config();
    targets = pairs, sweep, ladder, replace, reclaim, creation, many
}
criterion_main!(benches);
