//! Giving memory back.
//!
//! [`purge`] finds pages that hold memory and nothing of value, and hands them to the kernel in
//! steps bounded by a budget. What decides when that happens by itself will stand beside it; today
//! the host asks.

mod purge;

pub(crate) use purge::Budget;
