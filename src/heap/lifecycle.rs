//! The life of a heap: made, kept for the next one, deleted.
//!
//! | file          | concern                                                          | unsafe |
//! |---------------|------------------------------------------------------------------|--------|
//! | `cached_heap` | keeping one deleted heap for the next                            | yes    |
//! | `deleted`     | calls on a heap that was deleted                                 | no     |

pub(crate) mod cached_heap;
pub(super) mod deleted;
