//! What is loaded into the process, and which symbols each object offers, read where the loader put
//! it: nothing is loaded, locked for longer than the walk, or allocated.
//!
//! Only objects with a GNU hash table are understood. Linkers have written one for twenty years.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::slice;

use libc::{Elf64_Phdr, Elf64_Rela, Elf64_Sym, dl_phdr_info};

/// The program itself or a shared object, while it is looked at.
pub(crate) struct Object<'walk> {
    /// What the addresses in the file are relative to.
    base: usize,
    headers: &'walk [Elf64_Phdr],
    /// As the loader knows it; empty for the program itself.
    name: &'walk CStr,
}

/// Looks at one object after the other, the program itself first, until `found` says so.
pub(crate) fn walk<F: FnMut(&Object<'_>) -> bool>(mut found: F) {
    // SAFETY: the callback gets what it was made for, and only before this returns.
    unsafe { libc::dl_iterate_phdr(Some(visit_object::<F>), (&raw mut found).cast()) };
}

/// The first symbol of this name in the objects that `filter` picks.
pub(crate) fn find(name: &CStr, filter: impl Fn(&Object<'_>) -> bool) -> Option<*mut c_void> {
    let mut symbol = None;
    walk(|object| {
        if filter(object) {
            symbol = object.symbol(name);
        }
        symbol.is_some()
    });
    symbol
}

/// # Safety
///
/// The loader calls it from within [`walk`], with its `found`.
unsafe extern "C" fn visit_object<F: FnMut(&Object<'_>) -> bool>(
    info: *mut dl_phdr_info,
    _size: usize,
    found: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise. The loader describes an object that stays loaded until this
    // returns: it holds its lock.
    let (object, found) = unsafe {
        let info = &*info;
        let count = usize::from(info.dlpi_phnum);
        let headers = match info.dlpi_phdr.is_null() {
            true => &[],
            false => slice::from_raw_parts(info.dlpi_phdr, count),
        };
        let name = match info.dlpi_name.is_null() {
            true => c"",
            false => CStr::from_ptr(info.dlpi_name),
        };
        (Object { base: info.dlpi_addr as usize, headers, name }, &mut *found.cast::<F>())
    };
    c_int::from(found(&object))
}

/// Where the dynamic section says that the tables of symbols are.
struct Tables {
    symbols: *const Elf64_Sym,
    names: *const c_char,
    hash: *const u32,
    /// Two tables of relocations, and the bytes of each.
    relocations: [(*const Elf64_Rela, usize); 2],
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PF_R: u32 = 4;
const DT_NULL: usize = 0;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_RELA: usize = 7;
const DT_RELASZ: usize = 8;
const DT_PLTRELSZ: usize = 2;
const DT_JMPREL: usize = 23;
const DT_GNU_HASH: usize = 0x6fff_fef5;

impl Object<'_> {
    /// Whether the object was loaded to where `address` is.
    pub(crate) fn holds(&self, address: *const c_void) -> bool {
        self.headers.iter().any(|header| {
            let start = self.base.wrapping_add(header.p_vaddr as usize);
            header.p_type == PT_LOAD && address.addr().wrapping_sub(start) < header.p_memsz as usize
        })
    }

    /// Where a symbol is that the object itself defines for others.
    pub(crate) fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        let tables = self.tables()?;
        // SAFETY: the tables are those of a loaded object, as its own dynamic section gives them.
        let value = unsafe { tables.value_of(name) }?;
        Some(self.base.wrapping_add(value) as *mut c_void)
    }

    /// The path that the loader knows it by; empty for the program itself.
    pub(crate) fn path(&self) -> &CStr {
        self.name
    }

    /// Whether the object defines a symbol for others whose name begins so.
    pub(crate) fn has_symbol_beginning(&self, start: &[u8]) -> bool {
        // SAFETY: the tables are those of a loaded object, as its own dynamic section gives them.
        self.tables().is_some_and(|tables| unsafe { tables.has_name_beginning(start) })
    }

    /// What a symbol that the object calls through the loader leads to now; none if it calls it
    /// otherwise. Before the first call it may lead to code of the object itself.
    pub(crate) fn import(&self, name: &CStr) -> Option<*mut c_void> {
        let tables = self.tables()?;
        for (table, bytes) in tables.relocations {
            for index in 0..bytes / size_of::<Elf64_Rela>() {
                // SAFETY: the tables are those of a loaded object; a relocation names a symbol by
                // its index, and an address that lies in the object.
                unsafe {
                    let relocation = &*table.add(index);
                    let symbol = (relocation.r_info >> 32) as usize;
                    if symbol != 0 && tables.name_of(symbol) == name {
                        let slot = self.base.wrapping_add(relocation.r_offset as usize);
                        return Some(*(slot as *const *mut c_void));
                    }
                }
            }
        }
        None
    }

    /// Whether these bytes are in what the object was loaded with.
    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        self.headers.iter().any(|header| {
            let start = self.base.wrapping_add(header.p_vaddr as usize) as *const c_void;
            header.p_type == PT_LOAD && header.p_flags & PF_R != 0 && {
                // SAFETY: this part of the file is mapped there, and can be read.
                let found = unsafe {
                    let bytes_there = header.p_filesz as usize;
                    libc::memmem(start, bytes_there, bytes.as_ptr().cast(), bytes.len())
                };
                !found.is_null()
            }
        })
    }

    fn tables(&self) -> Option<Tables> {
        let header = self.headers.iter().find(|header| header.p_type == PT_DYNAMIC)?;
        let mut entry = self.base.wrapping_add(header.p_vaddr as usize) as *const [usize; 2];
        let (mut symbols, mut names, mut hash) = (0, 0, 0);
        let (mut relocations, mut bytes) = ([0; 2], [0; 2]);
        loop {
            // SAFETY: a dynamic section is mapped and ends with DT_NULL.
            let [tag, value] = unsafe { *entry };
            match tag {
                DT_NULL => break,
                DT_STRTAB => names = self.absolute(value),
                DT_SYMTAB => symbols = self.absolute(value),
                DT_GNU_HASH => hash = self.absolute(value),
                DT_RELA => relocations[0] = self.absolute(value),
                DT_RELASZ => bytes[0] = value,
                DT_JMPREL => relocations[1] = self.absolute(value),
                DT_PLTRELSZ => bytes[1] = value,
                _ => {}
            }
            entry = entry.wrapping_add(1);
        }
        (symbols != 0 && names != 0 && hash != 0).then_some(Tables {
            symbols: symbols as *const _,
            names: names as *const _,
            hash: hash as *const _,
            relocations: [
                (relocations[0] as *const _, bytes[0]),
                (relocations[1] as *const _, bytes[1]),
            ],
        })
    }

    /// The loader has made absolute addresses of most, but not of those that it may not write to.
    fn absolute(&self, value: usize) -> usize {
        if value < self.base { value.wrapping_add(self.base) } else { value }
    }
}

