-- A little of everything, for runtimes and tools that are slow.
local reclaim = reclaim or function() end

local rows = {}
for i = 1, 2000 do
  rows[i] = { id = i, name = "row " .. i, next = function() return i + 1 end }
end
for i = 1, 2000, 2 do
  rows[i] = nil
end
collectgarbage()
reclaim()
for i = 2, 2000, 2 do
  assert(rows[i].name == "row " .. i and rows[i].next() == i + 1)
  assert(coroutine.wrap(rows[i].next)() == i + 1)
end
assert(#("z"):rep(2 ^ 20) == 2 ^ 20)
