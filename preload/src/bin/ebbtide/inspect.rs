//! What a program is, looked at before it starts: where preloading cannot work, that is said, with
//! what works instead.

use std::ffi::{CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::elf::{self, Elf, FileKind, Flaw};
use crate::libraries;

/// What works in a program whose VMs are out of reach.
const ATTACH: &str = "call require 'ebbtide'.attach() in its Lua code";
const LINK: &str = "build it with ebbtide inside (docs/embedding.md)";
/// Scripts whose interpreters are scripts: the kernel goes no further either.
const DEPTH_MAX: usize = 4;

/// Why nothing, or not everything, of a command can be taken over: one line for each reason.
pub fn obstacles(command: &[OsString]) -> Vec<String> {
    let Some((name, arguments)) = command.split_first() else { return Vec::new() };
    find(name).map(|path| of_file(&path, arguments, DEPTH_MAX)).unwrap_or_default()
}

/// The file of a command, as execvp(3) finds it.
fn find(name: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        let data = path.metadata();
        data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(is_program)
}

fn of_file(path: &Path, arguments: &[OsString], depth: usize) -> Vec<String> {
    let shown = path.display();
    match elf::read(path) {
        Some(FileKind::Elf(elf)) if path.file_name() == Some(OsStr::new("env")) => {
            let more = started_by_env(arguments).filter(|_| depth > 0);
            let more = more.and_then(|(name, rest)| Some(of_file(&find(&name)?, &rest, depth - 1)));
            more.unwrap_or_else(|| of_program(path, &elf))
        }
        Some(FileKind::Elf(elf)) => of_program(path, &elf),
        Some(FileKind::Foreign) => vec![format!(
            "{shown}: is for another kind of processor than ebbtide: nothing is taken over"
        )],
        Some(FileKind::Script(line)) if depth > 0 => of_script(path, &line, arguments, depth),
        _ => Vec::new(),
    }
}

/// `#!INTERPRETER [ARGUMENT]`, and the path of the script.
fn of_script(path: &Path, line: &[u8], arguments: &[OsString], depth: usize) -> Vec<String> {
    let line = line.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    let argument = argument.trim_ascii();
    let argument = (!argument.is_empty()).then(|| OsString::from_vec(argument.to_vec()));
    let given: Vec<OsString> = argument
        .into_iter()
        .chain([path.as_os_str().to_owned()])
        .chain(arguments.iter().cloned())
        .collect();
    of_file(Path::new(OsStr::from_bytes(interpreter)), &given, depth - 1)
}

/// The command that `env` starts, and its arguments.
fn started_by_env(arguments: &[OsString]) -> Option<(OsString, Vec<OsString>)> {
    let mut arguments = arguments.to_vec();
    // A script's first line hands all words over as one.
    if let Some(line) = arguments.first().and_then(|first| first.as_bytes().strip_prefix(b"-S")) {
        let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let words: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_vec())).collect();
        arguments.splice(..1, words);
    }
    let is_own = |argument: &OsString| {
        let bytes = argument.as_bytes();
        bytes.starts_with(b"-") || bytes.contains(&b'=')
    };
    let at = arguments.iter().position(|argument| !is_own(argument))?;
    let rest = arguments.split_off(at + 1);
    Some((arguments.pop()?, rest))
}

