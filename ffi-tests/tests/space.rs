//! Programs whose address space is limited (`RLIMIT_AS`, `ulimit -v`): what fits without ebbtide fits
//! with it, by every way to it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use ebbtide_ffi_tests::{
    Language, Linkage, clean, compile, compiler, finish, installed, linked_with_lua, scratch,
    source, text_of, with_address_space,
};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

ebbtide_ffi_tests::long! {
    as_many_rows_fit_as_without_ebbtide
    a_limit_that_binds_is_reported
    as_many_vms_fit_as_without_ebbtide
}

const GIB_IN_KIB: u64 = 1 << 20;

/// A plain host on the system's shared LuaJIT, which knows nothing of ebbtide, or makes its VM by
/// `ebb_newstate`.
fn host(with_ebbtide: bool) -> PathBuf {
    static HOSTS: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    let build = || {
        let name = if with_ebbtide { "host-with" } else { "host-without" };
        let program = scratch("space").join(name);
        let mut command = compiler(Language::C);
        command.arg("-I").arg(installed().include()).arg("-isystem").arg(LUAJIT.include_dir);
        command.arg("-o").arg(&program).arg(source("lua/lua_module_host.c")).args(["-x", "none"]);
        if with_ebbtide {
            command.arg("-DWITH_EBBTIDE").arg(installed().archive());
        }
        command.arg("-l:libluajit-5.1.so.2").args(EBBTIDE_LINK_FLAGS);
        finish(&mut command);
        program
    };
    HOSTS[usize::from(with_ebbtide)].get_or_init(build).clone()
}

/// How many rows a script gets into a table within 1 GiB.
fn rows(command: &mut Command) -> u64 {
    let text = text_of(command);
    text.trim().parse().unwrap_or_else(|_| panic!("{command:?}: {text}"))
}

fn script() -> PathBuf {
    repository().join("ffi-tests/lua/rows.lua")
}

fn limited(with_ebbtide: bool) -> Command {
    with_address_space(GIB_IN_KIB, host(with_ebbtide))
}

fn as_many_rows_fit_as_without_ebbtide() {
    let stock = rows(limited(false).arg(script()));
    let modules = format!("{}/lib?.so", installed().lib().display());
    let mut preloaded = limited(false);
    preloaded.env("LD_PRELOAD", installed().lib().join("libebbtide_preload.so"));
    let mut attached = limited(false);
    attached.env("LUA_CPATH", modules);
    attached.env("LUA_PATH", repository().join("lua/?.lua"));
    let ways = [
        ("preload", rows(preloaded.arg(script()))),
        ("preload, interpreted", rows(preloaded.args(["-joff"]).arg(script()))),
        ("attach", rows(attached.arg(script()).arg("attach"))),
        ("newstate", rows(limited(true).args(["--alloc", "newstate"]).arg(script()))),
    ];
    for (way, rows) in ways {
        assert!(rows >= stock, "{way}: {rows} rows, {stock} without ebbtide");
    }
}

fn a_limit_that_binds_is_reported() {
    let said = |variable: &str| {
        let mut command = limited(false);
        command.env("LD_PRELOAD", installed().lib().join("libebbtide_preload.so"));
        let output = finish(command.env(variable, "on").arg(script()));
        String::from_utf8(output.stderr).expect("the output is UTF-8")
    };
    const LINE: &str = ": RLIMIT_AS (ulimit -v) is 1073741824 bytes, and the process uses ";
    let (verbose, report) = (said("EBBTIDE_VERBOSE"), said("EBBTIDE_REPORT"));
    for text in [&verbose, &report] {
        assert_eq!(text.matches(LINE).count(), 1, "{text}");
    }
    assert!(report.contains("; refused 1 allocations, 1 for RLIMIT_AS"), "{report}");
    assert_eq!(said("EBBTIDE_AUTO"), "", "nobody has asked");
}

/// What a program prints: VMs, and blocks of 1 MB beside them.
fn vms_and_blocks(kind: &str) -> (u64, u64) {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| linked_with_lua("limits/space_vms.c", &LUAJIT, &[]));
    let text = text_of(clean(program).arg(kind));
    let (vms, blocks) = text.trim().split_once(' ').expect("two numbers");
    (vms.parse().expect("a number"), blocks.parse().expect("a number"))
}

/// 2,000 VMs in 2 GiB, and blocks of 1 MB beside them, as many as fit. Each VM may take 12 KiB of
/// address space more than on LuaJIT's own allocator: 25 blocks for all.
fn as_many_vms_fit_as_without_ebbtide() {
    let (stock, ebbtide) = (vms_and_blocks("stock"), vms_and_blocks("ebbtide"));
    assert_eq!((stock.0, ebbtide.0), (2000, 2000), "{stock:?}, {ebbtide:?}");
    assert!(stock.1 >= 1000 && ebbtide.1 + 25 >= stock.1, "{stock:?}, {ebbtide:?}");
}

/// Whatever the limit is: plans get shorter the more heaps there are, and have places all the same.
#[test]
fn heaps_under_a_large_limit_reserve_nothing_however_many_there_are() {
    let program = compile("limits/space_heaps.c", Language::C, Linkage::Archive, "space", &[]);
    finish(&mut clean(program));
}
