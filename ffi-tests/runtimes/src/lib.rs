//! ebbtide-runtimes.
