//! Programs whose VMs cannot be taken over: said before they start, or at their end, with what
//! works instead.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use super::*;

ebbtide_ffi_tests::long! {
    luajit_2_0_is_reported
}

const ATTACH: &str = "call require 'ebbtide'.attach() in its Lua code";

/// What `ebbtide run` says of a program that must succeed, line by line.
fn lines(command: &mut Command) -> Vec<String> {
    complaints(command).lines().map(str::to_owned).collect()
}

fn one_line(command: &mut Command) -> String {
    let lines = lines(command);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.into_iter().next().unwrap_or_default()
}

#[test]
fn a_static_program_is_reported() {
    let folder = scratch("preload");
    let plain = folder.join("static");
    build(RUN, &plain, &["-static-pie", "-isystem", LUAJIT.include_dir, LUAJIT.library, "-lm"]);
    let said = one_line(run(&[]).arg(&plain).arg(script("smoke.lua")));
    let expected = format!(
        "ebbtide: {}: is linked statically, so nothing can be preloaded into it: \
         nothing is taken over; build it with ebbtide inside (docs/embedding.md)",
        plain.display()
    );
    assert_eq!(said, expected);

    let without = folder.join("static-without");
    let source = folder.join("nothing.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").expect("a source");
    finish(Command::new("cc").arg("-static").arg("-o").arg(&without).arg(&source));
    let said = one_line(run(&[]).arg(&without));
    let expected = "nothing is taken over; no LuaJIT is to be seen inside, and without one there \
                    is nothing to do; if it was stripped of its symbols and has one, build it \
                    with ebbtide inside (docs/embedding.md)";
    assert!(said.ends_with(expected), "{said}");
}

#[test]
fn a_luajit_inside_the_program_is_reported_before_it_starts() {
    for (name, instead) in
        [("run-exported", ATTACH), ("run-inside", "build it with ebbtide inside")]
    {
        let said = one_line(run(&[]).arg(program(name)).arg(script("smoke.lua")));
        let expected = format!(
            "ebbtide: {}: LuaJIT is linked into the program itself, where preloading does not \
             reach: its VMs are not taken over; {instead}",
            program(name).display()
        );
        assert!(said.starts_with(&expected), "{said}");
    }
    // Without symbols it is the same.
    let stripped = scratch("preload").join("run-stripped");
    finish(Command::new("strip").arg("-o").arg(&stripped).arg(program("run-inside")));
    let said = one_line(run(&[]).arg(&stripped).arg(script("smoke.lua")));
    assert!(said.contains("LuaJIT is linked into the program itself"), "{said}");
    // The luajit command is what a script is run by.
    let hello = scratch("preload").join("hello.lua");
    for first in ["#!/usr/bin/env luajit", "#! /usr/bin/env -S luajit -O1"] {
        fs::write(&hello, format!("{first}\nprint 'hello'\n")).expect("a script");
        fs::set_permissions(&hello, fs::Permissions::from_mode(0o755)).expect("a program");
        let said = one_line(run(&[]).arg(&hello));
        assert!(said.contains("luajit: LuaJIT is linked into the program itself"), "{said}");
    }
}

