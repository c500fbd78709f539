-- Coroutines by the thousand: as generators, as a sieve of filters in a row,
-- and as requests that all wait at once.
local scale = tonumber(arg[1] or 60)
local IN_FLIGHT, STEPS = 5000, 8

local create, resume, yield = coroutine.create, coroutine.resume,
  coroutine.yield

-- Every coroutine makes its numbers and dies.
local function generators(count)
  local total = 0
  for i = 1, count do
    local generate = coroutine.wrap(function()
      for j = 1, 4 do
        yield(i + j)
      end
    end)
    for _ = 1, 4 do
      total = total + generate()
    end
  end
  assert(total == 4 * count * (count + 1) / 2 + 10 * count)
end

local function filter(source, prime)
  return coroutine.wrap(function()
    for n in source do
      if n % prime ~= 0 then
        yield(n)
      end
    end
  end)
end

local function sieve(primes)
  local source = coroutine.wrap(function()
    for n = 2, math.huge do
      yield(n)
    end
  end)
  local last
  for _ = 1, primes do
    last = source()
    source = filter(source, last)
  end
  return last
end

-- Requests take turns; each keeps a little of its own until it ends.
local function request(id)
  local log = {}
  for step = 1, STEPS do
    log[step] = id * step
    yield()
  end
  local total = 0
  for step = 1, STEPS do
    total = total + log[step]
  end
  return total
end

local function storm()
  local threads = {}
  for id = 1, IN_FLIGHT do
    threads[id] = create(request)
  end
  local total = 0
  for _ = 1, STEPS + 1 do
    for id = 1, IN_FLIGHT do
      local ok, result = resume(threads[id], id)
      assert(ok)
      total = total + (result or 0)
    end
  end
  local ids = IN_FLIGHT * (IN_FLIGHT + 1) / 2
  assert(total == ids * STEPS * (STEPS + 1) / 2)
end

for _ = 1, scale do
  generators(10000)
  assert(sieve(60) == 281)
  storm()
end
