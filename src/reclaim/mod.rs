//! Giving memory back.
//!
//! | file      | concern                                                                |
//! |-----------|------------------------------------------------------------------------|
//! | `policy`  | how much free memory may stay: a pure function of counters and time    |
//! | `purge`   | finding pages that hold memory for nothing, and handing them back      |
//! | `sheets`  | handing the descriptors of free pages back                             |
//! | `breath`  | when to look, and doing what the policy says                           |
//! | `background` | what goes back while the heap's thread does something else          |
//! | `pace`    | how often the slow path looks, and how much it returns                 |
//! | `emptied` | what goes back at once when a large block is gone                      |
//! | `room`    | what is done at a memory limit                                         |
//! | `emergency` | when the VM's garbage collector is made due                          |
//! | `limits`  | where the memory limits stand, and how near they are                   |
//! | `thrashing` | when a limit makes go what is needed at once                         |
//! | `times`   | how long bounded steps took                                            |
//! | `history` | a few minutes of samples                                               |

mod background;
mod breath;
mod emergency;
mod emptied;
mod history;
mod limits;
mod pace;
mod policy;
mod purge;
mod room;
mod sheets;
mod thrashing;
mod times;

pub(crate) use history::Sample;
#[cfg(test)]
pub(crate) use purge::Sweep;
pub(crate) use purge::{Budget, Outcome};
