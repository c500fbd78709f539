-- A random program, with attach() at a random moment and reclaims around it.
-- The arguments are a seed and how many steps the program has.
local allocator = require "ebbtide"
local check = require "lua_module_check"
local objects = require "live_objects"

local seed, steps = tonumber(arg[1]), tonumber(arg[2])
local dice = objects.new(seed * 7919 + 1)
for _ = 1, 10 do
  dice:below(2)
end
local moment = dice:below(steps)
local kept = objects.new(seed)

local function attach()
  local options = { decay_ms = dice:below(50), auto = dice:below(2) == 1 }
  if dice:below(2) == 0 then
    return assert(allocator.attach(options))
  end
  return assert(coroutine.wrap(function() return allocator.attach(options) end)())
end

local function something()
  local what = dice:below(6)
  if what == 0 then
    assert(allocator.reclaim { collect = dice:below(2) == 0 })
  elseif what == 1 then
    assert(allocator.reclaim { collect = false, budget_us = 1 + dice:below(50) })
  elseif what == 2 then
    kept:drop(0.3)
  elseif what == 3 then
    assert(allocator.stats())
  elseif what == 4 then
    collectgarbage("step", dice:below(200))
  else
    allocator.tick(100)
  end
end

for step = 1, steps do
  kept:live(1)
  if step - 1 == moment then
    attach()
  elseif dice:below(40) == 0 then
    something()
  end
end
kept:check()
check.adds_up(assert(allocator.previous()))
kept:drop(1)
collectgarbage()
collectgarbage()
check.within(1, allocator.stats().previous_live, 2 ^ 21, "previous_live")
