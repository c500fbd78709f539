//! The life of a heap: made, used with its options, kept for the next one, deleted.
//!
//! | file          | concern                               | unsafe |
//! |---------------|---------------------------------------|--------|
//! | `create`      | making a heap; giving all back        | yes    |
//! | `settings`    | options of a heap in use              | no     |
//! | `heap_cache` | keeping one deleted heap for the next | yes    |
//! | `deleted`     | calls on a heap that was deleted      | no     |

mod create;
pub(super) mod deleted;
pub(crate) mod heap_cache;
mod settings;
