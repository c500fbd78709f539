//! ebbtide-programs.
