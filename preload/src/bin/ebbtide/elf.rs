//! A program or library, read from its file. No code of it runs.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{ptr, slice};

use object::elf;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

/// What of a file matters here.
pub struct Elf {
    /// The loader that it asks for; none: the kernel starts it alone.
    pub interpreter: Option<PathBuf>,
    /// Whether it is a library: the loader itself is one, and can be started.
    pub has_soname: bool,
    /// The libraries that it was linked with, by name.
    pub needed: Vec<PathBuf>,
    /// Where to look for these, before and after `LD_LIBRARY_PATH`.
    pub rpath: Vec<PathBuf>,
    /// As above.
    pub runpath: Vec<PathBuf>,
    /// The LuaJIT in it.
    pub luajit: Option<LuaJit>,
}

/// A LuaJIT in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaJit {
    /// Others see its functions.
    pub is_exported: bool,
    /// It has ebbtide beside it, in the same file.
    pub has_ebbtide: bool,
    /// Why its VMs cannot be taken over even where others see its functions.
    pub flaw: Option<Flaw>,
}

/// What is wrong with a LuaJIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is LuaJIT 2.0.
    Version20,
    /// It was built without GC64.
    NoGc64,
}

/// What a file is.
pub enum FileKind {
    /// A program or library for this processor.
    Elf(Elf),
    /// The same for another one.
    Foreign,
    /// A script, and what is behind `#!` in its first line.
    Script(Vec<u8>),
    /// Nothing of the kind.
    Other,
}

/// LuaJIT's package library has this C string, and nothing else is likely to. In two parts: this
/// command is a program, too, and has no LuaJIT inside.
const LUAJIT_TEXT: [&[u8]; 2] = [b"luaJIT_BC_", b"%s\0"];
/// `lua_newstate` of a 64-bit LuaJIT without GC64 says so.
const NO_GC64_TEXT: &[u8] = b"Must use luaL_newstate() for 64 bit target";
const VERSION_20_TEXT: &[u8] = b"LuaJIT 2.0.";

/// Reads a file. None: it cannot be read.
pub fn read(path: &Path) -> Option<FileKind> {
    let file = Mapped::open(path)?;
    let bytes = file.bytes();
    if let Some(rest) = bytes.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return Some(FileKind::Script(
            line.get(..line.len().min(4096)).unwrap_or_default().to_vec(),
        ));
    }
    let Some(header) = bytes.get(..20).filter(|header| header.starts_with(b"\x7fELF")) else {
        return Some(FileKind::Other);
    };
    const CLASS_64: u8 = 2;
    let machine = u16::from_ne_bytes([header[18], header[19]]);
    if header[4] != CLASS_64 || machine != MACHINE {
        return Some(FileKind::Foreign);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    Some(parse(bytes, folder).map_or(FileKind::Other, FileKind::Elf))
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

fn parse(bytes: &[u8], folder: &Path) -> Option<Elf> {
    let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
    let endian = file.endian();
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let interpreter = file
        .elf_program_headers()
        .iter()
        .find_map(|header| header.interpreter(endian, bytes).ok().flatten())
        .map(path);
    let mut read = Elf {
        interpreter,
        has_soname: false,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        luajit: luajit(&file, bytes),
    };
    let table = file.elf_dynamic_table().ok()?;
    for entry in table.iter() {
        let text = || table.string(entry).unwrap_or_default();
        match entry.tag {
            elf::DT_NEEDED => read.needed.push(path(text())),
            elf::DT_SONAME => read.has_soname = true,
            elf::DT_RPATH => read.rpath = folders(text(), folder),
            elf::DT_RUNPATH => read.runpath = folders(text(), folder),
            _ => {}
        }
    }
    Some(read)
}

/// A list of folders with colons between them.
pub fn folders(list: &[u8], origin: &Path) -> Vec<PathBuf> {
    let list = String::from_utf8_lossy(list);
    let origin = origin.to_string_lossy();
    let folder =
        |part: &str| PathBuf::from(part.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin));
    list.split(':').filter(|part| !part.is_empty()).map(folder).collect()
}

/// The LuaJIT in a file, if there is one.
fn luajit(file: &ElfFile64<'_, Endianness>, bytes: &[u8]) -> Option<LuaJit> {
    let defines = |name: &[u8]| {
        let mut symbols = file.dynamic_symbols();
        symbols.any(|symbol| symbol.is_definition() && symbol.name_bytes() == Ok(name))
    };
    let is_exported = defines(b"luaJIT_setmode") && defines(b"luaL_newstate");
    let is_inside = |name: &[u8]| {
        let mut symbols = file.symbols();
        symbols.any(|symbol| symbol.is_definition() && symbol.name_bytes() == Ok(name))
    };
    let has_ebbtide = defines(b"ebb_version") || is_inside(b"ebb_version");
    if !is_exported && !is_inside(b"luaJIT_setmode") && !contains(bytes, &LUAJIT_TEXT.concat()) {
        return None;
    }
    let mut symbols = file.dynamic_symbols();
    let names_20 = symbols.any(|symbol| {
        let name = symbol.name_bytes().unwrap_or_default();
        symbol.is_definition() && name.starts_with(b"luaJIT_version_2_0_")
    });
    let flaw = match () {
        () if names_20 => Some(Flaw::Version20),
        () if !contains(bytes, NO_GC64_TEXT) => None,
        () if contains(bytes, VERSION_20_TEXT) && !contains(bytes, b"LuaJIT 2.1.") => {
            Some(Flaw::Version20)
        }
        () => Some(Flaw::NoGc64),
    };
    Some(LuaJit { is_exported, has_ebbtide, flaw })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    // SAFETY: both are as long as they say, and are only read.
    let found = unsafe {
        let (start, part_start) = (bytes.as_ptr().cast(), part.as_ptr().cast());
        libc::memmem(start, bytes.len(), part_start, part.len())
    };
    !found.is_null()
}

/// A file in memory, of which only what is looked at is read.
struct Mapped {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Mapped {
    fn open(path: &Path) -> Option<Mapped> {
        let file = File::open(path).ok()?;
        let data = file.metadata().ok().filter(|data| data.is_file() && data.len() > 0)?;
        let bytes = usize::try_from(data.len()).ok()?;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: a new mapping of an open file.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, file.as_raw_fd(), 0) };
        (start != libc::MAP_FAILED).then_some(Mapped { start, bytes })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, for reading, until this is dropped. Who shortens a program while it is
        // started ends the command, as it would end the program.
        unsafe { slice::from_raw_parts(self.start.cast(), self.bytes) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and no slice of it is left.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_read() {
        let path = std::env::current_exe().expect("a path");
        let Some(FileKind::Elf(elf)) = read(&path) else { panic!("a program") };
        assert!(elf.interpreter.is_some_and(|path| path.is_file()) && !elf.has_soname);
        assert!(elf.needed.contains(&PathBuf::from("libc.so.6")), "{:?}", elf.needed);
        assert_eq!(elf.luajit, None);
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(read(Path::new("/etc/passwd")), Some(FileKind::Other)));
        assert!(read(Path::new("/no/such/file")).is_none());
        assert!(read(Path::new("/")).is_none());
    }

    #[test]
    fn folders_may_begin_where_the_file_is() {
        let found = folders(b"$ORIGIN/../lib::/opt/lib:${ORIGIN}", Path::new("/x/bin"));
        let expected = ["/x/bin/../lib", "/opt/lib", "/x/bin"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
