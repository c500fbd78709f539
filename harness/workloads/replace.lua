-- Live objects, replaced at random: prints nanoseconds of CPU time for each
-- replacement, the collector's share included. Every object is replaced about
-- once before the clock starts, so that the heap has its final size.
local live = tonumber(arg[1] or 1e6)
local count = tonumber(arg[2] or 1e7)
math.randomseed(11)

local random = math.random
local objects = {}
for i = 1, live do
  objects[i] = { i }
end

local function replace(times)
  for i = 1, times do
    objects[random(live)] = { i }
  end
end

replace(live)
local start = os.clock()
replace(count)
local seconds = os.clock() - start
print(string.format("%.1f", seconds / count * 1e9))
