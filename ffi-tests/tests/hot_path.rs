//! The machine code of `ebb_alloc`: allocating and freeing a small block makes no call, takes no
//! lock, uses no atomic and pushes nothing. Rarer cases leave by a jump.
//!
//! `make disassemble` shows the code.

use std::process::Command;

use ebbtide_ffi_tests::{
    Language, Linkage, clean, compile, finish, installed, text_of, under_valgrind,
};

/// The instructions of one function of the shared library, without what fills it up.
fn instructions(function: &str) -> Vec<String> {
    let mut objdump = Command::new("objdump");
    objdump.env("LC_ALL", "C").args(["--disassemble", "--no-show-raw-insn"]);
    let listing = text_of(objdump.arg(installed().shared()));
    let start = format!("<{function}>:");
    let body = listing.lines().skip_while(|line| !line.ends_with(&start)).skip(1);
    body.take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(":\t"))
        .map(|(_, instruction)| instruction.trim().to_owned())
        .filter(|instruction| instruction != "int3")
        .collect()
}

/// Instructions in all, those for one path or the other included.
const MOST: usize = if cfg!(target_arch = "x86_64") { 48 } else { 100 };

/// Instructions to allocate a small block and to free it.
#[cfg(target_arch = "x86_64")]
const MOST_FOR_A_PAIR: u64 = 42;

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
    // 46 with rustc 1.95 on x86-64. Two more are two more for each block of every program.
    assert!((40..=MOST).contains(&code.len()), "{} instructions: {code:#?}", code.len());
    let slow: Vec<&String> = code.iter().filter(|instruction| is_slow(instruction)).collect();
    assert!(slow.is_empty(), "on the hot path: {slow:?}");
}

/// Instructions inside of `ebb_alloc` when blocks of a size come and go so many times, as callgrind
/// counts them: the same each time, but for a few of the first blocks, since spans are not all
/// filled in the same order.
fn executed(size: u32, pairs: u64) -> u64 {
    let program = compile("pairs.c", Language::C, Linkage::Shared, "callgrind", &["-O2"]);
    under_valgrind();
    let mut callgrind = clean("valgrind");
    callgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    callgrind.args(["--collect-atstart=no", "--toggle-collect=ebb_alloc"]);
    let output = finish(callgrind.arg(program).args([size.to_string(), pairs.to_string()]));
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find_map(|line| line.split_once("Collected : "));
    count.and_then(|(_, count)| count.trim().parse().ok()).expect("callgrind counts")
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_small_block_that_comes_and_goes_takes_as_few_instructions_as_it_did() {
    for size in [16, 64, 100, 512] {
        let more = executed(size, 20_000) - executed(size, 10_000);
        let pair = (more + 5_000) / 10_000;
        println!("{size} bytes: {pair}, from {more}");
        assert!(pair <= MOST_FOR_A_PAIR, "{size} bytes: {pair} instructions");
        // Two paths of some twenty each, or it was not these that were counted.
        assert!(pair >= 30, "{size} bytes: {pair} instructions");
    }
}

#[test]
fn slow_code_would_be_seen() {
    let code = instructions("ebb_heap_new");
    assert!(code.iter().any(|instruction| is_slow(instruction)), "{code:#?}");
}
