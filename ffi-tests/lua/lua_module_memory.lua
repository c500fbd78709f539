-- Memory runs out inside of the module: an error that pcall catches, and after
-- it all is as before.
local allocator = require "ebbtide"

-- This LuaJIT stops at a breakpoint of its own after some refusals in compiled code.
if jit.version == "LuaJIT 2.1.0-beta3" then
  jit.off()
end

assert(allocator.attach { limit_hard = "3m" })
local kept, count = {}, 0
collectgarbage "stop"

local function fill_some(make)
  for _ = 1, 100 do
    count = count + 1
    kept[count] = make()
  end
end

-- Outside of pcall nothing may need memory.
local function fill(make)
  repeat
    local ok, err = pcall(fill_some, make)
    assert(ok or tostring(err):find("not enough memory", 1, true), err)
  until not ok
end

local function reclaim()
  return allocator.reclaim { collect = false }
end

fill(allocator.stats)
fill(reclaim)
fill(allocator.heap)
for _ = 1, 1000 do
  pcall(allocator.stats)
  pcall(allocator.get, "banana")
end

kept = nil
collectgarbage "restart"
collectgarbage()
assert(allocator.stats().live < 2 ^ 20)
assert(allocator.reclaim().returned > 2 ^ 20)
