//! The memory bugs of the scripts, and the words that a report of each must have.

/// A bug, the first words of its report, and what else must stand there.
pub struct Bug {
    pub name: &'static str,
    pub what: &'static str,
    pub words: &'static [&'static str],
}

pub const fn bug(name: &'static str, what: &'static str, words: &'static [&'static str]) -> Bug {
    Bug { name, what, words }
}

/// What every report of a call says.
pub const CALL: [&str; 3] = ["found: by thread 0x", "found in: ebb_alloc(heap, 0x", "from:"];

pub const IN_MODULE: &[Bug] = &[
    bug(
        "overflow",
        "overflow: something was written past the end of a block",
        &[
            ", 40 bytes, in a slot of 64",
            "allocated: number ",
            "damage: from offset 40, 1 byte past its end; 1 byte not the eb put there",
            "bytes there: 01 eb eb eb",
            "(lua_pcall",
        ],
    ),
    bug(
        "overflow_userdata",
        "overflow: something was written past the end of a block",
        &["1 byte past its end", "bytes there: 01 eb"],
    ),
    bug(
        "underflow",
        "underflow: something was written before a block",
        &["in the 16 bytes before it", "bytes there: "],
    ),
    bug("double_free", "double free: ", &[", 40 bytes", "freed: number ", "(lua_pcall"]),
    bug(
        "write_freed",
        "use after free: something was written into a block that was freed",
        &[", 40 bytes", "freed: number ", "from offset 3, inside", "bytes there: 01 df df"],
    ),
    bug("wrong_size", "wrong size: osize is 39 for a block of 40 bytes", &["(lua_pcall"]),
    bug("foreign", "wrong pointer: ", &["is not of this heap", "(lua_pcall"]),
    bug("other_heap", "wrong pointer: ", &["is not of this heap", "it lies in heap 0x"]),
    bug("other_heap_guarded", "wrong pointer: ", &["is not of this heap", "it lies in heap 0x"]),
    bug("middle", "wrong pointer: ", &["points into a block", "to offset 8, inside of the block"]),
];

pub const IN_FFI: &[Bug] = &[
    bug(
        "overflow",
        "overflow: something was written past the end of a block",
        &[", 56 bytes, in a slot", "from offset 56, 1 byte past its end", "bytes there: 01 eb"],
    ),
    bug(
        "underflow",
        "underflow: something was written before a block",
        &["in the 16 bytes before it"],
    ),
    bug(
        "write_freed",
        "use after free: something was written into a block that was freed",
        &[", 56 bytes", "freed: number ", "from offset 19, inside", "bytes there: 01 df df"],
    ),
    bug("double_free", "double free: ", &[", 40 bytes", "freed: number "]),
    bug("wrong_size", "wrong size: osize is 41 for a block of 40 bytes", &[]),
    bug("foreign", "wrong pointer: ", &["is not of this heap"]),
    bug("middle", "wrong pointer: ", &["to offset 16, inside of the block"]),
];

/// Those that the processor finds, with the words of the access.
pub const BY_FAULT: &[(&str, Bug)] = &[
    (
        "checked_module.lua",
        bug(
            "large_overflow",
            "overflow: memory past the end of a block was ",
            &["offset 100000, 1 byte past its end", ", 100000 bytes, on pages of its own"],
        ),
    ),
    (
        "checked_module.lua",
        bug(
            "large_read_freed",
            "use after free: a freed block was ",
            &["offset 7, inside of the block", ", 100000 bytes", "freed: number "],
        ),
    ),
    ("checked_module.lua", READ_FREED),
    (
        "checked_ffi.lua",
        bug(
            "large_overflow",
            "overflow: memory past the end of a block was ",
            &[", 100016 bytes, on pages of its own", "offset 100032, 17 bytes past its end"],
        ),
    ),
    (
        "checked_ffi.lua",
        bug("large_read_freed", "use after free: a freed block was ", &["offset 23, inside"]),
    ),
    (
        "checked_ffi.lua",
        bug(
            "read_freed",
            "use after free: a freed block was ",
            &["offset 19, inside", ", 56 bytes, in a guarded slot", "allocated: number"],
        ),
    ),
];

/// Who allocated it and who freed it is known, by name.
pub const READ_FREED: Bug = bug(
    "read_freed",
    "use after free: a freed block was ",
    &[
        "offset 3, inside of the block",
        ", 40 bytes, in a guarded slot",
        "allocated: number",
        "freed: number",
        "(lua_pcall",
    ],
);

pub const TWO_THREADS: Bug =
    bug("two_threads", "two threads use it at once", &["inside: thread 0x", "came in: thread"]);
