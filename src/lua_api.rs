//! The functions of Lua that ebbtide calls, looked up in the process that it runs in.
//!
//! The library is not linked with any Lua: a program without one can use heaps too, and which
//! LuaJIT a program has is known only when it runs. The functions are looked for where the dynamic
//! linker looks first, in the program and the libraries that it shares with all, then in a LuaJIT
//! library that was opened without RTLD_GLOBAL.
//!
//! Of several Luas in one process it is always the first that is found there. To which of them a
//! VM belongs could be told only from inside of the VM, or by a call of one of its functions, and
//! which those are is the question.
//!
//! A Lua function that is short of memory throws. The error passes through the frames of this
//! library, so none of them that calls Lua may hold anything that has to be dropped.

#![allow(non_camel_case_types, non_snake_case)]

mod hidden;

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute_copy;
use std::sync::OnceLock;

use crate::error::Error;

/// A VM, or a coroutine of one.
pub(crate) enum lua_State {}

/// An allocation function: context, block, old size, new size.
pub(crate) type lua_Alloc =
    unsafe extern "C-unwind" fn(*mut c_void, *mut c_void, usize, usize) -> *mut c_void;
/// A function that gets what is dumped, in parts: the VM, the part, its bytes, its own context.
pub(crate) type lua_Writer =
    unsafe extern "C-unwind" fn(*mut lua_State, *const c_void, usize, *mut c_void) -> c_int;
/// `lua_newstate`.
pub(crate) type NewState = unsafe extern "C-unwind" fn(lua_Alloc, *mut c_void) -> *mut lua_State;
/// `lua_setallocf`.
pub(crate) type SetAllocF = unsafe extern "C-unwind" fn(*mut lua_State, lua_Alloc, *mut c_void);
/// A function that Lua can call.
pub(crate) type lua_CFunction = unsafe extern "C-unwind" fn(*mut lua_State) -> c_int;

/// The index of an upvalue of the function that runs.
pub(crate) const fn upvalue(number: c_int) -> c_int {
    -10_002 - number
}

/// The index of the registry, and that of the table of globals.
pub(crate) const REGISTRY: c_int = -10_000;
pub(crate) const GLOBALS: c_int = -10_002;

pub(crate) const TYPE_NIL: c_int = 0;
pub(crate) const TYPE_BOOLEAN: c_int = 1;
pub(crate) const TYPE_NUMBER: c_int = 3;
pub(crate) const TYPE_STRING: c_int = 4;
pub(crate) const TYPE_TABLE: c_int = 5;

/// What `lua_pcall` and its like return when there was no memory.
pub(crate) const ERROR_MEMORY: c_int = 4;

pub(crate) const GC_STOP: c_int = 0;
pub(crate) const GC_RESTART: c_int = 1;
pub(crate) const GC_COLLECT: c_int = 2;
pub(crate) const GC_COUNT: c_int = 3;
pub(crate) const GC_COUNTB: c_int = 4;
pub(crate) const GC_SET_STEP_MUL: c_int = 7;
pub(crate) const GC_IS_RUNNING: c_int = 9;

macro_rules! api {
    ($(#[$doc:meta])* $api:ident {
        $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*
    }) => {
        $(#[$doc])*
        #[allow(missing_docs)]
        pub(crate) struct $api {
            $(pub(crate) $name: unsafe extern "C-unwind" fn($($argument),*) $(-> $result)?,)*
        }

        impl $api {
            /// Looks all of them up; the name of the first that is missing.
            pub(crate) fn look_up(
                find: impl Fn(&CStr) -> *mut c_void,
            ) -> Result<$api, &'static str> {
                Ok($api {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let name = CStr::from_bytes_with_nul(name.as_bytes());
                        let found = find(name.unwrap_or_default());
                        if found.is_null() {
                            return Err(stringify!($name));
                        }
                        // SAFETY: a symbol of that name is that function, whose signature the
                        // Lua 5.1 interface fixes, and a function pointer is a pointer.
                        unsafe { transmute_copy(&found) }
                    },)*
                })
            }
        }
    };
}

api! {
    /// The functions, by their names.
    Lua {
        lua_newstate: fn(lua_Alloc, *mut c_void) -> *mut lua_State;
        luaL_newstate: fn() -> *mut lua_State;
        lua_close: fn(*mut lua_State);
        lua_getallocf: fn(*mut lua_State, *mut *mut c_void) -> Option<lua_Alloc>;
        lua_setallocf: fn(*mut lua_State, lua_Alloc, *mut c_void);
        lua_gc: fn(*mut lua_State, c_int, c_int) -> c_int;
        lua_settop: fn(*mut lua_State, c_int);
        lua_type: fn(*mut lua_State, c_int) -> c_int;
        lua_pushvalue: fn(*mut lua_State, c_int);
        lua_next: fn(*mut lua_State, c_int) -> c_int;
        lua_tonumber: fn(*mut lua_State, c_int) -> f64;
        lua_toboolean: fn(*mut lua_State, c_int) -> c_int;
        lua_tolstring: fn(*mut lua_State, c_int, *mut usize) -> *const c_char;
        lua_pushnil: fn(*mut lua_State);
        lua_pushnumber: fn(*mut lua_State, f64);
        lua_pushboolean: fn(*mut lua_State, c_int);
        lua_pushstring: fn(*mut lua_State, *const c_char);
        lua_pushlstring: fn(*mut lua_State, *const c_char, usize);
        lua_pushcclosure: fn(*mut lua_State, lua_CFunction, c_int);
        lua_pushthread: fn(*mut lua_State) -> c_int;
        lua_createtable: fn(*mut lua_State, c_int, c_int);
        lua_setfield: fn(*mut lua_State, c_int, *const c_char);
        lua_rawset: fn(*mut lua_State, c_int);
        lua_rawseti: fn(*mut lua_State, c_int, c_int);
        lua_call: fn(*mut lua_State, c_int, c_int);
        lua_newuserdata: fn(*mut lua_State, usize) -> *mut c_void;
        lua_touserdata: fn(*mut lua_State, c_int) -> *mut c_void;
        lua_error: fn(*mut lua_State) -> c_int;
        lua_dump: fn(*mut lua_State, lua_Writer, *mut c_void) -> c_int;
        luaL_loadbuffer: fn(*mut lua_State, *const c_char, usize, *const c_char) -> c_int;
    }
}

