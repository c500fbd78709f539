//! Random programs, as many as there is time for. Prints how many operations they were.
//!
//! ```text
//! random [--seconds N] [--seed N] [--first N] [--programs N] [--bytes N] [--defect NAME]
//!        [--write FILE] [program files or folders...]
//! ```
//!
//! With files it runs these instead. What failed is named by its seed and number: with the same
//! `--seed`, `--first NUMBER --programs 1` runs it again, and `--write FILE` writes it down.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ebbtide_fuzz::{DEFECTS, Given, Random, Source, background_purges, order, run};

/// The program that runs now, for whoever has to tell of its end.
static NUMBER: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(1);

struct Orders {
    seconds: u64,
    first: u64,
    programs: u64,
    bytes: u64,
    write: Option<PathBuf>,
    files: Vec<PathBuf>,
}

fn read_orders() -> Result<Orders, String> {
    let mut orders = Orders {
        seconds: u64::MAX,
        first: 0,
        programs: u64::MAX,
        bytes: 40_000,
        write: None,
        files: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            orders.files.push(word.into());
            continue;
        }
        let value = words.next().ok_or(format!("{word} takes a value"))?;
        let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--seconds" => orders.seconds = number()?,
            "--first" => orders.first = number()?,
            "--programs" => orders.programs = number()?,
            "--bytes" => orders.bytes = number()?,
            "--seed" => SEED.store(number()?, Relaxed),
            "--write" => orders.write = Some(value.into()),
            "--defect" => {
                let found = DEFECTS.iter().find(|(name, _)| *name == value);
                order(found.ok_or(format!("no defect {value}"))?.1);
            }
            _ => return Err(format!("{word}: no such option")),
        }
    }
    Ok(orders)
}

/// Prints the program's number and seed when a signal ends the process.
extern "C" fn report_signal(signal: libc::c_int) {
    let (seed, number) = (SEED.load(Relaxed), NUMBER.load(Relaxed));
    let mut text = [0u8; 128];
    let mut rest = &mut text[..];
    // Writes into the array alone: nothing here allocates.
    let _ = writeln!(rest, "signal {signal} in program {number} of seed {seed}");
    let length = 128 - rest.len();
    // SAFETY: the text is readable; what follows is as if there were no handler.
    unsafe {
        libc::write(2, text.as_ptr().cast(), length);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn report_ends() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL] {
        // SAFETY: the handler does only what handlers may.
        unsafe { libc::signal(signal, report_signal as *const () as libc::sighandler_t) };
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        let (seed, number) = (SEED.load(Relaxed), NUMBER.load(Relaxed));
        eprintln!("in program {number} of seed {seed}");
    }));
}

fn program(number: u64, bytes: u64) -> Random {
    Random::new(SEED.load(Relaxed).wrapping_mul(1 << 32) ^ number, bytes)
}

/// Every file that is named, or lies in a folder that is.
fn all_files(paths: &[PathBuf]) -> Vec<PathBuf> {
    let inside = |folder: &Path| fs::read_dir(folder).map(|all| all.flatten().map(|e| e.path()));
    let files = paths.iter().flat_map(|path| match inside(path) {
        Ok(entries) => entries.collect(),
        Err(_) => vec![path.clone()],
    });
    files.collect()
}

fn run_files(paths: &[PathBuf]) -> (u64, u64) {
    let files = all_files(paths);
    let mut operations = 0;
    for file in &files {
        println!("{}", file.display());
        let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        operations += run(&mut Given(&bytes));
    }
    (files.len() as u64, operations)
}

fn write_program(file: &Path, orders: &Orders) {
    let mut source = program(orders.first, orders.bytes);
    let mut bytes = Vec::new();
    while !source.is_empty() {
        bytes.push(source.byte());
    }
    fs::write(file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn run_random(orders: &Orders, start: Instant) -> (u64, u64) {
    let (mut programs, mut operations) = (0, 0);
    let mut reported = start;
    while programs < orders.programs && start.elapsed() < Duration::from_secs(orders.seconds) {
        NUMBER.store(orders.first + programs, Relaxed);
        operations += run(&mut program(orders.first + programs, orders.bytes));
        programs += 1;
        if reported.elapsed() > Duration::from_secs(60) {
            reported = Instant::now();
            println!("{programs} programs, {operations} operations so far");
        }
    }
    (programs, operations)
}

fn main() -> ExitCode {
    let orders = match read_orders() {
        Ok(orders) => orders,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::from(2);
        }
    };
    report_ends();
    if let Some(file) = &orders.write {
        write_program(file, &orders);
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let (programs, operations) = match orders.files.is_empty() {
        true => run_random(&orders, start),
        false => run_files(&orders.files),
    };
    let seconds = start.elapsed().as_secs_f64();
    let rate = operations as f64 / seconds / 1e6;
    println!("{programs} programs, {operations} operations, {seconds:.1} s, {rate:.1} million a s");
    println!("the background thread returned memory {} times", background_purges());
    ExitCode::SUCCESS
}
