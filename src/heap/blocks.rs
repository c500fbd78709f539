//! Blocks: small ones in spans, large ones on pages of their own, and foreign ones.
//!
//! | file         | concern                                            | unsafe |
//! |--------------|----------------------------------------------------|--------|
//! | `integrity`  | what must hold of a descriptor that is acted on    | no     |
//! | `span`       | spans: filled, listed, emptied                     | yes    |
//! | `last_slots` | the last free slots, when the heap may not grow    | no     |
//! | `large`      | large blocks: placed, grown, moved                 | yes    |
//! | `foreign`    | blocks and pages that the VM had before the heap   | yes    |
//! | `retry`      | one more attempt, after room was made              | no     |
//! | `plain`      | what the hot path and checked heaps do alike       | yes    |
//! | `diagnose`   | what is wrong with a pointer that is no live block | no     |

pub(super) mod diagnose;
pub(super) mod foreign;
mod integrity;
pub(super) mod large;
pub(super) mod last_slots;
pub(super) mod plain;
mod retry;
pub(super) mod span;
