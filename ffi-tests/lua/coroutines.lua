-- Coroutines: many alive at once, with deep stacks, with errors, dropped in
-- the middle of their work.
local reclaim = reclaim or function() end
local rounds = tonumber(arg[1] or 10)

local function depth(n)
  if n == 0 then
    coroutine.yield("bottom")
    return 0
  end
  return 1 + depth(n - 1)
end

local function many_alive()
  local threads = {}
  for i = 1, 3000 do
    threads[i] = coroutine.create(function(first)
      local sum = first
      while true do
        sum = sum + coroutine.yield(sum)
      end
    end)
    assert(select(2, coroutine.resume(threads[i], i)) == i)
  end
  for i = 1, 3000, 2 do
    threads[i] = false
  end
  collectgarbage()
  reclaim()
  for i = 2, 3000, 2 do
    assert(select(2, coroutine.resume(threads[i], 5)) == i + 5)
  end
end

local function deep_stacks()
  for _, n in ipairs { 10, 1000, 10000 } do
    local thread = coroutine.create(depth)
    assert(select(2, coroutine.resume(thread, n)) == "bottom")
    collectgarbage()
    reclaim()
    assert(select(2, coroutine.resume(thread)) == n)
    assert(coroutine.status(thread) == "dead")
  end
end

local function runaway(n)
  return 1 + runaway(n + 1)
end

local function failures()
  for i = 1, 500 do
    local thread = coroutine.create(function()
      coroutine.yield(i)
      error { code = i }
    end)
    assert(coroutine.resume(thread))
    local ok, failure = coroutine.resume(thread)
    assert(not ok and failure.code == i)
  end
  local ok, failure = coroutine.resume(coroutine.create(runaway), 1)
  assert(not ok and tostring(failure):find("stack overflow"))
end

for _ = 1, rounds do
  many_alive()
  deep_stacks()
  failures()
  collectgarbage()
  reclaim()
end