/// Rights that a program gets beyond its caller's: the kernel tells whether it does.
#[test]
fn a_program_that_gets_more_rights_is_reported() {
    let Some(is_root) = is_root() else { return };
    let user = |mut command: Command, is_other: bool| {
        if is_root && is_other {
            command.uid(65534).gid(65534);
        }
        command
    };
    let folder = scratch("preload");
    let cat = |name: &str| {
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        // By another process: one that a test starts meanwhile would have the file open for writing,
        // and then nobody can run it.
        finish(Command::new("cp").arg("/bin/cat").arg(&path));
        path
    };
    let mut told = 0;
    for (name, what) in [
        ("setuid", "is a setuid program"),
        ("setgid", "is a setgid program"),
        ("capable", "has file capabilities"),
    ] {
        let path = cat(name);
        if is_root {
            let owner = |is: bool| Some(if is { 1 } else { 0 });
            chown(&path, owner(name == "setuid"), owner(name == "setgid")).expect("a new owner");
        }
        let mode = match name {
            "setuid" => 0o4755,
            "setgid" => 0o2755,
            _ => 0o755,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its rights");
        if name == "capable" {
            // cap_net_raw, permitted and effective, as setcap(8) writes it.
            let code = "import os, struct, sys\nos.setxattr(sys.argv[1], 'security.capability', \
                struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0))";
            if outcome(clean("python3").args(["-c", code]).arg(&path)).0 != Some(0) {
                continue;
            }
        }
        let mut command = user(run(&[]), name == "capable");
        // Another user may not come here.
        let Ok(output) = command.arg(&path).arg("/proc/self/maps").output() else { continue };
        if !output.status.success() {
            continue;
        }
        let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
        let (maps, said) = (text(output.stdout), text(output.stderr));
        let is_preloaded = maps.contains("libebbtide_preload.so");
        assert_eq!(said.contains("nothing is taken over"), !is_preloaded, "{name}: {said}");
        if !is_preloaded {
            told += 1;
            let expected = format!("ebbtide: {}: {what}, so the loader preloads", path.display());
            assert!(said.starts_with(&expected) && said.contains(ATTACH), "{said}");
        }
    }
    assert!(told > 0 || !is_root, "no program got more rights");
}

fn is_root() -> Option<bool> {
    let user = text_of(clean("id").arg("-u"));
    Some(user.trim() == "0")
}

fn luajit_2_0_is_reported() {
    // Before the start, where the program is linked with it.
    let folder = scratch("preload-luajit20");
    let library = folder.join("libluajit20.so");
    build("preload/preload_luajit20.c", &library, &["-shared", "-fPIC"]);
    let makes = folder.join("makes");
    let path = format!("-L{}", folder.display());
    let flags = [path.as_str(), "-l:libluajit20.so", "-Wl,-rpath,$ORIGIN"];
    build("preload/preload_makes.c", &makes, &flags);
    let said = lines(run(&["--report"]).arg(&makes));
    let library = library.display();
    let expected = [
        format!(
            "ebbtide: {}: {library} is LuaJIT 2.0, whose VMs cannot be taken over: use LuaJIT 2.1",
            makes.display()
        ),
        format!(
            "ebbtide: makes: nothing taken over: {library} is LuaJIT 2.0, whose VMs cannot be \
             taken over: use LuaJIT 2.1"
        ),
    ];
    assert_eq!(said, expected);
    // At the end, where a module has it.
    let code = "import lupa.luajit20 as lupa; print(lupa.LuaRuntime().eval('jit.version'))";
    let said = one_line(run(&["--report"]).arg(lupa()).args(["-c", code]));
    assert!(said.starts_with("ebbtide: python3: nothing taken over: /"), "{said}");
    assert!(said.contains(" is LuaJIT 2.0, whose VMs cannot be taken over"), "{said}");
}

#[test]
fn a_luajit_that_calls_itself_is_reported() {
    let code = format!(
        "import ctypes, os\n\
         lua = ctypes.CDLL('{LUAJIT_SONAME}', mode=os.RTLD_DEEPBIND)\n\
         lua.luaL_newstate.restype = ctypes.c_void_p\n\
         assert lua.luaL_newstate()"
    );
    let said = one_line(run(&["--verbose"]).args([&python(), "-c", &code]));
    assert!(said.contains(&format!("{LUAJIT_SONAME} calls its own lua_newstate")), "{said}");
    assert!(said.contains("RTLD_DEEPBIND") && said.contains("attach()"), "{said}");
}

#[test]
fn a_luajit_that_was_closed_again_is_reported() {
    let code = format!(
        "import ctypes, _ctypes\n\
         _ctypes.dlclose(ctypes.CDLL('{LUAJIT_SONAME}')._handle)\n\
         assert 'luajit' not in open('/proc/self/maps').read()"
    );
    let said = one_line(run(&["--verbose"]).args([&python(), "-c", &code]));
    let expected = format!("{LUAJIT_SONAME} was loaded, but asked for no VM, and was closed again");
    assert!(said.ends_with(&expected), "{said}");
}

#[test]
fn heaps_of_another_ebbtide_are_reported() {
    let folder = scratch("preload");
    let host = folder.join("heap");
    let include = format!("-isystem{}", LUAJIT.include_dir);
    let by_soname = format!("-l:{LUAJIT_SONAME}");
    let shared = installed().shared();
    let rpath = format!("-Wl,-rpath,{}", installed().lib().display());
    let shared = shared.to_str().expect("a path");
    build("preload/preload_heap.c", &host, &[include.as_str(), shared, &by_soname, &rpath]);
    let said = one_line(run(&["--report"]).arg(&host));
    assert!(
        said.starts_with(
            "ebbtide: heap: nothing taken over: its VMs are on heaps of another ebbtide, /"
        ),
        "{said}"
    );
    assert!(said.contains("libebbtide.so"), "{said}");
}

/// A program that was linked as docs/embedding.md says takes the options by itself.
#[test]
fn ebbtide_inside_the_program_is_reported() {
    let host = scratch("preload").join("run-linked");
    let include = format!("-isystem{}", LUAJIT.include_dir);
    let archive = installed().archive();
    let archive = archive.to_str().expect("a path");
    let flags = [&include, "-Wl,--wrap=lua_newstate", "-Wl,-E", LUAJIT.library, archive, "-lm"];
    build(RUN, &host, &[&flags[..], EBBTIDE_LINK_FLAGS].concat());
    let said = lines(run(&["--report", "--checked", "on"]).arg(&host).arg(script("smoke.lua")));
    assert_eq!(said.len(), 2, "{said:?}");
    let expected = format!("ebbtide: {}: has ebbtide inside, beside LuaJIT", host.display());
    assert!(said[0].starts_with(&expected), "{said:?}");
    let expected = "ebbtide: run-linked: nothing taken over: ebbtide is linked in with LuaJIT";
    assert!(said[1].starts_with(expected), "{said:?}");
    // Nor is a module that takes them told to have none.
    let code = format!(
        "package.cpath = '{}/lua/5.1/?.so'; require('ebbtide').attach()",
        installed().lib().display()
    );
    let mut command = preloaded("luajit", &installed().lib());
    command.env("EBBTIDE_CHECKED", "1").env("LUA_PATH", repository().join("lua/?.lua"));
    assert_eq!(complaints(command.args(["-e", &code])), "");
}

/// The example for Python in lua/README.md, with a program that is done after some ticks.
#[test]
fn lupa_attaches_and_ticks() {
    let manual = fs::read_to_string(repository().join("lua/README.md")).expect("the manual");
    let (_, code) = manual.split_once("```python\n").expect("an example");
    let (code, _) = code.split_once("```").expect("an example's end");
    let marks = ["    # ... the program ...\n", "asyncio.sleep(0.5)"];
    assert!(marks.iter().all(|mark| code.contains(mark)), "{code}");
    let code = code.replace(marks[1], "asyncio.sleep(0)").replace(
        marks[0],
        "    for _ in range(100): await asyncio.sleep(0)\n    \
         print(allocator.stats()['allocator'], ticks.done())\n",
    );
    let mut command = clean(lupa());
    command.env("LUA_PATH", repository().join("lua/?.lua"));
    command.env("LUA_CPATH", installed().lib().join("lua/5.1/?.so"));
    let (_, out, said) = outcome(command.args(["-c", &code]));
    assert_eq!((out.as_str(), said.as_str()), ("ebbtide False\n", ""));
}

/// Preloading and the Lua module say the same of a LuaJIT that only its module sees.
#[test]
fn lupa_is_taken_over_and_the_lua_module_says_how_to_see_it() {
    let lib = installed().lib();
    let code = |before: &str| {
        format!(
            "import os, sys\n{before}\nimport lupa.luajit21 as lupa\n\
             lua = lupa.LuaRuntime()\n\
             lua.execute('package.cpath = \"{}/lua/5.1/?.so\"')\n\
             lua.execute('package.path = \"{}/../share/lua/5.1/?.lua\"')\n\
             print(lua.eval('(function() local e = require \"ebbtide\" return type(e) == \"table\" \
             and e.stats().allocator end)()'))",
            lib.display(),
            lib.display()
        )
    };
    let global = "sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_GLOBAL)";
    let (_, out, said) = outcome(run(&["--verbose"]).arg(lupa()).args(["-c", &code("")]));
    assert!(said.contains("taken over: the VMs of /") && said.contains("luajit21"), "{said}");
    assert!(!said.contains("no LuaJIT in this process"), "{said}");
    assert!(said.contains("have it opened with RTLD_GLOBAL") && said.contains(global), "{said}");
    assert!(!out.contains("ebbtide"), "{out}");
    let out = text_of(run(&["--verbose"]).arg(lupa()).args(["-c", &code(global)]));
    assert_eq!(out, "ebbtide\n");
}
