//! The pages of a heap: where they lie, which are free, and which go back to the kernel.
//!
//! This room knows nothing of blocks, and takes no page: `growth` does.
//!
//! | file             | concern                                                      | unsafe |
//! |------------------|--------------------------------------------------------------|--------|
//! | `layout`         | where the parts lie in the heap's range of addresses         | no     |
//! | `claim`          | bits of pages that two threads work on                       | no     |
//! | `batch`          | claims whose pages go back by one call, each ended once      | no     |
//! | `refaults`       | what was returned, and what of it was needed again           | no     |
//! | `sheet`          | descriptors of pages that are all free, by kernel pages      | no     |
//! | `runs`           | free and dirty pages; the lowest run of a given length       | no     |
//! | `watch`          | what a heap and the background thread share; what it returns | yes    |
//! | `mend`           | what a fork has left of the background thread's work         | no     |
//! | `split_mappings` | ranges that are kernel mappings of their own                 | no     |

mod batch;
#[cfg(test)]
mod batch_tests;
pub(super) mod claim;
pub(super) mod layout;
mod mend;
pub(crate) mod refaults;
pub(super) mod runs;
mod sheet;
pub(super) mod split_mappings;
pub(crate) mod watch;

// `claim` takes its atomics from here, so that the models can give it loom's.
use core::sync::atomic::AtomicU64;
