-- A VM that is attached while it runs, with bugs in a block that it had before, or has since: the
-- first argument says which. The second says how the heap is checked, if not the environment.

local allocator = require "ebbtide"
local ffi = require "ffi"

-- With its header it is of 57 bytes. LuaJIT's own allocator has 7 more there, so that a byte too
-- many does no harm.
local SIZE = 41
local bytes = ffi.typeof "uint8_t[41]"
-- What a cdata object has before it.
local HEADER = 16

ffi.cdef "int getpagesize(void);"

local before = bytes()
local text = ("x"):rep(100)
assert(allocator.attach(arg[2] and { checked = arg[2] }))

-- Whether a block of this object is in a guarded slot, which fills one end of a page: a checked
-- heap chooses one block in a thousand by chance and reports a bug there in other words.
local function is_guarded(object)
  local at = tonumber(ffi.cast("uintptr_t", ffi.cast("uint8_t *", object)) % ffi.C.getpagesize())
  return at == HEADER or at + SIZE + 7 >= ffi.C.getpagesize()
end

local since
repeat
  since = bytes()
until not is_guarded(since)

local bugs = {}

function bugs.none()
  before[SIZE - 1], since[SIZE - 1] = 1, 1
end

function bugs.before()
  before[SIZE] = 1
end

function bugs.since()
  since[SIZE] = 1
end

bugs[arg[1]]()
before, since = nil, nil
collectgarbage()
collectgarbage()
assert(#text == 100 and allocator.stats().attached)
