//! A program of calls, decoded from bytes. Both drivers run this.
//!
//! The first bytes say what kind of program it is; then each operation is a byte that names it and
//! those that it needs. Any bytes are a program.

use ebbtide::capi::EBB_ZERO;

use crate::kernel::{self, Company};
use crate::model::{CHECKED, Model, ON, OPTIONS, SAMPLE, THP};
use crate::source::Source;

/// Bytes in live blocks of a heap at most, so that a program fits anywhere.
const BYTES_MAX: usize = 16 << 20;

/// The option `background`: unless the host ticks.
const AUTO: i64 = 2;

/// What kind of program it is, by the bits of its first byte.
struct Kind {
    /// The kernel refuses some calls.
    refusals: bool,
    /// Old sizes may be wrong.
    wrong_sizes: bool,
    /// There may be limits.
    limits: bool,
    /// What takes time, large blocks, memory going back and kernel's figures, comes seldom.
    calm: bool,
    /// Heaps may ask for huge pages.
    huge_pages: bool,
    /// The option `checked` of both heaps.
    checked: [i64; 2],
    /// Whether the background thread returns memory, too.
    company: Company,
    /// Blocks in a heap at most.
    blocks_max: usize,
}

impl Kind {
    fn decode(source: &mut impl Source) -> Kind {
        let flags = source.byte();
        let calm = source.byte() >= 16;
        let few = 64 << source.below(if calm { 8 } else { 5 });
        let (look_us, special) = (source.byte() / 8, source.byte());
        let company = match special {
            128..168 => Company::ByTurns,
            208..216 => Company::AtOnce,
            _ => Company::Alone,
        };
        // The thread comes for 1 MiB and more.
        let blocks_max = if company == Company::Alone { few } else { few.max(1024) };
        kernel::begin(flags & 1 == 0, look_us.into(), company);
        // Most programs are for what most heaps are: these take longer.
        let checked = match special {
            ..32 => [ON, ON],
            32..48 => [ON, SAMPLE],
            48..64 => [SAMPLE, 0],
            64..72 => [ON, 0],
            _ => [0, 0],
        };
        Kind {
            refusals: flags & 0x06 == 0x02,
            wrong_sizes: flags & 0x18 == 0x08,
            limits: flags & 0x60 == 0x20,
            calm,
            huge_pages: special % 8 == 7,
            checked,
            company,
            blocks_max,
        }
    }

    /// Whether large blocks come seldom.
    fn is_small(&self) -> bool {
        self.calm && self.company == Company::Alone
    }
}

/// Two heaps, one of which the coming operations are for.
struct World {
    kind: Kind,
    heaps: [Option<Model>; 2],
    current: usize,
    /// Operations, counted as calls that they make of the interface.
    operations: u64,
}

/// Runs one program to its end. Returns how many operations it was. Panics where the library
/// differs from the model.
pub fn run(source: &mut impl Source) -> u64 {
    let kind = Kind::decode(source);
    let mut world = World { kind, heaps: [None, None], current: 0, operations: 0 };
    while !source.is_empty() {
        world.step(source);
    }
    world.end();
    world.operations
}

fn size(source: &mut impl Source, calm: bool) -> usize {
    match source.byte() {
        160.. if calm && source.byte() >= 8 => 1 + source.short() % 600,
        224.. if calm && source.byte() >= 64 => 1 + source.short() % 2000,
        0 => 0,
        1..160 => 1 + usize::from(source.byte()),
        160..224 => 1 + source.short() % 9000,
        224..248 => 1 + source.short() * 2 % 40_000,
        248..254 => 1 + source.short() * 4,
        254 => 1 + source.short() * 64,
        255 => 1 << (source.byte() % 64),
    }
}

/// A value for an option: sensible, at a border, or neither.
fn value(source: &mut impl Source, option: usize, kind: &Kind) -> i64 {
    let limits = kind.limits;
    let (way, byte) = (source.byte(), i64::from(source.byte()));
    if way >= 240 {
        return [-1, -2, -3, 0, 1, i64::MIN, i64::MAX, 1 << 43, (1 << 43) + 1][byte as usize % 9];
    }
    match OPTIONS[option].to_bytes() {
        b"thp" if !kind.huge_pages => 0,
        b"thp" | b"auto" | b"history" => byte & 1,
        b"remap_min" => 4096 << (byte % 10),
        b"decay_ms" => byte * byte % 3000,
        b"step_us" => 1 + byte * 4,
        b"limit_soft" if limits && way < 10 => -2,
        b"limit_soft" | b"limit_hard" if !limits => 0,
        b"limit_soft" | b"limit_hard" => (byte * 100_000).min(i64::from(way) << 20),
        _ => byte << (byte % 20),
    }
}

