-- A program at work that uses the FFI, with the bug that `case` names, or the first argument.

local ffi = require "ffi"
local case = case or arg[1]

ffi.cdef [[
  void *ebb_alloc(void *heap, void *block, size_t osize, size_t nsize);
  int getpagesize(void);
]]

local SMALL, LONG = 40, 100000
local bytes, long = ffi.typeof "uint8_t[40]", ffi.typeof "uint8_t[100000]"
local pointer = ffi.typeof "uint8_t *"
-- A cdata object is a header of 16 bytes and then what it holds.
local HEADER = 16

local function work(rounds)
  local sum = 0
  for i = 1, rounds do
    local object = bytes()
    object[i % SMALL] = i % 256
    sum = sum + object[i % SMALL] + #tostring(i)
  end
  return sum
end

-- Whether a checked heap put SMALL bytes, with `head` bytes of LuaJIT before them, into a guarded
-- slot: a block there fills one end of a page. The heap chooses one block in a thousand by chance
-- and reports a bug there in other words.
local function is_guarded(at, head)
  local page = ffi.C.getpagesize()
  local start = tonumber(ffi.cast("uintptr_t", at) % page)
  return start == head or start + SMALL == page
end

local function alloc(block, osize, nsize)
  return ffi.cast(pointer, ffi.C.ebb_alloc(heap, block, osize, nsize))
end

-- A block that is not in a guarded slot.
local function small()
  local block
  repeat
    block = alloc(nil, 0, SMALL)
  until not is_guarded(block, 0)
  return block
end

-- An object that is not in a guarded slot.
local function object()
  local plain
  repeat
    plain = bytes()
  until not is_guarded(ffi.cast(pointer, plain), HEADER)
  return plain
end

-- The address of an object that nobody holds any more.
local function collected(kind)
  local at = ffi.cast(pointer, kind())
  collectgarbage()
  collectgarbage()
  return at
end

local bugs = {}

function bugs.none()
  local object = bytes()
  object[SMALL - 1] = 1
end

function bugs.overflow()
  object()[SMALL] = 1
end

function bugs.underflow()
  object()[-HEADER - 1] = 1
end

function bugs.large_overflow()
  -- Past what alignment adds at its end.
  long()[LONG + 16] = 1
end

function bugs.large_read_freed()
  return collected(long)[7]
end

function bugs.write_freed()
  collected(object)[3] = 1
end

function bugs.read_freed()
  local sum = 0
  for _ = 1, 300 do
    local objects = {}
    for i = 1, 2000 do
      objects[i] = bytes()
    end
    local addresses = {}
    for i, object in ipairs(objects) do
      addresses[i] = ffi.cast(pointer, object)
    end
    objects = nil
    collectgarbage()
    collectgarbage()
    for _, at in ipairs(addresses) do
      sum = sum + at[3]
    end
  end
  return sum
end

function bugs.double_free()
  local block = small()
  alloc(block, SMALL, 0)
  alloc(block, SMALL, 0)
end

function bugs.wrong_size()
  alloc(small(), SMALL + 1, 0)
end

function bugs.foreign()
  ffi.cdef "void *malloc(size_t size);"
  alloc(ffi.C.malloc(SMALL), SMALL, 0)
end

function bugs.middle()
  alloc(small() + 16, SMALL - 16, 0)
end

assert(work(20000) > 100000)
bugs[case]()
assert(work(20000) > 100000)
collectgarbage()
