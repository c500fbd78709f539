-- A cache that forgets what was used longest ago: a linked list and a table of
-- string keys, as web applications keep them. Small keys are asked for most.
local requests = tonumber(arg[1] or 250000)
local CAPACITY, KEYS = 20000, 60000

local state = 7

local function random()
  state = state * 16807 % 2147483647
  return state / 2147483647
end

local Cache = {}
Cache.__index = Cache

function Cache.new(capacity)
  local ends = {}
  ends.newer, ends.older = ends, ends
  return setmetatable({
    capacity = capacity, size = 0, entries = {}, ends = ends
  }, Cache)
end

local function unlink(entry)
  entry.newer.older, entry.older.newer = entry.older, entry.newer
end

function Cache:to_front(entry)
  local ends = self.ends
  entry.newer, entry.older = ends, ends.older
  ends.older.newer, ends.older = entry, entry
end

function Cache:get(key)
  local entry = self.entries[key]
  if not entry then
    return nil
  end
  unlink(entry)
  self:to_front(entry)
  return entry.value
end

function Cache:forget_oldest()
  local entry = self.ends.newer
  unlink(entry)
  self.entries[entry.key] = nil
  self.size = self.size - 1
end

function Cache:put(key, value)
  if self.size == self.capacity then
    self:forget_oldest()
  end
  local entry = { key = key, value = value }
  self.entries[key] = entry
  self:to_front(entry)
  self.size = self.size + 1
end

local function page(id)
  return { id = id, body = "page " .. id, tags = { id, id + 1 } }
end

local cache = Cache.new(CAPACITY)
local hits, misses = 0, 0

for _ = 1, requests do
  local id = math.floor(random() ^ 2 * KEYS)
  local key = "/page/" .. id
  local value = cache:get(key)
  if value then
    hits = hits + 1
  else
    misses = misses + 1
    value = page(id)
    cache:put(key, value)
  end
  assert(value.id == id)
end

local length, entry = 0, cache.ends.older
while entry ~= cache.ends do
  assert(cache.entries[entry.key] == entry)
  length, entry = length + 1, entry.older
end
assert(hits + misses == requests)
assert(length == cache.size and length == math.min(misses, CAPACITY))
