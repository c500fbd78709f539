//! The heap by itself, through `ebb_alloc`, as criterion benches.
//!
//! Whole LuaJIT programs against the built-in allocator are in `benches/programs`.

mod common;

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;

use common::{Heap, Random};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("allocate+free");
    for size in [16, 64, 256, 1024, 8192, 65536] {
        let heap = Heap::new();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| heap.free(black_box(heap.allocate(size)), size));
        });
    }
    group.finish();
}

fn sweep(c: &mut Criterion) {
    const COUNT: usize = 100_000;
    let mut group = c.benchmark_group("allocate 100k, free in order");
    group.throughput(Throughput::Elements(COUNT as u64));
    for size in [24, 64, 200] {
        let heap = Heap::new();
        let mut blocks = vec![ptr::null_mut(); COUNT];
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                blocks.fill_with(|| heap.allocate(size));
                blocks.iter().for_each(|block| heap.free(*block, size));
            });
        });
    }
    group.finish();
}

fn ladder(c: &mut Criterion) {
    let heap = Heap::new();
    c.bench_function("resize 16 bytes to 16 MiB by doubling", |b| {
        b.iter(|| {
            let (mut block, mut size) = (heap.allocate(16), 16);
            while size < 16 << 20 {
                block = heap.call(block, size, size * 2);
                size *= 2;
            }
            heap.free(block, size);
        });
    });
}

fn replace(c: &mut Criterion) {
    let mut group = c.benchmark_group("random replacement, 16 to 256 bytes, live blocks");
    for count in [10_000, 100_000, 1_000_000, 10_000_000] {
        let (heap, mut random) = (Heap::new(), Random(7));
        let size_of = |random: &mut Random| 16 + random.below(241);
        let mut blocks: Vec<(*mut c_void, usize)> = Vec::with_capacity(count);
        for _ in 0..count {
            let size = size_of(&mut random);
            blocks.push((heap.allocate(size), size));
        }
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let slot = &mut blocks[random.below(count)];
                heap.free(slot.0, slot.1);
                let size = size_of(&mut random);
                *slot = (heap.allocate(size), size);
            });
        });
    }
    group.finish();
}

/// A heap of which all but one block in a thousand is free, and resident.
fn fragmented(count: usize) -> Heap {
    let heap = Heap::new();
    let blocks: Vec<_> = (0..count).map(|_| heap.allocate(100)).collect();
    for (index, block) in blocks.into_iter().enumerate() {
        // SAFETY: the block has 100 bytes.
        unsafe { block.cast::<u8>().write(1) };
        if index % 1000 != 0 {
            heap.free(block, 100);
        }
    }
    heap
}

fn reclaim(c: &mut Criterion) {
    const COUNT: usize = 640_000;
    let mut group = c.benchmark_group("reclaim");
    group.sample_size(20).throughput(Throughput::Bytes((COUNT * 104) as u64));
    group.bench_function("64 MB in a thousand holes", |b| {
        b.iter_batched_ref(|| fragmented(COUNT), |heap| heap.reclaim(0), BatchSize::PerIteration);
    });
    group.finish();
}

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
    group.sample_size(20).throughput(Throughput::Elements(COUNT as u64));
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

criterion_group!(benches, pairs, sweep, ladder, replace, reclaim, creation, many);
criterion_main!(benches);
