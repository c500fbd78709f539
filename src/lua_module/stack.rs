//! The stack of a VM that called: values taken and given.

use core::ffi::{CStr, c_int};
use core::ptr;

use crate::builtin::Progress;
use crate::capi::{ebb_heap, ebb_heap_of};
use crate::error::{self, Error};
use crate::lua_api::{self, Lua, lua_State};
use crate::options::{Given, Options};

/// The stack of the VM that called a function of the core.
pub(super) struct Stack<'lua> {
    pub(super) lua: &'lua Lua,
    pub(super) state: *mut lua_State,
}

/// Calls a function of Lua on a [`Stack`].
macro_rules! call {
    ($stack:ident.$name:ident($($argument:expr),*)) => {
        // SAFETY: a stack is that of the VM that called, which is live and this thread's. What is
        // pushed fits into the 20 slots that Lua guarantees, and indices are of values that are
        // there, or acceptable.
        unsafe { ($stack.lua.$name)($stack.state, $($argument),*) }
    };
}

pub(super) use call;

impl Stack<'_> {
    pub(super) fn push_number(&self, value: f64) {
        call!(self.lua_pushnumber(value));
    }

    /// Pushes a text, or nil for none.
    pub(super) fn push_text(&self, text: Option<&str>) {
        match text {
            Some(text) => call!(self.lua_pushlstring(text.as_ptr().cast(), text.len())),
            None => call!(self.lua_pushnil()),
        }
    }

    pub(super) fn push_table(&self, entries: usize) {
        call!(self.lua_createtable(0, entries as c_int));
    }

    /// Takes the value at the top for a field of the table below it.
    pub(super) fn put(&self, name: &CStr) {
        call!(self.lua_setfield(-2, name.as_ptr()));
    }

    pub(super) fn field(&self, name: &CStr, value: u64) {
        self.push_number(value as f64);
        self.put(name);
    }

    pub(super) fn flag(&self, name: &CStr, value: bool) {
        call!(self.lua_pushboolean(c_int::from(value)));
        self.put(name);
    }

    /// Returns true or false.
    pub(super) fn answer(&self, value: bool) -> c_int {
        call!(self.lua_pushboolean(c_int::from(value)));
        1
    }

    /// Returns nil and the reason of this thread's last failure.
    pub(super) fn failed(&self) -> c_int {
        call!(self.lua_pushnil());
        call!(self.lua_pushstring(error::last().cast()));
        2
    }

    pub(super) fn type_of(&self, index: c_int) -> c_int {
        call!(self.lua_type(index))
    }

    pub(super) fn number(&self, index: c_int) -> f64 {
        call!(self.lua_tonumber(index))
    }

    pub(super) fn text(&self, index: c_int) -> Option<&CStr> {
        if self.type_of(index) != lua_api::TYPE_STRING {
            return None;
        }
        let text = call!(self.lua_tolstring(index, ptr::null_mut()));
        // SAFETY: the value is a string, and stays on the stack while it is looked at.
        Some(unsafe { CStr::from_ptr(text) })
    }

    /// A number of microseconds, rounded up, for 0 is no limit. Saturates; what is no number is 0.
    pub(super) fn microseconds(&self, index: c_int) -> u32 {
        self.number(index).ceil() as u32
    }

    /// The VM's heap; null when it has none of ours.
    pub(super) fn heap(&self) -> *mut ebb_heap {
        // SAFETY: the VM that called is live and this thread's.
        unsafe { ebb_heap_of(self.state.cast()) }
    }

    /// The VM's heap; `None` leaves the reason why there is none.
    pub(super) fn own_heap(&self) -> Option<*mut ebb_heap> {
        let heap = self.heap();
        if heap.is_null() {
            let _ = Error::Unknown.because(format_args!(
                "the VM does not run on a heap of ebbtide's: attach() comes first"
            ));
            return None;
        }
        Some(heap)
    }

    /// Bytes that the collector counts.
    pub(super) fn collected(&self) -> u64 {
        // SAFETY: the VM that called is live and this thread's.
        unsafe { self.lua.collected(self.state) }
    }

    /// How far the built-in heap has been given back.
    pub(super) fn progress(&self) -> *mut Progress {
        call!(self.lua_touserdata(lua_api::upvalue(1))).cast()
    }

    /// The value of an option: a number, a boolean, or text as in the environment.
    pub(super) fn option_value(&self, name: &CStr, index: c_int) -> Result<i64, Error> {
        let key = Options::key(name)?;
        match self.type_of(index) {
            lua_api::TYPE_BOOLEAN => {
                let text = if call!(self.lua_toboolean(index)) != 0 { c"on" } else { c"off" };
                Options::parse(key, text)
            }
            lua_api::TYPE_NUMBER => Options::whole(key, self.number(index)),
            lua_api::TYPE_STRING => Options::parse(key, self.text(index).unwrap_or_default()),
            _ => Err(Error::Range.because(format_args!(
                "{}: takes a number, a boolean or a string",
                name.to_str().unwrap_or_default()
            ))),
        }
    }

    /// The options in the table that is the first argument, if it is one.
    pub(super) fn given(&self) -> Result<Given, Error> {
        let mut given = Given::default();
        if self.type_of(1) != lua_api::TYPE_TABLE {
            return Ok(given);
        }
        call!(self.lua_pushnil());
        while call!(self.lua_next(1)) != 0 {
            let Some(name) = self.text(-2) else {
                return Err(Error::Option.because(format_args!("options have names")));
            };
            given.put(Options::key(name)?, self.option_value(name, -1)?)?;
            call!(self.lua_settop(-2));
        }
        Ok(given)
    }
}
