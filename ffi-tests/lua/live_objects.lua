-- Live objects of every kind that LuaJIT allocates, made from numbers so that
-- they can be checked at any moment: objects.new(seed), then objects:live(n) to
-- change some, objects:check() and objects:drop(share).
local has_ffi, ffi = pcall(require, "ffi")

local objects = {}
objects.__index = objects

local kinds = {}

-- Interned: if the old one's bytes have changed, the same text made anew is
-- another string.
kinds.text = {
  make = function(seed, size)
    return ("%d:"):format(seed) .. ("text"):rep(size)
  end,
  check = function(value, seed, size)
    return value == ("%d:"):format(seed) .. ("text"):rep(size)
  end,
}

kinds.array = {
  make = function(seed, size)
    local array = {}
    for i = 1, size do
      array[i] = seed + i
    end
    return array
  end,
  resize = function(array, seed, size, wanted)
    for i = size + 1, wanted do
      array[i] = seed + i
    end
    for i = size, wanted + 1, -1 do
      array[i] = nil
    end
    return array
  end,
  check = function(array, seed, size)
    for i = 1, size do
      if array[i] ~= seed + i then
        return false
      end
    end
    return array[size + 1] == nil
  end,
}

kinds.hash = {
  make = function(seed, size)
    local hash = {}
    for i = 1, size do
      hash["key" .. i] = { seed * i }
    end
    return hash
  end,
  resize = function(hash, seed, size, wanted)
    for i = size + 1, wanted do
      hash["key" .. i] = { seed * i }
    end
    for i = wanted + 1, size do
      hash["key" .. i] = nil
    end
    return hash
  end,
  check = function(hash, seed, size)
    for i = 1, size do
      if hash["key" .. i][1] ~= seed * i then
        return false
      end
    end
    return hash["key" .. size + 1] == nil
  end,
}

kinds.closure = {
  make = function(seed, size)
    local chain = function() return seed end
    for i = 1, size do
      local before = chain
      chain = function(deep)
        if deep then
          return before(deep ~= i and deep or nil) + i
        end
        return seed
      end
    end
    return chain
  end,
  check = function(chain, seed, size)
    local wanted, deep = seed, math.min(size, 20)
    for i = size - deep + 1, size do
      wanted = wanted + i
    end
    return chain(size > 0 and size - deep + 1 or nil) == wanted
  end,
}

-- A coroutine `size` calls deep. Each call has a number of its own on the
-- stack; resumed with a depth, it goes down or up to there.
kinds.coroutine = {
  make = function(seed, size)
    local wanted = size + 1
    local function deeper(depth)
      local here = seed * depth
      while true do
        if depth < wanted then
          deeper(depth + 1)
        elseif depth > wanted then
          return
        else
          wanted = coroutine.yield(here)
        end
      end
    end
    local resume = coroutine.wrap(deeper)
    resume(1)
    return resume
  end,
  resize = function(resume, seed, _, wanted)
    assert(resume(wanted + 1) == seed * (wanted + 1))
    return resume
  end,
  check = function(resume, seed, size)
    return resume(size + 1) == seed * (size + 1)
  end,
}

kinds.userdata = {
  make = function(seed)
    local proxy = newproxy(true)
    getmetatable(proxy).__index = { seed = seed }
    return proxy
  end,
  check = function(proxy, seed)
    return proxy.seed == seed
  end,
}

if has_ffi then
  kinds.cdata = {
    make = function(seed, size)
      local numbers = ffi.new("double[?]", size + 1)
      for i = 0, size do
        numbers[i] = seed + i
      end
      return numbers
    end,
    check = function(numbers, seed, size)
      for i = 0, size do
        if numbers[i] ~= seed + i then
          return false
        end
      end
      return true
    end,
  }
end

local names = {}
for name in pairs(kinds) do
  names[#names + 1] = name
end
table.sort(names)

function objects.new(seed)
  return setmetatable({ state = seed, slots = {}, count = 0 }, objects)
end

-- Park and Miller's generator, exact in doubles.
function objects:below(limit)
  self.state = self.state * 16807 % 2147483647
  return self.state % limit
end

-- Mostly small; one in a hundred is large enough to be mapped apart.
function objects:size(name)
  local kind = self:below(100)
  if kind == 0 and name ~= "closure" and name ~= "coroutine" and name ~= "hash" then
    return 20000 + self:below(40000)
  end
  return kind < 10 and self:below(2000) or self:below(60)
end

function objects:make(index)
  local name, seed = names[1 + self:below(#names)], 1 + self:below(1000000)
  local size = self:size(name)
  if name == "coroutine" or name == "closure" then
    size = size % 150
  end
  self.slots[index] = { kinds[name].make(seed, size), seed, size, name }
end

function objects:resize(slot)
  local kind, wanted = kinds[slot[4]], self:size(slot[4])
  if slot[4] == "coroutine" or slot[4] == "closure" then
    wanted = wanted % 150
  end
  if kind.resize then
    slot[1] = kind.resize(slot[1], slot[2], slot[3], wanted)
  else
    slot[1] = kind.make(slot[2], wanted)
  end
  slot[3] = wanted
end

local function check_slot(slot)
  if not kinds[slot[4]].check(slot[1], slot[2], slot[3]) then
    error(("%s of seed %d and size %d has changed"):format(slot[4], slot[2], slot[3]))
  end
end

-- So many steps: something is made, resized, checked or dropped.
function objects:live(steps)
  for _ = 1, steps do
    local what, index = self:below(8), 1 + self:below(self.count + 1)
    local slot = self.slots[index]
    if not slot or what == 0 then
      self.count = math.max(self.count, index)
      self:make(index)
    elseif what < 4 then
      self:resize(slot)
    elseif what < 6 then
      check_slot(slot)
    elseif what == 6 then
      self.slots[index] = false
    else
      self.count = self.count + 1
      self:make(self.count)
    end
  end
end

function objects:check()
  for index = 1, self.count do
    if self.slots[index] then
      check_slot(self.slots[index])
    end
  end
end

-- Drops about that share of everything, here and there.
function objects:drop(share)
  for index = 1, self.count do
    if self:below(1000) < share * 1000 then
      self.slots[index] = false
    end
  end
end

return objects
