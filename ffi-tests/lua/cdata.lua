-- LuaJIT's FFI: cdata of all sizes and alignments, finalizers, and vectors
-- that the allocator must place at multiples of 16.
local ffi = require "ffi"
local reclaim = reclaim or function() end
local rounds = tonumber(arg[1] or 5)

ffi.cdef [[
struct point { double x, y; };
struct node { struct point at; int32_t id; uint8_t tail[?]; };
struct vector { float v[4]; } __attribute__((aligned(16)));
]]

local function points()
  local kept = {}
  for i = 1, 30000 do
    local point = ffi.new("struct point", i, -i)
    if i % 10 == 0 then
      kept[#kept + 1] = point
    end
  end
  collectgarbage()
  reclaim()
  for k, point in ipairs(kept) do
    assert(point.x == 10 * k and point.y == -10 * k)
  end
end

local function nodes()
  for size = 1, 4000, 37 do
    local node = ffi.new("struct node", size)
    node.id = size
    node.tail[size - 1] = size % 256
    assert(node.id == size and node.tail[size - 1] == size % 256)
  end
end

local function arrays()
  local size = 1
  while size < 2 ^ 25 do
    local bytes = ffi.new("uint8_t[?]", size)
    assert(bytes[0] == 0 and bytes[size - 1] == 0)
    bytes[size - 1] = 77
    assert(bytes[size - 1] == 77)
    size = size * 3
  end
end

local function vectors()
  for i = 1, 5000 do
    local vector = ffi.new("struct vector", { { i, i, i, i } })
    local address = ffi.cast("uintptr_t", ffi.cast("void *", vector))
    assert(address % 16 == 0)
    assert(vector.v[3] == i)
  end
end

local function finalizers()
  local ended = 0
  for _ = 1, 1000 do
    ffi.gc(ffi.new("struct point"), function()
      ended = ended + 1
    end)
  end
  collectgarbage()
  collectgarbage()
  assert(ended >= 999)
end

for _ = 1, rounds do
  points()
  nodes()
  arrays()
  vectors()
  finalizers()
  collectgarbage()
  reclaim()
end
