//! Programs of calls to the C interface, against a model of what each call must do.
//!
//! - `source`: where the bytes of a program come from: given, or random.
//! - `program`: what they mean. Both drivers share it.
//! - `model`: a heap, and what it must hold and say.
//! - `block`: a live block, and what it holds.
//! - `kernel`: the kernel in between, which refuses calls, overwrites what is given back, and
//!   keeps the time: `harness/include/syscall_faults.h`. It has the background thread run by turns
//!   with the owner of the heaps, or at once: `background.h`.
//! - `defect`: what can be wrong on purpose, to see that it would be noticed.
//!
//! The drivers are `random`, which runs as many programs as it can, and `guided`, which looks for
//! programs that reach code not reached yet (libFuzzer).

mod block;
mod defect;
mod kernel;
mod model;
mod program;
mod source;

pub use defect::{DEFECTS, Defect, order};
pub use kernel::background_purges;
pub use program::run;
pub use source::{Given, Random, Source};