impl World {
    fn heap(&mut self) -> Option<&mut Model> {
        self.heaps[self.current].as_mut()
    }

    fn step(&mut self, source: &mut impl Source) {
        self.operations += 1;
        if self.heaps[self.current].is_none() {
            return self.make(source);
        }
        match source.byte() {
            0..8 if self.kind.company != Company::Alone => self.let_thread(source),
            0..92 => self.allocate(source),
            92..152 => self.free(source),
            152..204 => self.resize(source),
            204..212 => self.burst(source),
            212..214 => self.drop_some(source),
            214.. if self.kind.calm && source.byte() >= 4 => self.allocate(source),
            214..221 => self.drop_some(source),
            221..226 => self.refuse(source),
            226..232 => {
                kernel::wait((source.short() as u64) << (source.byte() % 8));
                let budget = u32::from(source.byte() % 4) * 50;
                self.with(|heap| heap.tick(budget));
            }
            232..235 => {
                let budget = u32::from(source.byte() % 4) * 30;
                self.with(|heap| heap.reclaim(budget));
            }
            235..240 => self.with(|heap| heap.check_stats(false)),
            240 => {
                let with_kernel = source.byte() < 64;
                self.with(|heap| heap.check_stats(with_kernel));
            }
            241..245 => self.set(source),
            245..248 => self.with(Model::ask),
            248..250 => {
                let (room, size) = (source.below(120), source.short() % 700);
                self.with(|heap| heap.check_classes(room, size));
            }
            250..252 => {
                let (count, size) = (source.below(300), source.below(100));
                self.with(|heap| heap.history(count, size));
            }
            252 => self.with(Model::misuse),
            253..255 => self.current ^= 1,
            255 if source.byte() < 8 => self.delete(),
            255 => {}
        }
    }

    fn with(&mut self, act: impl FnOnce(&mut Model)) {
        if let Some(heap) = self.heap() {
            act(heap);
        }
    }

    fn make(&mut self, source: &mut impl Source) {
        let mut given = [0; OPTIONS.len()];
        let reserve = source.byte();
        given[0] = if reserve < 128 { 0 } else { 1 << (20 + reserve % 16) };
        for (option, given) in given.iter_mut().enumerate().take(CHECKED).skip(1) {
            if source.byte() < 64 {
                let value = value(source, option, &self.kind);
                let sensible = (0..1 << 43).contains(&value);
                *given = match value {
                    0 => EBB_ZERO,
                    value if sensible && is_in_range(option, value) => value,
                    _ => 0,
                };
            }
        }
        // These two take no 0.
        for option in [2, 8] {
            given[option] = given[option].max(0);
        }
        if self.kind.huge_pages && given[THP] == 0 {
            given[THP] = 1;
        }
        given[CHECKED] = match self.kind.checked[self.current] {
            0 => EBB_ZERO,
            how => how,
        };
        let background = match self.kind.company {
            Company::Alone => EBB_ZERO,
            _ => [1, 1, 1, AUTO][source.below(4)],
        };
        let Kind { wrong_sizes, company, .. } = self.kind;
        self.heaps[self.current] = Model::new(given, background, wrong_sizes, company);
    }

    /// Lets the background thread go on, or leaves it something to do.
    fn let_thread(&mut self, source: &mut impl Source) {
        match source.byte() {
            byte @ ..144 => (0..=byte / 48 * 8).for_each(|_| kernel::pass()),
            144..192 => {
                kernel::pass();
                kernel::end_visit();
            }
            192..216 => self.drop_some(source),
            216..236 => kernel::wait(source.short() as u64 * 64),
            236..240 => self.delete(),
            byte => {
                let value = [0, AUTO, 1, 1, 1, 1, 1, 1][usize::from(byte % 8)];
                self.with(|heap| heap.set_background(value));
            }
        }
    }

    fn allocate(&mut self, source: &mut impl Source) {
        let (size, blocks_max) = (size(source, self.kind.is_small()), self.kind.blocks_max);
        let Some(heap) = self.heap() else { return };
        if heap.live.len() >= blocks_max || has_too_much(heap, size) {
            return self.free(source);
        }
        heap.allocate(size);
    }

