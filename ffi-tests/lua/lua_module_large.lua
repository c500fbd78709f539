-- One large transient: what the process holds at its peak, when it is dropped, and after light work.
-- Prints the peak and what is left, in KB. Arguments: how it is made, and "stock" or "attach".
local ffi = require "ffi"

ffi.cdef [[
  int usleep(unsigned microseconds);
]]

local kind, door = arg[1], arg[2]
local allocator = door == "attach" and require "ebbtide"

local function kilobytes(file, name)
  local from = assert(io.open("/proc/self/" .. file))
  local text = from:read("*a")
  from:close()
  return tonumber(text:match(name .. ":%s+(%d+) kB"))
end

local function resident()
  return kilobytes("smaps_rollup", "Rss")
end

local make = {
  rep = function()
    return #string.rep("abcdefg", 20e6)
  end,
  concat = function()
    local pieces = {}
    for i = 1, 7 do
      pieces[i] = string.rep("x", 20e6 + i)
    end
    return #table.concat(pieces)
  end,
  -- A buffer that grows by doubling, with others in its way.
  grow = function()
    local tables = { {}, {} }
    for i = 1, 4e6 do
      tables[1][i], tables[2][i] = i, -i
    end
    return #tables[1]
  end,
  small = function()
    local kept = {}
    for i = 1, 1e6 do
      kept[i] = "piece " .. i .. string.rep("y", 60)
    end
    return #kept
  end,
}

if allocator then
  assert(allocator.attach())
end
local before = resident()
assert(make[kind]() > 0)
local peak = kilobytes("status", "VmHWM")

-- The buffer in which LuaJIT makes strings is halved by each cycle of the collector.
for _ = 1, 7 do
  collectgarbage()
end
local dropped = resident()
if allocator and kind ~= "small" then
  assert(dropped - before < 20 * 1024, "at once: " .. dropped .. " KB, before: " .. before)
end

-- A small table every 10 ms, until all is back: the test fails when that never happens.
local kept = {}
for tenth = 1, 600 do
  for i = 1, 10 do
    kept[i] = { i }
    ffi.C.usleep(10000)
  end
  if not allocator or tenth > 20 and resident() - before < 16 * 1024 then
    break
  end
  assert(tenth < 600, "it never goes back: " .. resident() .. " KB, before: " .. before)
end
print(peak, resident())
