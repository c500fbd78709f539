-- A little of everything, for runtimes and tools that are slow.
--
--   smoke.lua [reclaim]
--
-- With `reclaim` the host has the function reclaim(), which must give back what
-- was collected.
local MB = 2 ^ 20
local has_reclaim = arg[1] == "reclaim"
assert(has_reclaim == (reclaim ~= nil), "reclaim() is there if, and only if, it is announced")

local rows = {}
for i = 1, 2000 do
  rows[i] = { id = i, name = "row " .. i, next = function() return i + 1 end }
end
assert(#("z"):rep(MB) == MB)
for i = 1, 2000, 2 do
  rows[i] = nil
end
collectgarbage()
if has_reclaim then
  local returned = reclaim().returned
  assert(returned >= MB, returned .. " bytes of a string of 1 MB were given back")
end
for i = 2, 2000, 2 do
  assert(rows[i].name == "row " .. i and rows[i].next() == i + 1)
  assert(coroutine.wrap(rows[i].next)() == i + 1)
end
