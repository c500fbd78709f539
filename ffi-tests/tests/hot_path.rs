//! The machine code of `ebb_alloc`: allocating and freeing a small block makes no call, takes no
//! lock, uses no atomic and pushes nothing. Rarer cases leave by a jump.
//!
//! `make disassemble` shows the code.

use std::process::Command;

use ebbtide_ffi_tests::{installed, text_of};

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
const MOST: usize = if cfg!(target_arch = "x86_64") { 70 } else { 100 };

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
    // 68 with rustc 1.95 on x86-64. Two more are two more for each block of every program.
    assert!((40..=MOST).contains(&code.len()), "{} instructions: {code:#?}", code.len());
    let slow: Vec<&String> = code.iter().filter(|instruction| is_slow(instruction)).collect();
    assert!(slow.is_empty(), "on the hot path: {slow:?}");
}

#[test]
fn slow_code_would_be_seen() {
    let code = instructions("ebb_heap_new");
    assert!(code.iter().any(|instruction| is_slow(instruction)), "{code:#?}");
}
