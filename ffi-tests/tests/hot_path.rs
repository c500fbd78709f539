//! The machine code of `ebb_alloc`: allocating and freeing a small block makes no call, takes no
//! lock, uses no atomic and pushes nothing. Rarer cases leave by a jump.
//!
//! `make disassemble` shows the code.

use std::process::Command;

use ebbtide_ffi_tests::{
    Language, Linkage, clean, compile, finish, installed, text_of, under_valgrind,
};

/// The instructions of one function of the shared library, without what fills it up, each with its
/// address.
fn instructions(function: &str) -> Vec<(u64, String)> {
    let mut objdump = Command::new("objdump");
    objdump.env("LC_ALL", "C").args(["--disassemble", "--no-show-raw-insn"]);
    let listing = text_of(objdump.arg(installed().shared()));
    let start = format!("<{function}>:");
    let body = listing.lines().skip_while(|line| !line.ends_with(&start)).skip(1);
    body.take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(":\t"))
        .map(|(address, instruction)| (address.trim(), instruction.trim().to_owned()))
        .filter(|(_, instruction)| instruction != "int3")
        .map(|(address, text)| (u64::from_str_radix(address, 16).expect("an address"), text))
        .collect()
}

/// A line of the instruction cache. The hot path, for both directions and its jumps to rarer cases,
/// stays within four of them: with rustc 1.95 on x86-64 it is 46 instructions in three.
const CACHE_LINE: u64 = 64;
const MOST_LINES: u64 = if cfg!(target_arch = "x86_64") { 4 } else { 8 };

/// What has no place on the hot path.
fn is_slow(instruction: &str) -> bool {
    let name = instruction.split_whitespace().next().unwrap_or_default();
    let slow: &[&str] = if cfg!(target_arch = "x86_64") {
        &["push", "call", "lock", "xchg", "mfence"]
    } else {
        &["bl", "blr", "stp", "ldaxr", "stlxr", "dmb", "cas", "ldadd", "swp"]
    };
    slow.contains(&name) || (name == "bnd" && instruction.contains("call"))
}

#[test]
fn small_blocks_come_and_go_without_a_call_a_lock_or_a_push() {
    let code = instructions("ebb_alloc");
    let bytes = code[code.len() - 1].0 - code[0].0;
    println!("{} instructions in {bytes} bytes", code.len());
    assert!(code.len() > 20, "this is not the hot path: {code:#?}");
    assert!(bytes <= MOST_LINES * CACHE_LINE, "{bytes} bytes: {code:#?}");
    let slow: Vec<_> = code.iter().filter(|(_, instruction)| is_slow(instruction)).collect();
    assert!(slow.is_empty(), "on the hot path: {slow:?}");
}

/// What a processor does, as callgrind counts it.
#[derive(Clone, Copy, Debug)]
struct Work {
    instructions: u64,
    /// Reads and writes of memory, and conditional branches.
    touches: u64,
}

impl Work {
    /// Inside of `ebb_alloc` when blocks of a size come and go. The same each time, but for a few
    /// of the first blocks, since spans are not all filled in the same order.
    fn of_pairs(size: u32, pairs: u64) -> Work {
        let program =
            compile("heap/alloc_free_loop.c", Language::C, Linkage::Shared, "callgrind", &["-O2"]);
        under_valgrind();
        let mut callgrind = clean("valgrind");
        callgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        callgrind.args(["--collect-atstart=no", "--toggle-collect=ebb_alloc"]);
        callgrind.args(["--cache-sim=yes", "--branch-sim=yes"]);
        let output = finish(callgrind.arg(program).args([size.to_string(), pairs.to_string()]));
        let said = String::from_utf8_lossy(&output.stderr);
        let words = |start: &str| -> Vec<String> {
            let line = said.lines().find_map(|line| line.split_once(start));
            let (_, words) = line.unwrap_or_else(|| panic!("no {start:?} in {said}"));
            words.split_whitespace().map(str::to_owned).collect()
        };
        let (names, figures) = (words("Events    : "), words("Collected : "));
        let count = |name: &str| -> u64 {
            let at = names.iter().position(|other| other == name);
            at.and_then(|at| figures.get(at)?.parse().ok()).expect("callgrind counts it")
        };
        Work { instructions: count("Ir"), touches: count("Dr") + count("Dw") + count("Bc") }
    }

    /// For each block of a size that comes and goes.
    fn of_pair(size: u32) -> Work {
        let [few, many] = [10_000, 20_000].map(|pairs| Work::of_pairs(size, pairs));
        let each = |few: u64, many: u64| (many - few + 5_000) / 10_000;
        Work {
            instructions: each(few.instructions, many.instructions),
            touches: each(few.touches, many.touches),
        }
    }
}

/// For a small block that comes and goes: what the source asks of memory, and its conditions, with
/// rustc 1.95. One check more on either path is a read and a branch more.
#[cfg(target_arch = "x86_64")]
const TOUCHES: u64 = 29;

/// A condition that another compiler makes a branch of, or that it turns into a choice without one.
#[cfg(target_arch = "x86_64")]
const COMPILER: u64 = 1;

/// Everything else, moves and arithmetic above all, is the compiler's choice: it takes 42
/// instructions in all with rustc 1.95, and may take a quarter more.
#[cfg(target_arch = "x86_64")]
const MOST_INSTRUCTIONS: u64 = 42 + 42 / 4;

#[test]
#[cfg(target_arch = "x86_64")]
fn a_small_block_that_comes_and_goes_takes_as_little_work_as_it_did() {
    for size in [16, 64, 100, 512] {
        let work = Work::of_pair(size);
        println!("{size} bytes: {work:?}");
        assert!(work.touches <= TOUCHES + COMPILER, "{size} bytes: {work:?}");
        assert!(work.instructions <= MOST_INSTRUCTIONS, "{size} bytes: {work:?}");
        // Two paths of some twenty instructions each, or it was not these that were counted.
        assert!(work.instructions >= 30 && work.touches >= 10, "{size} bytes: {work:?}");
    }
}

#[test]
fn slow_code_would_be_seen() {
    let code = instructions("ebb_heap_new");
    assert!(code.iter().any(|(_, instruction)| is_slow(instruction)), "{code:#?}");
}