impl Tables {
    /// # Safety
    ///
    /// The tables are those of one loaded object, and the symbol is one of its.
    unsafe fn name_of(&self, symbol: usize) -> &CStr {
        // SAFETY: the caller's promise; a name is a C string.
        unsafe { CStr::from_ptr(self.names.add((*self.symbols.add(symbol)).st_name as usize)) }
    }

    /// Whether a defined symbol has a name that begins so. For the layout see
    /// [`Tables::value_of`].
    ///
    /// # Safety
    ///
    /// The tables are those of one loaded object.
    unsafe fn has_name_beginning(&self, start: &[u8]) -> bool {
        // SAFETY: the layout; an index is only followed while its chain goes on.
        unsafe {
            let [buckets, first, filter_words, _] = *self.hash.cast::<[u32; 4]>();
            let bucket = self.hash.add(4).add(2 * filter_words as usize);
            let chains = bucket.add(buckets as usize);
            for index in (0..buckets as usize).map(|number| *bucket.add(number)) {
                let mut index = index;
                while index >= first && index != 0 {
                    let is_defined = (*self.symbols.add(index as usize)).st_shndx != 0;
                    if is_defined && self.name_of(index as usize).to_bytes().starts_with(start) {
                        return true;
                    }
                    if *chains.add((index - first) as usize) & 1 == 1 {
                        break;
                    }
                    index += 1;
                }
            }
        }
        false
    }

    /// The value of a defined symbol.
    ///
    /// The hash table is four numbers (buckets, the first symbol that is hashed, words of the
    /// filter, the filter's shift), the filter, a chain's first symbol for each bucket, and for
    /// each hashed symbol its hash, whose lowest bit says that its chain ends.
    ///
    /// # Safety
    ///
    /// The tables are those of one loaded object.
    unsafe fn value_of(&self, name: &CStr) -> Option<usize> {
        let wanted = hash(name);
        // SAFETY: the layout above; an index is only followed while its chain goes on.
        unsafe {
            let [buckets, first, filter_words, _] = *self.hash.cast::<[u32; 4]>();
            let filter = self.hash.add(4);
            let bucket = filter.add(2 * filter_words as usize);
            let chains = bucket.add(buckets as usize);
            let mut index = *bucket.add(wanted.checked_rem(buckets)? as usize);
            if index < first {
                return None;
            }
            loop {
                let hash = *chains.add((index - first) as usize);
                let symbol = &*self.symbols.add(index as usize);
                if hash | 1 == wanted | 1
                    && symbol.st_shndx != 0
                    && CStr::from_ptr(self.names.add(symbol.st_name as usize)) == name
                {
                    return Some(symbol.st_value as usize);
                }
                if hash & 1 == 1 {
                    return None;
                }
                index += 1;
            }
        }
    }
}

fn hash(name: &CStr) -> u32 {
    name.to_bytes()
        .iter()
        .fold(5381, |hash: u32, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_the_loader(name: &CStr) -> *mut c_void {
        // SAFETY: a C string.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
    }

    #[test]
    fn symbols_are_where_the_loader_says() {
        for name in [c"malloc", c"poll", c"select", c"epoll_pwait", c"dlopen", c"getenv"] {
            assert_eq!(find(name, |_| true), Some(by_the_loader(name)), "{name:?}");
        }
        assert_eq!(find(c"no_function_of_this_name", |_| true), None);
        assert_eq!(find(c"", |_| true), None);
    }

    #[test]
    fn an_object_holds_its_own_symbols_and_nothing_else() {
        let poll = by_the_loader(c"poll");
        assert_eq!(find(c"poll", |object| object.holds(poll)), Some(poll));
        assert_eq!(find(c"poll", |object| !object.holds(poll)), None);
        let own = hash as *const () as *const c_void;
        let mut first = None;
        walk(|object| {
            first = Some((object.name.is_empty(), object.holds(own), object.holds(poll)));
            true
        });
        assert_eq!(first, Some((true, true, false)));
    }
}