api! {
    /// What the collector of an idle VM takes, of one LuaJIT.
    CollectorApi {
        lua_newstate: fn(lua_Alloc, *mut c_void) -> *mut lua_State;
        lua_close: fn(*mut lua_State);
        luaL_openlibs: fn(*mut lua_State);
        luaL_loadbuffer: fn(*mut lua_State, *const c_char, usize, *const c_char) -> c_int;
        lua_newthread: fn(*mut lua_State) -> *mut lua_State;
        lua_resume: fn(*mut lua_State, c_int) -> c_int;
        lua_pcall: fn(*mut lua_State, c_int, c_int, c_int) -> c_int;
        lua_cpcall: fn(*mut lua_State, lua_CFunction, *mut c_void) -> c_int;
        lua_status: fn(*mut lua_State) -> c_int;
        lua_gc: fn(*mut lua_State, c_int, c_int) -> c_int;
        lua_settop: fn(*mut lua_State, c_int);
        lua_type: fn(*mut lua_State, c_int) -> c_int;
        lua_tolstring: fn(*mut lua_State, c_int, *mut usize) -> *const c_char;
        lua_pushlstring: fn(*mut lua_State, *const c_char, usize);
        lua_pushlightuserdata: fn(*mut lua_State, *mut c_void);
        lua_pushcclosure: fn(*mut lua_State, lua_CFunction, c_int);
        lua_pushvalue: fn(*mut lua_State, c_int);
        lua_createtable: fn(*mut lua_State, c_int, c_int);
        lua_setmetatable: fn(*mut lua_State, c_int) -> c_int;
        lua_setfield: fn(*mut lua_State, c_int, *const c_char);
        lua_rawget: fn(*mut lua_State, c_int);
        lua_rawset: fn(*mut lua_State, c_int);
        lua_rawgeti: fn(*mut lua_State, c_int, c_int);
        lua_rawseti: fn(*mut lua_State, c_int, c_int);
    }
}

impl Lua {
    /// The functions of the Lua in this process.
    pub(crate) fn get() -> Result<&'static Lua, Error> {
        static FOUND: OnceLock<Lua> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        match Lua::look_up(symbol) {
            Ok(lua) => Ok(FOUND.get_or_init(|| lua)),
            Err(missing) => Err(none_to_be_seen(missing)),
        }
    }

    /// Bytes that the collector counts.
    ///
    /// # Safety
    ///
    /// `state` is a live VM of this thread's.
    pub(crate) unsafe fn collected(&self, state: *mut lua_State) -> u64 {
        // SAFETY: the caller's promise.
        let (kilobytes, bytes) =
            unsafe { ((self.lua_gc)(state, GC_COUNT, 0), (self.lua_gc)(state, GC_COUNTB, 0)) };
        ((i64::from(kilobytes) << 10) + i64::from(bytes)).max(0) as u64
    }

    /// The VM's allocation function and its context.
    ///
    /// # Safety
    ///
    /// As for [`Lua::collected`].
    pub(crate) unsafe fn allocator(
        &self,
        state: *mut lua_State,
    ) -> (Option<lua_Alloc>, *mut c_void) {
        let mut context = core::ptr::null_mut();
        // SAFETY: the caller's promise.
        let function = unsafe { (self.lua_getallocf)(state, &mut context) };
        (function, context)
    }
}

/// Why no Lua was found. Python and its like load modules so that nobody else sees them.
#[cold]
fn none_to_be_seen(missing: &str) -> Error {
    match hidden::path() {
        // `lua_callk` came with Lua 5.2, in which other functions of 5.1 are macros.
        None if !symbol(c"lua_callk").is_null() => Error::Unknown.because(format_args!(
            "this is Lua 5.2 or later (PUC); ebbtide's Lua module, and the C functions that take \
             or make a VM, are for LuaJIT; a C host puts this Lua on a heap with \
             lua_newstate(ebb_alloc, heap)"
        )),
        Some(path) => Error::Unknown.because(format_args!(
            "{}: this LuaJIT is seen only by what has opened it; have it opened with RTLD_GLOBAL \
             (lupa: sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_GLOBAL) before the import)",
            path.to_string_lossy()
        )),
        None => Error::Unknown.because(format_args!(
            "there is no LuaJIT in this process: {missing} is not found; a program with LuaJIT \
             inside must export its functions (link it with -rdynamic)"
        )),
    }
}

/// A symbol of the process, or null.
pub(crate) fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: `name` is a C string; NOLOAD loads nothing.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        if !found.is_null() {
            return found;
        }
        for library in [c"libluajit-5.1.so.2", c"libluajit-5.1.so", c"libluajit.so"] {
            let library = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if !library.is_null() {
                let found = libc::dlsym(library, name.as_ptr());
                libc::dlclose(library);
                return found;
            }
        }
    }
    core::ptr::null_mut()
}
