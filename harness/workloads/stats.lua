-- How long allocator.stats() takes on a heap of 400 MB. The first argument is
-- the number of calls in a round. Prints the CPU time of the fastest of twenty
-- rounds, in microseconds.
local allocator = require "ebbtide"
local calls = tonumber(arg[1])
local rows, count = {}, 0

while collectgarbage("count") < 400 * 1024 do
  for _ = 1, 200000 do
    count = count + 1
    rows[count] = { count, name = "row " .. count, tags = { count } }
  end
  collectgarbage()
end

local best = math.huge
for _ = 1, 20 do
  local start = os.clock()
  for _ = 1, calls do
    assert(allocator.stats())
  end
  best = math.min(best, (os.clock() - start) / calls * 1e6)
end
print(best)
