//! A VM that a Rust program drives through mlua. Tests only, and a package of its own, for mlua
//! builds a LuaJIT of its own: `make test-long` builds and runs it.
