//! ebbtide-ffi-tests.
