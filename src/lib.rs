//! ebbtide.
#![deny(missing_docs)]
pub mod capi;
