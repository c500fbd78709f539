//! Giving memory back.
//!
//! | file                | concern                                                             |
//! |---------------------|---------------------------------------------------------------------|
//! | `policy`            | how much free memory may stay: a pure function of counters and time |
//! | `purge`             | finding pages that hold memory for nothing, and handing them back   |
//! | `sweeps`            | sweeps that take several calls, and pauses when the kernel refuses  |
//! | `sheets`            | handing the descriptors of free pages back                          |
//! | `scheduler`         | when to look, and doing what the policy says                        |
//! | `background`        | what goes back while the heap's thread does something else          |
//! | `visit`             | what the background thread does at a heap, and when it comes again  |
//! | `pace`              | how often the slow path looks, and how much it returns              |
//! | `emptied`           | what goes back at once when a large block is gone                   |
//! | `foreign`           | free pages of the allocator that the VM ran on before               |
//! | `limit_reclaim`     | what is done at a memory limit                                      |
//! | `emergency`         | when the VM's garbage collector is made due                         |
//! | `limits`            | where the memory limits stand, and how near they are                |
//! | `thrashing`         | when a limit makes go what is needed at once                        |
//! | `latency_histogram` | how long bounded steps took                                         |
//! | `history`           | a few minutes of samples                                            |
//! | `publish`           | what others see of a heap                                           |

mod background;
mod emergency;
mod emptied;
mod foreign;
mod history;
mod latency_histogram;
mod limit_reclaim;
mod limits;
mod pace;
mod policy;
mod publish;
mod purge;
mod scheduler;
mod sheets;
mod sweeps;
mod thrashing;
mod visit;

pub(crate) use history::Sample;
#[cfg(test)]
pub(crate) use purge::Sweep;
pub(crate) use purge::{Budget, Outcome};

use crate::heap::{Heap, HeapCache};
use crate::os::Kernel;

/// What a heap calls when there may be something to give back: see [`crate::heap::ReclaimHooks`].
pub(crate) struct Reclaim;

/// A heap on the real kernel that gives memory back: what C sees as `ebb_heap`.
pub(crate) type KernelHeap = Heap<Kernel, Reclaim>;

/// Where heaps of this process come from, and go to.
pub(crate) static HEAPS: HeapCache<Kernel, Reclaim> = HeapCache::new();