fn of_program(path: &Path, elf: &Elf) -> Vec<String> {
    let shown = path.display();
    let inside = elf.luajit.is_some();
    let Some(interpreter) = &elf.interpreter else {
        // The loader itself can be started, and does preload.
        if elf.has_soname {
            return Vec::new();
        }
        let instead = match inside {
            true => LINK.to_owned(),
            false => format!(
                "no LuaJIT is to be seen inside, and without one there is nothing to do; \
                 if it was stripped of its symbols and has one, {LINK}"
            ),
        };
        return vec![format!(
            "{shown}: is linked statically, so nothing can be preloaded into it: \
             nothing is taken over; {instead}"
        )];
    };
    if interpreter.to_string_lossy().contains("/ld-musl") {
        return vec![format!(
            "{shown}: uses the C library musl, and the preload library glibc: \
             nothing is taken over; {ATTACH} with an ebbtide built for musl"
        )];
    }
    if let Some((what, instead)) = rights(path) {
        return vec![format!(
            "{shown}: {what}, so the loader preloads nothing into it: \
             nothing is taken over; {instead}, or {ATTACH}"
        )];
    }
    if elf.luajit.is_some_and(|luajit| luajit.has_ebbtide) {
        return vec![format!(
            "{shown}: has ebbtide inside, beside LuaJIT, and its VMs have heaps without this \
             command; --report and --verbose tell nothing of those"
        )];
    }
    if let Some(luajit) = elf.luajit {
        let instead = match (luajit.is_exported && luajit.flaw.is_none(), shared_luajit(path)) {
            (true, Some(other)) => format!("use `{other}`, or {ATTACH}"),
            (true, None) => ATTACH.to_owned(),
            (false, _) => LINK.to_owned(),
        };
        return vec![format!(
            "{shown}: LuaJIT is linked into the program itself, where preloading does not reach: \
             its VMs are not taken over; {instead}"
        )];
    }
    let mut lines = Vec::new();
    libraries::visit(elf, |library, elf| {
        if let Some(flaw) = elf.luajit.and_then(|luajit| luajit.flaw) {
            let library = library.display();
            lines.push(match flaw {
                Flaw::Version20 => format!(
                    "{shown}: {library} is LuaJIT 2.0, whose VMs cannot be taken over: \
                     use LuaJIT 2.1"
                ),
                Flaw::NoGc64 => format!(
                    "{shown}: {library} is built without GC64, and its VMs cannot be taken over: \
                     build LuaJIT with GC64"
                ),
            });
        }
        false
    });
    lines
}

/// Which rights beyond its caller's a program gets, for which the loader ignores LD_PRELOAD, and
/// how to start it without.
fn rights(path: &Path) -> Option<(&'static str, &'static str)> {
    let data = path.metadata().ok()?;
    let c_path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut mount = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a C string; there is room for the answers, whose fields may all be zero.
    let (is_off, has_capabilities, user, group) = unsafe {
        let no_new = libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
        let known = libc::statvfs(c_path.as_ptr(), mount.as_mut_ptr()) == 0;
        let no_suid = known && mount.assume_init().f_flag & libc::ST_NOSUID != 0;
        let name = c"security.capability".as_ptr();
        let capabilities = libc::getxattr(c_path.as_ptr(), name, std::ptr::null_mut(), 0) > 0;
        (no_new || no_suid, capabilities, libc::getuid(), libc::getgid())
    };
    let mode = data.mode();
    match () {
        () if is_off => None,
        () if mode & libc::S_ISUID != 0 && data.uid() != user => {
            Some(("is a setuid program", "run this command as the user whom it belongs to"))
        }
        () if mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0 && data.gid() != group => {
            Some(("is a setgid program", "run this command with the group that it belongs to"))
        }
        () if has_capabilities && user != 0 => Some((
            "has file capabilities",
            "give the process ambient capabilities instead (AmbientCapabilities= of systemd)",
        )),
        () => None,
    }
}

/// A LuaJIT command beside this one that goes by a shared library.
fn shared_luajit(path: &Path) -> Option<&'static str> {
    let is_luajit = path.file_name()?.as_bytes().starts_with(b"luajit");
    let is_shared_luajit = |name: &&str| {
        let Some(FileKind::Elf(elf)) = find(OsStr::new(name)).and_then(|path| elf::read(&path))
        else {
            return false;
        };
        let is_shared = |name: &PathBuf| name.as_os_str().as_bytes().starts_with(b"libluajit");
        elf.luajit.is_none() && elf.needed.iter().any(is_shared)
    };
    ["luajit2", "luajit"].into_iter().filter(|_| is_luajit).find(is_shared_luajit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn env_starts_the_first_word_that_is_not_its_own() {
        let expected = Some((OsString::from("luajit"), words("x.lua y=2")));
        assert_eq!(started_by_env(&words("-i A=1 luajit x.lua y=2")), expected);
        let line = ["-S  A=1 luajit x.lua", "y=2"].map(OsString::from);
        assert_eq!(started_by_env(&line), expected);
        assert!(started_by_env(&words("-i A=1")).is_none());
    }

    #[test]
    fn nothing_stands_in_the_way_of_usual_programs() {
        for command in ["true", "sh -c true", "env A=1 sh", "no-such-program", "/etc/passwd", "/"] {
            assert_eq!(obstacles(&words(command)), Vec::<String>::new(), "{command}");
        }
        assert_eq!(obstacles(&[]), Vec::<String>::new());
    }
}