    fn given_size(&self, source: &mut impl Source) -> Option<usize> {
        if !self.kind.wrong_sizes {
            return None;
        }
        match source.byte() {
            0..160 => None,
            160..200 => Some(source.byte().into()),
            200..240 => Some(source.short()),
            240..250 => Some(usize::MAX),
            _ => Some(usize::MAX / 2 + source.short()),
        }
    }

    fn free(&mut self, source: &mut impl Source) {
        let (which, given_size) = (source.short(), self.given_size(source));
        let Some(heap) = self.heap() else { return };
        if let Some(which) = which.checked_rem(heap.live.len()) {
            heap.free(which, given_size);
        }
    }

    fn resize(&mut self, source: &mut impl Source) {
        let (which, size) = (source.short(), size(source, self.kind.is_small()));
        let given_size = self.given_size(source);
        let Some(heap) = self.heap() else { return };
        let which = which.checked_rem(heap.live.len());
        if let Some(which) = which.filter(|_| !has_too_much(heap, size)) {
            heap.resize(which, size, given_size);
        }
    }

    /// Many blocks of one size, so that spans fill and retire.
    fn burst(&mut self, source: &mut impl Source) {
        let (size, count) = (size(source, self.kind.is_small()), source.byte() / 2);
        for _ in 0..count {
            let blocks_max = self.kind.blocks_max;
            let Some(heap) = self.heap() else { return };
            if heap.live.len() >= blocks_max || has_too_much(heap, size) || !heap.allocate(size) {
                return;
            }
            self.operations += 1;
        }
    }

    /// Drops most of what is there, or a stretch of it, as a data structure goes.
    fn drop_some(&mut self, source: &mut impl Source) {
        let (from, every, given_size) =
            (source.byte(), usize::from(source.byte() % 9), self.given_size(source));
        let Some(heap) = self.heap() else { return };
        let from = heap.live.len() * usize::from(from) / 256;
        let mut freed = 0;
        for index in (from..heap.live.len()).rev() {
            if every == 0 || index % every != 0 {
                heap.free(index, given_size);
                freed += 1;
            }
        }
        self.operations += freed;
    }

    fn refuse(&mut self, source: &mut impl Source) {
        let (kinds, pattern, more) = (source.short() as u32, source.short() as u64, source.byte());
        if self.kind.refusals {
            let pattern = if more & 64 == 0 { pattern } else { u64::MAX };
            kernel::refuse(kinds, pattern, more, more / 4);
        }
    }

    fn set(&mut self, source: &mut impl Source) {
        let option = source.below(OPTIONS.len());
        let limits = self.kind.limits;
        let value = value(source, option, &self.kind);
        // A limit that nobody asked for would excuse every refusal.
        let is_limit = OPTIONS[option].to_bytes().starts_with(b"limit");
        if !is_limit || limits || value <= 0 {
            self.with(|heap| heap.set(option, value));
        }
    }

    /// Deletes the heap with all that is in it; the next step makes another.
    fn delete(&mut self) {
        if let Some(heap) = self.heaps[self.current].take() {
            heap.delete();
        }
    }

    /// Everything is as it was written, can be freed, and can go back.
    fn end(&mut self) {
        kernel::refuse(0, 0, 0, 0);
        for mut heap in self.heaps.iter_mut().filter_map(Option::take) {
            heap.check_contents();
            heap.check_stats(true);
            heap.reclaim(0);
            heap.check_contents();
            while let Some(last) = heap.live.len().checked_sub(1) {
                heap.free(last, None);
                self.operations += 1;
            }
            heap.check_stats(false);
            heap.reclaim(0);
            // The thread may be anywhere in a visit.
            (0..self.operations % 8).for_each(|_| kernel::pass());
            heap.delete();
        }
        kernel::end();
    }
}

fn is_in_range(option: usize, value: i64) -> bool {
    match OPTIONS[option].to_bytes() {
        b"thp" | b"auto" | b"history" => value <= 1,
        b"remap_min" => value >= 4096,
        b"decay_ms" => value <= 3_600_000,
        b"step_us" => (1..=1_000_000).contains(&value),
        b"limit_soft" | b"limit_hard" => value >= 512 << 10,
        _ => true,
    }
}

/// Whether a heap would hold more than a program should. What no heap holds is asked for all the
/// same: it is refused.
fn has_too_much(heap: &Model, size: usize) -> bool {
    size <= heap.reserve && heap.bytes + size > BYTES_MAX
}
