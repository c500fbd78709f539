//! The life of a heap: made, used with its options, kept for the next one, deleted.
//!
//! | file          | concern                               | unsafe |
//! |---------------|---------------------------------------|--------|
//! | `create`      | making a heap; giving all back        | yes    |
//! | `settings`    | options of a heap in use              | no     |
//! | `cached_heap` | keeping one deleted heap for the next | yes    |
//! | `deleted`     | calls on a heap that was deleted      | no     |

pub(crate) mod cached_heap;
mod create;
pub(super) mod deleted;
mod settings;
