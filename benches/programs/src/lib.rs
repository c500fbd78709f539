//! Whole Lua programs, run on one allocator after another, and what there is to see of it.
//!
//! A program is a Lua script in `harness/workloads`, run by `harness/host/host.c` in a process of
//! its own, so that nothing of one run is left in the next. From outside a run shows its CPU time,
//! its peak and, when sampled, its memory over time; from inside it reports events: what is live at
//! each phase, what reclaim returned.
//!
//! ```text
//!   host      which allocators there are, and the host program built for them
//!   process   one run: spawn, watch, wait, whatever happens to us meanwhile
//!   event     the lines by which the host reports
//!   memory    what the kernel counts, and bytes in words; machine: where results are from
//!   nginx     an nginx with a service in Lua, and a load on it
//!   numbers   median, spread, geometric mean
//!   suite     the programs and their results; figures: what they must reach
//!   peer_comparison  the figures against all others: LuaJIT's own, and the best of the peers
//!   report    tables and JSON of all runs
//!   traffic   the schedules of the demo's program; curve: its memory over time
//!   breathing what the demo's two runs show, and whether the memory went back
//!   progress  the display while the demo runs; table: aligned text
//!   picture   results as files, drawn by `benches/plot.py`
//! ```
//!
//! The binaries are `demo`, which shows the breathing curve of a service, for a minute or as a
//! soak, `programs`, which measures whole programs, `doors`, which measures VMs that were not made
//! on a heap, `scale`, which measures large heaps and many of them, and `nginx`, which measures the
//! nginx module.
#![deny(unsafe_code)]

pub mod breathing;
pub mod curve;
pub mod event;
pub mod figures;
pub mod host;
pub mod machine;
pub mod memory;
pub mod nginx;
pub mod numbers;
pub mod peer_comparison;
pub mod picture;
pub mod process;
pub mod progress;
pub mod report;
pub mod suite;
pub mod table;
pub mod traffic;

/// What goes wrong is said in one line, to whoever started the program.
pub type Result<T> = std::result::Result<T, String>;
