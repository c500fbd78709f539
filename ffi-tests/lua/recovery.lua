-- A VM that has reached its hard limit works again when it has dropped what it
-- held, though nobody collects its garbage: for a limit of 32 MB. With -joff
-- for the interpreter alone.
if (arg or { ... })[1] == "-joff" then
  jit.off()
end

local MB = 2 ^ 20

local function refused(work)
  local ok, failure = pcall(work)
  assert(not ok, "it was never full")
  assert(tostring(failure):find("not enough memory"), tostring(failure))
end

local shapes = {
  tables = function()
    local list = {}
    while true do
      list[#list + 1] = { #list, {} }
    end
  end,
  strings = function()
    local list = {}
    while true do
      list[#list + 1] = ("y"):rep(300) .. #list
    end
  end,
  keys = function()
    local hash = {}
    for i = 1, 2 ^ 40 do
      hash["key" .. i] = i
    end
  end,
  closures = function()
    local list = {}
    while true do
      local n = #list
      list[n + 1] = function() return n end
    end
  end,
  coroutines = function()
    local list = {}
    while true do
      local routine = coroutine.wrap(function()
        local own = { {}, ("z"):rep(100) }
        coroutine.yield(own)
      end)
      routine()
      list[#list + 1] = routine
    end
  end,
  inside_a_coroutine = function()
    assert(coroutine.resume(coroutine.create(function()
      local list = {}
      while true do
        list[#list + 1] = { #list }
      end
    end)))
  end,
  one_block = function()
    local text = ("x"):rep(4 * MB)
    while true do
      text = text .. text
    end
  end,
}

-- Work that takes some 1 MB, and leaves nothing.
local function work()
  local list = {}
  for i = 1, 3000 do
    list[i] = { i, "row " .. i, ("x"):rep(i % 100) }
  end
  local sum = 0
  for i = 1, #list do
    sum = sum + list[i][1]
  end
  assert(sum == 3000 * 3001 / 2)
  return ("w"):rep(MB / 4)
end

-- An older LuaJIT collects in steps: a few allocations may come too early.
local allowed = jit.version_num < 20199 and 5 or 0

local function works(rounds, when)
  local failed, last = 0, nil
  for _ = 1, rounds do
    local ok, failure = pcall(work)
    if not ok then
      failed, last = failed + 1, failure
    end
  end
  assert(failed <= allowed, ("%s: %d of %d rounds failed: %s"):format(when, failed, rounds,
                                                               tostring(last)))
end

-- Outside of pcall no call must need more of the stack than there is.
works(2, "at first")
collectgarbage("setstepmul", 333)
do
  for name, shape in pairs(shapes) do
    refused(shape)
    works(100, name)
  end
end

-- Where much is live, and garbage would come to more than the rest.
local live = {}
while collectgarbage("count") < 20 * 1024 do
  live[#live + 1] = { ("live "):rep(20) .. #live }
end
works(100, "with 20 MB live")
for i = 1, #live do
  assert(live[i][1] == ("live "):rep(20) .. i - 1)
end
refused(shapes.tables)
works(100, "with 20 MB live, after a refusal")
for i = 1, #live do
  assert(live[i][1] == ("live "):rep(20) .. i - 1)
end

-- Where three quarters of the limit are live: no task is refused that a host
-- which collects at seven eighths could serve.
while collectgarbage("count") < 24 * 1024 do
  live[#live + 1] = { ("live "):rep(20) .. #live }
end
collectgarbage()
local function task(number)
  local rows = {}
  for i = 1, 2000 do
    rows[i] = { i, "s" .. i .. number }
  end
  return #rows
end
for i = 1, 300 do
  local ok, failure = pcall(task, i)
  assert(ok, ("task %d, with 24 MB live: %s"):format(i, tostring(failure)))
end
live = nil
collectgarbage()
works(10, "at rest")
assert(collectgarbage("setstepmul", 333) == 333, "the step multiplier is the program's")

-- What the program has stopped stays so. There is no memory for a closure then.
local function small()
  return {}
end
collectgarbage("stop")
refused(shapes.tables)
local count = collectgarbage("count")
for _ = 1, 1000 do
  pcall(small)
end
assert(collectgarbage("count") >= count, "the collector was stopped, and runs")
collectgarbage("restart")
collectgarbage()
works(100, "after it was stopped")

-- Inside of a finalizer it stands still, and what comes next may fail.
if newproxy then
  local finalized = 0
  for i = 1, 20 do
    local proxy = newproxy(true)
    getmetatable(proxy).__gc = function()
      finalized = finalized + 1
      if i % 5 == 0 then
        refused(shapes.tables)
      end
    end
  end
  for _ = 1, 100 do
    pcall(collectgarbage)
  end
  assert(finalized == 20)
  works(100, "after finalizers")
end
