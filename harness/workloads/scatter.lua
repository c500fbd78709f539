-- Worst case: many small objects of four kinds, then all but a random share of
-- them dropped, so that nearly every page keeps a few survivors. Survivors are
-- checked at the end.
local here = arg[0] and arg[0]:match("^(.*/)") or "./"
local report = dofile(here .. "memory.lua")
local count = tonumber(arg[1] or 3e6)
local share = tonumber(arg[2] or 0.059)
math.randomseed(42)

local function make(i)
  local kind = i % 4
  if kind == 0 then
    return { i, i + 1, i + 2 }
  elseif kind == 1 then
    return { name = "user" .. i, id = i }
  elseif kind == 2 then
    return string.rep(tostring(i), 8)
  end
  return function()
    return i
  end
end

local function check(i, value)
  local kind = i % 4
  if kind == 0 then
    assert(value[1] == i and value[3] == i + 2)
  elseif kind == 1 then
    assert(value.name == "user" .. i and value.id == i)
  elseif kind == 2 then
    assert(value == string.rep(tostring(i), 8))
  else
    assert(value() == i)
  end
end

local objects = {}
for i = 1, count do
  objects[i] = make(i)
end
collectgarbage()
report("peak")

for i = 1, count do
  if math.random() > share then
    objects[i] = false
  end
end
collectgarbage()
collectgarbage()
report("dropped")

if reclaim then
  reclaim()
  report("reclaimed")
  collectgarbage()
  report("after gc")
end

for i = 1, count do
  if objects[i] then
    check(i, objects[i])
  end
end
