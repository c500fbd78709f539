-- A VM that is attached while it runs, with bugs in a block that it had before, or has since: the
-- first argument says which. The second says how the heap is checked, if not the environment.

local allocator = require "ebbtide"
local ffi = require "ffi"

-- With its header it is of 57 bytes. LuaJIT's own allocator has 7 more there, so that a byte too
-- many does no harm.
local SIZE = 41
local bytes = ffi.typeof "uint8_t[41]"

local before = bytes()
local text = ("x"):rep(100)
assert(allocator.attach(arg[2] and { checked = arg[2] }))
local since = bytes()

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
